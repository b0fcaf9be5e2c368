"""Respacing: which of the T times a shorter walk uses, written as in the programs of Improved DDPM and GLIDE.

The shorter walk needs no schedule of its own: a step takes both its times, and computes β and β̃ of the
longer step from them (Improved Denoising Diffusion Probabilistic Models, arXiv:2102.09672v1, Eq. 19). The
network is told the original time.
"""

from __future__ import annotations

from itertools import accumulate

from palimpsest.arguments import ArgumentError


def respaced(T: int, sections: str) -> list[int]:
    """Falling whole times, the last of them 0. The programs count levels from 0: theirs are these minus 1.

    "27": that many times, evenly spread, 1 and T among them ("1": time 1 alone). "10,10,3,2,2": the levels
    in so many parts of equal length, each with its own number of times. "fast27": those five, but T − 2 for
    T (GLIDE's upsampler). "ddim50": every (T/50)-th time, from 1 on, so that T itself is left out. Raises
    ArgumentError for anything else, more times than a part has levels, and a ddimN without a whole stride."""
    if sections == "fast27":
        return [T - 2, *respaced(T, "10,10,3,2,2")[1:]]  # 999 → 997 in their count; unstated: why
    if sections.startswith("ddim"):
        n = _whole(sections, sections.removeprefix("ddim"))
        strides = [k for k in range(1, T) if len(range(0, T, k)) == n]
        if not strides:
            raise ArgumentError(
                "sections", f"no whole stride through {T} times has {n} of them, in {sections!r}"
            )
        return [*(i + 1 for i in reversed(range(0, T, strides[0]))), 0]
    counts = [_whole(sections, count) for count in sections.split(",")]
    first, times = 0, []
    for k, count in enumerate(counts):
        size = T // len(counts) + (k < T % len(counts))
        if count > size:
            raise ArgumentError("sections", f"{count} times asked of a part that has {size}, in {sections!r}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        at = accumulate([stride] * (count - 1), initial=0.0)  # added up, as rounding depends on it
        times += [first + round(index) + 1 for index in at]
        first += size
    return [*reversed(times), 0]


def _whole(sections: str, count: str) -> int:
    if not count.strip().isdecimal() or int(count) < 1:
        raise ArgumentError(
            "sections", f'must be counts as in "27" or "10,10,3,2,2", "fast27" or "ddim50", got {sections!r}'
        )
    return int(count)
