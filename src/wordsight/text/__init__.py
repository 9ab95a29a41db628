"""Texts to token ids: cleaning, byte-pair encoding, padded rows. NumPy, regex and ftfy alone; no torch.

cleaning.py     str -> the lower-case words that the published tokenizer sees
byte_pairs.py   word -> ids, by the published merges (clip_merges.bin)
tokenizer.py    texts -> (M, L) int32 rows between begin and end, and back
families.py     the same by the files of other families: sentencepiece, tokenizer.json
"""

from wordsight.text.families import FileTokenizer, TextTokenizer, TokenizerConfig, TokenizerFile, build_tokenizer
from wordsight.text.tokenizer import CONTEXT_LENGTH, Tokenizer, clip_tokenizer, tokenize

__all__ = [
    "CONTEXT_LENGTH",
    "FileTokenizer",
    "TextTokenizer",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerFile",
    "build_tokenizer",
    "clip_tokenizer",
    "tokenize",
]
