"""The console: output never fails. A character that its encoding lacks is spelled in ASCII ("σ" as
"sigma"); when the reader of stdout has gone, as in `palimpsest weights list | head -1`, the rest is dropped
in silence.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

SPELLED = {  # what our own texts hold beside ASCII
    **{"α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "η": "eta", "λ": "lambda", "σ": "sigma"},
    **{"τ": "tau", "θ": "theta", "Σ": "Sigma", "∅": "null", "∈": "in", "≤": "<=", "≥": ">=", "≈": "~"},
    **{"×": "x", "·": "*", "−": "-", "–": "-", "—": "-", "→": "->", "±": "+-", "∝": "~", "∞": "inf"},
    **{"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "⁄": "/"},
}


def spelled(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`: what cannot be encoded, in ASCII, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    with suppress(UnicodeError):  # bytes of a file's name, where the locale is ASCII: mostly they are UTF-8
        lacking = lacking.encode("utf-8", "surrogateescape").decode()
    return "".join(map(ascii_of, lacking)), error.end


def ascii_of(letter: str) -> str:
    """σ -> sigma, é -> e, … -> ..., щ -> \\u0449"""
    parts = unicodedata.normalize("NFKD", letter)  # é -> e and its accent
    plain = "".join(SPELLED.get(part, part) for part in parts).encode("ascii", "ignore").decode()
    return plain or letter.encode("ascii", "backslashreplace").decode()


@contextmanager
def console() -> Iterator[None]:
    """Inside, stdout and stderr take any text; at the end, what was said has reached its reader if there
    still is one.
    """
    codecs.register_error("spelled", spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="spelled")
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError:  # Python would try once more as it ends, and print a traceback
                drop(stream)


def tell(text: object, end: str = "\n") -> None:
    """A line of results on stdout, at once."""
    put(f"{text}{end}", sys.stdout)


def say(text: str) -> None:
    """One line to the user on stderr, whatever the text holds; where it cannot be written, none."""
    with suppress(OSError):
        put(" ".join(["palimpsest:", *text.split()]) + "\n", sys.stderr)


def put(text: str, stream: TextIO | None) -> None:
    """Write at once. A reader that has gone does not stop the work."""
    try:
        if stream is not None:
            stream.write(text)
            stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL):  # EINVAL: so Windows calls it
            raise
        drop(stream)


def drop(stream: TextIO) -> None:
    """From here on, what is written to it goes nowhere."""
    with suppress(OSError, ValueError):  # a stream without a file of the system cannot be redirected
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
