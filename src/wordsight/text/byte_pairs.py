"""Byte-pair encoding of words (Sennrich et al. 2016, arXiv 1508.07909), on bytes as in the published CLIP tokenizer.

Every byte is represented by one printable character: itself if it is printable in Latin-1, otherwise a character from
U+0100 on. The vocabulary consists, in the order of the ids, of the 256 bytes (printable ones first), the same 256 bytes
at the end of a word (with `</w>` appended), one symbol per merge, and the two special tokens.

A merge is stored as the ids of its two parts. The merge at index i of the list produces the id 512 + i; merges with a
lower index are applied first.

`clip_merges.bin` contains the 48,894 merges of `bpe_simple_vocab_16e6.txt.gz` that the published models use (OpenAI,
MIT licence; github.com/openai/CLIP, also in the package open_clip_torch). It was made from lines 2 to 48,895 of that
file: the ids of all left parts, followed by those of all right parts, as little-endian uint16, compressed with zlib at
level 9. A test rebuilds it from that file and compares.
"""

import functools
import heapq
import itertools
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import regex

from wordsight.text.cleaning import TEXT_SEPARATOR, split_words

BEGIN = "<start_of_text>"
END = "<end_of_text>"
END_OF_WORD = "</w>"

_MERGES_FILE = Path(__file__).with_name("clip_merges.bin")
_PATTERN = rf"{BEGIN}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_UNPRINTABLE = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
_CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {
    byte: chr(256 + i) for i, byte in enumerate(_UNPRINTABLE)
}
_BYTE_OF_CHARACTER = {ord(character): byte for byte, character in _CHARACTER_OF_BYTE.items()}
_LAST_BYTE_OFFSET = 256
_FIRST_MERGE_ID = 512
_NO_MERGE = 1 << 16
_REMOVED = -1
_SHORT_WORD_BYTES = 64
_MAX_CACHED_WORDS = 1 << 16
_MAX_CACHED_WORD_LENGTH = 32
_TEXTS_PER_BLOCK = 512
_PACKED_SEPARATOR = b"\xff\xff"  # not part of any id: the high byte of an id is at most 0xC0


class BytePairEncoder:
    """Encode words with a list of merges; a bounded cache holds the ids of words encoded before.

    A word that is itself a symbol of the vocabulary is looked up instead of merged. For the published merges both give
    the same id, which a test verifies for all 34,483 such symbols.

    Args:
        merges: (2, R) uint16, the ids of the left and right parts of R merges, highest priority first. The parts of a
            merge have lower ids than its result.

    Attributes:
        merges: the argument.
        begin_id: the id of `<start_of_text>`.
        end_id: the id of `<end_of_text>`, the highest id.
    """

    def __init__(self, merges: np.ndarray) -> None:
        single_bytes = list(_CHARACTER_OF_BYTE.values())
        left, right = merges.astype(np.int64)
        self.merges = merges
        self.begin_id: int = _FIRST_MERGE_ID + merges.shape[1]
        self.end_id: int = self.begin_id + 1
        self._merged = dict(zip((left << 16 | right).tolist(), range(_FIRST_MERGE_ID, self.begin_id), strict=True))
        self._symbols = [*single_bytes, *(character + END_OF_WORD for character in single_bytes)]
        for left_id, right_id in zip(left.tolist(), right.tolist(), strict=True):
            self._symbols.append(self._symbols[left_id] + self._symbols[right_id])
        self._symbols += [BEGIN, END]
        self._id_of_symbol = dict(zip(self._symbols, range(self.end_id + 1), strict=True))
        self._split_tokens: Callable[[str], list[str]] = regex.compile(_PATTERN, regex.IGNORECASE).findall
        self._word_cache = _WordCache(self._pack_word)

    @property
    def symbols(self) -> list[str]:
        """The symbol of every id as in the published vocabulary, with bytes as printable characters; a new list."""
        return list(self._symbols)

    def __reduce__(self) -> tuple[type["BytePairEncoder"], tuple[np.ndarray]]:
        return BytePairEncoder, (self.merges,)  # the cache of words is not pickled

    def pack(self, texts: Sequence[str]) -> list[bytes]:
        """Encode texts without begin and end tokens; the ids of each text are packed as native-endian uint16."""
        packed: list[bytes] = []
        for start in range(0, len(texts), _TEXTS_PER_BLOCK):
            words = split_words(texts[start : start + _TEXTS_PER_BLOCK])
            packed += self._pack_words(words).split(_PACKED_SEPARATOR)
        return packed

    def unpack(self, ids: Iterable[int]) -> str:
        """Decode ids, which must be in the vocabulary; words end with a space, and invalid UTF-8 becomes U+FFFD."""
        characters = "".join([self._symbols[id] for id in ids])
        utf8 = characters.translate(_BYTE_OF_CHARACTER).encode("latin-1")
        return utf8.decode("utf-8", "replace").replace(END_OF_WORD, " ")

    def _pack_words(self, words: Iterable[str]) -> bytes:
        return b"".join(map(self._word_cache.__getitem__, words))

    def _pack_word(self, word: str) -> bytes:
        if not (word.isascii() and word.isalpha()):
            if word == TEXT_SEPARATOR:
                return _PACKED_SEPARATOR
            tokens = self._split_tokens(word)
            if tokens != [word]:
                return self._pack_words(tokens)  # recurses once: a token splits into itself
            if word in (BEGIN, END):
                return self._id_of_symbol[word].to_bytes(2, sys.byteorder)
            word = word.encode().decode("latin-1").translate(_CHARACTER_OF_BYTE)
        word_id = self._id_of_symbol.get(word + END_OF_WORD)
        if word_id is not None:
            return word_id.to_bytes(2, sys.byteorder)
        ids = [self._id_of_symbol[character] for character in word]
        ids[-1] += _LAST_BYTE_OFFSET
        merge = _merge_short if len(ids) <= _SHORT_WORD_BYTES else _merge_long
        return array("H", merge(ids, self._merged)).tobytes()


class _WordCache(dict[str, bytes]):
    """A cache of packed words. A full cache is cleared; frequent words refill it immediately."""

    def __init__(self, pack_word: Callable[[str], bytes]) -> None:
        super().__init__()
        self._pack_word = pack_word

    def __missing__(self, word: str) -> bytes:
        packed = self._pack_word(word)
        if len(word) <= _MAX_CACHED_WORD_LENGTH:
            if len(self) >= _MAX_CACHED_WORDS:
                self.clear()
            self[word] = packed
        return packed


def _merge_short(ids: list[int], merged: dict[int, int]) -> list[int]:
    """Apply merges in the order of their index and, for the same merge, from left to right; modifies `ids`.

    The published loop applies a merge everywhere in the word before it looks for the next one. Applying it at one
    position at a time has the same result, because a symbol is produced by exactly one merge and only merges with a
    higher index use it.
    """
    results = [merged.get(left << 16 | right, _NO_MERGE) for left, right in itertools.pairwise(ids)]
    while results and (result := min(results)) != _NO_MERGE:
        position = results.index(result)
        ids[position] = result
        del ids[position + 1], results[position]
        if position < len(results):
            results[position] = merged.get(result << 16 | ids[position + 1], _NO_MERGE)
        if position:
            results[position - 1] = merged.get(ids[position - 1] << 16 | result, _NO_MERGE)
    return ids


def _merge_long(ids: list[int], merged: dict[int, int]) -> list[int]:
    """Like `_merge_short` in O(n log n), with a heap and a linked list; a word can be a megabyte long."""
    count = len(ids)
    next_index = list(range(1, count + 1))
    previous_index = list(range(-1, count - 1))
    heap: list[tuple[int, int]] = []

    def push(left: int, right: int) -> None:
        result = merged.get(ids[left] << 16 | ids[right])
        if result is not None:
            heapq.heappush(heap, (result, left))

    for left in range(count - 1):
        push(left, left + 1)
    while heap:
        result, left = heapq.heappop(heap)
        right = next_index[left]
        if right == count or merged.get(ids[left] << 16 | ids[right]) != result:
            continue  # outdated: one of the two has been merged with its other neighbour
        ids[left], ids[right] = result, _REMOVED
        next_index[left] = next_index[right]
        if next_index[left] < count:
            previous_index[next_index[left]] = left
            push(left, next_index[left])
        if previous_index[left] >= 0:
            push(previous_index[left], left)
    return [id for id in ids if id != _REMOVED]


@functools.cache
def clip_encoder() -> BytePairEncoder:
    """Return the encoder with the published merges, built once; all tokenizers of a process share its cache."""
    merges = np.frombuffer(zlib.decompress(_MERGES_FILE.read_bytes()), dtype="<u2").reshape(2, -1)
    return BytePairEncoder(merges)
