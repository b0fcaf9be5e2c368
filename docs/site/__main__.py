"""Make the site: python -m palimpsest.docs.site [--out _site]. A warning or a dead link is an error.

What Sphinx reads and what it made before lie in runs/site, so that a second run only makes what changed. The
site appears in its place when it is done and checked.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx

from palimpsest.claims.page import ROOT
from palimpsest.docs.site.links import faults
from palimpsest.docs.site.tree import lay_out
from palimpsest.outputs import whole_folder, write_text

WORK = ROOT / "runs" / "site"


def build(work: Path) -> int:
    """Lay out work/tree and make work/html of it; Sphinx's exit code."""
    done = work / "done"  # a build that was broken off has pages without their pictures: begin anew
    if not done.exists():
        for made in ("html", "cache"):
            shutil.rmtree(work / made, ignore_errors=True)
    done.unlink(missing_ok=True)
    lay_out(work / "tree")
    words = ["-W", "--keep-going", "-q", "-j", "auto", "-c", str(Path(__file__).parent)]
    code = sphinx([*words, "-d", str(work / "cache"), str(work / "tree"), str(work / "html")])
    if code == 0:
        write_text(done, "")
    return code


def main(argv: list[str] | None = None) -> int:
    """Lay out, build, check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m palimpsest.docs.site", description="Make the site.")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=ROOT / "_site")
    a = parser.parse_args(argv)
    if code := build(WORK):
        return code
    found = faults(WORK / "html")
    for fault in found:
        print(f"palimpsest: error: {fault}", file=sys.stderr)
    if found:
        return 1
    shutil.rmtree(a.out, ignore_errors=True)
    with whole_folder(a.out) as part:
        shutil.copytree(WORK / "html", part, dirs_exist_ok=True)
    print(f"{a.out}/index.html: {len(list(a.out.rglob('*.html')))} pages, every link leads somewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
