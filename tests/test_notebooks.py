"""The lessons run, say what they claim in asserts, and are what is rendered beside them."""

import ast
import json
import re
import runpy
import statistics
import time
import warnings
from itertools import pairwise

import matplotlib.pyplot as plt
import pytest
from matplotlib.text import Text

from palimpsest.notebooks import exercises, plots
from palimpsest.weights.files import manifest

jupytext = pytest.importorskip("jupytext", reason="jupytext is an extra of the tests")
render = pytest.importorskip("palimpsest.notebooks.render", reason="nbclient is an extra of the tests")

LESSONS = render.names()
OVERVIEWS = {"00", "13"}  # no method of their own
SECONDS = {"02_train": 180}  # lesson -> seconds on two cores, where it is not 90
# lesson -> what its model must reach in the bench, so that there is something to see
NEEDS = {  # figures of the shipped model that a lesson stands on
    "01_noise_and_samplers": ("single_all_right", 0.6),
    "02_train": ("single_all_right", 0.6),
    "03_guidance": ("single_all_right", 0.5, "shapes-glide"),
    "04_sdedit": ("strokes_all_right", 0.6),
    "05_ddim_inversion": ("single_all_right", 0.6),
    "06_diffedit": ("single_all_right", 0.5),
    "07_prompt_to_prompt": ("single_all_right", 0.5),
    "08_null_text": ("single_all_right", 0.6),
    "09_glide": ("single_all_right", 0.5, "shapes-glide"),
    "11_instruct_pix2pix": ("instructed_all_right", 0.5, "shapes-instruct"),
    "12_after_the_survey": ("single_all_right", 0.6),
}
SOLUTIONS = sorted(p.stem for p in (render.HERE / "solutions").glob("*.py"))


def source(name):
    return render.read(render.HERE / f"{name}.py")


def rendered(name):
    path = render.HERE / f"{name}.ipynb"
    if not path.exists() and too_weak(name):
        pytest.skip(f"{path.name} is not rendered yet: {too_weak(name)}")
    return json.loads(path.read_text(encoding="utf-8"))


def too_weak(name):
    """Why a lesson cannot be shown with the shipped model; "" where it can."""
    if name not in NEEDS:
        return ""
    figure, least, *file = NEEDS[name]
    reached = (
        manifest().get(f"{file[0] if file else 'shapes'}.safetensors", {}).get("bench", {}).get(figure, 0.0)
    )
    return (
        ""
        if reached >= least
        else f"the shipped model has {figure} = {reached:.2f}, the lesson needs {least}: train it for longer"
    )


def run(path, look=None):
    """Run a source; `look` sees the figures that it left."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(path), run_name="__main__")
        if look:
            look([plt.figure(number) for number in plt.get_fignums()])
    finally:
        plt.close("all")


def small(figures):
    """No figure is wider than a page, and no letter on it is below 8 points."""
    assert figures
    for figure in figures:
        assert figure.get_figwidth() <= plots.PAGE + 0.01
        figure.canvas.draw()
        words = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        assert [t.get_text() for t in words if t.get_fontsize() < 8] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_in_ninety_seconds(name, tmp_path, monkeypatch):
    if too_weak(name):
        pytest.skip(too_weak(name))
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    with plt.rc_context():
        run(render.HERE / f"{name}.py", small)
    assert time.process_time() - start < 2 * SECONDS.get(name, 90), "seconds on two cores"
    assert list(tmp_path.iterdir()) == [], "a lesson leaves nothing behind"


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solutions_answer_every_exercise_rightly(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(render.HERE / "solutions" / f"{name}.py")
    said = re.findall(r"exercise (\S+): (.*)", capsys.readouterr().out)
    wanted = [k for k in exercises.CHECKS if k.startswith(name[:2])]
    assert wanted and said == [(k, "right") for k in wanted]
    asked = re.findall(
        r'^check\("(\S+)"', (render.HERE / f"{name}.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert asked == wanted, "the lesson asks what the solutions answer"


@pytest.mark.parametrize("answer, verdict", [(None, "not begun"), (0.3, "not yet"), (0.5424, "right")])
def test_a_check_tells_right_from_wrong(answer, verdict, capsys):
    exercises.check("01.1", answer)
    assert capsys.readouterr().out.startswith(f"exercise 01.1: {verdict}")


@pytest.mark.parametrize("name", LESSONS)
def test_what_is_rendered_is_the_source(name):
    assert [(c["cell_type"], "".join(c["source"])) for c in rendered(name)["cells"]] == [
        (c.cell_type, c.source) for c in source(name).cells
    ]


@pytest.mark.parametrize("name", LESSONS)
def test_what_is_rendered_is_whole_small_and_repeatable(name):
    notebook, text = rendered(name), (render.HERE / f"{name}.ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) <= render.LIMIT
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1)), (
        "every cell was run, in order"
    )
    outputs = [o for c in cells for o in c["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= 5
    shown = json.dumps(
        [
            {k: v for k, v in o.get("data", {}).items() if k != "image/png"} | {"text": o.get("text")}
            for o in outputs
        ]
    )
    assert not re.search(r"/(home|work|root|Users|tmp|usr)/| at 0x|\b20\d\d-\d\d-\d\d\b", shown)
    assert notebook["metadata"] == render.METADATA


@pytest.mark.parametrize("name", LESSONS)
def test_every_claim_is_followed_by_its_assert(name):
    cells = source(name).cells
    for k, cell in enumerate(cells):
        claims = len(re.findall(r"\*\*Claim\.\*\*", cell.source)) if cell.cell_type == "markdown" else 0
        after = cells[k + 1].source if claims else ""
        assert claims <= len([n for n in ast.walk(ast.parse(after)) if isinstance(n, ast.Assert)]), (
            cell.source[:80]
        )
    least = 1 if name[:2] in OVERVIEWS else 5
    assert sum(c.source.count("**Claim.**") for c in cells if c.cell_type == "markdown") >= least


def test_a_name_that_is_no_lesson_is_refused_with_the_ones_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        render.main(["99_nothing"])
    assert stop.value.code == 2 and "01_noise_and_samplers" in capsys.readouterr().err


# --------------------------------------------------------------------------- the form of a lesson


def text_of(name):
    return "\n\n".join(c.source for c in source(name).cells if c.cell_type == "markdown")


def code_after(name, heading):
    """The code cells below a heading, up to the next of its rank."""
    cells = source(name).cells
    start = next(
        k for k, c in enumerate(cells) if re.search(rf"^{re.escape(heading)}", c.source, re.MULTILINE)
    )
    below = cells[start + 1 :]
    end = next((k for k, c in enumerate(below) if c.source.startswith("## ")), len(below))
    return [c.source for c in below[:end] if c.cell_type == "code"]


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_its_parts_in_order(name):
    first, words = source(name).cells[0].source, text_of(name)
    assert first.startswith(f"# {name[:2]} · ") and "45 minutes" in words
    parts = ["**What you will learn**", "**What you need**", "## Symbols"]
    parts += ["## Where this breaks", "## On Stable Diffusion", "## Exercises", "## Quiz"]
    places = [words.index(part) for part in [*parts, "## Three things to take away"]]
    assert places == sorted(places)
    assert "| in the paper | here | in code | meaning | shape or range |" in words
    assert "| symptom | cause | what to change |" in words[places[3] :]
    assert len(re.findall(r"^\d\. ", words[places[-1] :], re.MULTILINE)) == 3
    if name[:2] not in OVERVIEWS:
        assert len(re.findall("open the paper at", words, re.IGNORECASE)) >= 2
    assert "public_model(" in "\n".join(code_after(name, "## On Stable Diffusion"))


@pytest.mark.parametrize("name", [n for n in LESSONS if n[:2] not in OVERVIEWS])
def test_a_lesson_shows_the_method_on_one_screen_and_compares_it_with_the_library(name):
    mine, *compared = code_after(name, "## The method, from nothing")
    lines = [line for line in mine.splitlines() if line.strip()]
    assert len(lines) <= 15 and len(re.findall(r"#.*\b(Eq|Alg)\.", mine)) >= 1
    imported = {
        alias.asname or alias.name
        for cell in source(name).cells
        if cell.cell_type == "code"
        for n in ast.walk(ast.parse(cell.source))
        if isinstance(n, ast.ImportFrom) and n.module.startswith("palimpsest")
        for alias in n.names
    }
    used = {n.id for n in ast.walk(ast.parse(mine)) if isinstance(n, ast.Name)}
    assert used & imported == set(), "plain tensors and the net alone"
    assert re.search(r"assert .*(torch\.equal|allclose)|assert_close", "\n".join(compared))


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_short_cells_and_narrow_lines(name):
    cells = [c.source.splitlines() for c in source(name).cells if c.cell_type == "code"]
    nothing = (
        [] if name[:2] in OVERVIEWS else [code_after(name, "## The method, from nothing")[0].splitlines()]
    )
    assert [c[0] for c in cells if len(c) > 12 and c not in nothing] == []
    assert statistics.median(len([line for line in c if line.strip()]) for c in cells) <= 8
    assert [line for c in cells for line in c if len(line) > 96] == []
    assert "class Perfect" not in "\n".join(line for c in cells for line in c)


@pytest.mark.parametrize("name", LESSONS)
def test_each_figure_of_a_lesson_is_followed_by_its_caption(name):
    cells = rendered(name)["cells"]
    pictured = [any("image/png" in o.get("data", {}) for o in c.get("outputs", [])) for c in cells]
    count = 0
    for (cell, shows), (after, _) in pairwise(zip(cells, pictured)):
        if shows:
            count += 1
            words = "".join(after["source"])
            assert words.startswith(f"**Figure {name[:2]}.{count}.** "), "".join(cell["source"])[:80]
            assert sum(len(p) for p in words.split("\n\n")) > 150, "caption, and what one sees"
    twice = [o for c in cells for o in c.get("outputs", []) if o["output_type"] == "execute_result"]
    assert not [o for o in twice if "image/png" in o["data"]], "a figure is shown twice: end with a semicolon"
    assert not pictured[-1] and count >= 3
    assert text_of(name).count(f"**Figure {name[:2]}.") == count
    printed = json.dumps(
        [o for c in cells for o in c.get("outputs", []) if "image/png" not in o.get("data", {})]
    )
    assert not re.search(r"Text\(|<matplotlib|<Axes|<Figure|array\(\[<", printed), "a stray repr"


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_exercises_with_hints_and_a_quiz(name):
    words = text_of(name)
    exercises_, quiz = words.split("## Exercises")[1].split("## Quiz")
    quiz = quiz.split("## Three things")[0]
    asked = re.findall(r"^\*\*(\d)\. ", exercises_, re.MULTILINE)
    assert asked == [str(k) for k in range(1, len(asked) + 1)] and len(asked) >= 3
    for hint in ("<details><summary>Hint 1</summary>", "<details><summary>Hint 2</summary>"):
        assert exercises_.count(hint) == len(asked)
    assert re.search("predict", exercises_, re.IGNORECASE) and re.search("project", exercises_, re.IGNORECASE)
    assert quiz.count("<details>") == quiz.count("</details>") == 5
    assert len([k for k in exercises.CHECKS if k.startswith(name[:2])]) >= 2


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_is_written_in_the_terms_of_the_field(name):
    riddles = r"\bverbs?\b|foresee|\bnets? says?\b|\bmodels? says?\b|drown|\bin figures\b"
    assert re.findall(riddles, text_of(name), re.IGNORECASE) == []


# --------------------------------------------------------------------------- what the lessons share


def test_pictures_keep_their_colours_and_the_largest_get_a_palette_where_a_file_would_be_too_large():
    import base64
    import io

    import nbformat
    import numpy as np
    from PIL import Image

    def png(side):
        noise = np.random.default_rng(side).integers(0, 255, (side, side, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file := io.BytesIO(), "PNG")
        return base64.b64encode(file.getvalue()).decode()

    def colours(notebook):
        pictures = [
            Image.open(io.BytesIO(base64.b64decode(o.data["image/png"]))) for o in notebook.cells[0].outputs
        ]
        return [len(set(p.convert("RGB").getdata())) for p in pictures]

    def made():
        outputs = [nbformat.v4.new_output("display_data", data={"image/png": png(s)}) for s in (40, 80)]
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=outputs)])

    whole = render.pack(free := made())
    assert min(colours(free)) > 1000
    text = render.pack(tight := made(), limit=len(whole) - 1000)
    small_, large = colours(tight)
    assert len(text) <= len(whole) - 1000 and small_ > 1000 and 200 < large <= 256
    with pytest.raises(ValueError, match="fewer or smaller pictures"):
        render.pack(made(), limit=1000)


def test_explore_without_sliders_draws_a_panel_for_each_value(monkeypatch):
    drawn = []
    plots.explore(lambda ax, t0, w: drawn.append((t0, w)), {"t0": (0.1, 0.5), "w": (1, 2, 3)})
    figure = plt.gcf()
    plt.close("all")
    assert drawn == [(t0, w) for w in (1, 2, 3) for t0 in (0.1, 0.5)] and len(figure.axes) == 6
    plots.explore(lambda ax, t0: drawn.append(t0), {"t0": (0.1, 0.5)}, page=False)
    assert len(drawn) == 6 and plt.get_fignums() == [], "a slider alone"


def test_the_perfect_model_answers_by_the_formula():
    import torch

    from palimpsest.notebooks.perfect import perfect_model
    from palimpsest.samplers.noise import Rng
    from palimpsest.samplers.schedule import Schedule
    from palimpsest.worlds.gaussian import GaussianWorld

    world, sched = (
        GaussianWorld({"a": torch.zeros(3, 8, 8), "b": torch.ones(3, 8, 8)}, 0.3),
        Schedule.cosine(),
    )
    model, x = perfect_model(world, sched, size=8, prompt="a"), Rng([0]).randn((1, 3, 8, 8)).double()
    assert torch.equal(model.eps(x, 400, model.embed("b")), world.eps(x, sched.at(400), "b"))
    assert torch.equal(model.eps(x, 400), world.eps(x, sched.at(400), "a"))


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    import torch

    from palimpsest.notebooks.intervals import mean_interval, share_interval

    generator = torch.Generator().manual_seed(0)
    rights = (torch.rand(2000, 400, generator=generator) < 0.8).sum(1).tolist()
    held = [low <= 0.8 <= high for low, high in (share_interval(k, 400) for k in rights)]
    assert 0.93 < sum(held) / len(held) < 0.97
    draws = torch.randn(2000, 60, generator=generator)
    held = [low <= 0 <= high for low, high in map(mean_interval, draws)]
    assert 0.92 < sum(held) / len(held) < 0.97
    for k, n in ((-1, 4), (5, 4), (0, 0)):
        with pytest.raises(ValueError):
            share_interval(k, n)
    with pytest.raises(ValueError):
        mean_interval([1.0])


def test_slides_hold_every_figure_and_formula_and_fetch_nothing(tmp_path, capsys):
    from palimpsest.notebooks import slides

    name = "01_noise_and_samplers"
    assert slides.main([name, "-o", str(tmp_path)]) == 0 and f"{name}.html" in capsys.readouterr().out
    page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    pictures = [
        o for c in rendered(name)["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})
    ]
    displayed = sum(c.source.count("$$") for c in source(name).cells if c.cell_type == "markdown") // 2
    assert page.count("<img") == len(pictures)
    assert page.count("<section>") == len(pictures) + displayed + 2 and displayed >= 4
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block"') == displayed
    text = re.sub(r"base64,[^\"]+|(?s:<script>.*)", "", page)
    assert not re.search(r"\$|\\[a-z]|mathvariant=\"(double|script)", text), "a formula as it is typed"
    assert not re.search(r"""(src|href)="(?!data:|https://arxiv)""", page) and "<script src" not in page
    with pytest.raises(SystemExit):
        slides.main(["99_nothing", "-o", str(tmp_path)])
