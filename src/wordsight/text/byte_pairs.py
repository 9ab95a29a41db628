"""Words to ids by byte-pair merges (Sennrich et al. 2016, arXiv 1508.07909), over bytes as the published CLIP does it.

Every byte is written as one character that prints: itself where it prints in Latin-1, else one from U+0100 on. The
vocabulary, in order of ids: the 256 bytes (those that print first), the same 256 as the last of a word (`</w>`), one
symbol for each merge, and the two specials.

A merge is known by the ids of its two parts, and its result by 512 + its rank.

`clip_merges.bin` holds the 48,894 merges that the published models use of `bpe_simple_vocab_16e6.txt.gz` (OpenAI,
MIT licence; github.com/openai/CLIP, also in the package open_clip_torch). It was made from lines 2 to 48,895 of that
file by writing the ids of all left parts, then those of all right parts, as little-endian uint16, and compressing
that with zlib at level 9. A test makes it again.
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

from wordsight.text.cleaning import BETWEEN, words_of

BEGIN = "<start_of_text>"
END = "<end_of_text>"
END_OF_WORD = "</w>"

_MERGES_FILE = Path(__file__).with_name("clip_merges.bin")
_PATTERN = rf"{BEGIN}|{END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_PRINTING = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = tuple(byte for byte in range(256) if byte not in _PRINTING)
_CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTING} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
_BYTE_OF_CHARACTER = {ord(character): byte for byte, character in _CHARACTER_OF_BYTE.items()}
_LAST_BYTE_OFFSET = 256
_FIRST_MERGE_ID = 512
_NO_MERGE = 1 << 16
_GONE = -1
_SHORT_WORD_BYTES = 64
_CACHED_WORDS = 1 << 16
_CACHED_WORD_CHARACTERS = 32
_BLOCK_TEXTS = 512
_BETWEEN_PACKED = b"\xff\xff"  # the high byte of an id is at most 0xC0, so these two are found nowhere else


class BytePairEncoder:
    """The ids of words under a list of merges, with a bounded memory of the words that it has met.

    A word that is a symbol as a whole is not merged anew but looked up; of the published merges that is what
    merging gives, and a test shows it for each of the 34,483.

    Args:
        merges: (2, R) uint16, the ids of the left and right parts, the merge to be applied first at first; parts
            come before their merge.
    """

    def __init__(self, merges: np.ndarray) -> None:
        bytes_alone = list(_CHARACTER_OF_BYTE.values())
        left, right = merges.astype(np.int64)
        self.merges = merges
        self.begin_id: int = _FIRST_MERGE_ID + merges.shape[1]
        self.end_id: int = self.begin_id + 1
        self._merged = dict(zip((left << 16 | right).tolist(), range(_FIRST_MERGE_ID, self.begin_id), strict=True))
        self._symbols = [*bytes_alone, *(character + END_OF_WORD for character in bytes_alone)]
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            self._symbols.append(self._symbols[one] + self._symbols[other])
        self._symbols += [BEGIN, END]
        self._id_of_symbol = dict(zip(self._symbols, range(self.end_id + 1), strict=True))
        self._tokens_of: Callable[[str], list[str]] = regex.compile(_PATTERN, regex.IGNORECASE).findall
        self._packed = _WordCache(self._pack_word)

    @property
    def symbols(self) -> list[str]:
        """Every id's symbol as the published vocabulary writes it, bytes as printable characters; a new list."""
        return list(self._symbols)

    def __reduce__(self) -> tuple[type["BytePairEncoder"], tuple[np.ndarray]]:
        return BytePairEncoder, (self.merges,)  # another process fills its own memory of words

    def pack(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text as native uint16, without begin and end."""
        packed: list[bytes] = []
        for start in range(0, len(texts), _BLOCK_TEXTS):
            words = words_of(texts[start : start + _BLOCK_TEXTS])
            packed += self._pack_words(words).split(_BETWEEN_PACKED)
        return packed

    def unpack(self, ids: Iterable[int]) -> str:
        """The text of ids that are all in the vocabulary: words end with a space, bad UTF-8 becomes U+FFFD."""
        characters = "".join([self._symbols[id] for id in ids])
        written = characters.translate(_BYTE_OF_CHARACTER).encode("latin-1")
        return written.decode("utf-8", "replace").replace(END_OF_WORD, " ")

    def _pack_words(self, words: Iterable[str]) -> bytes:
        return b"".join(map(self._packed.__getitem__, words))

    def _pack_word(self, word: str) -> bytes:
        if not (word.isascii() and word.isalpha()):
            if word == BETWEEN:
                return _BETWEEN_PACKED
            tokens = self._tokens_of(word)
            if tokens != [word]:
                return self._pack_words(tokens)  # a token, taken alone, is one token again
            if word in (BEGIN, END):
                return self._id_of_symbol[word].to_bytes(2, sys.byteorder)
            word = word.encode().decode("latin-1").translate(_CHARACTER_OF_BYTE)
        whole = self._id_of_symbol.get(word + END_OF_WORD)
        if whole is not None:
            return whole.to_bytes(2, sys.byteorder)
        ids = [self._id_of_symbol[character] for character in word]
        ids[-1] += _LAST_BYTE_OFFSET
        merge = _merge_short if len(ids) <= _SHORT_WORD_BYTES else _merge_long
        return array("H", merge(ids, self._merged)).tobytes()


class _WordCache(dict[str, bytes]):
    """Remembers what a function made of a word. When full it starts anew: frequent words are back at once."""

    def __init__(self, pack_word: Callable[[str], bytes]) -> None:
        super().__init__()
        self._pack_word = pack_word

    def __missing__(self, word: str) -> bytes:
        packed = self._pack_word(word)
        if len(word) <= _CACHED_WORD_CHARACTERS:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = packed
        return packed


def _merge_short(ids: list[int], merged: dict[int, int]) -> list[int]:
    """Apply the merges of lowest rank first and, within a rank, from the left; changes `ids`.

    The published loop searches the whole word for a merge before it takes the next. A symbol is made by one merge
    alone and only later merges use it, so that taking one place at a time keeps its order.
    """
    results = [merged.get(left << 16 | right, _NO_MERGE) for left, right in itertools.pairwise(ids)]
    while results and (result := min(results)) != _NO_MERGE:
        at = results.index(result)
        ids[at] = result
        del ids[at + 1], results[at]
        if at < len(results):
            results[at] = merged.get(result << 16 | ids[at + 1], _NO_MERGE)
        if at:
            results[at - 1] = merged.get(ids[at - 1] << 16 | result, _NO_MERGE)
    return ids


def _merge_long(ids: list[int], merged: dict[int, int]) -> list[int]:
    """The same by a heap, in n log n: a word of a megabyte is a text that somebody can send."""
    count = len(ids)
    following = list(range(1, count + 1))
    preceding = list(range(-1, count - 1))
    heap: list[tuple[int, int]] = []

    def offer(left: int, right: int) -> None:
        result = merged.get(ids[left] << 16 | ids[right])
        if result is not None:
            heapq.heappush(heap, (result, left))

    for left in range(count - 1):
        offer(left, left + 1)
    while heap:
        result, left = heapq.heappop(heap)
        right = following[left]
        if right == count or merged.get(ids[left] << 16 | ids[right]) != result:
            continue  # one of the two has been merged with another neighbour since
        ids[left], ids[right] = result, _GONE
        following[left] = following[right]
        if following[left] < count:
            preceding[following[left]] = left
            offer(left, following[left])
        if preceding[left] >= 0:
            offer(preceding[left], left)
    return [id for id in ids if id != _GONE]


@functools.cache
def clip_encoder() -> BytePairEncoder:
    """The encoder of the published models, read once; every tokenizer of this process shares its memory of words."""
    merges = np.frombuffer(zlib.decompress(_MERGES_FILE.read_bytes()), dtype="<u2").reshape(2, -1)
    return BytePairEncoder(merges)
