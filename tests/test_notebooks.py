"""The lessons run, say what they claim in asserts, and are what is rendered beside them."""

import ast
import json
import re
import runpy
import time
import warnings

import matplotlib.pyplot as plt
import pytest

from palimpsest.notebooks import exercises
from palimpsest.weights.files import manifest

jupytext = pytest.importorskip("jupytext", reason="jupytext is an extra of the tests")
render = pytest.importorskip("palimpsest.notebooks.render", reason="nbclient is an extra of the tests")

LESSONS = render.names()
# lesson -> what its model must reach in the bench, so that there is something to see
NEEDS = {"04_sdedit": ("strokes_all_right", 0.6)} | {  # figures of the shipped model that a lesson stands on
    "05_ddim_inversion": ("single_all_right", 0.6),
    "06_diffedit": ("single_all_right", 0.5),
    "07_prompt_to_prompt": ("single_all_right", 0.5),
    "08_null_text": ("single_all_right", 0.6),
    "03_guidance": ("single_all_right", 0.5, "shapes-glide"),
    "09_glide": ("single_all_right", 0.5, "shapes-glide"),
    "11_instruct_pix2pix": ("instructed_all_right", 0.5, "shapes-instruct"),
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


def run(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(path), run_name="__main__")
    finally:
        plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_in_ninety_seconds(name, tmp_path, monkeypatch):
    if too_weak(name):
        pytest.skip(too_weak(name))
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    with plt.rc_context():
        run(render.HERE / f"{name}.py")
    assert time.process_time() - start < 2 * 90, "seconds on two cores"
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
    assert sum("**Claim.**" in c.source for c in cells) >= 8


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_short_cells_and_the_usual_parts(name):
    cells = source(name).cells
    words = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    assert "**What you will learn**" in cells[0].source and cells[0].source.startswith(f"# {name[:2]} · ")
    assert words.index("## Where this breaks") < words.index("## Exercises")
    for cell in (c for c in cells if c.cell_type == "code"):
        assert len(cell.source.splitlines()) <= 25, cell.source[:80]
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 10, f"{node.name}: algorithms live in the packages"


def test_a_name_that_is_no_lesson_is_refused_with_the_ones_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        render.main(["99_nothing"])
    assert stop.value.code == 2 and "01_noise_and_samplers" in capsys.readouterr().err
