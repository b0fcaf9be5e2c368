"""The site, made from what the repository already says: pages, records, docstrings, helps, lessons.

    make site        or   python -m palimpsest.docs.site [--out _site]

`tree.py` lays out a folder that mirrors the repository, `methods.py`, `models.py`, `scoreboards.py`, `api.py`
and `equations.py` add the pages that are computed, Sphinx turns it into HTML with the settings of `conf.py`,
`sources.py` shows the code with a number at each line, and `links.py` checks every link of the result.
"""
