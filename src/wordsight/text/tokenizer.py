"""The published CLIP tokenizer: texts to padded rows of ids, and ids to text.

Ids equal those of open_clip 3.3.0's `SimpleTokenizer`. Where the published implementations differ, open_clip's way is
kept: a text that contains `<start_of_text>` or `<end_of_text>` literally, in any case, gets the special id there.
OpenAI's code reads `<|startoftext|>` and `<|endoftext|>` so; here these are ordinary punctuation and letters.
"""

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from wordsight.errors import ConfigError, TextError
from wordsight.text.byte_pairs import BytePairEncoder, clip_encoder

CONTEXT_LENGTH = 77
"""The number of ids in a row of the published models, begin and end included."""

_ID_BYTES = 2
_SHOWN_CHARACTERS = 40


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Cuts texts into the ids that a CLIP text tower reads.

    Args:
        context_length: ids in a row, begin and end included.
        encoder: the merges; those of the published models where none is given.

    Raises:
        ConfigError: the context has no room for begin and end.
    """

    context_length: int = CONTEXT_LENGTH
    encoder: BytePairEncoder = field(default_factory=clip_encoder, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.context_length, int) or self.context_length < 2:
            raise ConfigError(f"context_length: expected a whole number of at least 2, found {self.context_length!r}")

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are: 49,408 as published."""
        return self.encoder.end_id + 1

    @property
    def begin_id(self) -> int:
        """The id of `<start_of_text>`: 49,406 as published."""
        return self.encoder.begin_id

    @property
    def end_id(self) -> int:
        """The id of `<end_of_text>`, the last and greatest: 49,407 as published."""
        return self.encoder.end_id

    def encode(self, text: str) -> list[int]:
        """The ids of one text, however many, without begin and end.

        Lone surrogates count as U+FFFD; see `cleaning.repair`.

        Raises:
            TextError: not a string.
        """
        if not isinstance(text, str):
            raise TextError(f"expected a string, found {_shown(text)}")
        ids: list[int] = np.frombuffer(self.encoder.pack([text])[0], np.uint16).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: lower-case, a space after each word, specials written out, bad UTF-8 as U+FFFD.

        Padding is not known from id 0, which is `!`: cut a row after `end_id` first.

        Raises:
            TextError: an id that is not a whole number of the vocabulary.
        """
        return self.encoder.unpack([self._checked(id) for id in ids])

    def __call__(self, texts: str | Sequence[str], truncate: bool = True) -> np.ndarray:
        """One row a text: begin, its ids, end, and zeros.

        Args:
            texts: M strings, or one string for M = 1.
            truncate: cut a text that is too long, so that its last id is `end_id`, as published.

        Returns:
            (M, L) int32 with L = `context_length`; a new array.

        Raises:
            TextError: not a string, or not strings (which row); or, unless `truncate`, too long (which, and how long).
        """
        begin, end = (np.uint16(id).tobytes() for id in (self.begin_id, self.end_id))
        row_bytes = self.context_length * _ID_BYTES
        room_bytes = row_bytes - len(begin) - len(end)
        listed = _listed(texts)
        packed = self.encoder.pack(listed)
        if not truncate:
            self._refuse_longer(listed, packed, room_bytes)
        rows = [(begin + ids[:room_bytes] + end).ljust(row_bytes, b"\0") for ids in packed]
        return np.frombuffer(b"".join(rows), np.uint16).reshape(len(rows), self.context_length).astype(np.int32)

    def _refuse_longer(self, texts: list[str], packed: list[bytes], room_bytes: int) -> None:
        for row, ids in enumerate(packed):
            if len(ids) > room_bytes:
                raise TextError(
                    f"text {row}, {_shown(texts[row])}: {len(ids) // _ID_BYTES + 2} ids with begin and end, "
                    f"the context has {self.context_length}; shorten it, or let it be cut with truncate=True"
                )

    def _checked(self, id: int) -> int:
        try:
            number = operator.index(id)
        except TypeError as error:
            raise TextError(f"expected ids, found {_shown(id)}; decode takes one row at a time") from error
        if not 0 <= number < self.vocabulary_size:
            raise TextError(f"id {number}: not in the vocabulary, which ends at {self.vocabulary_size - 1}")
        return number


@functools.lru_cache(maxsize=16)
def clip_tokenizer(context_length: int = CONTEXT_LENGTH) -> Tokenizer:
    """The tokenizer of the published models for rows of this length, made once; all lengths share merges and words.

    Raises:
        ConfigError: as `Tokenizer`.
    """
    return Tokenizer(context_length)


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = True) -> np.ndarray:
    """Rows of the published ids, (M, `context_length`) int32; see `Tokenizer.__call__`.

    Raises:
        TextError: not strings, or too long with `truncate=False`.
        ConfigError: the context has no room for begin and end.
    """
    return clip_tokenizer(context_length)(texts, truncate)


def _listed(texts: object) -> list[str]:
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TextError(f"expected a string or a list of strings, found {_shown(texts)}")
    listed = list(texts)
    strange = [row for row, text in enumerate(listed) if not isinstance(text, str)]
    if strange:
        raise TextError(f"text {strange[0]}: expected a string, found {_shown(listed[strange[0]])}")
    return listed


def _shown(value: object) -> str:
    """A value for an error's one line: its type unless it is a text, shortened."""
    if not isinstance(value, str):
        return type(value).__name__
    return ascii(value if len(value) <= _SHOWN_CHARACTERS else f"{value[:_SHOWN_CHARACTERS]}...")
