"""Files of weights to models and back; one module a format, one card a file.

card.py   what a file of weights is: architecture, preprocessing, tokenizer, source, hash, training
own.py    the format that wordsight writes: a folder with model.safetensors and wordsight.json
"""

from wordsight.weights.card import Card, TokenizerConfig

__all__ = ["Card", "TokenizerConfig"]
