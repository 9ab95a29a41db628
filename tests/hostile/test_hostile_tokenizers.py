"""Tokenizer files that ask for too much memory or time, or for reads outside their tables, are refused in one line.

Each of them would otherwise kill the process, run for hours, or end in a traceback; none may take over two seconds.
"""

import base64
import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.text.test_families import LENGTH, gemma_files, gemma_json, siglip_files, spiece, words_json

from wordsight.errors import ConfigError, TextError, WordsightError
from wordsight.text import TokenizerConfig, build_tokenizer, tokenize
from wordsight.text.tokenizer import MAX_CHARACTERS, MAX_ENCODED_CHARACTERS
from wordsight.text.untrusted import MAX_GROWTH, checked_json
from wordsight.weights.formats.tokenizer_files import read_tokenizer

LIMIT_S = 5  # the work takes milliseconds; the rest is a slow machine


def gemma(**parts: Any) -> bytes:
    content = json.loads(gemma_json())
    return json.dumps(content | parts).encode()


def gemma_model(**parts: Any) -> bytes:
    content = json.loads(gemma_json())
    content["model"] |= parts
    return json.dumps(content).encode()


def replace(old: Any, new: str) -> dict[str, Any]:
    pattern = old if isinstance(old, dict) else {"String": old}
    return {"type": "Replace", "pattern": pattern, "content": new}


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def pre(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def charsmap(change: Callable[[bytearray], None] | None = None, strings: bytes | None = None) -> dict[str, Any]:
    """The character map of a sentencepiece model, changed."""
    model = spiece()
    name = model.index(b"nmt_nfkc") + len(b"nmt_nfkc")
    position, shift, length = name + 1, 0, 0
    while True:
        byte = model[position]
        length |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            break
    content = bytearray(model[position : position + length])
    if change is not None:
        change(content)
    if strings is not None:
        (size,) = struct.unpack_from("<I", content)
        content = content[: 4 + size] + strings + content[4 + size + len(strings) :]
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(content)).decode()}


def put(unit: int, value: int) -> Callable[[bytearray], None]:
    return lambda content: struct.pack_into("<I", content, 4 + 4 * unit, value)


def put_value(content: bytearray) -> None:
    """Change the values of all leaves."""
    (size,) = struct.unpack_from("<I", content)
    units = np.frombuffer(content, "<u4", size // 4, 4).copy()
    units[units >> 31 == 1] = 0xFFFFFFF0
    content[4 : 4 + size] = units.tobytes()


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TEXT, END = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}
EOS = {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}}


def template(single: list[Any], tokens: Any = EOS) -> dict[str, Any]:
    pair = [TEXT, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}


REFUSED = {
    "replacements that multiply": (gemma(normalizer=sequence(*[replace("a", "a" * 10)] * 9)), "64 times as long"),
    "one long replacement": (gemma(normalizer=replace("a", "b" * 100)), "64 times as long"),
    "replacements in turn": (
        gemma(normalizer=sequence(*[replace("a", "b" * 8), replace("b", "a" * 8)] * 20)),
        "64 times as long",
    ),
    "replacements of another case": (
        gemma(normalizer=sequence(replace("a", "B" * 9), {"type": "Lowercase"}, replace("b", "C" * 9))),
        "64 times as long",
    ),
    "replacements in nested sequences": (
        gemma(normalizer=sequence(sequence(replace("a", "a" * 9)), sequence(replace("a", "a" * 9)))),
        "64 times as long",
    ),
    "many steps": (gemma(normalizer=sequence(*[{"type": "NFC"}] * 2000)), "2,000 steps"),
    "bytes of bytes": (gemma(normalizer=sequence(*[{"type": "ByteLevel"}] * 40)), "ByteLevel: occurs twice"),
    "bytes of bytes, later": (gemma(pre_tokenizer=pre(*[BYTE_LEVEL] * 40)), "ByteLevel: occurs twice"),
    "a regular expression that backtracks": (
        gemma(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}),
        "expected a string or a known regular expression",
    ),
    "a replaced regular expression": (
        gemma(normalizer=replace({"Regex": "(a|a)*b"}, "")),
        "expected a string or a known regular expression",
    ),
    "an empty pattern": (gemma(normalizer=replace("", "x")), "expected a string or a known regular expression"),
    "an unknown step": (gemma(normalizer={"type": "Bomb"}), "normalizer 'Bomb': expected one of NFC"),
    "a step that is a list": (gemma(normalizer=sequence([1])), "normalizer: expected an object"),
    "a sequence without steps": (gemma(normalizer={"type": "Sequence"}), "a sequence without normalizers"),
    "a long prefix": (gemma(normalizer={"type": "Prepend", "prepend": "x" * 10**6}), "prepends over 64 characters"),
    "a million added tokens": (
        gemma(added_tokens=[{"id": id, "content": f"t{id}"} for id in range(100_000)]),
        "more than 16,384 added tokens",
    ),
    "long added tokens": (
        gemma(added_tokens=[{"id": id, "content": f"{id}" * 900} for id in range(1000)]),
        "added tokens of over",
    ),
    "an empty added token": (gemma(added_tokens=[{"id": 0, "content": ""}]), "an added token without content"),
    "a long token": (gemma_model(vocab={"<unk>": 0, "a" * 5000: 1}, merges=[]), "a token of over 1,024 bytes"),
    "a long token of quotes": (gemma_model(vocab={"<unk>": 0, '"' * 5000: 1}, merges=[]), "a token of over 1,024"),
    "random ids": (gemma_model(dropout=0.5), "model.dropout: the ids of a text would be random"),
    "merges of unknown tokens": (gemma_model(merges=[["no", "such"]]), "out of vocabulary"),
    "merges that are no pairs": (gemma_model(merges=["one"]), "erge"),
    "no vocabulary": (gemma(model={"type": "BPE"}), "vocab"),
    "a vocabulary of another type": (gemma_model(vocab=3), "not a tokenizer"),
    "negative ids": (gemma_model(vocab={"a": -1}, merges=[]), "not a tokenizer"),
    "a text repeated by the template": (gemma(post_processor=template([TEXT] * 9)), "contains the text 9 times"),
    "a long template": (gemma(post_processor=template([TEXT, *[END] * 1000])), "expected a few parts"),
    "many ids of a special token": (
        gemma(post_processor=template([TEXT, END], {"<eos>": {"id": "<eos>", "ids": [1] * 10**5, "tokens": []}})),
        "too many ids",
    ),
    "a decoder that multiplies": (
        gemma(decoder={"type": "Sequence", "decoders": [replace("a", "a" * 10)] * 9}),
        "64 times as long",
    ),
    "a decoder that strips for ever": (
        gemma(decoder={"type": "Strip", "content": " ", "start": 10**18, "stop": 0}),
        "decoder: ",
    ),
    "a character map that points outside": (
        gemma(normalizer=charsmap(put(0, 0x1FFFFF << 10))),
        "points outside its trie",
    ),
    "a character map with a value outside": (
        gemma(normalizer=charsmap(put_value)),
        "points outside its strings",
    ),
    "a character map that multiplies": (gemma(normalizer=charsmap(strings=b"x" * 1000)), "maps to 1,0.. bytes"),
    "a character map that is no base64": (
        gemma(normalizer={"type": "Precompiled", "precompiled_charsmap": "%%"}),
        "not base64",
    ),
    "a character map cut short": (
        gemma(normalizer={"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff" * 90).decode()}),
        "character map: broken",
    ),
    "deep nesting": (b'{"model":' + b'{"a":' * 50_000, "not a tokenizer"),
    "a long word of word pieces": (
        words_json()
        .replace(b'"max_input_chars_per_word": 100', b'"max_input_chars_per_word": 1000000')
        .replace(b'"max_input_chars_per_word":100', b'"max_input_chars_per_word":1000000'),
        "max_input_chars_per_word 1000000",
    ),
    "many values": (b'{"model":{"vocab":[' + b"0," * (3 << 20) + b"0]}}", "more than 2,097,152 values"),
}


def one_line(error: pytest.ExceptionInfo[WordsightError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_tokenizer_json_is_refused(name: str) -> None:
    content, expected = REFUSED[name]
    start_s = time.perf_counter()
    with pytest.raises(ConfigError, match=expected) as error:
        build_tokenizer(TokenizerConfig(family="tokenizers", file="x.json"), {"x.json": content})
    assert one_line(error).startswith("x.json: not a tokenizer of the tokenizers library: ")
    assert time.perf_counter() - start_s < LIMIT_S


def test_the_limit_of_growth_is_reached_exactly() -> None:
    """Negative control: replacements within the limit, and unrelated ones, are read."""
    for steps in (
        [replace("a", "b" * MAX_GROWTH)],
        [replace("a", "b" * 8), replace("b", "c" * 8)],
        [replace(chr(code), "xyz") for code in range(0x4E00, 0x4E00 + 500)],
    ):
        checked_json(gemma(normalizer=sequence(*steps)))


def test_settings_of_padding_and_truncation_in_the_file_are_ignored() -> None:
    padding = {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    truncation = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    files = gemma_files(model_max_length=10**30, chat_template="{{ x }}" * 1000)
    files |= {"tokenizer.json": gemma(padding=padding, truncation=truncation)}
    config = read_tokenizer(files, LENGTH, 600, "here")
    assert np.array_equal(
        build_tokenizer(config, files)(["a photo"]), build_tokenizer(config_of_gemma(), gemma_files())(["a photo"])
    )


def config_of_gemma() -> TokenizerConfig:
    return read_tokenizer(gemma_files(), LENGTH, 600, "here")


def test_ids_beyond_the_models_vocabulary_are_an_error_in_one_line(tmp_path: Path) -> None:
    content = json.loads(gemma_json())
    content["model"]["vocab"]["\u732b"] = 4_000_000_000
    files = {"tokenizer.json": json.dumps(content).encode()}
    config = TokenizerConfig(family="tokenizers", file="tokenizer.json", context_length=LENGTH)
    for vocabulary_size in (None, 600):
        tokenizer = build_tokenizer(config, files, vocabulary_size)
        assert tokenizer(["a photo"]).max() < 600
        with pytest.raises(ConfigError, match=r"tokenizer.json: id 4000000000 is beyond the model's vocabulary"):
            tokenizer(["a \u732b"])
        with pytest.raises(ConfigError, match=r"tokenizer.json: id 4000000000 is beyond the model's vocabulary"):
            tokenizer.encode("a \u732b")


SPIECE_FAULTS = {
    "empty": (b"", "0 pieces"),
    "no protocol buffer": (b"\xff" * 100, "not a protocol buffer"),
    "cut short": (spiece()[:-50], "not a protocol buffer"),
    "a long piece": (
        b"\x0a\x88\x27\x0a\x85\x27" + b"a" * 4997 + spiece(),
        "a piece of over 1,024 bytes|not a protocol",
    ),
    "long self-tests": (spiece() + b"\x22\x80\x80\x08" + b"\0" * (1 << 17), "self-tests of over"),
    "a map outside": (spiece() + b"\x1a\x0b\x12\x09" + struct.pack("<I", 4) + b"\0" * 5, "character map: broken"),
}


@pytest.mark.parametrize("name", SPIECE_FAULTS)
def test_a_hostile_sentencepiece_model_is_refused(name: str) -> None:
    content, expected = SPIECE_FAULTS[name]
    with pytest.raises(ConfigError, match=expected) as error:
        build_tokenizer(TokenizerConfig(family="sentencepiece", file="x.model"), {"x.model": content})
    assert one_line(error).startswith("x.model: not a tokenizer of the sentencepiece library: ")


FLIPPED = {"sentencepiece": spiece, "tokenizers": gemma_json, "character map": lambda: gemma(normalizer=charsmap())}


@pytest.mark.parametrize("name", FLIPPED)
def test_files_with_flipped_bytes_never_end_the_process(name: str) -> None:
    """Bytes of a valid file are changed at random; each file is read or refused, and reads texts or refuses them."""
    original, family = FLIPPED[name](), "sentencepiece" if name == "sentencepiece" else "tokenizers"
    generator, outcomes = np.random.default_rng(0), {"read": 0, "refused": 0}
    for _ in range(150):
        content = bytearray(original)
        for position in generator.integers(0, len(content), generator.integers(1, 6)):
            content[position] = generator.integers(0, 256) if family == "sentencepiece" else generator.integers(32, 127)
        try:
            config = TokenizerConfig(family=family, file="x")  # type: ignore[arg-type]
            build_tokenizer(config, {"x": bytes(content)}, 1000)(["a photo of a cat \uff21\ufdfa", ""])
            outcomes["read"] += 1
        except ConfigError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 2


LONG = {
    "letters": "a" * 10**8,
    "accents": "\u00e9" * 10**6,
    "marks": "a" + "\u0301\u0323" * 5 * 10**5,
    "marks that decompose": "a" + "\u0344\u0323" * 10**5,
    "line feeds": "\u00e9\n" * 10**6,
    "NUL": "\0" * 10**7,
    "surrogates": "\ud800" * 10**6,
    "ligatures": "\ufb03" * 10**6,
    "entities": "&amp;" * 10**6,
    "quotes": "'" * 10**6,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("files", [None, gemma_files, siglip_files])
def test_a_long_text_takes_bounded_time(name: str, files: Callable[[], dict[str, bytes]] | None) -> None:
    text, start_s = LONG[name], time.perf_counter()
    if files is None:
        assert tokenize([text]).shape == (1, 77)
    else:
        config = read_tokenizer(files(), LENGTH, 600, "here")
        assert build_tokenizer(config, files())([text]).shape == (1, LENGTH)
    assert time.perf_counter() - start_s < 10


def test_a_text_that_is_cut_keeps_its_ids_and_is_refused_without_truncation() -> None:
    text = "two dogs " * 20_000
    assert len(text) > MAX_CHARACTERS
    assert np.array_equal(tokenize(text), tokenize("two dogs " * 100))
    with pytest.raises(TextError, match=r"text 0, 'two dogs.*the context has 77; shorten it or pass truncate=True"):
        tokenize([text], truncate=False)
    with pytest.raises(TextError, match=r"text 0, ' .*the context has 77; shorten it or pass truncate=True"):
        tokenize([" " * (MAX_CHARACTERS + 1)], truncate=False)


def test_encoding_a_text_of_any_length_has_a_limit() -> None:
    from wordsight.text import clip_tokenizer

    with pytest.raises(TextError, match=r"100,000,000 characters, expected at most 524,288; shorten it"):
        clip_tokenizer().encode("a" * 10**8)
    assert len(clip_tokenizer().encode("a cat " * 1000)) == 2000
    assert MAX_ENCODED_CHARACTERS == 524_288


def test_ordering_long_runs_of_marks_does_not_change_the_text() -> None:
    """The same run, long and short, has the same canonical form as in `unicodedata`."""
    import unicodedata

    from wordsight.text.cleaning import repair

    generator = np.random.default_rng(1)
    marks = [
        chr(code) for code in [*range(0x300, 0x370), 0x344, 0x591, 0x5B0, 0xE38] if unicodedata.combining(chr(code))
    ]
    for length in (10, 300, 2000):
        text = "x e" + "".join(generator.choice(marks, length)) + " y"
        assert repair(text) == unicodedata.normalize("NFC", text)
