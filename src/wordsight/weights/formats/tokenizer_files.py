"""What transformers and open_clip want to read beside a tokenizer's own file: the symbols by which a card's ids go.

The published CLIP tokenizer has no file here; for transformers its vocabulary and merges are written out.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from wordsight.text import TokenizerConfig, TokenizerFile, clip_tokenizer

_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"


def tokenizer_settings(config: TokenizerConfig, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files, by name, that stand beside the tokenizer's own.

    Args:
        files: the tokenizer's own file under its name.

    Raises:
        ConfigError: that file cannot be read.
    """
    if config.family == "clip":
        return _published(config)
    file = TokenizerFile(config.family, config.file, files[config.file])
    settings: dict[str, Any] = {
        "tokenizer_class": "SiglipTokenizer" if config.removes_punctuation else "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "padding_side": config.padding_side,
        "do_lower_case": config.lower_case,
        "pad_token": file.symbol_of(config.pad_id),
    }
    for name, id in (("bos", config.begin_id), ("eos", config.end_id)):
        if id is not None:
            settings |= {f"{name}_token": file.symbol_of(id), f"add_{name}_token": True}
    return {"tokenizer_config.json": _json(settings)}


def _published(config: TokenizerConfig) -> dict[str, bytes]:
    encoder = clip_tokenizer(config.context_length).encoder
    symbols = [*encoder.symbols[: encoder.begin_id], _BEGIN, _END]
    merges = "\n".join(["#version: 0.2", *(f"{symbols[a]} {symbols[b]}" for a, b in encoder.merges.T.tolist()), ""])
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": config.context_length,
        "do_lower_case": True,
        "bos_token": _BEGIN,
        "eos_token": _END,
        "unk_token": _END,
        "pad_token": _END,
    }
    return {
        "vocab.json": _json({symbol: id for id, symbol in enumerate(symbols)}),
        "merges.txt": merges.encode(),
        "tokenizer_config.json": _json(settings),
    }


def _json(content: Mapping[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
