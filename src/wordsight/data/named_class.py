"""A class with its names, as it is written in a file, and what a name may be."""

import re
from collections.abc import Iterable

import msgspec

from wordsight.errors import DataError

MAX_CLASSES = 250_000
"""Twice the number of synsets in WordNet. At 512 dimensions their embeddings take 512 MB."""

MAX_NAME_CHARACTERS = 2_000
"""No text encoder reads more than the first few hundred characters, and one long word is slow to tokenise."""

WORDNET_ID = re.compile(r"n\d{8}")
"""The id of a class of ImageNet, such as `n01440764`."""

_MAX_QUOTED_CHARACTERS = 40  # at each end


class NamedClass(msgspec.Struct, frozen=True):
    """A class in a file.

    Attributes:
        names: the first is the one displayed; the others are synonyms.
        ids: its number, WordNet id or directory, if the file states them.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...] = ()


def check_names(names: Iterable[str]) -> None:
    """Refuse what is not a name, and WordNet ids.

    Raises:
        DataError: one of the names is empty, too long, not valid Unicode, or a WordNet id.
    """
    listed = list(names)
    if problem := next(filter(None, map(name_problem, listed)), ""):
        raise DataError(problem)
    check_wordnet_ids(listed)


def check_wordnet_ids(names: Iterable[str]) -> None:
    """Refuse WordNet ids, which no model knows.

    Raises:
        DataError: one of the names is a WordNet id.
    """
    for name in names:
        if WORDNET_ID.fullmatch(name.strip()):
            raise DataError(f"{name!r} is a WordNet id, not a name; use a file with names, such as synset_words.txt")


def name_problem(name: object) -> str:
    """Return why a value cannot be the name of a class; empty if it can."""
    if not isinstance(name, str):
        return f"expected a name, found {quote(name) if isinstance(name, int | float) else type(name).__name__}"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"{len(name):,} characters, more than {MAX_NAME_CHARACTERS:,}: {quote(name)}"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return f"{quote(name)} is not valid Unicode"
    if not any(character.isprintable() and not character.isspace() for character in name):
        return f"expected a name, found {quote(name)}"
    return ""


def quote(value: object) -> str:
    """Quote a value for a message; the middle of a long one is left out, because long names often differ at the end."""
    if not isinstance(value, str):
        return repr(value)[:_MAX_QUOTED_CHARACTERS]
    if len(value) > 2 * _MAX_QUOTED_CHARACTERS:
        value = f"{value[:_MAX_QUOTED_CHARACTERS]}...{value[-_MAX_QUOTED_CHARACTERS:]}"
    return repr(value)
