"""Words to ids by byte-pair merges (Sennrich et al. 2016, arXiv 1508.07909), over bytes as the published CLIP does it.

Every byte is written as one character that prints: itself where it prints in Latin-1, else one from U+0100 on. The
vocabulary, in order of ids: the 256 bytes (those that print first), the same 256 as the last of a word (`</w>`), one
symbol for each merge, and the two specials.

`clip_merges.bin` holds the 48,894 merges that the published models use of `bpe_simple_vocab_16e6.txt.gz` (OpenAI,
MIT licence; github.com/openai/CLIP, also in the package open_clip_torch): lines 2 to 48,895 of that file as they
are, UTF-8, joined by line feeds and compressed with zlib at level 9. A test makes it again.
"""

import functools
import heapq
import itertools
import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

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
_NO_MERGE = 1 << 30
_SHORT_WORD_SYMBOLS = 64
_CACHED_WORDS = 1 << 16
_CACHED_WORD_CHARACTERS = 32
_BLOCK_TEXTS = 512
_BETWEEN_PACKED = b"\xff\xff"  # the high byte of an id is at most 0xC0, so these two are found nowhere else


class BytePairEncoder:
    """The ids of words under a list of merges, with a bounded memory of the words that it has met.

    A word that is a symbol as a whole is not merged anew but looked up; of the published merges that is what
    merging gives, and a test shows it for each of the 34,342.

    Args:
        merges: one merge a line, `left right`, the first to be applied first; the parts of a merge come before it.
    """

    def __init__(self, merges: str) -> None:
        bytes_alone = list(_CHARACTER_OF_BYTE.values())
        self.merges = merges
        self.symbols = [*bytes_alone, *(character + END_OF_WORD for character in bytes_alone)]
        self.symbols += merges.replace(" ", "").split("\n")
        self.symbols += [BEGIN, END]
        self.begin_id, self.end_id = len(self.symbols) - 2, len(self.symbols) - 1
        self._id_of_symbol = dict(zip(self.symbols, range(len(self.symbols)), strict=True))
        self._ranks = dict(zip(merges.split("\n"), itertools.count()))
        self._tokens_of: Callable[[str], list[str]] = regex.compile(_PATTERN, regex.IGNORECASE).findall
        self._packed = _WordCache(self._pack_word)

    def __reduce__(self) -> tuple[type["BytePairEncoder"], tuple[str]]:
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
        characters = "".join([self.symbols[id] for id in ids])
        written = characters.translate(_BYTE_OF_CHARACTER).encode("latin-1")
        return written.decode("utf-8", "replace").replace(END_OF_WORD, " ")

    def _pack_words(self, words: Iterable[str]) -> bytes:
        return b"".join(map(self._packed.__getitem__, words))

    def _pack_word(self, word: str) -> bytes:
        if word == BETWEEN:
            return _BETWEEN_PACKED
        tokens = [word] if word.isascii() and word.isalpha() else self._tokens_of(word)
        if tokens != [word]:
            return self._pack_words(tokens)  # a token, taken alone, is one token again
        return array("H", self._ids_of_token(word)).tobytes()

    def _ids_of_token(self, token: str) -> list[int]:
        if token in (BEGIN, END):
            return [self._id_of_symbol[token]]
        characters = token.encode().decode("latin-1").translate(_CHARACTER_OF_BYTE)
        whole = self._id_of_symbol.get(characters + END_OF_WORD)
        if whole is not None:
            return [whole]
        merge = _merge_short if len(characters) <= _SHORT_WORD_SYMBOLS else _merge_long
        symbols = merge([*characters[:-1], characters[-1] + END_OF_WORD], self._ranks)
        return [self._id_of_symbol[symbol] for symbol in symbols]


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


def _merge_short(symbols: list[str], ranks: dict[str, int]) -> list[str]:
    """Apply the merges of lowest rank first and, within a rank, from the left.

    The published loop searches the whole word for a merge before it takes the next. A symbol is made by one merge
    alone and only later merges use it, so that taking one place at a time keeps its order.
    """
    found = [ranks.get(f"{left} {right}", _NO_MERGE) for left, right in itertools.pairwise(symbols)]
    while found and (rank := min(found)) != _NO_MERGE:
        at = found.index(rank)
        symbols[at] += symbols[at + 1]
        del symbols[at + 1], found[at]
        if at < len(found):
            found[at] = ranks.get(f"{symbols[at]} {symbols[at + 1]}", _NO_MERGE)
        if at:
            found[at - 1] = ranks.get(f"{symbols[at - 1]} {symbols[at]}", _NO_MERGE)
    return symbols


def _merge_long(symbols: list[str], ranks: dict[str, int]) -> list[str]:
    """The same by a heap, in n log n: a word of a megabyte is a text that somebody can send."""
    count = len(symbols)
    following = list(range(1, count + 1))
    preceding = list(range(-1, count - 1))
    heap: list[tuple[int, int]] = []

    def offer(left: int, right: int) -> None:
        rank = ranks.get(f"{symbols[left]} {symbols[right]}")
        if rank is not None:
            heapq.heappush(heap, (rank, left))

    for left in range(count - 1):
        offer(left, left + 1)
    while heap:
        rank, left = heapq.heappop(heap)
        right = following[left]
        if right == count or ranks.get(f"{symbols[left]} {symbols[right]}") != rank:
            continue  # one of the two has been merged with another neighbour since
        symbols[left], symbols[right] = symbols[left] + symbols[right], ""
        following[left] = following[right]
        if following[left] < count:
            preceding[following[left]] = left
            offer(left, following[left])
        if preceding[left] >= 0:
            offer(preceding[left], left)
    return [symbol for symbol in symbols if symbol]


@functools.cache
def clip_encoder() -> BytePairEncoder:
    """The encoder of the published models, read once; every tokenizer of this process shares its memory of words."""
    return BytePairEncoder(zlib.decompress(_MERGES_FILE.read_bytes()).decode())
