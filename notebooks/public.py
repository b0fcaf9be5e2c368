"""Public weights in a lesson: the model where it can run; elsewhere one line that says what is missing."""
from __future__ import annotations

import torch

from palimpsest.weights.files import WeightsError
from palimpsest.weights.load import load
from palimpsest.weights.model import Model


def public_model(name: str, dtype: torch.dtype | str = "auto") -> Model | None:
    """The public model of this name on the GPU (see `weights.load`); None, and the reason printed, where GPU or weights are missing."""
    if not torch.cuda.is_available():
        print(f"skipped: needs a CUDA GPU, and the weights that `palimpsest weights get {name}` fetches")
        return None
    try:
        return load(name, "cuda", dtype)
    except WeightsError as error:
        print(f"skipped: {error}")
        return None
