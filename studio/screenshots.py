"""Pictures of every tab after a run, on a projector and on a phone: figures/studio/TAB-WIDTH-light|dark.webp.

    python -m palimpsest.studio.screenshots [TAB …]

Needs playwright and a Chromium (on Debian: apt-get install chromium)."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from palimpsest.outputs import whole
from palimpsest.studio.server import served

FOLDER = Path(__file__).parents[1] / "figures" / "studio"
TABS = ("Paint", "Erase", "Tell", "Describe", "Invert", "Look", "Learn", "Compare")
WIDE, NARROW, HIGH = 1280, 390, 1500
PATIENCE = 600_000  # milliseconds


def brush(page: Any, canvas: str) -> None:
    """One stroke across the middle of a canvas."""
    page.wait_for_selector(f"{canvas} canvas")
    page.wait_for_timeout(1500)
    box = page.query_selector(f"{canvas} canvas").bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.5 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.5 * box["height"], steps=6)
    page.mouse.up()
    page.wait_for_timeout(800)


def answered(page: Any, tab: str) -> None:
    """Open the tab, take the first example, run, wait for the answer."""
    name = tab.lower()
    page.get_by_role("tab", name=tab, exact=True).first.click()
    page.wait_for_selector(f"#{name}-go", state="visible")
    example = page.locator(f"#tab-{name} .ps-example")
    if example.count() and tab not in ("Paint", "Erase"):
        example.first.click()
        if page.query_selector(f"#{name}-picture"):
            page.wait_for_selector(f"#{name}-picture img")
        page.wait_for_timeout(500)
    if tab in ("Paint", "Erase"):
        brush(page, f"#{name}-canvas")
    page.click(f"#{name}-go")
    page.wait_for_selector(f"#{name}-line [data-kind=done], #{name}-line [data-kind=wrong]", timeout=PATIENCE)
    if tab == "Look":
        page.locator("#look-result .ps-look").nth(2).hover()
    page.wait_for_timeout(800)


def shoot(page: Any, tab: str, width: int, dark: bool) -> None:
    """Write one picture of the page as it is."""
    page.set_viewport_size({"width": width, "height": HIGH if width == WIDE else 844})
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(1200)
    shot = Image.open(BytesIO(page.screenshot(full_page=width == NARROW))).convert("RGB")
    path = FOLDER / f"{tab.lower()}-{width}-{'dark' if dark else 'light'}.webp"
    with whole(path) as part:
        shot.save(part, "WEBP", quality=60, method=6)


def main(tabs: Sequence[str]) -> None:
    """Serve, open, run, shoot."""
    from playwright.sync_api import sync_playwright

    FOLDER.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with served() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for tab in tabs or TABS:
            page = browser.new_page(viewport={"width": WIDE, "height": HIGH})
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            answered(page, tab)
            shoot(page, tab, WIDE, dark=False)
            shoot(page, tab, NARROW, dark=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
