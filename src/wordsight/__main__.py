"""Run the command line with `python -m wordsight`."""

import sys

from wordsight.cli import main

if __name__ == "__main__":
    sys.exit(main())
