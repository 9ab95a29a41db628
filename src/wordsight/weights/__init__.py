"""Checkpoints: read from files into models, written in other formats, downloaded by name.

card.py            Card: architecture, preprocessing, tokenizer, source and hash of a checkpoint in one frozen object
checkpoint.py      Checkpoint: the result of every reader, from which the model is built
shapes.py          the architecture that tensor shapes imply; comparison of shapes with a configuration
read.py            read any file or directory; start here
mistaken.py        what is often found in place of a file: Git LFS pointers, web pages, unfinished downloads
convert.py         write a model in another format
certificate.py     proof that a written model computes the same as its source
containers/        zip archives, pickles and safetensors, read as data; nothing in them is executed
formats/           one module per format: wordsight, openai, open_clip, hugging_face, state_dict, onnx
hub/               the catalogue of published weights (cards/*.toml) and how they are downloaded
"""

from wordsight.weights.card import Card, TokenizerConfig

__all__ = ["Card", "TokenizerConfig"]
