"""The published CLIP tokenizer: texts to padded rows of ids, and ids to text.

The ids equal those of `SimpleTokenizer` in open_clip 3.3.0. The published implementations differ in one point: in
open_clip, and here, a literal `<start_of_text>` or `<end_of_text>` in a text, in any case, becomes the special token.
In OpenAI's code this applies to `<|startoftext|>` and `<|endoftext|>`, which here are ordinary punctuation and letters.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from wordsight.errors import ConfigError, TextError
from wordsight.text.byte_pairs import BytePairEncoder, clip_encoder

CONTEXT_LENGTH = 77
"""The context length of the published models: ids per text, including begin and end."""

MAX_CHARACTERS = 1 << 16
"""Characters of a text that are read for one row of ids; the rest of a longer text is truncated with its ids.

ftfy takes up to 30 microseconds for a character (line feeds, ligatures), so a row takes at most about 2 seconds.
"""

MAX_ENCODED_CHARACTERS = 1 << 19
"""Characters of a text that is encoded to ids of any number; it takes at most about 15 seconds."""

_ID_BYTES = 2
_MAX_QUOTED_CHARACTERS = 40


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Convert texts to the token ids that a CLIP text encoder expects.

    Args:
        context_length: the number of ids per text, including begin and end.
        encoder: the byte-pair encoder; by default that of the published models.

    Raises:
        ConfigError: the context length is not an integer of at least 2.
    """

    context_length: int = CONTEXT_LENGTH
    encoder: BytePairEncoder = field(default_factory=clip_encoder, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.context_length, int) or self.context_length < 2:
            raise ConfigError(f"context_length: expected an integer of at least 2, found {self.context_length!r}")

    @property
    def vocabulary_size(self) -> int:
        """The number of ids: 49,408 as published."""
        return self.encoder.end_id + 1

    @property
    def begin_id(self) -> int:
        """The id of `<start_of_text>`: 49,406 as published."""
        return self.encoder.begin_id

    @property
    def end_id(self) -> int:
        """The id of `<end_of_text>`, the highest id: 49,407 as published."""
        return self.encoder.end_id

    def encode(self, text: str) -> list[int]:
        """Encode one text of any length, without begin and end.

        Lone surrogates are treated as U+FFFD; see `cleaning.repair`.

        Raises:
            TextError: the argument is not a string.
        """
        if not isinstance(text, str):
            raise TextError(f"expected a string, found {describe(text)}")
        ids: list[int] = np.frombuffer(self.encoder.pack([check_length(text)])[0], np.uint16).tolist()
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decode the ids of one text: lower case, a space after each word, invalid UTF-8 as U+FFFD.

        Special tokens are included. Padding cannot be distinguished from `!`, whose id is 0 as well: truncate a row
        after `end_id` first.

        Raises:
            TextError: an id is not an integer or not in the vocabulary.
        """
        return self.encoder.unpack([self._check_id(id) for id in ids])

    def __call__(
        self, texts: str | Sequence[str], truncate: bool = True, on_truncated: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Tokenize texts into rows of begin, ids, end and padding with zeros.

        Args:
            texts: M strings, or one string for M = 1.
            truncate: whether to truncate texts that are too long, keeping `end_id` as the last id (as published),
                instead of raising.
            on_truncated: called with the row of each text that is truncated.

        Returns:
            (M, L) int32 with L = `context_length`; a new array.

        Raises:
            TextError: an item is not a string, or a text is too long and `truncate` is false; the message names the
                row.
        """
        begin, end = (np.uint16(id).tobytes() for id in (self.begin_id, self.end_id))
        row_bytes = self.context_length * _ID_BYTES
        max_text_bytes = row_bytes - len(begin) - len(end)
        listed = as_list(texts)
        packed = self.encoder.pack([text[:MAX_CHARACTERS] for text in listed])
        if not truncate:
            self._check_lengths(listed, packed, max_text_bytes)
        if on_truncated is not None:
            for row, ids in enumerate(packed):
                if len(ids) > max_text_bytes:
                    on_truncated(row)
        rows = [(begin + ids[:max_text_bytes] + end).ljust(row_bytes, b"\0") for ids in packed]
        return np.frombuffer(b"".join(rows), np.uint16).reshape(len(rows), self.context_length).astype(np.int32)

    def _check_lengths(self, texts: list[str], packed: list[bytes], max_text_bytes: int) -> None:
        for row, ids in enumerate(packed):
            if len(ids) > max_text_bytes or len(texts[row]) > MAX_CHARACTERS:
                raise TextError(
                    f"text {row}, {describe(texts[row])}: {len(ids) // _ID_BYTES + 2} ids with begin and end, "
                    f"the context has {self.context_length}; shorten it or pass truncate=True"
                )

    def _check_id(self, id: int) -> int:
        try:
            number = operator.index(id)
        except TypeError as error:
            raise TextError(f"expected ids, found {describe(id)}; decode takes one row at a time") from error
        if not 0 <= number < self.vocabulary_size:
            raise TextError(f"id {number}: not in the vocabulary, which ends at {self.vocabulary_size - 1}")
        return number


@functools.lru_cache(maxsize=16)
def clip_tokenizer(context_length: int = CONTEXT_LENGTH) -> Tokenizer:
    """Return the published tokenizer for a context length; tokenizers are cached and share one encoder.

    Raises:
        ConfigError: as for `Tokenizer`.
    """
    return Tokenizer(context_length)


def tokenize(texts: str | Sequence[str], context_length: int = CONTEXT_LENGTH, truncate: bool = True) -> np.ndarray:
    """Tokenize texts with the published CLIP tokenizer.

    Args:
        texts: M strings, or one string for M = 1.
        context_length: the number of ids per text, including begin and end.
        truncate: whether to truncate texts that are too long, instead of raising.

    Returns:
        (M, L) int32 with L = `context_length`: begin, the ids of the text, end, and zeros.

    Raises:
        TextError: an item is not a string, or a text is too long and `truncate` is false.
        ConfigError: the context length is not an integer of at least 2.
    """
    return clip_tokenizer(context_length)(texts, truncate)


def as_list(texts: object) -> list[str]:
    """Return a string or an iterable of strings as a list.

    Raises:
        TextError: the argument or one of its items is not a string.
    """
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise TextError(f"expected a string or a list of strings, found {describe(texts)}")
    listed = list(texts)
    for row, text in enumerate(listed):
        if not isinstance(text, str):
            raise TextError(f"text {row}: expected a string, found {describe(text)}")
    return listed


def check_length(text: str) -> str:
    """Return a text of bounded length.

    Raises:
        TextError: it has more than `MAX_ENCODED_CHARACTERS`.
    """
    if len(text) > MAX_ENCODED_CHARACTERS:
        raise TextError(
            f"text {describe(text)}: {len(text):,} characters, expected at most {MAX_ENCODED_CHARACTERS:,}; shorten it"
        )
    return text


def describe(value: object) -> str:
    """Describe a value in an error message: a string is quoted and truncated, anything else is named by its type."""
    if not isinstance(value, str):
        return type(value).__name__
    return ascii(value if len(value) <= _MAX_QUOTED_CHARACTERS else f"{value[:_MAX_QUOTED_CHARACTERS]}...")
