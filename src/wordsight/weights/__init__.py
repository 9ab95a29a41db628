"""Files of weights to models and back; one module a format, one card a file.

card.py            what a file of weights is: architecture, preprocessing, tokenizer, source, hash, training
found.py           what every reader gives: tensors under our names, the card, the tokenizer's files
reading.py         any file or directory -> Checkpoint: read this first
  own.py             ours: model.safetensors and wordsight.json
  openai.py          OpenAI's TorchScript archives; shapes.py tells their architecture
  open_clip.py       open_clip's directories, by open_clip_config.py
  hugging_face.py    transformers' CLIPModel and SiglipModel, by hugging_face_config.py
  checkpoints.py     weights alone, of an architecture that the user names
layouts.py         our names of tensors <-> those of other projects
archives.py        files of torch as data, by zip_directory.py and pickled.py; nothing in them is run
tensors.py         safetensors, one file or several
exported.py        a directory of ONNX graphs, as far as it can be read without torch
convert.py         a model in another format: onnx.py, tokenizer_settings.py; its proof: certificate.py, probes.py
published.py       published weights: cards/*.toml; fetched by resolve.py, hub.py, digests.py into cache.py
"""

from wordsight.weights.card import Card, TokenizerConfig

__all__ = ["Card", "TokenizerConfig"]
