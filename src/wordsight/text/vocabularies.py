"""The two libraries that read tokenizer files: sentencepiece and tokenizers, each behind the same interface."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from wordsight.errors import ConfigError
from wordsight.text.untrusted import check_sentencepiece, checked_json

_SENTENCEPIECE_SPACE = "\u2581"
_MAX_REASON_LENGTH = 200


def parse(
    family: str, name: str, content: bytes, lower_case: bool = False
) -> "SentencePieceVocabulary | JsonVocabulary":
    """Read a tokenizer file.

    Args:
        family: `sentencepiece` or `tokenizers`.
        name: the file name, for errors.
        content: the bytes of the file.
        lower_case: whether a `tokenizer.json` first lower-cases texts with the library's rules.

    Raises:
        ConfigError: the file cannot be parsed, or asks for more than `untrusted.py` allows.
    """
    read: Callable[[bytes, bool], Any] = SentencePieceVocabulary if family == "sentencepiece" else JsonVocabulary
    with _library_errors(f"{name}: not a tokenizer of the {family} library"):
        vocabulary: SentencePieceVocabulary | JsonVocabulary = read(content, lower_case)
    vocabulary.name = name
    return vocabulary


@contextmanager
def _library_errors(what: str) -> Iterator[None]:
    """Convert the errors of both libraries, which have no common base class, and the panics of Rust."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:_MAX_REASON_LENGTH] or type(error).__name__
        raise ConfigError(f"{what}: {reason}; download it again") from error


class SentencePieceVocabulary:
    """A sentencepiece model; a control symbol that is written out in a text is treated as ordinary characters."""

    def __init__(self, content: bytes, lower_case: bool) -> None:
        from sentencepiece import SentencePieceProcessor

        del lower_case  # the texts are in lower case already
        self.name = ""
        check_sentencepiece(content)
        self._processor: Any = SentencePieceProcessor(model_proto=content)
        self.size: int = self._processor.get_piece_size()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode cleaned texts."""
        # transformers treats a literal U+2581 in a text as a space; sentencepiece adds its own
        with _library_errors(f"{self.name}: cannot encode a text"):
            return [self._processor.encode(text.replace(_SENTENCEPIECE_SPACE, " ")) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """Decode the ids of one text."""
        return str(self._processor.decode(ids))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, or None."""
        id = int(self._processor.piece_to_id(token))
        return id if self._processor.id_to_piece(id) == token else None

    def symbol_of(self, id: int) -> str:
        """Return the token of an id, which must be in the vocabulary."""
        return str(self._processor.id_to_piece(id))

    def added_ids(self) -> None:
        """Return None: a sentencepiece model does not state which ids are added to a text."""

    def is_unused(self, id: int) -> bool:
        """Return whether no text produces an id."""
        piece = self._processor.id_to_piece(id)
        return self._processor.is_control(id) or self._processor.is_unused(id) or piece.startswith("<extra_id_")


class JsonVocabulary:
    """A `tokenizer.json`; its begin and end tokens, padding and truncation are ignored in favour of the card's."""

    def __init__(self, content: bytes, lower_case: bool) -> None:
        from tokenizers import Tokenizer, normalizers

        self.name = ""
        self._tokenizer = Tokenizer.from_buffer(checked_json(content))
        if lower_case:
            lower = normalizers.Lowercase()
            normalizer = self._tokenizer.normalizer
            self._tokenizer.normalizer = normalizers.Sequence([lower, normalizer] if normalizer else [lower])
        self.size: int = self._tokenizer.get_vocab_size()

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Encode cleaned texts."""
        with _library_errors(f"{self.name}: cannot encode a text"):
            return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Decode the ids of one text."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def id_of(self, token: str) -> int | None:
        """Return the id of a token, or None."""
        return self._tokenizer.token_to_id(token)

    def is_unused(self, id: int) -> bool:
        """Return whether no text produces an id."""
        token = self._tokenizer.id_to_token(id)
        return token is None or token.startswith("<extra_id_")

    def symbol_of(self, id: int) -> str:
        """Return the token of an id, which must be in the vocabulary."""
        return str(self._tokenizer.id_to_token(id))

    def added_ids(self) -> tuple[list[int], list[int]]:
        """Return the ids that the file's post-processor adds before and after a text."""
        with _library_errors(f"{self.name}: cannot encode a text"):
            text_ids = self._tokenizer.encode("a", add_special_tokens=False).ids
            all_ids = self._tokenizer.encode("a", add_special_tokens=True).ids
        for start in range(len(all_ids) - len(text_ids) + 1):
            if all_ids[start : start + len(text_ids)] == text_ids:
                return all_ids[:start], all_ids[start + len(text_ids) :]
        return [], []
