"""Check tokenizer files before a library parses them: `tokenizer.json` and sentencepiece models are untrusted input.

The tokenizers library is written in Rust and sentencepiece in C++; neither limits what a file may ask for. A file of a
kilobyte can demand replacements that multiply a text until the process is killed, regular expressions that backtrack
for years, or reads outside a table. The parts that do something are therefore compared with what the supported
families of tokenizers use; everything else is refused with its name. A separate process with limits would cost more
than the tokenizers' own start (about 0.2 s), for every model that is loaded.
"""

import base64
import binascii
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

MAX_FILE_BYTES = 1 << 26
"""Of a tokenizer file; Gemma's `tokenizer.json`, the largest published one, has about 34 MB."""

MAX_VALUES = 1 << 21
"""Values in a `tokenizer.json`, by its commas; Gemma's has about 1.4 million."""

MAX_PIECES = 1 << 20
"""Tokens of a vocabulary; Gemma's 256,000 are the most of any model here."""

MAX_ADDED_TOKENS = 1 << 14
"""Tokens that are searched in every text before it is tokenized; Gemma has fewer than 7,000."""

MAX_ADDED_BYTES = 1 << 19
"""Of all added tokens together, which become one automaton; Gemma's have fewer than 100 kB."""

MAX_TOKEN_BYTES = 1 << 10
"""Of one token in the file; the longest published one, a run of spaces, has fewer than 200."""

MAX_GROWTH = 64
"""Factor by which a normalizer may lengthen a text; U+FDFA, the extreme of NFKC, becomes 18 characters."""

MAX_EXPANSION_BYTES = 64
"""UTF-8 bytes to which a character map may map one entry; 33 in sentencepiece's own maps, for U+FDFA."""

MAX_STEPS = 1 << 10
"""Normalizers, pre-tokenizers or decoders in a row; `wordsight convert --to hf` writes about 500."""

MAX_WORD_CHARACTERS = 256
"""Of a word that is split into word pieces, which takes quadratic time; BERT has 100."""

MAX_ADDED_IDS = 16
"""Parts of a template that puts begin and end around a text."""

_BROKEN = "not a protocol buffer, or cut short"
_MAX_SELF_TEST_BYTES = 1 << 16  # sentencepiece encodes these samples when it opens a model

CLIP_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CONTROLS_PATTERN = r"[\x{0}-\x{8}\x{b}\x{e}-\x{1f}\x{7f}\x{206a}-\x{206f}\x{feff}\x{fff9}-\x{fffc}]"
TERMINAL_ESCAPE_PATTERN = r"\x{1b}\[[0-9;]*[a-zA-Z]"
FINAL_SIGMA_PATTERN = r"(?<=\p{L})Σ(?!\p{L})"
PUNCTUATION_PATTERN = r"[!-/:-@\[-`{-~]"
SPACES_PATTERN = r"\s+"

_PATTERNS = {
    CLIP_PATTERN,
    CLIP_PATTERN.removeprefix(r"<\|startoftext\|>|<\|endoftext\|>|"),
    CONTROLS_PATTERN,
    TERMINAL_ESCAPE_PATTERN,
    FINAL_SIGMA_PATTERN,
    PUNCTUATION_PATTERN,
    SPACES_PATTERN,
    r" {2,}",
}
"""Regular expressions of the supported families and of `wordsight convert`; each takes linear time."""

_NORMALIZERS = "NFC NFD NFKC NFKD Nmt Lowercase Strip StripAccents BertNormalizer ByteLevel Replace Prepend Precompiled"
_PRE_TOKENIZERS = "BertPreTokenizer ByteLevel Metaspace Whitespace WhitespaceSplit Punctuation Digits Split"
_POST_PROCESSORS = "BertProcessing RobertaProcessing TemplateProcessing ByteLevel"
_DECODERS = "BPEDecoder ByteFallback ByteLevel Fuse Metaspace Replace Strip WordPiece"
_PARTS = {
    "normalizer": ("normalizers", _NORMALIZERS),
    "pre_tokenizer": ("pretokenizers", _PRE_TOKENIZERS),
    "post_processor": ("processors", _POST_PROCESSORS),
    "decoder": ("decoders", _DECODERS),
}


_ONCE = {"BertNormalizer", "ByteLevel", "Metaspace", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"}
"""Steps that can lengthen a text each time they run."""


class _Model(msgspec.Struct, omit_defaults=True):
    """The model of a `tokenizer.json`; its vocabulary and merges stay bytes."""

    vocab: msgspec.Raw
    type: str | None = None
    merges: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    dropout: float | None = None
    alpha: float | None = None
    nbest_size: int | None = None
    unk_token: str | None = None
    unk_id: int | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None
    max_input_chars_per_word: int | None = None


class _File(msgspec.Struct):
    """A `tokenizer.json`; padding and truncation, which the card states, are not read."""

    model: _Model
    version: str = "1.0"
    added_tokens: list[dict[str, Any]] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def checked_json(content: bytes) -> bytes:
    """Check a `tokenizer.json`, and return it with only the parts that have been checked.

    Raises:
        ValueError: a part is not supported, or exceeds a limit of this module.
        msgspec.DecodeError: the file is not JSON, or a value has another type.
    """
    _require(len(content) <= MAX_FILE_BYTES, f"more than {MAX_FILE_BYTES:,} bytes")
    _require(content.count(b",") <= MAX_VALUES, f"more than {MAX_VALUES:,} values")
    file = msgspec.json.decode(content, type=_File)
    _check_model(file.model)
    _require(len(file.added_tokens) <= MAX_ADDED_TOKENS, f"more than {MAX_ADDED_TOKENS:,} added tokens")
    contents = [str(token.get("content", "")) for token in file.added_tokens]
    _require(all(contents), "an added token without content")
    _require(sum(map(len, contents)) <= MAX_ADDED_BYTES, f"added tokens of over {MAX_ADDED_BYTES:,} characters")
    for part in _PARTS:
        _check_steps(part, list(_steps(part, getattr(file, part))))
    return msgspec.json.encode(file)


def check_sentencepiece(content: bytes) -> None:
    """Check a sentencepiece model.

    Raises:
        ValueError: it is not a sentencepiece model, or exceeds a limit of this module.
    """
    _require(len(content) <= MAX_FILE_BYTES, f"more than {MAX_FILE_BYTES:,} bytes")
    pieces = 0
    for field, value in protocol_buffer_fields(content, 0, len(content)):
        if not isinstance(value, tuple):
            continue
        start, end = value
        if field == 1:
            pieces += 1
            _require(end - start <= MAX_TOKEN_BYTES, f"a piece of over {MAX_TOKEN_BYTES:,} bytes")
        elif field in (3, 5):  # the normalizer and the denormalizer
            fields = protocol_buffer_fields(content, start, end)
            for first, last in (span for inner, span in fields if inner == 2 and isinstance(span, tuple)):
                _check_character_map(content[first:last])
        elif field == 4:
            _require(end - start <= _MAX_SELF_TEST_BYTES, f"self-tests of over {_MAX_SELF_TEST_BYTES:,} bytes")
    _require(0 < pieces <= MAX_PIECES, f"{pieces:,} pieces, expected 1 to {MAX_PIECES:,}")


def _require(claim: bool, reason: str) -> None:
    if not claim:
        raise ValueError(reason)


def _check_model(model: _Model) -> None:
    for key in ("dropout", "alpha", "nbest_size"):
        _require(not getattr(model, key), f"model.{key}: the ids of a text would be random")
    _require(
        (model.max_input_chars_per_word or 0) <= MAX_WORD_CHARACTERS,
        f"model.max_input_chars_per_word {model.max_input_chars_per_word}: expected at most {MAX_WORD_CHARACTERS}",
    )
    quotes = np.frombuffer(bytes(model.vocab), np.uint8)
    is_quote = quotes == ord('"')
    is_quote[1:] &= quotes[:-1] != ord("\\")
    positions = np.flatnonzero(is_quote)
    longest = int(np.diff(positions, prepend=0, append=len(quotes)).max())
    _require(longest <= MAX_TOKEN_BYTES, f"model.vocab: a token of over {MAX_TOKEN_BYTES:,} bytes")
    _require(len(positions) <= 2 * MAX_PIECES, f"model.vocab: more than {MAX_PIECES:,} tokens")


def _steps(part: str, step: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part in order, with the contents of sequences."""
    if step is None:
        return
    _require(isinstance(step, dict), f"{part}: expected an object")
    key, _ = _PARTS[part]
    if step.get("type") != "Sequence":
        yield step
        return
    inner = step.get(key)
    _require(isinstance(inner, list), f"{part}: a sequence without {key}")
    for each in inner or ():
        yield from _steps(part, each)


def _check_steps(part: str, steps: list[dict[str, Any]]) -> None:
    """Check the kind of each step, and how much all of them together can lengthen a text."""
    _require(len(steps) <= MAX_STEPS, f"{part}: {len(steps):,} steps, expected at most {MAX_STEPS:,}")
    kinds = _PARTS[part][1].split()
    seen: set[Any] = set()
    growth = _Growth()
    for step in steps:
        kind = step.get("type")
        _require(kind in kinds, f"{part} {ascii(kind)[:80]}: expected one of {', '.join(kinds)}")
        _require(kind not in seen or kind not in _ONCE, f"{part} {kind}: occurs twice")
        seen.add(kind)
        pattern = _pattern(part, step) if kind in ("Replace", "Split") else None
        if kind == "Replace":
            growth.replace(pattern, str(step.get("content", "")))
        elif kind == "Precompiled":
            growth.any_text(_check_character_map(_base64(step.get("precompiled_charsmap"))))
        else:
            growth.any_text(1)
        if kind == "Prepend":
            _require(len(str(step.get("prepend", ""))) <= MAX_GROWTH, f"{part}: prepends over {MAX_GROWTH} characters")
        elif kind == "Strip" and part == "decoder":
            counts = (step.get("start"), step.get("stop"))
            _require(all(type(count) is int and 0 <= count <= MAX_GROWTH for count in counts), f"{part}: {step}")
        elif kind == "TemplateProcessing":
            _check_template(step)
        _require(growth.factor <= MAX_GROWTH, f"{part}: makes a text over {MAX_GROWTH} times as long")


class _Growth:
    """An upper limit of the factor by which replacements, one after the other, lengthen a text.

    Replacements multiply only if a later one can match what an earlier one has written.
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._written: list[tuple[set[str] | None, float]] = []  # characters, or None for any, and their factor

    def replace(self, pattern: str | None, content: str) -> None:
        """Record a replacement; the pattern is None for a regular expression, which matches at least one character."""
        matched = [
            factor
            for characters, factor in self._written
            if characters is None or pattern is None or characters & set(pattern)
        ]
        factor = max([1.0, *matched]) * len(content) / len(pattern or "x")
        if factor > 1:
            self._written.append((set(content), factor))
            self.factor = max(self.factor, factor)

    def any_text(self, factor: int) -> None:
        """Record a step that may write any characters."""
        self.factor *= factor
        self._written = [(None, self.factor)]


def _check_template(step: dict[str, Any]) -> None:
    """A template may contain the text once, and a few special tokens."""
    for key, sequences in (("single", 1), ("pair", 2)):
        parts = step.get(key)
        is_list = isinstance(parts, list) and all(isinstance(each, dict) for each in parts)
        _require(is_list and len(parts or ()) <= MAX_ADDED_IDS, f"post_processor.{key}: expected a few parts")
        count = sum("Sequence" in each for each in parts or ())
        _require(count <= sequences, f"post_processor.{key}: contains the text {count} times")
    tokens = step.get("special_tokens")
    _require(isinstance(tokens, dict), "post_processor.special_tokens: expected an object")
    for token in (tokens or {}).values():
        ids = token.get("ids") if isinstance(token, dict) else None
        _require(isinstance(ids, list) and len(ids) <= MAX_ADDED_IDS, "post_processor.special_tokens: too many ids")


def _pattern(part: str, step: dict[str, Any]) -> str | None:
    """The string that a step searches; None for a regular expression, which must be a known one."""
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and len(pattern) == 1:
        if isinstance(pattern.get("String"), str) and pattern["String"]:
            return str(pattern["String"])
        if pattern.get("Regex") in _PATTERNS:
            return None
    raise ValueError(f"{part}: pattern {ascii(pattern)[:80]}: expected a string or a known regular expression")


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value or "", validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise ValueError("precompiled_charsmap: not base64") from error


def _check_character_map(content: bytes) -> int:
    """Check sentencepiece's map of characters: a double-array trie of 32-bit units, and the strings it points to.

    Returns:
        The number of bytes of the longest string.

    Source:
        google/sentencepiece `normalizer.cc: DecodePrecompiledCharsMap`, s-yata/darts-clone `darts.h: DoubleArrayUnit`.
    """
    if not content:
        return 1
    _require(len(content) > 4, "character map: too short")
    (trie_bytes,) = struct.unpack_from("<I", content)
    strings = content[4 + trie_bytes :]
    is_sound = trie_bytes % 1024 == 0 and 0 < trie_bytes < len(content) - 4 and strings.endswith(b"\0")
    _require(is_sound, "character map: broken")
    units = np.frombuffer(content, "<u4", trie_bytes // 4, 4)
    nodes = np.flatnonzero(units >> 31 == 0).astype(np.uint32)  # the other units are values
    offsets = (units[nodes] >> 10) << ((units[nodes] & (1 << 9)) >> 6)
    targets = nodes ^ offsets
    is_inside = units[0] >> 31 == 0 and bool(((targets | 0xFF) < len(units)).all())
    _require(is_inside, "character map: points outside its trie")
    values = units[targets[units[nodes] & (1 << 8) != 0]] & 0x7FFFFFFF
    _require(bool((values < len(strings)).all()), "character map: points outside its strings")
    ends = np.flatnonzero(np.frombuffer(strings, np.uint8) == 0)
    longest = int(np.diff(ends, prepend=-1).max()) - 1
    _require(longest <= MAX_EXPANSION_BYTES, f"character map: maps to {longest:,} bytes")
    return max(1, longest)


def protocol_buffer_fields(content: Any, start: int, end: int) -> Iterator[tuple[int, int | tuple[int, int]]]:
    """The fields of a protocol buffer: their numbers, with the value of an integer or the span of bytes.

    Args:
        content: bytes, or a file mapped into memory.
        start: first byte of the message.
        end: first byte after the message.

    Raises:
        ValueError: the message is broken.
    """
    position = start
    while position < end:
        tag, position = _varint(content, position, end)
        kind = tag & 7
        if kind == 0:
            value, position = _varint(content, position, end)
            yield tag >> 3, value
            continue
        if kind == 2:
            length, position = _varint(content, position, end)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(_BROKEN)
        _require(length <= end - position, _BROKEN)
        yield tag >> 3, (position, position + length)
        position += length


def _varint(content: Any, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end and shift < 64:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError(_BROKEN)
