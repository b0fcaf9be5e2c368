"""What is written: which output is refused, how a file appears whole or not at all, one run at a time.

    check_outputs({"IN": ["in.png"]}, {"out": ["out.png"]})   # before the work: no output is an input
    with locked("out.png"):                                   # a second run on it is refused at once
        with whole("out.png") as part:                        # the file appears when the block is done
            picture.save(part)

Every writer of this project goes through here. What a killed run leaves behind is a hidden folder
`.NAME.PID.….part`, which the next that writes there removes, and a hidden file `.NAME.lock` that nobody
holds: the kernel gives a lock back when its process ends, however it ends.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from palimpsest.arguments import ArgumentError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LONGEST = 200  # bytes of a name that is written: what is hidden beside it has a longer one, of at most 255
PART = re.compile(r"\..+\.(\d+)\.[a-z0-9_]+\.part")
NO_WRITE_BIT = 0o222  # of owner, group and others: root may write such a file, and is still asked not to


class OutputError(OSError, ValueError):
    """A file that cannot be written: one line that names it and the mend."""


# ---- which output is refused ----


def place(path: str | Path) -> tuple[int | str, ...]:
    """Where a path leads, the same for every spelling of it: `sub/../x`, links, hard links, other case.

    That is the device and inode of the file; of a file that is not there those of the nearest folder that
    is, and the names from there on, in lower case: on some disks they are one.
    """
    real, rest = Path(os.path.realpath(path)), ()
    while True:
        try:
            found = os.stat(real)
        except OSError:
            rest = (unicodedata.normalize("NFC", real.name).casefold(), *rest)
            if real == real.parent:
                return rest
            real = real.parent
        else:
            return found.st_dev, found.st_ino, *rest


def check_outputs(
    reads: Mapping[str, Iterable[str | Path]], writes: Mapping[str, Iterable[str | Path]]
) -> None:
    """Raise ArgumentError where an output is an input, or two outputs are one file. Asked before the work.

    reads, writes: argument -> its paths.
    """
    taken = {place(path): name for name, paths in reads.items() for path in paths}
    for name, paths in writes.items():
        mine = {place(path): path for path in paths}
        for here, path in mine.items():
            if here in taken:
                raise ArgumentError(name, f"{path} is the file of {taken[here]} too; name another")
        taken |= dict.fromkeys(mine, name)


def check_writable(path: str | Path) -> Path:
    """The path, if a file can be written there. Raises OutputError: ask before long work, not after it."""
    path = Path(path)
    real = Path(os.path.realpath(path))
    if len(os.fsencode(real.name)) > LONGEST:
        raise OutputError(
            f"cannot write {path.name[:40]}…: its name is too long; take at most {LONGEST} bytes"
        )
    if real.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder; name a file in it")
    if not real.parent.is_dir():
        shown = real.parent if path.is_symlink() else path.parent
        raise OutputError(f"cannot write {path}: there is no folder {shown}; make it first")
    if real.exists() and not real.is_file():
        raise OutputError(f"cannot write {path}: it is no plain file; name another")
    if real.exists() and _read_only(real):
        raise OutputError(f"cannot write {path}: it is read-only; name another, or allow writing to it")
    if _read_only(real.parent):
        raise OutputError(f"cannot write {path}: {real.parent} may not be written to; choose another place")
    return path


def _read_only(path: Path) -> bool:
    return not (os.stat(path).st_mode & NO_WRITE_BIT and os.access(path, os.W_OK))


# ---- whole or not at all ----


@contextmanager
def whole(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A name to write to; the file takes the place of `path` when the block is done, and is gone if the
    block was broken off.

    The name is in a hidden folder of this process alone, in the same file system. A new file has the mode
    that the umask says, one that replaces another has that one's mode; a link goes on being a link, and
    the file that it leads to is replaced. sync: wait until the disk has it, so that it also outlasts a
    power failure. Raises OutputError where that cannot be done; the old file stays.
    """
    real = Path(os.path.realpath(check_writable(path)))
    with _hidden(path, real, lambda: real.parent) as part:
        remove_leftovers(real.parent, f".{real.name}.")
        old = os.stat(real) if real.exists() else None
        part.touch()
        mode = stat.S_IMODE((old or os.stat(part)).st_mode)
        yield part
        if old is not None:
            with suppress(OSError, AttributeError):  # the superuser writes in another's name
                os.chown(part, old.st_uid, old.st_gid)
        if sync:
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        part.chmod(mode)
        os.replace(part, real)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write into; what is in it lies in `path` when the block is done, and is gone if the block
    was broken off.

    Where there was no such folder it appears as a whole; else its files replace those of their names, one
    after the other, when the last of them is written. Raises OutputError where that cannot be done.
    """
    real = Path(os.path.realpath(path))

    def beside() -> Path:
        real.parent.mkdir(parents=True, exist_ok=True)
        check_writable(real / "x" if real.is_dir() else real)
        return real if real.is_dir() else real.parent

    with _hidden(path, real, beside) as part:
        part.mkdir()
        yield part
        with uninterrupted():
            if not real.exists():
                os.replace(part, real)
                return
            for file in sorted(p for p in part.rglob("*") if p.is_file()):
                there = real / file.relative_to(part)
                there.parent.mkdir(parents=True, exist_ok=True)
                with whole(there) as new:
                    os.replace(file, new)


@contextmanager
def _hidden(path: str | Path, real: Path, beside: Callable[[], Path]) -> Iterator[Path]:
    """A name in a hidden folder of this process alone, which is gone after the block.

    path: for the message; real: where it leads; beside: makes and gives the folder that the hidden one lies
    in. Raises OutputError for whatever the operating system refuses.
    """
    folder = None
    try:
        near = beside()
        with uninterrupted():
            folder = Path(tempfile.mkdtemp(".part", f".{real.name}.{os.getpid()}.", near))
        yield folder / real.name
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; make room, or choose another place"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: str | Path, text: str) -> Path:
    """A text file in UTF-8, with line ends as they are in the text."""
    with whole(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def copy_file(source: str | Path, path: str | Path) -> Path:
    """The content of a file under another name."""
    with whole(path, sync=True) as part:
        shutil.copyfile(source, part)
    return Path(path)


# ---- one run at a time ----


@contextmanager
def locked(path: str | Path, name: str = "", *, patience: float = 0.0) -> Iterator[None]:
    """Only this process writes to `path`, a file or a folder, during the block; what killed runs left
    half-written is removed first.

    name: the argument to blame. patience: seconds to wait for another run. Folders on the way to it are
    made, and go again where they stay empty. Where the file system has no locks, nothing is locked. Raises
    OutputError where another run has it.
    """
    real = Path(os.path.realpath(path))
    lock, made, handle = real.with_name(f".{real.name}.lock"), [], None
    try:
        for folder in reversed([p for p in real.parents if not p.exists()]):
            with suppress(OSError):
                folder.mkdir()
                made.append(folder)
        until = time.monotonic() + patience
        while True:
            try:
                with uninterrupted():
                    handle = _acquire(lock)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise OutputError(
                        f"{name + ': ' if name else ''}another run is writing {path}; wait for its end, or "
                        "name another place"
                    ) from None
                time.sleep(0.05)
        remove_leftovers(real.parent, f".{real.name}.")
        remove_leftovers(real)
        yield
    finally:
        if handle is not None:
            _release(lock, handle)
        for folder in reversed(made):
            with suppress(OSError):  # it is not empty
                folder.rmdir()


_handles: set[int] = set()  # of the locks that this process holds


def _acquire(lock: Path) -> int | None:
    """The open lock file, locked; None where that cannot be. Raises BlockingIOError where another has it."""
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            if sys.platform == "win32":
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine, there = os.fstat(handle), os.stat(lock)
        except (BlockingIOError, PermissionError):
            os.close(handle)
            raise BlockingIOError from None
        except FileNotFoundError:  # its last holder has just removed it
            os.close(handle)
        except OSError:
            os.close(handle)
            return None
        else:
            if (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino):
                _handles.add(handle)
                return handle
            os.close(handle)


def _release(lock: Path, handle: int) -> None:
    """Remove the lock file while it is still ours, then give the lock back."""
    _handles.discard(handle)
    if sys.platform == "win32":  # where an open file cannot be removed
        os.close(handle)
    with suppress(OSError):
        lock.unlink()
    if sys.platform != "win32":
        os.close(handle)


def _forget_locks() -> None:
    """In a forked process: a lock belongs to the run, and does not outlast it in the processes that draw
    its data.
    """
    while _handles:
        os.close(_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


def remove_leftovers(folder: Path, begin: str = ".") -> None:
    """Remove what killed runs left half-written in a folder: parts of names that begin so, whose process is
    no more.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            found = PART.fullmatch(name) if name.startswith(begin) else None
            if found and not alive(int(found[1])):
                shutil.rmtree(folder / name, ignore_errors=True)


def alive(process: int) -> bool:
    """Whether there is such a process; where that cannot be asked, there is."""
    if sys.platform == "win32" or process == os.getpid():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


# ---- Ctrl-C ----


@contextmanager
def uninterrupted(*, last: bool = False) -> Iterator[None]:
    """Hold a Ctrl-C back until the block is done, where Python is in charge of it.

    last: the block ends the work, so a Ctrl-C in it comes too late and is dropped.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if pressed.is_set() and not last:
        handler(signal.SIGINT, None)
