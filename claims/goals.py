"""The table of docs/models.md: what each shipped model should reach, and what was measured of it, from the
records of `claims.bench`, of the claims, of the scoreboards and of the recipes. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from palimpsest.claims.page import RECORDS, Record, gap, read_record, wilson
from palimpsest.weights.files import manifest

Part = dict[str, Any]
Interval = tuple[float, float]


class Row(NamedTuple):
    """One line of the table."""

    figure: str
    goal: float | None  # None: none was set
    measured: float
    unit: str  # a key of SHOWN
    n: int
    interval: Interval | None  # of 95 %
    by: str  # what measures it
    most: bool = False  # the goal is the most that is allowed
    file: str = ""  # whose figure it is in the manifest, "" for none
    key: str = ""

    @property
    def reached(self) -> bool | None:
        """None where no goal was set."""
        if self.goal is None:
            return None
        return self.measured <= self.goal if self.most else self.measured >= self.goal

    @property
    def cells(self) -> list[str]:
        """As the table shows them."""
        shown = SHOWN[self.unit]
        goal = "" if self.goal is None else f"{'≤' if self.most else '≥'} {shown(self.goal)}"
        ends = "" if self.interval is None else f"{shown(self.interval[0])} to {shown(self.interval[1])}"
        reached = {None: "", True: "yes", False: "**missed**"}[self.reached]
        return [self.figure, goal, shown(self.measured), ends, str(self.n), self.by, reached]


SHOWN: dict[str, Callable[[float], str]] = {
    "%": lambda v: f"{100 * v:.1f} %",
    "dB": lambda v: f"{v:.1f} dB",
    "points": lambda v: f"{100 * v:.1f} points",
    "σ": lambda v: f"{v:.3f}",
}


class Line(NamedTuple):
    """What a row says of one entry of a part of the bench: its words may name values of that entry, as
    {w:g}."""

    words: str
    goal: float | None  # None: the entry's own, if it has one
    value: str  # the entry's key; beside it may stand VALUE_95, and VALUE_n where fewer pictures were counted
    file: str
    key: str  # in the manifest's figures
    unit: str = "%"
    most: bool = False


def instructed(file: str, pairs: str, goals: tuple[float | None, ...]) -> list[Line]:
    """The rows of a model that follows instructions."""
    recolour, remove, every, outside = goals
    words = f"instructions, {pairs} (s_T = {{s_text:g}}, s_I = {{s_image:g}}): "
    return [
        Line(f"{words}every kind of edit all right", every, "right", file, "instructed_all_right"),
        Line("… recolour", recolour, "recolour", file, "recolour_all_right"),
        Line("… remove the one that is named", remove, "remove", file, "remove_all_right"),
        Line("… what should stay, PSNR", outside, "outside_db", file, "outside_db", "dB"),
    ]


STROKES = "stroke painting to picture by SDEdit, all attributes (t₀ = {%s:g}, w = {w:g})"
DRAWN = "SDEdit on plain drawings (t₀ = {t0:g}): "
LINES: dict[str, list[Line]] = {  # part of the bench -> its rows, in the order of the table
    "autoencoder": [
        Line("autoencoder of shapes, mean PSNR", 38.0, "psnr_mean", "shapes-vae", "psnr_mean", "dB"),
        Line("… all but the worst twentieth above", None, "psnr_p05", "shapes-vae", "psnr_p05", "dB"),
    ],
    "strange": [
        Line("… of subjects that DreamBooth learns", 33.0, "subjects", "shapes-vae", "psnr_subjects", "dB"),
        Line("… of plain drawings", None, "drawings", "shapes-vae", "psnr_drawings", "dB"),
    ],
    "reader": [
        Line("reader on {on}, all attributes", None, "all", "shapes-reader", "{name}_all_right"),
        Line("… its worst attribute ({worst})", None, "least", "shapes-reader", "{name}_attribute_worst"),
    ],
    "single": [
        Line(
            "one thing from its caption, all attributes (w = {w:g})",
            0.98,
            "right",
            "shapes",
            "single_all_right",
        )
    ],
    "held_out": [
        Line(
            "… whose colour × shape was never trained on (w = {w:g})",
            0.96,
            "right",
            "shapes",
            "held_out_all_right",
        )
    ],
    "two": [
        Line(
            "two things and their relation, all attributes (w = {w:g})",
            0.93,
            "right",
            "shapes",
            "two_all_right",
        )
    ],
    "away": [
        Line(
            "one thing, w = {w:g}, autoguidance {away:g} (precision {precision:.2f}, recall {recall:.2f})",
            None,
            "right",
            "shapes-companion",
            "away_{w:g}_{away:g}",
        )
    ],
    "wordings": [
        Line(
            "200 captions in free wordings, of the {plain:.1%} right from plain captions",
            0.95,
            "kept",
            "shapes",
            "wordings_kept",
        )
    ],
    "layouts": [
        Line(
            "pictures of {name}, of the {plain:.1%} right at 64×64",
            0.95,
            "kept",
            "shapes",
            "layout_{name}_kept",
        ),
        Line("… as many things as asked", None, "count", "shapes", "layout_{name}_count"),
    ],
    "strokes": [
        Line(STROKES % "t0", 0.97, "right", "shapes", "strokes_all_right"),
        Line(STROKES % "low_t0", 0.93, "low", "shapes", "strokes_low_all_right"),
    ],
    "drawings": [
        Line(f"{DRAWN}recolour and reshape", 0.85, "right", "shapes", "drawings_all_right"),
        Line("… drawings by hand", 0.85, "hand", "shapes", "drawings_by_hand_all_right"),
    ],
    "noise": [
        Line(
            "RMS error of x̂₀ at σ = {sigma:g}, in standard deviations of a latent",
            None,
            "error",
            "shapes",
            "x0_error_{sigma:g}",
            "σ",
            most=True,
        )
    ],
    "ve": [
        Line(
            "VE walk, the score from GLIDE's base: stroke painting to 32×32 picture, all attributes "
            "(t₀ = {t0:g}; of the paintings themselves {untouched:.1%})",
            0.8,
            "right",
            "shapes-glide",
            "strokes_all_right",
        )
    ],
    "glide": [
        Line(
            "GLIDE's base at 32×32, one thing from its caption, all attributes (w = {w:g})",
            0.97,
            "right",
            "shapes-glide",
            "single_all_right",
        )
    ],
    "upsampler": [
        Line(
            "GLIDE's upsampler, 32×32 to 64×64: PSNR above bicubic's {bicubic:.1f} dB",
            6.0,
            "above",
            "shapes-glide-upsampler",
            "above_bicubic_db",
            "dB",
        )
    ],
    "instruct": instructed("shapes-instruct", "true pairs", (0.95, 0.9, 0.85, 32.0)),
    "generated": instructed("shapes-instruct-generated", "painted pairs", (0.8, None, 0.6, 27.0)),
}
X0_GOALS = {0.06: 0.02, 0.17: 0.035, 0.52: 0.08, 1.0: 0.14}
READER_GOALS = {"raw": 0.995, "autoencoded": 0.993}


def entries(name: str, part: Part) -> list[Part]:
    """What the rows of a part speak of: the best point of its curve, beside the part's own values."""
    if name == "reader":
        found = []
        for shown, on in (("raw", "renders"), ("autoencoded", "renders through the autoencoder")):
            each = part[f"{shown}_attributes"]
            worst = min(each, key=each.get)
            about = dict(name=shown, on=on, worst=worst.replace("_", " "), all_goal=READER_GOALS[shown])
            found.append(about | dict(all=part[shown], least=each[worst]))
        return found
    if name == "away":
        return part["curve"]
    if name == "noise":
        return [point | dict(error_goal=X0_GOALS.get(point["sigma"])) for point in part["curve"]]
    if name == "layouts":
        return [dict(name=shape, **found) for shape, found in part["shapes"].items()]
    entry = part | (max(part["curve"], key=lambda r: r["right"]) if "curve" in part else {})
    if name == "strokes":
        low = max((p for p in part["curve"] if p["t0"] <= 0.7), key=lambda r: r["right"])
        entry |= dict(low=low["right"], low_t0=low["t0"])
    if name == "drawings":
        entry |= dict(hand_n=part["hand_n"])
    for kind, right in entry.get("kinds", {}).items() if name in ("instruct", "generated") else ():
        entry |= {kind: right, f"{kind}_n": part["n"] // len(entry["kinds"])}  # the kinds in turn
    return [entry]


def measured(parts: dict[str, Part]) -> Iterator[Row]:
    """The rows of whatever parts of the bench were measured."""
    for name, lines in LINES.items():
        for entry in entries(name, parts[name]) if name in parts else ():
            for line in lines:
                if line.value not in entry:
                    continue
                value, n = entry[line.value], entry.get(f"{line.value}_n", parts[name]["n"])
                ends = entry.get(f"{line.value}_95")
                yield Row(
                    line.words.format(**entry).replace("%", " %"),
                    line.goal if line.goal is not None else entry.get(f"{line.value}_goal"),
                    value,
                    line.unit,
                    n,
                    tuple(ends) if ends else wilson(value, n) if line.unit == "%" else None,
                    f"bench, {name}",
                    line.most,
                    f"{line.file}.safetensors",
                    line.key.format(**entry),
                )


# --------------------------------------------------------------------------- what other records hold


def judges() -> Iterator[Row]:
    """What the recipes of the judges and of the language model measured when they had trained them."""
    for figure, goal, file, key, count in (
        (
            "classifier: attributes of nearly clean pictures",
            0.95,
            "shapes-classifier",
            "attribute_mean_t1",
            "n",
        ),
        ("noised CLIP: the caption among 64, at t = 250", 0.98, "shapes-clip-noised", "found_t250", "n"),
        ("CLIP: the caption among 64", 0.995, "shapes-clip", "found", "n"),
        (
            "language model: triplets that follow their instruction",
            0.95,
            "shapes-language",
            "follows",
            "captions",
        ),
        ("emoji-clip: a held-out caption among 64", 0.9, "emoji-clip", "found", "n"),
    ):
        figures = manifest().get(f"{file}.safetensors", {}).get("figures", {})
        if key in figures:
            value, n = figures[key], figures[count]
            yield Row(figure, goal, value, "%", n, wilson(value, n), "recipe")


def glide(record: Callable[[str], Record | None]) -> Iterator[Row]:
    """C8 and C9."""
    if r := record("glide_inpaint"):
        right = r["ways"]["fine-tuned"]["right"]
        yield Row("GLIDE fills a hole as asked", 0.94, right, "%", r["n"], wilson(right, r["n"]), "C8")
    if r := record("glide_session"):
        more = r["session"]["right"] - r["once"]
        ends = gap(r["session"]["right"], r["once"], r["n"])
        yield Row("GLIDE: a session of fills, above one prompt", 0.0, more, "points", r["n"], ends, "C9")


def editing(record: Callable[[str], Record | None]) -> Iterator[Row]:
    """C17, C26, C28 and what the models recommend."""
    if r := record("diffedit"):
        found = max(
            (p["kinds"]["recolour"] for p in r["one"]["curves"]["DiffEdit"]), key=lambda k: k["right"]
        )
        ends = wilson(found["right"], found["n"])
        yield Row("DiffEdit recolours one thing", 0.92, found["right"], "%", found["n"], ends, "C17")
        yield Row("… what should stay, PSNR", 35.0, found["outside_db"], "dB", found["n"], None, "C17")
    if r := record("layout"):
        lost = {k: v["uninjected"]["right"] - v["injected"]["right"] for k, v in r["kinds"].items()}
        kind = max(lost, key=lost.get)
        plain, injected = r["kinds"][kind]["uninjected"], r["kinds"][kind]["injected"]
        n, ends = injected["n"], gap(plain["right"], injected["right"], injected["n"])
        words = f"Prompt-to-Prompt: what injection costs, at worst ({kind})"
        yield Row(words, 0.04, lost[kind], "points", n, ends, "C26", most=True)
    if r := record("null_text"):
        e = r["edits"]
        right, n = e["ways"]["null-text"]["injected"]["recolour"]["right"], e["n"] // 2
        yield Row("null-text and injection recolour", 0.92, right, "%", n, wilson(right, n), "C29")
    if r := record("recommended"):
        way = r["methods"]["null_text"]
        chosen = way["recommended"]["null_text"]
        best = next(p for p in way["tried"] if all(p[k] == v for k, v in chosen.items()))
        lost = way["autoencoder_db"] - best["success"]
        words = "null-text under the autoencoder's own picture, w = 7.5"
        yield Row(words, 0.5, lost, "dB", r["n"] // 6, None, "recommend", most=True)


def learned(record: Callable[[str], Record | None]) -> Iterator[Row]:
    """C12, and the scoreboard of emoji."""
    if r := record("dreambooth"):
        way = r["ways"]["with prior"]
        each = [subject["dino"] for subject in way["each"]]
        half = 1.96 * stdev(each) / len(each) ** 0.5
        words = f"DreamBooth with prior: DINO (true pictures: {r['real']['dino']:.3f})"
        yield Row(words, 0.6, way["dino"], "σ", r["n"], (way["dino"] - half, way["dino"] + half), "C12")
    if r := record("emoji"):
        by = "scoreboard of emoji"
        yield Row("autoencoder of emoji, mean PSNR", 34.0, r["limit"]["all"]["db"], "dB", r["n"], None, by)
        told = r["methods"]["InstructPix2Pix"]
        gain, words = told["all"]["gain"], "emoji: InstructPix2Pix, nearer to the truth than the picture is"
        yield Row(words, 9.0, gain, "dB", told["all"]["n"], None, by)
        tone = told["kinds"]["tone"]
        yield Row("… skin tone", 7.5, tone["gain"], "dB", tone["n"], None, by)
        others = {k: m["all"] for k, m in r["methods"].items() if k not in ("InstructPix2Pix", ITSELF)}
        best = max(others, key=lambda k: others[k]["gain"])
        words = f"… the best method that trains on no pairs ({best})"
        yield Row(words, 5.0, others[best]["gain"], "dB", others[best]["n"], None, by)


ITSELF = "the picture as it was"


def rows(folder: Path = RECORDS) -> list[Row]:
    """The whole table, from the records in a folder."""

    def record(name: str) -> Record | None:
        return read_record(name, folder)

    bench = record("bench") or dict(parts={})
    others = [*glide(record), *editing(record), *learned(record)]
    return [*measured(bench["parts"]), *(judges() if folder == RECORDS else ()), *others]


HEAD = "figure", "to reach", "measured", "95 % interval", "n", "by", "reached"


def table(found: list[Row]) -> str:
    """Rows in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells for row in found)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def into_manifest(records: dict[str, Any], parts: dict[str, Part]) -> dict[str, Any]:
    """The manifest with the measured figures under each file's "bench"; what its recipe measured, under
    "figures", is kept.
    """
    found = {name: {**record, "bench": {}} for name, record in records.items()}
    for row in measured(parts):
        if row.file in found:
            found[row.file]["bench"] |= {row.key: row.measured, f"{row.key}_n": row.n}
    curves = {
        name: {f"{key} {r[key]:g}": r["right"] for r in parts[name]["curve"]}
        for name, key in (("single", "w"), ("two", "w"), ("strokes", "t0"))
        if name in parts
    }
    if "shapes.safetensors" in found:
        found["shapes.safetensors"]["bench"] |= {f"{name}_curve": curve for name, curve in curves.items()}
    return found
