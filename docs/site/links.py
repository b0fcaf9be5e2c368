"""Every link of a built site leads somewhere, and no page fetches anything from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

FETCHING = {"img": "src", "script": "src", "iframe": "src", "video": "src", "source": "src", "link": "href"}
NOT_FETCHED = {"canonical", "author", "next", "prev", "search", "index", "license"}  # rel of a <link>


class Page(HTMLParser):
    """What a page of HTML names: its anchors, its links, and what a browser would load with it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = {"", "top"}
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by HTMLParser for each tag."""
        named = {name: value or "" for name, value in attrs}
        self.anchors |= {named[name] for name in ("id", "name") if name in named}
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        if FETCHING.get(tag) in named and not (tag == "link" and named.get("rel") in NOT_FETCHED):
            self.loads.append(named[FETCHING[tag]])


def elsewhere(address: str) -> bool:
    """Whether an address leads out of the site."""
    return bool(urlsplit(address).scheme) or address.startswith("//")


def faults(site: Path) -> list[str]:
    """A line for each dead link, missing file, and thing that a page fetches from elsewhere."""
    files = [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]  # the theme's own templates
    pages = {p: Page(p.read_text(encoding="utf-8")) for p in files}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in page.loads:
            if elsewhere(address) and not address.startswith("data:"):
                found.append(f"{name}: loads {address}")
        for address in [*page.links, *page.loads]:
            if elsewhere(address):
                continue
            parts = urlsplit(address)
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.exists():
                found.append(f"{name}: {address} leads nowhere")
            elif there in pages and unquote(parts.fragment) not in pages[there].anchors:
                found.append(f"{name}: {address} has no such place")
    for style in sorted(site.rglob("*.css")):
        text = re.sub(r"/\*.*?\*/", "", style.read_text(encoding="utf-8"), flags=re.DOTALL)
        for address in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", text):
            found.append(f"{style.relative_to(site)}: loads {address}")
    return list(dict.fromkeys(found))
