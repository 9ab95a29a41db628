"""What happens to a text before it is cut into tokens: repair, unescape, lower-case, split at white space.

The published tokenizer sends every text through ftfy, which is most of its time. Text that ftfy cannot change is
recognised by three tests that CPython does in C, and skips it; the tests show on hostile text that both ways agree.
"""

import html
import re
from collections.abc import Sequence

BETWEEN = "\0"
"""A word that no cleaned text contains: ftfy removes NUL, and the entity of NUL unescapes to U+FFFD."""

# html.unescape reads the number with int(), which Python bounds (sys.set_int_max_str_digits accepts no less than 640).
_ENDLESS_NUMBER = re.compile("&#[0-9]{640,};?")


def is_plain(text: str) -> bool:
    """Whether `repair` would return the text as it is: printable ASCII without an entity.

    Everything that ftfy changes is a control character, an entity or not ASCII; tab and line feed go the long way.
    """
    return text.isascii() and text.isprintable() and "&" not in text


def repair(text: str) -> str:
    """The text as `ftfy.fix_text` mends it (mojibake, quotes, widths, ligatures, controls, NFC), unescaped twice.

    Source: the cleaning of the published tokenizer (openai/CLIP `simple_tokenizer.py`). Lone surrogates become
    U+FFFD, which is what ftfy makes of them. A decimal entity of 640 digits or more, on which `html.unescape` may
    raise, becomes U+FFFD as any number beyond Unicode does.
    """
    import ftfy

    return _unescape(_unescape(ftfy.fix_text(text)))


def words_of(texts: Sequence[str]) -> list[str]:
    """The lower-case pieces between white space of several texts, with the word `BETWEEN` from text to text.

    No token of the published pattern crosses white space, so pieces can be encoded one by one.
    """
    if is_plain("".join(texts)):
        return f" {BETWEEN} ".join(texts).lower().split()
    return f" {BETWEEN} ".join([(text if is_plain(text) else repair(text)).lower() for text in texts]).split()


def _unescape(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:
        return html.unescape(_ENDLESS_NUMBER.sub("\ufffd", text))
