"""Write `tokenizer.json` for transformers, with wordsight's cleaning of texts as the file's own normalizer.

transformers ignores most settings of cleaning next to a `tokenizer.json` (`do_lower_case`, for example), and it does
not run ftfy. The steps that a normalizer of the tokenizers library can express are therefore part of the file: HTML
entities, quotes, ligatures, character widths, control characters, NFC, white space and case. It cannot undo a wrong
decoding ("cafÃ©"), and knows only the numeric entities that are frequent; the certificate lists texts that differ.
"""

import functools
import html.entities
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from wordsight.errors import WeightsError
from wordsight.text import CONTEXT_LENGTH, TokenizerConfig, clip_tokenizer
from wordsight.text.untrusted import (
    CLIP_PATTERN,
    CONTROLS_PATTERN,
    FINAL_SIGMA_PATTERN,
    MAX_VALUES,
    PUNCTUATION_PATTERN,
    SPACES_PATTERN,
    TERMINAL_ESCAPE_PATTERN,
)
from wordsight.weights.formats.json_files import encode_json

JSON_NAME = "tokenizer.json"
VOCABULARY_NAME, MERGES_NAME = "vocab.json", "merges.txt"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"

_Step = dict[str, Any]

_LOWERCASE = "Lowercase"
_FREQUENT_CODES = (34, 38, 39, 60, 62, 96, 160, 8211, 8212, 8216, 8217, 8220, 8221, 8226, 8230)


def clip_files(config: TokenizerConfig) -> dict[str, bytes]:
    """The published CLIP tokenizer as files of transformers' tokenizers, including a `tokenizer.json`."""
    vocabulary, merges = published_clip(config.context_length)
    content = clip_json(vocabulary, merges, [*_repairs(), _regex(FINAL_SIGMA_PATTERN, "ς"), {"type": _LOWERCASE}])
    return {
        JSON_NAME: content,
        VOCABULARY_NAME: encode_json(vocabulary),
        MERGES_NAME: "\n".join(["#version: 0.2", *merges, ""]).encode(),
    }


@functools.cache
def published_clip(context_length: int) -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of the published CLIP tokenizer, with transformers' names of its special tokens."""
    encoder = clip_tokenizer(context_length).encoder
    symbols = [*encoder.symbols[: encoder.begin_id], BEGIN, END]
    merges = [f"{symbols[left]} {symbols[right]}" for left, right in encoder.merges.T.tolist()]
    return {symbol: id for id, symbol in enumerate(symbols)}, merges


def without_published_clip(files: Mapping[str, bytes], where: str) -> dict[str, bytes]:
    """The tokenizer files of a directory without the published CLIP tokenizer, which needs no files.

    Args:
        files: the tokenizer's files of the directory by name.
        where: the directory, named in errors.

    Returns:
        The files, with a `tokenizer.json` made from `vocab.json` and `merges.txt` if the directory has none. If their
        vocabulary and merges are those published, and texts are lower-cased, only the settings are left.

    Raises:
        WeightsError: a file cannot be parsed.
    """
    kept = {name: content for name, content in files.items() if name not in (VOCABULARY_NAME, MERGES_NAME)}
    vocabulary: Any
    if JSON_NAME in files:
        content = decode_object(files, JSON_NAME, where)
        model = content.get("model")
        vocabulary, merges = (model.get("vocab"), model.get("merges")) if isinstance(model, dict) else (None, None)
        lowers = _LOWERCASE in msgspec.json.encode(content.get("normalizer")).decode()
    elif VOCABULARY_NAME in files and MERGES_NAME in files:
        vocabulary, lowers = decode_object(files, VOCABULARY_NAME, where), True
        if files[MERGES_NAME].count(b"\n") > MAX_VALUES:
            raise WeightsError(f"{where}: {MERGES_NAME}: more than {MAX_VALUES:,} lines; download it again")
        lines = files[MERGES_NAME].decode("utf-8", "replace").split("\n")
        merges = [line.rstrip("\r") for line in lines if line.strip() and not line.startswith("#version")]
    else:
        return kept
    pairs = merges if isinstance(merges, list) else []
    joined = [" ".join(map(str, pair)) if isinstance(pair, list) else str(pair) for pair in pairs]
    published, published_merges = published_clip(CONTEXT_LENGTH)
    if lowers and joined == published_merges and vocabulary in (published, _renamed(published)):
        return {name: content for name, content in kept.items() if name != JSON_NAME}
    if JSON_NAME not in files:
        steps: list[_Step] = [{"type": "NFC"}, _regex(SPACES_PATTERN, " "), {"type": _LOWERCASE}]
        kept[JSON_NAME] = clip_json(vocabulary, joined, steps)
    return kept


def _renamed(published: Mapping[str, int]) -> dict[str, int]:
    """The published vocabulary with open_clip's names of the special tokens."""
    *symbols, (_, begin), (_, end) = published.items()
    return {**dict(symbols), "<start_of_text>": begin, "<end_of_text>": end}


def clip_json(vocabulary: Mapping[str, int], merges: Iterable[str], normalizers: list[_Step]) -> bytes:
    """A `tokenizer.json` with the structure of transformers' CLIPTokenizer."""
    special = {token: vocabulary[token] for token in (BEGIN, END) if token in vocabulary}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": CLIP_PATTERN}, "behavior": "Removed", "invert": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": token, **flags} for token, id in special.items()],
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [END, special.get(END, 0)],
            "cls": [BEGIN, special.get(BEGIN, 0)],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [byte_level, _replace("</w>", " "), {"type": "Strip", "content": " ", "start": 0, "stop": 1}],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocabulary,
            "merges": [merge.split(" ") for merge in merges],
        },
    }
    return msgspec.json.encode(content)


def decode_object(files: Mapping[str, bytes], name: str, where: str) -> dict[str, Any]:
    """Decode one of a tokenizer's files whose content is a JSON object.

    Raises:
        WeightsError: the file is not a JSON object, or has more values than any tokenizer.
    """
    try:
        if files[name].count(b",") > MAX_VALUES:
            raise WeightsError(f"{where}: {name}: more than {MAX_VALUES:,} values; download it again")
        content = msgspec.json.decode(files[name])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{where}: {name}: not JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{where}: {name}: expected a JSON object; download it again")
    return content


def with_cleaning(content: bytes, config: TokenizerConfig) -> bytes:
    """Return a `tokenizer.json` whose normalizer first cleans texts as the card says; unchanged if it need not."""
    steps = _cleaning(config)
    if not steps:
        return content
    tokenizer = msgspec.json.decode(content)
    own = tokenizer.get("normalizer")
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [*steps, *([own] if own else [])]}
    return msgspec.json.encode(tokenizer | {"truncation": None, "padding": None})


def _cleaning(config: TokenizerConfig) -> list[_Step]:
    """The steps of `wordsight.text`'s cleaning in the same order, as normalizers."""
    steps = _repairs() if config.repairs else []
    if config.removes_punctuation:
        steps += [_replace("_", " ")] if config.repairs else []
        steps.append(_regex(PUNCTUATION_PATTERN, ""))
    if config.lower_case:
        steps += [_regex(FINAL_SIGMA_PATTERN, "ς")] if config.repairs else []
        steps.append({"type": _LOWERCASE})
    if config.repairs or config.removes_punctuation:
        steps += [_regex(SPACES_PATTERN, " "), {"type": "Strip", "strip_left": True, "strip_right": True}]
    return steps


def _repairs() -> list[_Step]:
    """What `wordsight.text.cleaning.repair` does, as far as replacements can express it."""
    from ftfy import chardata

    entities = {f"&{name};": chr(code) for name, code in html.entities.name2codepoint.items() if name != "amp"}
    entities |= {"&apos;": "'", "&AMP;": "&", "&LT;": "<", "&GT;": ">", "&QUOT;": '"'}
    for code in _FREQUENT_CODES:
        entities |= {f"&#{code};": chr(code), f"&#x{code:x};": chr(code), f"&#x{code:X};": chr(code)}
    windows = {chr(code): bytes([code]).decode("sloppy-windows-1252") for code in range(0x80, 0xA0)}
    quotes = dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'") | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
    characters = {**chardata.LIGATURES, **chardata.WIDTH_MAP}
    replaced = windows | {chr(code): text for code, text in characters.items()} | quotes
    steps = [_replace("&amp;", "&")] * 3  # ftfy unescapes once, and the published cleaning twice
    steps += [_replace(old, new) for old, new in (entities | replaced).items() if old != new]
    return [
        *steps,
        _regex(TERMINAL_ESCAPE_PATTERN, ""),
        _regex(CONTROLS_PATTERN, ""),
        {"type": "NFC"},
        _regex(SPACES_PATTERN, " "),
    ]


def _replace(old: str, new: str) -> _Step:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _regex(pattern: str, new: str) -> _Step:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": new}
