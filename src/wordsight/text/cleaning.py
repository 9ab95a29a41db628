"""Text cleaning before byte-pair encoding: repair, unescape, lower-case, and split at white space.

The published tokenizer passes every text through ftfy, which takes most of its time. Text that ftfy provably does not
change is recognised by three string methods implemented in C and skips it. Tests compare both paths on hostile text.
"""

import html
import itertools
import re
import unicodedata
from collections.abc import Sequence

TEXT_SEPARATOR = "\0"
"""A word that no cleaned text contains: ftfy removes NUL, and `&#0;` unescapes to U+FFFD."""

_MAX_MARKS = 256

# html.unescape parses the number with int(), which Python limits (sys.set_int_max_str_digits accepts 640 or more).
_LONG_NUMERIC_ENTITY = re.compile("&#[0-9]{640,};?")


def is_plain(text: str) -> bool:
    """Return whether a text is printable ASCII without entities, which `repair` returns unchanged.

    ftfy changes only control characters, entities and non-ASCII characters. Text with tabs or line feeds takes the slow
    path, although ftfy leaves most of it unchanged too.
    """
    return text.isascii() and text.isprintable() and "&" not in text


def repair(text: str) -> str:
    """Apply `ftfy.fix_text` (mojibake, quotes, widths, ligatures, control characters, NFC) and unescape HTML twice.

    Lone surrogates become U+FFFD, as in ftfy. A decimal entity of 640 digits or more, for which `html.unescape` can
    raise an exception, becomes U+FFFD like every other code point beyond Unicode.

    Source:
        `basic_clean` of the published tokenizer (openai/CLIP, `clip/simple_tokenizer.py`).
    """
    import ftfy

    return _unescape(_unescape(ftfy.fix_text(_order_marks(text))))


def split_words(texts: Sequence[str]) -> list[str]:
    """Clean several texts, lower-case them and split them at white space.

    No token of the published pattern spans white space, so the words can be encoded one by one.

    Returns:
        The words of all texts in order, with the word `TEXT_SEPARATOR` between two texts.
    """
    if is_plain("".join(texts)):
        return f" {TEXT_SEPARATOR} ".join(texts).lower().split()
    return f" {TEXT_SEPARATOR} ".join([(text if is_plain(text) else repair(text)).lower() for text in texts]).split()


def _order_marks(text: str) -> str:
    """Order long runs of combining marks canonically; NFC does it too, but in quadratic time (ten thousand: 0.3 s)."""
    if len(text) <= _MAX_MARKS or text.isascii():
        return text
    parts: list[str] = []
    for are_marks, run in itertools.groupby(text, lambda character: unicodedata.combining(character) != 0):
        marks = "".join(run)
        if are_marks and len(marks) > _MAX_MARKS:
            marks = "".join(sorted(map(_decompose, marks), key=lambda mark: unicodedata.combining(mark[0])))
        parts.append(marks)
    return "".join(parts)


def _decompose(character: str) -> str:
    return unicodedata.normalize("NFD", character)


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:
        return html.unescape(_LONG_NUMERIC_ENTITY.sub("\ufffd", text))
