"""``python -m sterna`` is the command ``sterna``."""

import sys

from sterna.cli import main

if __name__ == "__main__":
    sys.exit(main())
