"""The page: a tab for each way of working, its looks and its few scripts. Nothing in it comes from another
address: fonts are the system's.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from palimpsest.studio.compare import compare_tab
from palimpsest.studio.describe import describe_tab
from palimpsest.studio.erase import erase_tab
from palimpsest.studio.invert import invert_tab
from palimpsest.studio.learn import learn_tab
from palimpsest.studio.look import look_tab
from palimpsest.studio.paint import paint_tab
from palimpsest.studio.studio import Studio
from palimpsest.studio.tell import tell_tab

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")
THEME = gr.themes.Base(primary_hue="blue", neutral_hue="slate", text_size="lg", font=SANS, font_mono=MONO)
TABS = {
    "Paint": paint_tab,
    "Erase": erase_tab,
    "Tell": tell_tab,
    "Describe": describe_tab,
    "Invert": invert_tab,
    "Look": look_tab,
    "Learn": learn_tab,
    "Compare": compare_tab,
}

HEADER = """
<div class="ps-head"><div><b>palimpsest</b> <span>the studio: paint, tell, look</span></div>
<div><button type="button" class="ps-toggle" data-toggle="smooth"
title="enlarge pictures by nearest neighbour, or by Lanczos">pixels / smooth</button>
<button type="button" class="ps-toggle" data-toggle="dark">light / dark</button></div></div>
<div class="ps-gone" hidden role="alert">The studio has ended. Start it again: palimpsest studio</div>
"""

HERE = Path(__file__).parent
CSS = (HERE / "page.css").read_text(encoding="utf-8")

SCRIPT = f"<script>\n{(HERE / 'page.js').read_text(encoding='utf-8')}</script>"


def page(studio: Studio) -> gr.Blocks:
    """All tabs, ready to be served."""
    with gr.Blocks(title="palimpsest studio", analytics_enabled=False) as blocks:
        gr.HTML(HEADER)
        with gr.Tabs(elem_id="ps-tabs"):
            for name, build in TABS.items():
                with gr.Tab(name, id=name.lower(), elem_id=f"tab-{name.lower()}"):
                    build(studio)

        def leave(request: gr.Request) -> None:
            studio.leave(str(request.session_hash))

        blocks.unload(leave)
    return blocks
