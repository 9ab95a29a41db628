"""The exceptions that wordsight raises for mistakes of the user and for bad input.

    WordsightError
    ├── ConfigError         an invalid recipe, card, option or argument
    ├── TextError           a text that cannot be tokenised
    ├── ImageError          an image that cannot be read
    ├── DataError           missing or inconsistent shards, tables, captions or labels
    ├── DownloadError       a file that cannot be downloaded, or is not the expected one
    ├── WeightsError        an invalid checkpoint
    ├── TrainingError       a training run that cannot continue
    ├── OutputError         an output path that is not writable
    └── MissingExtraError   an optional package that is not installed

Every message is one line: what is wrong, where (file, row, key), and what to do. The command line prints it and exits
with code 2. Any other exception that escapes is a bug in wordsight, and the exit code is 1.
"""

import difflib
import re
from collections.abc import Iterable

_PASSWORD = re.compile(r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})[^/\s@'\"]+@")
_SECRET_PARAMETER = re.compile(
    r"(?i)([?&][\w-]*(?:credential|key|password|secret|sig|signature|token)[\w-]*=)[^&\s'\"]+"
)
_MAX_COMPARED_CHARACTERS = 200


class WordsightError(Exception):
    """Base class of all errors that a user can cause and correct."""


class ConfigError(WordsightError):
    """A recipe, a card, a command-line option or an argument is invalid or contradicts another one."""


class TextError(WordsightError):
    """A text cannot be tokenised: it is not a string, or is too long and must not be truncated; or an id is unknown."""


class ImageError(WordsightError):
    """An image cannot be read: it is missing, damaged, in an unsupported format, or larger than the limit."""


class DataError(WordsightError):
    """Shards, tables, captions or labels are missing, damaged or inconsistent with each other."""


class DownloadError(WordsightError):
    """A download failed, offline mode forbids it, or the downloaded file is not the expected one."""


class WeightsError(WordsightError):
    """A checkpoint is damaged, in an unknown format, or inconsistent with its name, its card or its configuration."""


class TrainingError(WordsightError):
    """A training run cannot continue, for example because the loss is not finite."""


class OutputError(WordsightError):
    """An output path is not writable: no permission, an existing file or directory in the way, or a full disk."""


class MissingExtraError(WordsightError):
    """An optional package is not installed; the message contains the command that installs it.

    Args:
        feature: what needs the package; the beginning of the message.
        extra: the extra of wordsight that provides it.
    """

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs optional packages: pip install 'wordsight[{extra}]'")


def printable(text: object) -> str:
    """Return untrusted text on one line, for terminals, logs, JSON and HTML.

    Control characters, including those that change the direction or the colour of text, line breaks, and characters
    that UTF-8 cannot encode (undecodable bytes of file names) become escapes such as `\\x1b`.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in shown
    )


def hide_credentials(text: str) -> str:
    """Return a message in which addresses have neither passwords nor parameters that are secrets.

    Messages about downloads contain none in the first place; this is for addresses given where a path is expected.
    """
    return _SECRET_PARAMETER.sub(r"\1...", _PASSWORD.sub(r"\1", text))


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 image`, `1,200 images`; the plural is the noun with an s unless it is given."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def encodable(text: object) -> str:
    """Return text, or a path as text, that UTF-8 can encode: undecodable bytes of file names become escapes.

    For data in files and JSON, where control characters are kept.
    """
    return str(text).encode("utf-8", "backslashreplace").decode()


def nearest(word: str, candidates: Iterable[str], cutoff: float = 0.5) -> str:
    """Return `; did you mean 'x'?` for the candidate most similar to a misspelt word, or an empty string.

    It ends a message: nothing can follow its question mark. The word itself is never suggested. Words longer than any
    sensible name have no similar candidate, because comparing them would take long.

    Args:
        word: what the user typed.
        candidates: the known words.
        cutoff: least similarity, from 0 to 1 (equal), of a suggestion.
    """
    if len(word) > _MAX_COMPARED_CHARACTERS:
        return ""
    others = [candidate for candidate in candidates if candidate != word]
    matches = difflib.get_close_matches(word, others, n=1, cutoff=cutoff)
    return f"; did you mean {matches[0]!r}?" if matches else ""
