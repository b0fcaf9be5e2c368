"""Whether the outputs of a command can be written where its options say, asked before the work; and what they
are called where one command has several inputs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from palimpsest.cli.files import sidecar_of
from palimpsest.cli.manners import Mistake, blame, option_name
from palimpsest.outputs import check_writable
from palimpsest.worlds.files import MOVES, SAVE, check_output

PICTURES = ("save_mask", "save_heat", "save_layer", "save_source", "strip", "compare", "out")
OUTPUTS = {  # options whose files are written -> what they are called for the input `star.png` of several
    **dict.fromkeys(PICTURES, "{}.png"),
    "save_steps": "{}.png",
    "gif": "{}.gif",
    "save": "{}.safetensors",
}


def asked(a: argparse.Namespace, dest: str) -> str | None:
    """The value of an option that names a file, if it was given."""
    value = getattr(a, dest, None)
    return value if isinstance(value, str) and value else None


def check_places(a: argparse.Namespace) -> None:
    """Refuse what cannot be written as asked. Raises a ValueError that names the option."""
    for dest in OUTPUTS:
        if getattr(a, dest, None) == "":
            raise Mistake(f"{option_name(dest)}: is empty; name a file")
    for dest in PICTURES:
        if asked(a, dest) and not (dest == "out" and a.writes_folder):
            with blame(option_name(dest)):
                check_output(getattr(a, dest).replace("{i}", "0") if dest == "out" else getattr(a, dest))
    if asked(a, "gif"):
        with blame("gif"):
            check_output(a.gif, MOVES)
    if asked(a, "save"):
        check_tensor_file(a.save)
    if getattr(a, "save_steps", None) is not None:
        check_steps(a.save_steps)
    if getattr(a, "sidecar", False) and asked(a, "out"):
        with blame("sidecar"):
            check_writable(sidecar_of(a.out))


def check_tensor_file(name: str) -> None:
    """A .safetensors file in a folder that is there."""
    path = Path(name)
    if path.suffix != ".safetensors" or not path.absolute().parent.is_dir():
        raise Mistake(f"save: {name} must end in .safetensors and lie in a folder that is there")
    with blame("save"):
        check_writable(path)


def is_sheet(target: Path) -> bool:
    """Whether --save-steps means one sheet; else it means a folder of all steps."""
    return target.suffix.lower() in SAVE and not target.is_dir()


def check_steps(name: str) -> None:
    """Whether a walk can be written there: a picture file for a sheet, or a folder, there or to be made."""
    if not name.strip():
        raise Mistake("save-steps: is empty; name a folder, or a picture for a sheet")
    target = Path(name)
    if target.exists() and not target.is_dir() and not is_sheet(target):
        raise Mistake(f"save-steps: {target} is a file; name a folder, or a picture in {', '.join(SAVE)}")
    with blame("save-steps"):
        if is_sheet(target):
            check_output(target)
        else:
            check_writable(target / "step.png" if target.is_dir() else target.parent / "step.png")
            for old in target.glob("step_*.png"):
                check_writable(old)
