"""Run the command line with `python -m wordsight`; the script `wordsight` starts here too."""

import sys


def main() -> int:
    """Run the command line, and return the exit code also if Ctrl-C interrupts its imports."""
    try:
        from wordsight.cli import main as run
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
