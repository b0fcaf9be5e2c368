"""The wheel, installed where nothing of the checkout can be seen; and what an import costs."""

import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import palimpsest

ROOT = Path(__file__).parent.parent
EDIT = """
from pathlib import Path

import palimpsest
from palimpsest import load, read_picture, sdedit, write_picture

assert Path(palimpsest.__file__).is_relative_to(Path("venv").resolve()), palimpsest.__file__
model = load("shapes", device="cpu")
x = read_picture("star.png", size=model.size, grid=model.grid)
edit = sdedit(model, x, "a large red star on a blue background", t0=0.6, steps=4, seed=0)
write_picture(edit.picture, "by-python.png")
print(palimpsest.__version__)
"""


def run(*command, cwd):
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy: setuptools leaves build/ where it works."""
    pytest.importorskip("setuptools", minversion="70.1", reason="older ones build no wheel by themselves")
    folder = tmp_path_factory.mktemp("wheel")
    run("git", "clone", "--quiet", "--shared", ROOT, folder / "source", cwd=folder)
    run(
        *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--wheel-dir", folder, folder / "source"),
        cwd=folder,
    )
    [found] = folder.glob("*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_the_weights_and_not_the_tests(wheel):
    assert wheel.name == f"palimpsest-{palimpsest.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {path.name for path in (ROOT / "weights").glob("*.safetensors")}
    assert shipped and {f"palimpsest/weights/{name}" for name in shipped} <= names
    assert "palimpsest/weights/MANIFEST.json" in names
    words = {f"palimpsest/nets/vocabularies/{p.name}" for p in (ROOT / "nets" / "vocabularies").iterdir()}
    assert len(words) == 4 and words <= names
    licences = {name.split("/")[-1] for name in names if ".dist-info/" in name}
    assert {"LICENSE", "LICENSE-CLIP.txt", "LICENSE-GPT2.txt"} <= licences
    assert {name.split("/")[0] for name in names} == {
        "palimpsest",
        f"palimpsest-{palimpsest.__version__}.dist-info",
    }
    assert not [name for name in names if "test" in name.split("/")[-1] or name.endswith(".ipynb")]
    size, held = wheel.stat().st_size, sum((ROOT / "weights" / name).stat().st_size for name in shipped)
    assert size < held + 20e6  # the code, and the emoji that ship


@pytest.mark.slow
def test_the_wheel_edits_a_picture_beside_folders_of_the_same_names(wheel, tmp_path):
    """weights/, nets/ and training.py of the reader's own hide nothing, and are not taken for ours."""
    for folder in ("weights", "nets"):
        (tmp_path / folder).mkdir()
    (tmp_path / "training.py").write_text(
        "raise RuntimeError('this is not the one that is meant')\n", encoding="utf-8"
    )
    (tmp_path / "star.png").write_bytes((ROOT / "figures" / "hand" / "star.png").read_bytes())
    (tmp_path / "edit.py").write_text(EDIT, encoding="utf-8")
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)

    assert run(python, "edit.py", cwd=tmp_path).strip() == palimpsest.__version__
    command = python.with_name("palimpsest")
    prompt = "a large red star on a blue background"
    run(
        *(command, "sdedit", "star.png", "--prompt", prompt, "--t0", "0.6", "--steps", "4", "--seed", "0"),
        *("--device", "cpu", "-o", "by-command.png"),
        cwd=tmp_path,
    )
    by_python, by_command, before = (
        np.asarray(Image.open(tmp_path / name).convert("RGB").resize((64, 64)), dtype=float)
        for name in ("by-python.png", "by-command.png", "star.png")
    )
    between = abs(by_python - by_command).mean()  # the command's has the size of the file, and is scaled here
    assert between < 2 < 10 < abs(by_python - before).mean(), between


def test_importing_palimpsest_is_quick_and_brings_no_torch():
    began = time.monotonic()
    code = "import sys, palimpsest; print(*({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == ""
    bare = "import sys"
    took = time.monotonic() - began
    began = time.monotonic()
    run(sys.executable, "-c", bare, cwd=ROOT)
    assert took < 1 + 3 * (time.monotonic() - began)  # beside what Python itself takes here and now


def test_loading_own_weights_does_not_import_the_readers_of_others():
    code = (
        "import sys; from palimpsest import load; load('shapes', device='cpu');"
        "print(*(m for m in sys.modules if m.startswith('palimpsest.weights.public.')))"
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == ""
