"""Tokenizers of other families, made from the files that lie beside the weights, and what a card says of a tokenizer.

Models of the 49,408 vocabulary use the published CLIP tokenizer, whose merges are here. SigLIP reads a sentencepiece
model (`spiece.model`), SigLIP 2 and the multilingual models of open_clip a `tokenizer.json`. The libraries of both are
imported when such a tokenizer is built. Whatever the family, texts become padded rows by one call, as with `Tokenizer`.
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
from wordsight.text.tokenizer import CONTEXT_LENGTH, _listed, _shown, clip_tokenizer

Family = Literal["clip", "sentencepiece", "tokenizers"]

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SURROGATE = re.compile("[\ud800-\udfff]")
_SENTENCEPIECE_SPACE = "\u2581"


class TokenizerConfig(Config, frozen=True):
    """How texts become ids; part of a model's card.

    The family `clip` is published whole: of it a card says the context length alone. Of the others it says all.

    Attributes:
        family: `clip`; `sentencepiece`, a model of that library; `tokenizers`, a `tokenizer.json`.
        context_length: ids in a row, begin and end included.
        begin_id, end_id: around each text; None where the family has none.
        pad_id: what fills a row.
        padding_side: where the filling stands.
        lower_case: whether texts are read in lower case.
        removes_punctuation: whether ASCII punctuation is dropped, and white space made single.
        repairs: whether texts are first mended as open_clip does (ftfy, entities unescaped, white space made single);
            where punctuation is dropped, an underscore is then a space (as in big_vision; transformers drops it).
        file: the name of the tokenizer's file, beside the weights.
        file_sha256: of its bytes, lower-case hexadecimal.

    Raises:
        ConfigError: keys that contradict the family or each other.
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
            for key, neutral in _NEUTRAL.items():
                if getattr(self, key) != neutral:
                    raise ConfigError(f"tokenizer.{key}: the clip tokenizer is published whole; leave this key out")
            return
        if not self.file or "/" in self.file or "\\" in self.file:
            raise ConfigError(f"tokenizer.file {self.file!r}: expected the name of a file beside the weights")
        num_around = len(self.around)
        if self.context_length <= num_around:
            raise ConfigError(f"tokenizer.context_length {self.context_length}: no room beside begin and end")
        if min(self.pad_id, *self.around, 0) < 0:
            raise ConfigError("tokenizer: begin_id, end_id and pad_id are ids of the vocabulary, at least 0")

    @property
    def around(self) -> list[int]:
        """The ids that stand around each text."""
        return [id for id in (self.begin_id, self.end_id) if id is not None]


_NEUTRAL: dict[str, Any] = {
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
    """What every tokenizer does, that of CLIP too."""

    @property
    def vocabulary_size(self) -> int: ...  # noqa: D102

    def encode(self, text: str) -> list[int]: ...  # noqa: D102

    def decode(self, ids: Iterable[int]) -> str: ...  # noqa: D102

    def __call__(self, texts: str | Sequence[str], truncate: bool = True) -> np.ndarray: ...  # noqa: D102


def build_tokenizer(config: TokenizerConfig, files: Mapping[str, bytes]) -> TextTokenizer:
    """The tokenizer that a card describes.

    Args:
        files: the bytes of `config.file` under its name; none is needed for the family `clip`.

    Raises:
        ConfigError: the file is missing, is not the one of the card, or cannot be read.
    """
    if config.family == "clip":
        return clip_tokenizer(config.context_length)
    if config.file not in files:
        raise ConfigError(f"{config.file}: no such file; the tokenizer of the model needs it beside the weights")
    content = files[config.file]
    if config.file_sha256 and hashlib.sha256(content).hexdigest() != config.file_sha256:
        raise ConfigError(f"{config.file}: not the file of the card (its SHA-256 differs); fetch it again")
    return FileTokenizer(config, content)


class FileTokenizer:
    """A tokenizer of another family, with the calling form of `Tokenizer`.

    Args:
        config: of the families `sentencepiece` or `tokenizers`.
        content: the tokenizer's file.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, config: TokenizerConfig, content: bytes) -> None:
        self.config = config
        self.context_length = config.context_length
        self._content = content
        open_file = _SentencePieces if config.family == "sentencepiece" else _JsonTokenizer
        self._pieces: _SentencePieces | _JsonTokenizer = open_file(config, content)
        self._clean = _cleaning(config)

    def __reduce__(self) -> tuple[type["FileTokenizer"], tuple[TokenizerConfig, bytes]]:
        return FileTokenizer, (self.config, self._content)

    @property
    def vocabulary_size(self) -> int:
        """How many ids the file has; some of them may stand for nothing that a text contains."""
        return self._pieces.size

    def fits(self, vocabulary_size: int) -> bool:
        """Whether a table of so many rows has one for every id that a text can get.

        mT5's file ends in a hundred `<extra_id_0>`, which the table of SigLIP i18n does not have and no text gets.
        """
        if max([self.config.pad_id, *self.config.around]) >= vocabulary_size:
            return False
        return all(self._pieces.is_unused(id) for id in range(vocabulary_size, self.vocabulary_size))

    def encode(self, text: str) -> list[int]:
        """The ids of one text, however many, without begin and end.

        Raises:
            TextError: not a string.
        """
        if not isinstance(text, str):
            raise TextError(f"expected a string, found {_shown(text)}")
        return self._pieces.encode([self._clean(text)])[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids, as the file's own library writes it; begin, end and padding are left out.

        Raises:
            TextError: an id that is not in the vocabulary.
        """
        listed = [int(id) for id in ids]
        strange = [id for id in listed if not 0 <= id < self.vocabulary_size]
        if strange:
            raise TextError(f"id {strange[0]}: not in the vocabulary, which ends at {self.vocabulary_size - 1}")
        left_out = {self.config.pad_id, *self.config.around}
        return self._pieces.decode([id for id in listed if id not in left_out])

    def __call__(self, texts: str | Sequence[str], truncate: bool = True) -> np.ndarray:
        """One row a text: begin, its ids, end, and padding on its side.

        Args:
            texts: M strings, or one string for M = 1.
            truncate: cut the ids of a text that is too long; begin and end stay.

        Returns:
            (M, L) int32 with L = `context_length`; a new array.

        Raises:
            TextError: not strings (which row); or, unless `truncate`, too long (which, and how long).
        """
        config, listed = self.config, _listed(texts)
        rows = np.full((len(listed), config.context_length), config.pad_id, dtype=np.int32)
        begin, end = ([] if id is None else [id] for id in (config.begin_id, config.end_id))
        room = config.context_length - len(begin) - len(end)
        for row, ids in enumerate(self._pieces.encode([self._clean(text) for text in listed])):
            if len(ids) > room and not truncate:
                raise TextError(
                    f"text {row}, {_shown(listed[row])}: {len(ids) + len(begin) + len(end)} ids with begin and end, "
                    f"the context has {config.context_length}; shorten it, or let it be cut with truncate=True"
                )
            whole = [*begin, *ids[:room], *end]
            start = 0 if config.padding_side == "right" else config.context_length - len(whole)
            rows[row, start : start + len(whole)] = whole
        return rows


class _SentencePieces:
    """A sentencepiece model: control symbols written in a text are ordinary characters of it."""

    def __init__(self, config: TokenizerConfig, content: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        try:
            self._processor: Any = SentencePieceProcessor(model_proto=content)
        except (RuntimeError, ValueError, TypeError) as error:
            raise _unreadable(config, error) from error
        self.size: int = self._processor.get_piece_size()
        if not self.size:
            raise _unreadable(config, ValueError("no pieces"))

    def encode(self, texts: list[str]) -> list[list[int]]:
        # the mark is a space, as transformers reads it; pieces carry it themselves
        return [self._processor.encode(text.replace(_SENTENCEPIECE_SPACE, " ")) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def id_of(self, token: str) -> int | None:
        id = int(self._processor.piece_to_id(token))
        return id if self._processor.id_to_piece(id) == token else None

    def symbol_of(self, id: int) -> str:
        return str(self._processor.id_to_piece(id))

    def around(self) -> None:
        """Nothing: what stands around a text is not in the model."""

    def is_unused(self, id: int) -> bool:
        piece = self._processor.id_to_piece(id)
        return self._processor.is_control(id) or self._processor.is_unused(id) or piece.startswith("<extra_id_")


class _JsonTokenizer:
    """A `tokenizer.json`, of which begin, end, padding and length are set aside: the card says them."""

    def __init__(self, config: TokenizerConfig, content: bytes) -> None:
        from tokenizers import Tokenizer, normalizers

        try:
            self._tokenizer = Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises nothing narrower
            raise _unreadable(config, error) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if config.lower_case and not config.repairs:  # letter by letter, as the library does: no final sigma
            lower = normalizers.Lowercase()
            own = self._tokenizer.normalizer
            self._tokenizer.normalizer = normalizers.Sequence([lower, own] if own else [lower])
        self.size: int = self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def is_unused(self, id: int) -> bool:
        token = self._tokenizer.id_to_token(id)
        return token is None or token.startswith("<extra_id_")

    def symbol_of(self, id: int) -> str:
        return str(self._tokenizer.id_to_token(id))

    def around(self) -> tuple[list[int], list[int]]:
        """The ids that the file itself puts before and behind a text."""
        bare = self._tokenizer.encode("a", add_special_tokens=False).ids
        whole = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
        return [], []


class TokenizerFile:
    """What the file of a tokenizer says, for readers of formats that leave it to the file.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, family: Family, name: str, content: bytes) -> None:
        self.name = name
        self.sha256 = hashlib.sha256(content).hexdigest()
        config = TokenizerConfig(family=family, file=name)
        open_file = _SentencePieces if family == "sentencepiece" else _JsonTokenizer
        self._pieces: _SentencePieces | _JsonTokenizer = open_file(config, content)

    def id_of(self, token: str) -> int:
        """The id of a symbol.

        Raises:
            ConfigError: the file does not know it.
        """
        id = self._pieces.id_of(token)
        if id is None:
            raise ConfigError(
                f"{self.name}: no symbol {token!r}, which the tokenizer's settings name; fetch both again"
            )
        return id

    def symbol_of(self, id: int) -> str:
        """The symbol of an id that a card names."""
        return self._pieces.symbol_of(id)

    def around(self) -> tuple[int | None, int | None] | None:
        """The ids that the file itself puts before and behind a text; None: a sentencepiece model says nothing of it.

        Raises:
            ConfigError: more than one on a side.
        """
        found = self._pieces.around()
        if found is None:
            return None
        before, behind = found
        if max(len(before), len(behind)) > 1:
            raise ConfigError(f"{self.name}: puts {before} before a text and {behind} behind; one each is possible")
        return (before[0] if before else None), (behind[0] if behind else None)


def _cleaning(config: TokenizerConfig) -> Callable[[str], str]:
    """What happens to a text before its file cuts it.

    Source: open_clip 3.3.0 `tokenizer.py` (`repairs`), transformers 5.24 `SiglipTokenizer` otherwise; the order of the
    steps is theirs, for a sigma's lower case depends on what stands behind it.
    """

    def mended(text: str) -> str:
        text = repair(text)
        if config.removes_punctuation:
            text = text.replace("_", " ").translate(_NO_PUNCTUATION)
        return " ".join((text.lower() if config.lower_case else text).split())

    def plain(text: str) -> str:
        text = _SURROGATE.sub("\ufffd", text)
        if config.lower_case and config.family == "sentencepiece":
            text = text.lower()
        return " ".join(text.translate(_NO_PUNCTUATION).split()) if config.removes_punctuation else text

    return mended if config.repairs else plain


def _unreadable(config: TokenizerConfig, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"{config.file}: not a tokenizer of the {config.family} library: {reason}; fetch it again")
