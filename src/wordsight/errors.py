"""Every error that a user can cause.

    WordsightError
    ├── ConfigError      a recipe, a card or an option says something that cannot be
    ├── TextError        a text that cannot become tokens as asked
    ├── ImageError     a image that cannot be read
    ├── DataError        shards, tables, captions and labels
    ├── DownloadError    an address from which nothing comes, or not what was meant
    ├── WeightsError     a file of weights that is not what it should be
    ├── TrainingError    a run that cannot go on
    ├── OutputError      a place that cannot be written
    └── MissingExtraError  a feature whose optional packages are not installed

The message is one line: what is wrong, where (file, row, key), and what to do. The command line prints it
and ends with exit code 2; anything else that escapes is a defect of ours and ends with 1.
"""

import difflib
from collections.abc import Iterable


class WordsightError(Exception):
    """What a user can cause and, told in one line, can mend."""


class ConfigError(WordsightError):
    """A recipe, a card or an option says something that cannot be."""


class TextError(WordsightError):
    """A text cannot become tokens as asked."""


class ImageError(WordsightError):
    """A image cannot be read, or is larger than the bound."""


class DataError(WordsightError):
    """Shards, tables, captions or labels are missing, broken or contradict themselves."""


class DownloadError(WordsightError):
    """What lies at an address cannot be had: not there, closed, offline, broken off, or not the file that was meant."""


class WeightsError(WordsightError):
    """A file of weights is not what its name or its configuration says."""


class TrainingError(WordsightError):
    """A training run cannot go on."""


class OutputError(WordsightError):
    """A place cannot be written: no permission, not a directory, disk full."""


class MissingExtraError(WordsightError):
    """An optional package is needed; the message has the command that installs it."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs optional packages: pip install 'wordsight[{extra}]'")


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to a misspelt one, or an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
