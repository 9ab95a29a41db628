"""Tokenizers of all model families: the `TokenizerConfig` of a card, and tokenizers that are read from files.

Models with the vocabulary of 49,408 use the published CLIP tokenizer, whose merges are part of this package. SigLIP has
a sentencepiece model (`spiece.model`); SigLIP 2 and the multilingual models of open_clip have a `tokenizer.json`. The
libraries for both are imported when such a tokenizer is built. All tokenizers implement `TextTokenizer`.
"""

import hashlib
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from wordsight.config import Config
from wordsight.errors import ConfigError, TextError
from wordsight.text.cleaning import repair
from wordsight.text.tokenizer import CONTEXT_LENGTH, MAX_CHARACTERS, as_list, check_length, clip_tokenizer, describe
from wordsight.text.vocabularies import parse

Family = Literal["clip", "sentencepiece", "tokenizers"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SURROGATE = re.compile("[\ud800-\udfff]")


class TokenizerConfig(Config, frozen=True):
    """How texts become ids: the table `[tokenizer]` of a model's card.

    The family `clip` has only the key `context_length`, because everything else is fixed by the published tokenizer.

    Attributes:
        family: `clip` for the published CLIP tokenizer, `sentencepiece` for a model of that library, or `tokenizers`
            for a `tokenizer.json`.
        context_length: the number of ids per text, including begin and end.
        begin_id: the id before each text; none if the key is missing.
        end_id: the id after each text; none if the key is missing.
        pad_id: the id that fills the rest of a row.
        padding_side: the side of the row that is filled: `right` or `left`.
        lower_case: whether texts are lower-cased.
        removes_punctuation: whether ASCII punctuation is removed and white space is collapsed.
        repairs: whether texts are first cleaned as in open_clip: ftfy, HTML entities unescaped, white space collapsed.
            Together with `removes_punctuation`, an underscore then becomes a space (as in big_vision) and is not
            removed (as in transformers).
        file: the name of the tokenizer's file, in the directory of the weights.
        file_sha256: the SHA-256 of that file in lower-case hexadecimal; if it is missing, the file is not verified.

    Raises:
        ConfigError: a key contradicts the family or another key.
    """

    family: Family = "clip"
    context_length: int = CONTEXT_LENGTH
    begin_id: int | None = None
    end_id: int | None = None
    pad_id: int = 0
    padding_side: Literal["right", "left"] = "right"
    lower_case: bool = False
    removes_punctuation: bool = False
    repairs: bool = False
    file: str = ""
    file_sha256: str = ""

    def __post_init__(self) -> None:
        if self.family == "clip":
            for key, default in _FILE_KEY_DEFAULTS.items():
                if getattr(self, key) != default:
                    raise ConfigError(f"tokenizer.{key}: the family clip does not have this key; remove it")
            return
        if not self.file or "/" in self.file or "\\" in self.file:
            raise ConfigError(f"tokenizer.file {self.file!r}: expected the name of a file next to the weights")
        if self.context_length <= len(self.special_ids):
            raise ConfigError(
                f"tokenizer.context_length {self.context_length}: expected at least {len(self.special_ids) + 1}, "
                "to leave room for text between begin and end"
            )
        if min(self.pad_id, *self.special_ids, 0) < 0:
            raise ConfigError("tokenizer: expected begin_id, end_id and pad_id of at least 0")

    @property
    def special_ids(self) -> list[int]:
        """The ids that are added to each text: `begin_id` and `end_id`, without those that are None."""
        return [id for id in (self.begin_id, self.end_id) if id is not None]


MAX_VOCABULARY_SIZE = 1 << 24
"""Larger than any published vocabulary; an id is stored as int32."""

_FILE_KEY_DEFAULTS: dict[str, Any] = {
    "begin_id": None,
    "end_id": None,
    "pad_id": 0,
    "padding_side": "right",
    "lower_case": False,
    "removes_punctuation": False,
    "repairs": False,
    "file": "",
    "file_sha256": "",
}


class TextTokenizer(Protocol):
    """The interface of all tokenizers; `Tokenizer` and `FileTokenizer` implement it."""

    @property
    def vocabulary_size(self) -> int: ...  # noqa: D102

    def encode(self, text: str) -> list[int]: ...  # noqa: D102

    def decode(self, ids: Iterable[int]) -> str: ...  # noqa: D102

    def __call__(  # noqa: D102
        self, texts: str | Sequence[str], truncate: bool = True, on_truncated: Callable[[int], object] | None = None
    ) -> np.ndarray: ...


def build_tokenizer(
    config: TokenizerConfig, files: Mapping[str, bytes], vocabulary_size: int | None = None
) -> TextTokenizer:
    """Build the tokenizer that a card describes.

    Args:
        config: the table `[tokenizer]` of the card.
        files: file contents by name, including `config.file`; not used for the family `clip`.
        vocabulary_size: rows of the model's token embedding; ids beyond it are an error. By default any id is valid.

    Raises:
        ConfigError: the file is missing, has another hash than the card states, or cannot be parsed.
    """
    if config.family == "clip":
        return clip_tokenizer(config.context_length)
    if config.file not in files:
        raise ConfigError(f"{config.file}: no such file; the model needs this tokenizer file next to its weights")
    content = files[config.file]
    if config.file_sha256 and hashlib.sha256(content).hexdigest() != config.file_sha256:
        raise ConfigError(f"{config.file}: its SHA-256 differs from the one in the card; download it again")
    return FileTokenizer(config, content, vocabulary_size)


class FileTokenizer:
    """A tokenizer that is read from a file, with the interface of `Tokenizer`.

    Args:
        config: its family is `sentencepiece` or `tokenizers`.
        content: the bytes of the tokenizer's file.
        vocabulary_size: see `build_tokenizer`.

    Raises:
        ConfigError: the file cannot be parsed.
    """

    def __init__(self, config: TokenizerConfig, content: bytes, vocabulary_size: int | None = None) -> None:
        self.config = config
        self._max_id = (vocabulary_size or MAX_VOCABULARY_SIZE) - 1
        self.context_length = config.context_length
        self._content = content
        # if texts are repaired, str.lower is applied first, which unlike the library has a rule for a final sigma
        self._vocabulary = parse(config.family, config.file, content, config.lower_case and not config.repairs)
        self._clean = _build_cleaner(config)

    def __reduce__(self) -> tuple[type["FileTokenizer"], tuple[TokenizerConfig, bytes, int]]:
        return FileTokenizer, (self.config, self._content, self._max_id + 1)

    @property
    def vocabulary_size(self) -> int:
        """The number of ids in the file, some of which no text can produce."""
        return self._vocabulary.size

    def fits(self, vocabulary_size: int) -> bool:
        """Return whether an embedding table with this many rows covers every id that a text can produce.

        The file of mT5 ends with 100 tokens such as `<extra_id_0>`, which no text produces and for which SigLIP i18n
        has no rows.
        """
        if max([self.config.pad_id, *self.config.special_ids]) >= vocabulary_size:
            return False
        return all(self._vocabulary.is_unused(id) for id in range(vocabulary_size, self.vocabulary_size))

    def encode(self, text: str) -> list[int]:
        """Encode one text of any length, without begin and end.

        Raises:
            TextError: the argument is not a string.
        """
        if not isinstance(text, str):
            raise TextError(f"expected a string, found {describe(text)}")
        return self._checked(self._vocabulary.encode([self._clean(check_length(text))])[0])

    def decode(self, ids: Iterable[int]) -> str:
        """Decode the ids of one text with the library of the family, without begin, end and padding.

        Raises:
            TextError: an id is not in the vocabulary.
        """
        listed = [int(id) for id in ids]
        for id in listed:
            if not 0 <= id < self.vocabulary_size:
                raise TextError(f"id {id}: not in the vocabulary, which ends at {self.vocabulary_size - 1}")
        skipped = {self.config.pad_id, *self.config.special_ids}
        return self._vocabulary.decode([id for id in listed if id not in skipped])

    def __call__(
        self, texts: str | Sequence[str], truncate: bool = True, on_truncated: Callable[[int], object] | None = None
    ) -> np.ndarray:
        """Tokenize texts into rows of begin, ids, end and padding.

        Args:
            texts: M strings, or one string for M = 1.
            truncate: whether to truncate texts that are too long, keeping begin and end, instead of raising.
            on_truncated: called with the row of each text that is truncated.

        Returns:
            (M, L) int32 with L = `context_length`; a new array.

        Raises:
            TextError: an item is not a string, or a text is too long and `truncate` is false; the message names the
                row.
            ConfigError: the file yields ids that the model does not have.
        """
        config, listed = self.config, as_list(texts)
        read = [text[:MAX_CHARACTERS] for text in listed]
        rows = np.full((len(listed), config.context_length), config.pad_id, dtype=np.int32)
        begin, end = ([] if id is None else [id] for id in (config.begin_id, config.end_id))
        max_text_ids = config.context_length - len(begin) - len(end)
        for row, ids in enumerate(self._vocabulary.encode([self._clean(text) for text in read])):
            if (len(ids) > max_text_ids or len(listed[row]) > MAX_CHARACTERS) and not truncate:
                raise TextError(
                    f"text {row}, {describe(listed[row])}: {len(ids) + len(begin) + len(end)} ids with begin and end, "
                    f"the context has {config.context_length}; shorten it or pass truncate=True"
                )
            if len(ids) > max_text_ids and on_truncated is not None:
                on_truncated(row)
            filled = [*begin, *self._checked(ids[:max_text_ids]), *end]
            start = 0 if config.padding_side == "right" else config.context_length - len(filled)
            rows[row, start : start + len(filled)] = filled
        return rows

    def _checked(self, ids: list[int]) -> list[int]:
        if max(ids, default=0) > self._max_id:
            raise ConfigError(
                f"{self.config.file}: id {max(ids)} is beyond the model's vocabulary of {self._max_id + 1}; "
                "the file belongs to another model"
            )
        return ids


class TokenizerFile:
    """The contents of a tokenizer file, for readers of weight formats that define special tokens only there.

    Args:
        family: `sentencepiece` or `tokenizers`.
        name: the file name, for errors.
        content: the bytes of the file.

    Attributes:
        name: the argument.
        sha256: the SHA-256 of the file in lower-case hexadecimal.

    Raises:
        ConfigError: the file cannot be parsed.
    """

    def __init__(self, family: Family, name: str, content: bytes) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(content).hexdigest()
        self._vocabulary = parse(family, name, content)

    def id_of(self, token: str) -> int:
        """Return the id of a token.

        Raises:
            ConfigError: the file does not contain the token.
        """
        id = self._vocabulary.id_of(token)
        if id is None:
            raise ConfigError(
                f"{self.name}: no token {token!r}, which the tokenizer's settings name; download both files again"
            )
        return id

    def symbol_of(self, id: int) -> str:
        """Return the token of an id, which must be in the vocabulary."""
        return self._vocabulary.symbol_of(id)

    def added_ids(self) -> tuple[int | None, int | None] | None:
        """Return the ids that the file adds before and after a text, each of them None if there is none.

        Returns:
            None for a sentencepiece model, which does not state them.

        Raises:
            ConfigError: the file adds more than one id on a side.
        """
        added = self._vocabulary.added_ids()
        if added is None:
            return None
        before, after = added
        if max(len(before), len(after)) > 1:
            raise ConfigError(
                f"{self.name}: adds the ids {before} before a text and {after} after it; expected at most one on a side"
            )
        return (before[0] if before else None), (after[0] if after else None)


def _build_cleaner(config: TokenizerConfig) -> Callable[[str], str]:
    """Return the function that cleans a text before it is encoded.

    The order of the steps is that of the sources, because the lower case of a sigma depends on the next character.

    Source:
        open_clip 3.3.0, `tokenizer.py`, if `config.repairs`; otherwise transformers 5.24, `SiglipTokenizer`.
    """

    def clean_repaired(text: str) -> str:
        text = repair(text)
        if config.removes_punctuation:
            text = text.replace("_", " ").translate(_NO_PUNCTUATION)
        return " ".join((text.lower() if config.lower_case else text).split())

    def clean(text: str) -> str:
        text = _SURROGATE.sub("\ufffd", text)
        if config.lower_case and config.family == "sentencepiece":
            text = text.lower()
        return " ".join(text.translate(_NO_PUNCTUATION).split()) if config.removes_punctuation else text

    return clean_repaired if config.repairs else clean
