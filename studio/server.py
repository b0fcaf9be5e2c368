"""Serve the page: on one's own machine, out of one temporary folder, without the network.

serve(port=None, host="127.0.0.1", model="shapes", ready=print)      # until Ctrl-C
"""

from __future__ import annotations

import inspect
import ipaddress
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from palimpsest.arguments import ArgumentError
from palimpsest.outputs import alive
from palimpsest.studio.pictures import MEGABYTES

PORTS = range(7860, 7960)
FOLDER = "palimpsest-studio-"
OPEN = (
    "/gradio_api/queue/",
    "/gradio_api/upload",
    "/gradio_api/file=",
    "/gradio_api/heartbeat/",
    "/gradio_api/run/",
    "/gradio_api/reset",
    "/gradio_api/cancel",
    "/gradio_api/startup-events",
    "/gradio_api/app_id",
    "/gradio_api/info",
)  # of Gradio's own addresses
HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'none'; form-action 'self'; base-uri 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Scope = MutableMapping[str, Any]


class Guard:
    """Refuses what the page never asks for: other machines' names for this one, Gradio's addresses that the
    page does not use, and large bodies; and tells the browser to fetch nothing from elsewhere."""

    def __init__(self, app: Callable[..., Awaitable[None]], local: bool):
        self.app, self.local = app, local

    async def __call__(self, scope: Scope, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        refused = self.refused(scope)
        if refused is not None:
            return await self.refuse(*refused, send)

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((k.encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, guarded)

    def refused(self, scope: Scope) -> tuple[int, str] | None:
        """Status and line for a request that is not answered."""
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        path = scope["path"]
        if self.local and urlsplit(f"//{headers.get('host', '')}").hostname not in LOCAL:
            return 403, "this page answers this machine alone"
        if path.startswith("/gradio_api/") and not path.startswith(OPEN):
            return 404, "there is no such address"
        if not (headers.get("content-length") or "0").isdigit():
            return 400, "a length is no number"
        if int(headers.get("content-length") or 0) > 3 * MEGABYTES * 2**20:
            return 413, f"too large; a picture may have {MEGABYTES} MB"
        return None

    async def refuse(self, status: int, line: str, send: Callable[..., Any]) -> None:
        """Answer with one line."""
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": line.encode()})


LOCAL = ("127.0.0.1", "localhost", "::1")


def is_local(host: str) -> bool:
    """Whether only this machine reaches that address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def free_port(host: str, port: int | None) -> int:
    """The port that was asked for, or the first free one. Raises ArgumentError."""
    for one in PORTS if port is None else [port]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind((host, one))
            except (OSError, OverflowError) as error:
                if port is not None:
                    why = "is in use" if getattr(error, "errno", 0) in (48, 98, 10048) else "cannot be had"
                    raise ArgumentError("port", f"{port} on {host} {why}; name another") from None
            else:
                return one
    raise ArgumentError("port", f"none of {PORTS.start} to {PORTS.stop - 1} is free on {host}; name one")


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder that everything is written to, and that is gone in the end. Those of servers that
    were killed go now."""
    for old in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        with suppress(OSError, ValueError, IndexError):
            if not alive(int(old.name.removeprefix(FOLDER).split("-")[0])):
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-"))
    before = tempfile.tempdir
    try:
        tempfile.tempdir = str(folder)
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def no_stubs() -> Iterator[None]:
    """Inside, Gradio is imported without a stub for editors being written beside each of its modules, which
    takes 40 % of the import. It leaves out classes that have no file."""
    file_of = inspect.getfile

    def getfile(thing: Any) -> str:
        if isinstance(thing, type) and hasattr(thing, "EVENTS"):
            raise OSError("no stub is wanted")
        return file_of(thing)

    inspect.getfile = getfile
    try:
        yield
    finally:
        inspect.getfile = file_of


def launch(blocks: Any, local: bool, host: str, port: int | None) -> int:
    """Serve the page, and say at which port. Another program may take a port between the moment it was seen
    free and now: then the next one is tried. Raises ArgumentError where none is left."""
    from starlette.middleware import Middleware

    from palimpsest.studio.page import CSS, SCRIPT, THEME

    guard = {"middleware": [Middleware(Guard, local=local)], "docs_url": None, "redoc_url": None}
    while True:
        chosen = free_port(host, port)
        try:
            blocks.launch(
                server_name=host,
                server_port=chosen,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                footer_links=[],
                max_file_size=f"{MEGABYTES}mb",
                enable_monitoring=False,
                theme=THEME,
                css=CSS,
                head=SCRIPT,
                app_kwargs=guard,
            )
        except OSError:
            if free_port(host, port) == chosen:  # it is free: the error is about something else
                raise
        else:
            return chosen


@contextmanager
def served(port: int | None = None, host: str = "127.0.0.1", model: str = "shapes") -> Iterator[str]:
    """The page is there for the block; its address. Raises ArgumentError for a port that cannot be had,
    WeightsError for a model that cannot."""
    free_port(host, port)  # refused before anything is imported
    with own_folder() as folder:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        os.environ["HF_HUB_OFFLINE"] = "1"
        with no_stubs():
            from palimpsest.studio.page import page
        from palimpsest.studio.studio import Studio

        studio = Studio(model, local=is_local(host))
        studio.model(model)
        blocks = page(studio)
        blocks.queue(max_size=32, default_concurrency_limit=8)
        chosen = launch(blocks, studio.local, host, port)
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{chosen}/"
        finally:
            for job in list(studio.jobs.values()):
                job.stop()
            blocks.close(verbose=False)


def serve(port: int | None, host: str, model: str, ready: Callable[[str], None]) -> None:
    """Until Ctrl-C, or a plain kill. ready: is told the address."""
    ended = threading.Event()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, lambda *_: ended.set())
    with served(port, host, model) as address:
        ready(address)
        while not ended.wait(0.5):
            pass
