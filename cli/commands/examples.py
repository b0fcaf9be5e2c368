"""How every `--help` ends: what to expect, and two examples that run in a checkout of this repository.

Seconds were measured with the shipped models, on one core of an Intel Xeon with AMX, start included (PyTorch
takes 3 of them), and rounded; a laptop has several such cores.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple

HAND = "figures/hand"
STAR, HEART = f"{HAND}/star.png", f"{HAND}/heart.png"
RED_STAR, RED_HEART = "a large red star on a blue background", "a large red heart on a white background"
BLUE_HEART, BLUE_STAR = "a large blue heart on a white background", "a large blue star on a white background"
RED_STAR_ON_WHITE = "a large red star on a white background"
FROM_TO = f'{HEART} --source "{RED_HEART}" --target "{BLUE_HEART}"'
RING = "a small green ring above a large orange square on a blue background"
WRITES = (
    "The model sees a picture with its shorter side at 64 pixels; what is written has the file's own size."
)
MAKES = "A picture has 64×64 pixels."


class Ending(NamedTuple):
    """The last lines of a help."""

    size: str  # of pictures
    seconds: str  # to expect
    examples: tuple[str, str]  # without `palimpsest`


ENDINGS = {  # by the words of the command
    "sdedit": Ending(
        WRITES,
        "about 5 s",
        (
            f'sdedit {STAR} --prompt "{RED_STAR}" --t0 .6 -o red.png --compare why.png',
            f'sdedit {HAND} --prompt "{RED_STAR}" -o edited/',
        ),
    ),
    "diffedit": Ending(
        WRITES,
        "about 7 s",
        (
            f"diffedit {FROM_TO} --threshold .3 --grow 1 -o blue.png --compare why.png",
            f"diffedit {FROM_TO} --save-mask mask.png -o blue.png",
        ),
    ),
    "flow-edit": Ending(
        WRITES,
        "about 5 s",
        (f"flow-edit {FROM_TO} -o blue.png", f"flow-edit {FROM_TO} --start .7 -o blue.png --gif turning.gif"),
    ),
    "rf-inversion": Ending(
        WRITES,
        "about 6 s",
        (
            f'rf-inversion {HEART} --target "{BLUE_HEART}" -o blue.png --compare why.png',
            f'rf-inversion {HEART} --target "{BLUE_HEART}" --hold .5 -o blue.png',
        ),
    ),
    "text2live": Ending(
        "The layer is painted on a picture whose shorter side has the pixels that the CLIP sees, 64 for "
        "shapes-clip; what is written has the file's own size.",
        "about 40 s",
        (
            f'text2live {FROM_TO} --layer "a large blue heart" -o blue.png --save-layer layer.png',
            f'text2live {FROM_TO} --layer "a large blue heart" -o blue.png --steps 99 --save-steps all.png',
        ),
    ),
    "prompt-to-prompt": Ending(
        f"{MAKES} {WRITES}",
        "about 9 s, with --input 30 (of null-text)",
        (
            f'prompt-to-prompt "{RED_HEART}" "{RED_STAR_ON_WHITE}" -o star.png --compare both.png',
            f'prompt-to-prompt "{RED_HEART}" "{BLUE_HEART}" --input {HEART} --inversion direct -o blue.png',
        ),
    ),
    "null-text": Ending(
        WRITES,
        "about 32 s, with --load 8",
        (
            f'null-text {HEART} --prompt "{RED_HEART}" --save kept.safetensors -o back.png',
            f'null-text {HEART} --prompt "{RED_HEART}" --target "{BLUE_HEART}" --load kept.safetensors '
            "-o blue.png",
        ),
    ),
    "invert": Ending(
        WRITES,
        "about 75 s",
        (
            f'invert {HEART} --prompt "{RED_HEART}"',
            f'invert {HEART} --prompt "{RED_HEART}" --steps 25 -o ladder.png',
        ),
    ),
    "attention": Ending(
        f"{MAKES} Maps have 16×16 cells.",
        "about 5 s",
        (
            f'attention --prompt "{RED_HEART}" -o looks.png',
            f'attention {HEART} --prompt "{RED_HEART}" --word red --word heart --by step -o looks.png',
        ),
    ),
    "dreambooth": Ending(
        "Pictures have 64×64 pixels.",
        "about 4 minutes",
        (
            f"dreambooth {STAR} --class-noun star -o mine",
            f"dreambooth {STAR} --class-noun star --rank 4 --steps 200 -o small",
        ),
    ),
    "train": Ending(
        "Pictures have the size of the model that is gone on from, 64×64 for shapes.",
        "as many minutes as --minutes says, and a first sheet after one",
        (
            "train --folder figures/hand/plain --minutes 10 -o trained",
            "train --folder figures/hand/plain --anew --minutes 60 -o anew",
        ),
    ),
    "generate": Ending(
        MAKES,
        "about 5 s",
        (
            f'generate --prompt "{RING}" -n 8 -o rings.png',
            f'generate --prompt "{RED_STAR}" --solver heun --steps 12 -o star.png --gif walk.gif',
        ),
    ),
    "glide generate": Ending(
        "A picture is painted at 32×32 pixels and enlarged to 64×64.",
        "about 9 s",
        (
            f'glide generate --prompt "{RED_STAR_ON_WHITE}" -n 4 -o stars.png',
            f'glide generate --prompt "{RED_STAR_ON_WHITE}" -n 4 --rerank --guide clip -o stars.png',
        ),
    ),
    "glide inpaint": Ending(
        "The models paint 32×32 pixels, enlarged to 64×64; what is written has the file's own size.",
        "about 11 s",
        (
            f'glide inpaint {HEART} --mask mask.png --prompt "{BLUE_STAR}" -o anew.png',
            f'glide inpaint {HEART} --mask mask.png --prompt "{BLUE_STAR}" --how replace -o anew.png',
        ),
    ),
    "glide session": Ending(
        "The models paint 32×32 pixels, enlarged to 64×64; what is written has the size of --picture.",
        "about 9 s for each step",
        (
            "glide session -o painted.png",
            f"glide session --picture {HEART} --strip states.png -o painted.png",
        ),
    ),
    "instruct-pix2pix": Ending(
        WRITES,
        "about 6 s",
        (
            f'instruct-pix2pix {HEART} --instruction "make the heart blue" --s-text 3 -o blue.png',
            f'instruct-pix2pix {HEART} --instruction "make the heart blue" -o blue.png --compare changed.png',
        ),
    ),
    "sweep": Ending(
        "Each picture has the size that METHOD gives it, and stands on the sheet at 256 to 384 pixels.",
        "for each picture 3 s less than METHOD takes",
        (
            f'sweep sdedit {STAR} --prompt "{RED_STAR}" --over t0=.2:.8:4 --over w=1,3,7 -o sheet.png',
            f'sweep sdedit {STAR} --prompt "{RED_STAR}" --over solver=ddim,heun -o solvers.png',
        ),
    ),
    "again": Ending(
        "The result has the size of FILE.",
        "as many seconds as the first time",
        ("again red.png", "again red.png.json -o twin.png"),
    ),
    "studio": Ending("", "", ("studio", "studio --model emoji --port 8000")),
    "words": Ending("", "", ("words", "words --model emoji")),
    "models": Ending("", "", ("models", 'generate --prompt "red heart" --model emoji -o heart.png')),
    "weights list": Ending("", "", ("weights list", "weights get clip-vit-b-32")),
    "weights get": Ending(
        "", "", ("weights get stable-diffusion-v1-5", "weights get clip-vit-b-32 --to here")
    ),
    "weights verify": Ending(
        "", "", ("weights verify stable-diffusion-v1-5", "weights verify weights/shapes.safetensors")
    ),
}


def ending(name: str) -> str:
    """The last lines of the help of a command, "" for one that has none."""
    if name not in ENDINGS:
        return ""
    size, seconds, examples = ENDINGS[name]
    timed = (
        f"Expect {seconds}, with the shipped model on one core of a server (Intel Xeon)." if seconds else ""
    )
    lines = [textwrap.fill(f"{size} {timed}".strip(), 80)]
    return "\n".join([*lines, "", "examples:", *(f"  palimpsest {example}" for example in examples)]).strip()
