"""A card for each weight file, made of its line in weights/MANIFEST.json and of docs/models.md."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from palimpsest.claims.page import DOCS, ROOT
from palimpsest.docs.site.api import escaped
from palimpsest.docs.site.sources import SCHEME

MANIFEST = ROOT / "weights" / "MANIFEST.json"
KINDS = {
    "text2image": "a diffusion model under texts",
    "vae": "an autoencoder",
    "glide": "a diffusion model in GLIDE's layout",
    "clip": "pictures and texts in one space",
    "noised_clip": "a CLIP that reads noisy pictures",
    "classifier": "a classifier of noisy pictures",
    "dino": "features that tell individuals apart",
    "language": "a language model of captions and instructions",
    "reader": "reads off a picture what stands where",
}
MEANINGS = {  # of the figures, by the words that they begin with
    "n": "pictures that the figures below are measured on",
    "among": "captions that `found` chooses among",
    "loss": "mean loss on what was not trained on",
    "found": "share of pictures whose own caption is the nearest",
    "storage_error": "relative error that the file's number format adds to the answers",
    "pairs": "training pairs",
    "stopped_at": "step at which the clock ended it",
    "psnr_mean": "mean PSNR of what comes back, dB",
    "psnr_p05": "PSNR that all but the worst twentieth exceed, dB",
    "psnr_bicubic": "PSNR of bicubic enlargement, dB",
    "psnr_foreseen": "PSNR of the net's own enlargement, dB",
    "latent_std": "standard deviation of the latents",
    "smooth_share": "share of the latents' power in low frequencies",
    "attribute_mean": "mean share of attributes read right, at noise level t",
    "vlb_bits": "variational bound, bits a dimension",
    "nearest": "share of pictures whose nearest neighbour is the same individual",
    "entropy": "entropy of the answers, as a share of the largest",
    "unseen_loss": "loss on texts that were not trained on",
    "captions": "captions that it was asked about",
    "texts": "texts that it was trained on",
    "parsed": "share of its texts that have the form of a triplet",
    "valid": "share of its texts that are valid triplets",
    "different": "share of its texts that differ",
    "follows": "share whose target is what the instruction makes of the caption",
    "raw": "the reader on renders",
    "autoencoded": "the reader on renders through the autoencoder",
    "single": "one thing from its caption, all attributes right",
    "held_out": "the same for pairs of colour and shape that were never trained on",
    "two": "two things and their relation, all right",
    "strokes": "stroke painting to picture by SDEdit, all right",
    "strokes_low": "the same at t₀ ≤ 0.7",
    "psnr_subjects": "mean PSNR of DreamBooth's subjects, dB",
    "psnr_drawings": "mean PSNR of plain drawings, dB",
    "wordings": "free wordings: what is right, as a share of what is right from plain captions",
    "layout": "pictures of that size: what is right, as a share of square ones; and as many things as asked",
    "drawings": "plain drawings recoloured and reshaped by SDEdit, all right",
    "x0_error": "RMS error of x̂₀ at that σ, in standard deviations of a latent",
    "remove": "instruction followed, the thing that is named removed",
    "recolour": "instruction followed, recolouring",
    "instructed": "instruction followed, every kind of edit",
    "outside_db": "what should stay, PSNR in dB",
    "above_bicubic": "PSNR above bicubic enlargement, dB",
}


def meaning(figure: str) -> str:
    """What a figure of the manifest says, from the longest beginning that is known."""
    known = [words for words in MEANINGS if figure == words or figure.startswith(f"{words}_")]
    return MEANINGS[max(known, key=len)] if known else ""


def manifest() -> dict[str, dict[str, Any]]:
    """Name of a weight file -> what is recorded of it."""
    lines = json.loads(MANIFEST.read_text(encoding="utf-8"))
    return {file.removesuffix(".safetensors"): about for file, about in lines.items()}


def about_recipe(recipe: str) -> str:
    """The first sentence of a recipe's docstring."""
    path = recipe.removeprefix("python -m palimpsest.").replace(".", "/") + ".py"
    text = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    sentence = re.match(r"Recipe of [\w, -]+: (.*?)[.:]?\s*(?:\n\n|$|\.\s)", text + "\n\n", re.DOTALL)[1]
    return " ".join(sentence.split())


def runs_of(about: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(steps, pictures in a step, seconds) of each training run, the last one last."""
    last = about["arguments"] | {"steps": about["steps"], "seconds": about["seconds"]}
    return [(r["steps"], r.get("batch", 0), r.get("seconds", 0)) for r in [*about["earlier"], last]]


def limits(name: str) -> str:
    """The paragraphs of docs/models.md that say the model's name, without those that begin with the name of
    another family: of `emoji-instruct`, one that begins with `emoji`, but of `shapes` none on `shapes-clip`.
    """
    text = (DOCS / "models.md").read_text(encoding="utf-8").split("## What limits each model")[1]
    items = [item for item in re.split(r"\n(?=- )", text)[1:] if f"`{name}`" in item]
    of = {item: re.match(r"- (?:`([\w-]+)`)?", item)[1] or "" for item in items}
    return "\n".join(item for item in items if name.startswith(of[item]))


def rounded(value: Any) -> str:
    """A number in four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def figures(about: dict[str, Any]) -> str:
    """The table of what was measured: by the recipe, then by `make bench`."""
    rows = []
    for source, found in (("the recipe", about["figures"]), ("`make bench`", about["bench"])):
        for name, value in found.items():
            if not isinstance(value, dict) and not re.search(r"_(n|seed)$", name):
                n = found.get(f"{name}_n", "")
                rows.append(f"| `{name}` | {rounded(value)} | {n} | {meaning(name)} | {source} |")
    head = "| figure | value | n | what it says | measured by |\n|---|---|---|---|---|\n"
    return head + "\n".join(rows) if rows else "None is recorded."


def card(name: str) -> str:
    """The page of one weight file."""
    about = manifest()[name]
    path = about["recipe"].removeprefix("python -m palimpsest.").replace(".", "/") + ".py"
    runs = runs_of(about)
    seen = sum(steps * batch for steps, batch, _ in runs)
    each = "\n".join(f"| {k} | {s:,} | {b} | {t:,} |" for k, (s, b, t) in enumerate(runs, 1))
    given = "\n".join(
        f"- `{method}`: " + ", ".join(f"{k} = {v}" for k, v in settings.items())
        for method, settings in about.get("recommended", {}).items()
    )
    pictures = (
        "emoji of Noto Emoji (Apache-2.0) and Twemoji (CC-BY 4.0)" if "emoji" in name else "drawn by us"
    )
    parts = [
        f"# {name}",
        f"{escaped(about_recipe(about['recipe'])[:1].upper() + about_recipe(about['recipe'])[1:])}.",
        f"| kind | {KINDS.get(about['kind'], about['kind'])} |\n|---|---|\n"
        f"| file | `weights/{name}.safetensors`, {about['bytes'] / 2**20:.1f} MB |\n"
        f"| parameters | {about['parameters'] / 1e6:.2f} million |\n"
        f"| recipe | [`{about['recipe']}`]({SCHEME}{path}) |\n"
        f"| revision | `{about['revision']}` |\n"
        f"| hash (SHA-256) | `{about['sha256'][:16]}…` |\n"
        f"| licence | MIT; it was trained on pictures {'of ' if 'emoji' in name else ''}{pictures} |",
        f"## What it saw\n\n{seen:,} examples (steps × batch) in {len(runs)} run{'s' * (len(runs) > 1)}.\n\n"
        f"| run | steps | in a step | seconds |\n|---|---|---|---|\n{each}",
        f"## Figures\n\n{figures(about)}",
    ]
    if given:
        parts.append(
            "## What it recommends\n\nTaken where you leave a setting out; measured by "
            f"`python -m palimpsest.claims.recommend`.\n\n{given}"
        )
    if said := limits(name):
        parts.append(f"## Limits\n\n{said}")
    parts.append("Made of `weights/MANIFEST.json` and [the models, measured](../docs/models.md).")
    return "\n\n".join(parts) + "\n"


def overview() -> str:
    """The first page: every file in a table that can be sorted."""
    rows = "\n".join(
        f"| [{name}]({name}.md) | {KINDS.get(a['kind'], a['kind'])} | {a['bytes'] / 2**20:.1f} | "
        f"{a['parameters'] / 1e6:.2f} | {sum(s * b for s, b, _ in runs_of(a)):,} |"
        for name, a in manifest().items()
    )
    names = "\n".join(manifest())
    return f"""# Model cards

Every weight file that is shipped, made of `weights/MANIFEST.json`. `palimpsest models` prints the same in the
terminal. What the figures mean for an edit stands in [the models, measured](../docs/models.md).

```{{rst-class}} sortable
```

| model | what it is | MB | million parameters | examples seen |
|---|---|---|---|---|
{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def pages() -> dict[str, Callable[[], str]]:
    """Path on the site -> what writes the page."""
    return {"models/index.md": overview} | {f"models/{n}.md": partial(card, n) for n in manifest()}
