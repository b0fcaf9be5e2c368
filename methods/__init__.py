"""One verb per paper: tensors in, a NamedTuple with every intermediate out.

A verb never prints, plots, downloads, reads a clock or picks a device. The command line does (`python -m
palimpsest`): cli.py has the manners that every command shares, commands/ the commands, demo.py the
demonstration."""
