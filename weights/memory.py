"""How much memory there is to be had, so that a job which needs more is refused before it begins."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch


def free_memory(device: torch.device) -> int | None:
    """Bytes that a new job can take on this device; None where nobody can say.

    On Linux what the kernel calls available, within the limit of the process's control group (as containers
    have); on Windows the free physical memory; elsewhere all of the physical memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    if sys.platform == "linux":
        found = [n for n in (_available(), _left_in_group()) if n is not None]
        return min(found, default=None)
    return _windows() if sys.platform == "win32" else _physical()


def _available() -> int | None:
    """What Linux counts as available: free, or given back at once."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _left_in_group() -> int | None:
    """What the control group of this process still allows, by version 2 or 1; page cache counts as free."""
    for folder, limit, used, cache in (
        ("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (int((Path(folder) / name).read_text(encoding="utf-8")) for name in (limit, used))
            stat = dict(
                line.split()
                for line in (Path(folder) / "memory.stat").read_text(encoding="utf-8").splitlines()
            )
            return max(0, most - now + int(stat.get(cache, 0)))
        except (OSError, ValueError):  # there is none, or it is "max": no limit
            continue
    return None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def _windows() -> int | None:
    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "page_total", "page_free", "virtual_total", "virtual_free", "more")
        ]

    status = Status(length=ctypes.sizeof(Status))
    done = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free) if done else None
