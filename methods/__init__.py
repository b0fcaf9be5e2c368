"""One verb per paper: tensors in, a NamedTuple with every intermediate out.

A verb never prints, plots, downloads, reads a clock or picks a device. The command line does (`python -m
palimpsest`): cli/manners.py has what every command shares, cli/commands/ the commands, cli/demo.py the
demonstration."""
