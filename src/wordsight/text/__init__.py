"""Text to token ids: cleaning, byte-pair encoding and padding, without torch.

cleaning.py     text -> lower-case words, as in the published tokenizer
byte_pairs.py   word -> ids, with the published merges (clip_merges.bin)
tokenizer.py    texts -> (M, L) int32 rows with begin and end tokens, and ids -> text
families.py     tokenizers of other model families, which are read from files (sentencepiece, tokenizer.json)
truncation.py   counts texts that are longer than a model's context
"""

from wordsight.text.families import FileTokenizer, TextTokenizer, TokenizerConfig, TokenizerFile, build_tokenizer
from wordsight.text.tokenizer import CONTEXT_LENGTH, Tokenizer, clip_tokenizer, tokenize
from wordsight.text.truncation import TruncationCounts

__all__ = [
    "CONTEXT_LENGTH",
    "FileTokenizer",
    "TextTokenizer",
    "Tokenizer",
    "TokenizerConfig",
    "TokenizerFile",
    "TruncationCounts",
    "build_tokenizer",
    "clip_tokenizer",
    "tokenize",
]
