"""One lesson per method: percent source (.py), rendered with outputs beside it (.ipynb), exercises, solutions."""
