"""CSV and TSV files and Flickr's caption files as streams of records, each with the line on which it starts.

The parser is our own because the alternatives either lose rows (a caption that begins with a quotation mark swallows
the rows after it) or stop at the first bad one. In CSV, a field that begins with a quotation mark ends with one, marks
inside are doubled, and it can contain line breaks (RFC 4180); a mark that is never closed is an error, because the
rows after it cannot be distinguished. In TSV and in Flickr's files, quotation marks are ordinary
characters, unless the names in the header are quoted.
"""

import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, TextIO

from wordsight.errors import DataError

MAX_RECORD_CHARS = 1 << 24
"""A caption has at most 1 MiB (`sample.MAX_TEXT_BYTES`); 16 MiB leave room for columns that are not read."""

MAX_COLUMNS = 10_000
SEPARATORS = (",", "\t", ";", "|")
_QUOTED = re.compile(r'[^"]*(?:""[^"]*)*')
_TOKEN = re.compile(r"(.+?\.\w+)#\w+\t(.*)")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def open_text(file: BinaryIO) -> TextIO:
    """Decode a file: UTF-16 if it begins with its byte order mark, otherwise UTF-8; every kind of line end is read.

    Bytes that are not UTF-8 become lone surrogates, so that only their own rows are refused (`is_text`).
    """
    start = file.read(2)
    file.seek(0)
    encoding = "utf-16" if start in _UTF16_MARKS else "utf-8-sig"
    return io.TextIOWrapper(file, encoding, errors="surrogateescape")


def is_text(value: str) -> bool:
    """Return whether a text contains no undecodable bytes."""
    return value.isascii() or not any("\udc80" <= letter <= "\udcff" for letter in value)


def records_of(text: TextIO, separator: str, quoted: bool) -> Iterator[tuple[int, list[str] | str]]:
    """Yield the records of a CSV or TSV file, the header included.

    Args:
        text: the file.
        separator: of the fields.
        quoted: whether a field can be enclosed in quotation marks.

    Yields:
        The line on which a record starts, counted from 1, and its fields, or the reason why it cannot be read.

    Raises:
        DataError: a quotation mark is not closed; the message does not name the file.
    """
    lines = _lines(text)
    for number, line in lines:
        if line is None:
            yield number, f"more than {MAX_RECORD_CHARS:,} characters"
        elif line.strip():
            yield (
                number,
                _quoted_record(number, line, separator, lines) if quoted and '"' in line else line.split(separator),
            )


def _lines(text: TextIO) -> Iterator[tuple[int, str | None]]:
    """Yield lines with their numbers; None for one that is too long, which is skipped without being held."""
    number = 0
    while line := text.readline(MAX_RECORD_CHARS):
        number += 1
        if len(line) < MAX_RECORD_CHARS or line.endswith("\n"):
            yield number, line.removesuffix("\n")
            continue
        while (rest := text.readline(MAX_RECORD_CHARS)) and not rest.endswith("\n"):
            pass
        yield number, None


def _quoted_record(start: int, line: str, separator: str, lines: Iterator[tuple[int, str | None]]) -> list[str]:
    """Parse a record that has quotation marks, reading more lines while one of its fields is open."""
    fields: list[str] = []
    position = num_characters = 0
    while True:
        field, is_multiline = "", False
        if line.startswith('"', position):
            first = line
            field, line, position = _quoted_field(start, line, position + 1, lines)
            is_multiline = line is not first
        end = line.find(separator, position)
        rest = line[position : end if end >= 0 else None]
        num_characters += len(field)
        if (is_multiline and rest.strip()) or num_characters > MAX_RECORD_CHARS:
            raise _unclosed(start)  # it was closed by a mark that belongs to another row
        fields.append(field + rest)
        if end < 0:
            return fields
        position = end + 1


def _quoted_field(
    start: int, line: str, position: int, lines: Iterator[tuple[int, str | None]]
) -> tuple[str, str, int]:
    """Parse a field after its opening mark; return it, the line on which it is closed, and the position after it."""
    parts: list[str] = []
    num_characters = 0
    while True:
        match = _QUOTED.match(line, position)
        end = match.end() if match else position
        parts.append(line[position:end])
        num_characters += end - position
        if end < len(line):
            return "".join(parts).replace('""', '"'), line, end + 1
        _, following = next(lines, (0, None))
        if following is None or num_characters > MAX_RECORD_CHARS:
            raise _unclosed(start)
        parts.append("\n")
        line, position = following, 0


def _unclosed(start: int) -> DataError:
    return DataError(
        f"row {start}: a quotation mark is not closed; close it, or save the table as .tsv, where marks are ordinary"
    )


def first_line(text: TextIO) -> str:
    """Return the first line that is not blank.

    Raises:
        DataError: there is none.
    """
    for _, line in _lines(text):
        if line is None:
            raise DataError(f"the first line has more than {MAX_RECORD_CHARS:,} characters")
        if line.strip():
            return line
    raise DataError("empty")


def detect_separator(header: str, quoted: bool, score: Callable[[Sequence[str]], int], usual: str) -> str:
    """Detect the separator of a table by its header.

    Args:
        header: the first line.
        quoted: as for `records_of`.
        score: the number of known column names among the fields; most of them win, then the number of fields.
        usual: wins if nothing else decides.
    """

    def points(separator: str) -> tuple[int, int, bool]:
        fields = split_header(header, separator, quoted)
        return score(fields), len(fields), separator == usual

    return max(SEPARATORS, key=points)


def split_header(header: str, separator: str, quoted: bool) -> list[str]:
    """Split the first line of a table into the names of its columns, without surrounding white space."""
    try:
        _, fields = next(records_of(io.StringIO(header), separator, quoted), (1, []))
    except DataError:  # it continues on the next line
        fields = header.split(separator)
    return [field.strip() for field in fields] if isinstance(fields, list) else []


def is_quoted_header(header: str) -> bool:
    """Return whether all names in the first line of a TSV file are quoted, so that its values are too."""
    return all(len(name) > 1 and name[0] == name[-1] == '"' for name in header.split("\t"))


def is_token_line(line: str) -> bool:
    """Return whether a line is one of Flickr's: `image.jpg#0`, a tab and a caption."""
    return _TOKEN.fullmatch(line) is not None


def token_records(text: TextIO) -> Iterator[tuple[int, list[str] | str]]:
    """Yield image and caption of each line of one of Flickr's caption files; otherwise like `records_of`."""
    for number, line in _lines(text):
        if line is None:
            yield number, f"more than {MAX_RECORD_CHARS:,} characters"
        elif line.strip():
            match = _TOKEN.fullmatch(line)
            yield number, [match[1], match[2]] if match else "expected IMAGE.jpg#0, a tab and a caption"


def bounded_lines(file: BinaryIO) -> Iterable[bytes | None]:
    """Yield the lines of a binary file; None for one of more than `MAX_RECORD_CHARS` bytes, which is not held."""
    while line := file.readline(MAX_RECORD_CHARS):
        if len(line) < MAX_RECORD_CHARS or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_RECORD_CHARS)) and not rest.endswith(b"\n"):
            pass
        yield None
