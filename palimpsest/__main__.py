"""`python -m palimpsest METHOD …` is the command `palimpsest METHOD …`."""

import sys

from palimpsest.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
