"""`python -m palimpsest METHOD …` is the command `palimpsest METHOD …`."""

import sys

try:
    from palimpsest.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
