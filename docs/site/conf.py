"""Sphinx's settings for the site. Nothing is fetched: fonts are the reader's own, MathJax is copied."""

from importlib.util import find_spec
from pathlib import Path

from palimpsest import __version__

project = "palimpsest"
author = "the palimpsest authors"
copyright = "the palimpsest authors, MIT licence"
version = release = __version__

extensions = ["myst_nb", "sphinx_design", "palimpsest.docs.site.sources"]
exclude_patterns = ["README.md"]  # it is shown in parts
nb_execution_mode = "off"  # the lessons are shown with their stored outputs
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "mailto": None, "source": None}  # source: see sources.py

# MathJax comes from a package on the disk; its Sphinx extension would forbid several processes
mathjax_path = "mathjax/tex-chtml.js"
mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static"

html_theme = "sphinx_book_theme"
html_title = "palimpsest"
html_static_path = ["static", str(mathjax)]
html_css_files = ["site.css"]
html_js_files = ["sort.js", "breaks.js"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "footer_content_items": "copyright.html",
}
