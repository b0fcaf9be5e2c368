"""What this machine's processor can do."""

from __future__ import annotations

import torch


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in units of its own, as AMX and AVX-512 BF16 do. Without
    them a product in bfloat16 takes about ten times as long as in float32."""
    known = getattr(torch.cpu, "get_capabilities", dict)()  # newer than the oldest torch that will do
    if known:
        return bool(known.get("amx_bf16") or known.get("avx512_bf16") or known.get("arm_bf16"))
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)
