"""Read and write tokenizer files in the format that transformers and open_clip share.

A tokenizer is one file with the vocabulary (`tokenizer.json`, or a sentencepiece model such as `spiece.model`) and
settings in `tokenizer_config.json` and `special_tokens_map.json`. Models with the published CLIP tokenizer need none of
these files; for transformers it is written out (`tokenizer_json.py`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wordsight.errors import WeightsError
from wordsight.files import write_atomic
from wordsight.text import FileTokenizer, TokenizerConfig, TokenizerFile
from wordsight.weights.card import MAX_TOKENIZER_BYTES
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.json_files import encode_json
from wordsight.weights.formats.tokenizer_json import (
    BEGIN,
    END,
    JSON_NAME,
    MERGES_NAME,
    VOCABULARY_NAME,
    clip_files,
    decode_object,
    with_cleaning,
)

_SPIECE_NAME = "spiece.model"
_VOCABULARY_NAMES = (_SPIECE_NAME, JSON_NAME, "tokenizer.model", "sentencepiece.bpe.model")
_SETTINGS_NAME = "tokenizer_config.json"
_SETTINGS_NAMES = (_SETTINGS_NAME, "special_tokens_map.json")
_CLIP_NAMES = (VOCABULARY_NAME, MERGES_NAME)
_PADS_LEFT = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
"""Tokenizer classes of transformers that pad on the left unless their settings say otherwise."""


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """Read the tokenizer files of a directory.

    Returns:
        The bytes of those vocabulary and settings files that exist, by name.

    Raises:
        WeightsError: a file is larger than any tokenizer, or cannot be read.
    """
    files = {}
    for name in (*_VOCABULARY_NAMES, *_CLIP_NAMES, *_SETTINGS_NAMES):
        path = directory / name
        try:
            if not path.is_file():
                continue
            if path.stat().st_size > MAX_TOKENIZER_BYTES:
                raise WeightsError(
                    f"{path}: more than {MAX_TOKENIZER_BYTES:,} bytes, not a tokenizer; download it again"
                )
            files[name] = path.read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise WeightsError(f"{path}: cannot be read: {reason}; check its permissions") from error
    return files


def read_settings(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    """The settings of a tokenizer: both settings files in one dictionary; `tokenizer_config.json` takes precedence.

    Args:
        files: as `tokenizer_files` returns them.
        where: the directory, named in errors.

    Raises:
        WeightsError: a settings file is not a JSON object.
    """
    settings: dict[str, Any] = {}
    for name in reversed(_SETTINGS_NAMES):
        content = decode_object(files, name, where) if name in files else {}
        settings |= content
    return settings


def has_vocabulary(files: Mapping[str, bytes]) -> bool:
    """Whether there is a file from which `read_tokenizer` can read the vocabulary."""
    return any(name in files for name in _VOCABULARY_NAMES)


def is_siglip_tokenizer(settings: Mapping[str, Any]) -> bool:
    """Whether settings name transformers' SiglipTokenizer."""
    return str(settings.get("tokenizer_class", "")).startswith("SiglipTokenizer")


def read_tokenizer(
    files: Mapping[str, bytes], context_length: int, vocabulary_size: int, where: str, pad_token: str | None = None
) -> TokenizerConfig:
    """Read family, begin, end and padding ids, and padding side of a tokenizer from its files.

    If there is a `spiece.model` and the settings name SiglipTokenizer, sentencepiece reads it, as in transformers.
    Otherwise `tokenizer.json` is preferred to a sentencepiece model. Texts of a SiglipTokenizer always have an end id.

    Args:
        files: as `tokenizer_files` returns them.
        context_length: number of ids in a row.
        vocabulary_size: rows of the model's token embedding.
        where: the directory, named in errors.
        pad_token: the padding symbol if the settings name none.

    Raises:
        WeightsError: there is no vocabulary file, or its ids do not fit the vocabulary of the model.
        ConfigError: the file is broken, or lacks the symbols that the settings name.
    """
    settings = read_settings(files, where)
    is_siglip = is_siglip_tokenizer(settings)
    names = sorted((name for name in _VOCABULARY_NAMES if name in files), key=lambda name: name != JSON_NAME)
    if is_siglip and _SPIECE_NAME in files:
        names = [_SPIECE_NAME]
    if not names:
        raise WeightsError(
            f"{where}: a vocabulary of {vocabulary_size} needs its own tokenizer: "
            f"add the model's {JSON_NAME} or {_SPIECE_NAME}"
        )
    family = "tokenizers" if names[0] == JSON_NAME else "sentencepiece"
    file = TokenizerFile(family, names[0], files[names[0]])  # type: ignore[arg-type]
    symbols = {key: _symbol(settings.get(f"{key}_token")) for key in ("bos", "eos", "pad")}
    if is_siglip:
        symbols = {"bos": None, "eos": symbols["eos"] or "</s>", "pad": symbols["pad"] or "</s>"}
    symbols["pad"] = symbols["pad"] or pad_token
    if symbols["pad"] is None:
        raise WeightsError(f"{where}: {_SETTINGS_NAME} has no pad_token, so texts cannot be padded; add it")
    begin, end = _begin_and_end(file, settings, symbols)
    side = settings.get("padding_side") or ("left" if settings.get("tokenizer_class") in _PADS_LEFT else "right")
    if side not in ("left", "right"):
        raise WeightsError(f"{where}: padding_side {side!r}: expected left or right")
    config = TokenizerConfig(
        family=family,  # type: ignore[arg-type]
        context_length=context_length,
        begin_id=begin,
        end_id=end,
        pad_id=file.id_of(symbols["pad"]),
        padding_side=side,  # type: ignore[arg-type]
        file=file.name,
        file_sha256=file.sha256,
    )
    if not FileTokenizer(config, files[file.name]).fits(vocabulary_size):
        raise WeightsError(
            f"{where}: {file.name} has ids beyond the model's vocabulary of {vocabulary_size}; "
            "it belongs to another model"
        )
    return config


def write_tokenizer(checkpoint: Checkpoint, directory: Path, processor: str = "") -> None:
    """Write the tokenizer of a checkpoint: its own file, and its settings.

    Args:
        checkpoint: its tokenizer is written.
        directory: the output directory.
        processor: transformers' class of processor, CLIPProcessor or SiglipProcessor, if transformers' AutoTokenizer
            is to clean texts as the card says. By default the program that reads the files does it, as open_clip.

    Raises:
        ConfigError: the tokenizer's own file cannot be read.
        OutputError: a file cannot be written.
    """
    config, files = checkpoint.card.tokenizer, dict(checkpoint.files)
    if config.family == "clip":
        files, settings = clip_files(config), _CLIP_SETTINGS | {"model_max_length": config.context_length}
    else:
        settings = tokenizer_settings(config, files)
        if processor and config.family == "tokenizers":
            files = {JSON_NAME: with_cleaning(files[config.file], config)}
    if processor:
        inputs = ["input_ids"] if processor.startswith("Siglip") else ["input_ids", "attention_mask"]
        settings |= {"model_input_names": inputs, "processor_class": processor}
    for name, content in {**files, _SETTINGS_NAME: encode_json(settings)}.items():
        write_atomic(directory / name, content)


_CLIP_SETTINGS: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",  # CLIPTokenizer would replace the normalizer of tokenizer.json
    "do_lower_case": True,
    "bos_token": BEGIN,
    "eos_token": END,
    "unk_token": END,
    "pad_token": END,
}


def tokenizer_settings(config: TokenizerConfig, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The content of `tokenizer_config.json`, which transformers and open_clip need next to the tokenizer's own file.

    Args:
        config: the tokenizer, which is not of the family `clip`.
        files: the tokenizer's own file under its name.

    Raises:
        ConfigError: the tokenizer's own file cannot be read.
    """
    file = TokenizerFile(config.family, config.file, files[config.file])
    settings: dict[str, Any] = {
        "tokenizer_class": "SiglipTokenizer" if config.family == "sentencepiece" else "PreTrainedTokenizerFast",
        "model_max_length": config.context_length,
        "padding_side": config.padding_side,
        "do_lower_case": config.lower_case,
        "pad_token": file.symbol_of(config.pad_id),
    }
    for name, id in (("bos", config.begin_id), ("eos", config.end_id)):
        if id is not None:
            settings |= {f"{name}_token": file.symbol_of(id), f"add_{name}_token": True}
    return settings


def _symbol(value: Any) -> str | None:
    """A symbol in settings, which is a string or an object with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _begin_and_end(
    file: TokenizerFile, settings: Mapping[str, Any], symbols: Mapping[str, str | None]
) -> tuple[int | None, int | None]:
    """Begin and end ids; those that a `tokenizer.json` adds take precedence over the settings, as in transformers."""
    added = file.added_ids()
    if added is not None:
        return added
    bos, eos = symbols["bos"], symbols["eos"]
    return (file.id_of(bos) if settings.get("add_bos_token") and bos else None), (file.id_of(eos) if eos else None)
