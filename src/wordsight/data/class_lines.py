"""Plain text with one class name per line, and the published lists that number their classes.

A file whose lines look like something else, such as a table or YAML, is refused with the reason; nothing is guessed.
"""

import codecs
import json
import re
from collections.abc import Iterable, Sequence
from itertools import count

from wordsight.data.named_class import MAX_CLASSES, NamedClass, quote
from wordsight.errors import DataError

STRUCTURED_SUFFIXES = (".json", ".yaml", ".yml", ".csv", ".tsv")
"""The suffixes of files that are not plain text."""

MAX_LINES = 2 * MAX_CLASSES
"""Leaves room for blank lines and comments."""

_WORDNET_LINE = re.compile(r"(n\d{8})[ \t]+(?:\d+[ \t]+)?(\S.*)")
_NUMBERED_DIRECTORY = re.compile(r"(?:(\d+)[ \t]+)?((\d{3})\.(\w\S*))")  # Caltech-UCSD Birds: 1 001.Black_footed_...
_NUMBERED_LINE = re.compile(r"(\d+)([ \t,;:.)]+)\S")
_MARKUP = ("<!doctype", "<html", "<?xml", "version https://git-lfs", "{\\rtf")


def plain_lines(content: bytes, suffix: str) -> list[str] | None:
    """Return the lines of plain text, blank if they are comments; None if the format is JSON, YAML or a table.

    Raises:
        DataError: the content is not text, or its lines are not names; the message names the line, not the file.
    """
    if suffix in STRUCTURED_SUFFIXES:
        return None
    text = decode_text(content)
    start = text.lstrip()[:32].lower()
    if start.startswith(_MARKUP):
        raise DataError(f"begins with {quote(text.strip().splitlines()[0])}, not with a name; download the file itself")
    if start.startswith(("{", "[")):
        try:
            json.loads(text)
            return None
        except (ValueError, RecursionError):
            if start.startswith("{"):
                raise DataError("begins with '{' but is not JSON; expected one name per line") from None
    num_lines = text.count("\n")
    if num_lines > MAX_LINES:
        raise DataError(f"{num_lines:,} lines; expected at most {MAX_LINES:,}")
    lines = ["" if line.lstrip().startswith("#") else line.rstrip() for line in _split_lines(text)]
    _check_lines([(number, line.strip()) for number, line in enumerate(lines, start=1) if line])
    return lines


def decode_text(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark.

    Raises:
        DataError: the content is neither, or has control characters.
    """
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}: {error.reason}; save it as UTF-8") from error
    if "\0" in text:
        raise DataError("contains null characters: not a text file; save it as UTF-8")
    return text


def _split_lines(text: str) -> list[str]:
    """Split at line ends only; `str.splitlines` also splits at control characters within a name."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _check_lines(rows: Sequence[tuple[int, str]]) -> None:
    """Refuse lines that have another structure than one name each."""
    texts = [line for _, line in rows]
    if len(texts) == 1 and "," in texts[0] and not _WORDNET_LINE.fullmatch(texts[0]):
        raise DataError(f"one line with commas, {quote(texts[0])}; expected one name per line")
    if len(texts) > 1 and all(line.startswith(("- ", "* ")) for line in texts):
        raise DataError("every line begins with '- '; remove it, or give the file the suffix .yaml")
    if len(texts) > 1 and all(line[0] == line[-1] and line[0] in "\"'" and len(line) > 1 for line in texts):
        raise DataError("every line is in quotation marks; remove them")
    _check_numbers(texts)
    for number, line in rows:
        problem = _line_problem(line)
        if problem:
            raise DataError(f"line {number}, {quote(line)}: {problem}")


def _line_problem(line: str) -> str:
    if line.startswith(("//", "%%", "/*")):
        return "looks like a comment; comments begin with #"
    if re.search(r"\s#\s", line):
        return "a comment needs a line of its own; a name that contains ' # ' needs a .json file"
    if line.endswith((",", ";")):
        return f"ends with {line[-1]!r}; remove it"
    if line.endswith(":"):
        return "ends with a colon; remove it, or give the file the suffix .yaml if it is YAML"
    if "\t" in line and not _WORDNET_LINE.fullmatch(line):
        return "contains a tab; give the file the suffix .tsv if it is a table"
    return ""


def _check_numbers(texts: Sequence[str]) -> None:
    """Refuse numbered lines, `0 dog` and `1 cat`: the numbers may be part of the names, as in `1 dog` and `2 dogs`."""
    if len(texts) < 2 or all(_NUMBERED_DIRECTORY.fullmatch(line) for line in texts):
        return
    has_header = not texts[0][0].isdigit() and len(texts) > 2
    matches = [_NUMBERED_LINE.match(line) for line in texts[has_header:]]
    numbers = [int(match[1][:9]) for match in matches if match]
    is_counting = len(numbers) == len(matches) and all(a == b for a, b in zip(numbers, count(numbers[0]), strict=False))
    is_table = has_header and any(separator in texts[0] for separator in ",;")
    if is_counting and numbers[0] in (0, 1) and (is_table or not has_header):
        raise DataError(
            f"its lines are numbered: {quote(texts[has_header])}; remove the numbers, give a table the suffix .csv, or "
            "write names that begin with numbers in a .json file"
        )


def classes_of_lines(lines: Iterable[str]) -> list[NamedClass]:
    """Parse stripped lines: a name each, or `n01440764 tench, Tinca tinca`, or `1 001.Black_footed_Albatross`.

    Raises:
        DataError: only some lines have a WordNet id.
    """
    texts = [line for line in lines if line]
    numbered = [_NUMBERED_DIRECTORY.fullmatch(line) for line in texts]
    if texts and all(numbered):
        return [
            NamedClass((match[4].replace("_", " "),), tuple(filter(None, (match[1], match[2]))))
            for match in numbered
            if match
        ]
    with_ids = [_WORDNET_LINE.fullmatch(line) for line in texts]
    if any(with_ids) and not all(with_ids):
        line = next(text for text, match in zip(texts, with_ids, strict=True) if not match)
        raise DataError(f"{quote(line)} has no WordNet id and a name, unlike other lines")
    if texts and all(with_ids):
        return [NamedClass(_synonyms(match[2]), (match[1],)) for match in with_ids if match]
    return [NamedClass((line,)) for line in texts]


def _synonyms(text: str) -> tuple[str, ...]:
    """The synonyms in a line of `synset_words.txt`, `tench, Tinca tinca`, or `great_white_shark` of other lists."""
    names = text.split(", ") if " " in text else [text.replace("_", " ")]
    return tuple(name.strip() for name in names if name.strip())
