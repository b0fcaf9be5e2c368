"""Small CLIP and DINO with random weights, for the tests of the nets and of their files."""

import torch
from random_weights import randomised

from palimpsest.nets.judges.clip import CLIP
from palimpsest.nets.judges.dino import DINO

CLIP_SIZES = dict(
    size=32,
    patch=8,
    width=128,
    layers=2,
    heads=2,
    embed=24,
    vocab=50,
    length=12,
    text_width=64,
    text_layers=3,
    text_heads=1,
)
DINO_SIZES = dict(
    size=32, patch=8, width=128, layers=2, heads=2
)  # heads are 64 wide, as in every published net
TOKENS = torch.tensor(
    [[48, 5, 9, 9, 3, 49, 0, 0], [48, 7, 1, 0, 2, 30, 6, 49], [48, 49, 49, 49, 49, 49, 49, 49]]
)


def small_clip(**changes) -> CLIP:
    clip = CLIP(**CLIP_SIZES | changes).eval()
    for part in clip.children():
        randomised(part)
    return clip


def small_dino(**changes) -> DINO:
    return randomised(DINO(**DINO_SIZES | changes)).eval()
