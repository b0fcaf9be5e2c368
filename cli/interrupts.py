"""Ctrl-C at any moment, also twice: the command cleans up and ends with exit code 130."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from palimpsest.cli.console import say

PATIENCE = 3.0  # seconds for the work to clean up, in which a further Ctrl-C is not heard


class Interrupts:
    """A handler of SIGINT that raises KeyboardInterrupt once, and not again while the work cleans up.

    starting: nothing is there yet that could be cleaned up, so the process ends at once.
    """

    def __init__(self) -> None:
        self.starting = False
        self.raised = -math.inf

    def __call__(self, number: int, frame: object) -> None:
        if self.starting:
            say("interrupted")
            os._exit(130)
        if time.monotonic() - self.raised > PATIENCE:
            self.raised = time.monotonic()
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interrupts]:
    """Inside, Ctrl-C is heard as above, unless somebody else than Python itself is in charge of it."""
    heard = Interrupts()
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield heard
        return
    signal.signal(signal.SIGINT, heard)
    try:
        yield heard
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def deaf() -> None:
    """From here on nothing is left to interrupt: the program is about to end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
