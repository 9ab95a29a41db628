"""Tokenizers of other families, compared with transformers and open_clip on the same tiny files.

The published files are not available offline, so the models are trained here, on a few sentences, with the settings of
the published ones.
"""

import functools
import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.parity.peers import has_open_clip, has_transformers, open_clip, transformers
from tests.text.nasty import HARD, nasty_texts

from wordsight.errors import ConfigError, TextError, WeightsError
from wordsight.text import TokenizerConfig, build_tokenizer, clip_tokenizer
from wordsight.weights.formats.tokenizer_files import read_tokenizer, tokenizer_files

needs_transformers = pytest.mark.skipif(not has_transformers(), reason="needs transformers")
needs_open_clip = pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")

LENGTH = 16
WORDS = [
    "a",
    "the",
    "photo",
    "of",
    "two",
    "dogs",
    "cat",
    "running",
    "over",
    "wet",
    "sand",
    "with",
    "blue",
    "hat",
    "on",
    "its",
    "head",
    "near",
    "big",
    "house",
    "12",
    "2024",
    "café",
]
TEXTS = [
    "a photo of a cat",
    "Two Dogs, running_over wet sand!",
    "it's a caf\u00e9 (fig. 12) <b>near</b> the HOUSE",
    "",
    "   ",
    "a" * 200,
    "two dogs " * 30,
    "\u0391\u03a3-\u0392 \u039f\u0394\u039f\u03a3, \u0130stanbul",
    "\u732b and \U0001f600 &amp; \u2581mark",
    "tab\tand\nline \u00a0 space",
    "x_y __ ._.",
]
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


def sentences() -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(3, 9))) for _ in range(400)]


@functools.cache
def spiece() -> bytes:
    """A sentencepiece model with the settings of T5: unigrams; the ids are pad 0, end 1, unknown 2, and no begin."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()),
        model_writer=model,
        vocab_size=50,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return model.getvalue()


@functools.cache
def gemma_json() -> bytes:
    """A tokenizer.json with the structure of Gemma: byte-pair merges with \u2581 for spaces and byte fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special + bytes_, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer.to_str().encode()


@functools.cache
def words_json() -> bytes:
    """A tokenizer.json with the structure of BERT: word pieces between [CLS] and [SEP]; its normalizer lower-cases."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def to_json(**values: Any) -> bytes:
    return json.dumps(values).encode()


def siglip_files() -> dict[str, bytes]:
    config = to_json(tokenizer_class="SiglipTokenizer", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    return {"spiece.model": spiece(), "tokenizer_config.json": config}


def gemma_files(**more: Any) -> dict[str, bytes]:
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    named |= {"padding_side": "right", "tokenizer_class": "PreTrainedTokenizerFast"} | more
    return {"tokenizer.json": gemma_json(), "tokenizer_config.json": to_json(**named)}


def words_files(**more: Any) -> dict[str, bytes]:
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    named |= {"tokenizer_class": "PreTrainedTokenizerFast"} | more
    return {"tokenizer.json": words_json(), "tokenizer_config.json": to_json(**named)}


def tiny_tokenizer_files() -> dict[str, bytes]:
    """A tokenizer.json with 200 ids, which fits the vocabulary of every tiny model."""
    return words_files()


def write_files(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def ours(files: dict[str, bytes], **changes: Any) -> Any:
    config = read_tokenizer(files, LENGTH, 100_000, "here")
    return build_tokenizer(msgspec.structs.replace(config, **changes), files)


def theirs(tokenizer: Any, texts: list[str]) -> np.ndarray:
    rows = tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="np")
    return rows["input_ids"]


ALL_TEXTS = [*TEXTS, *(text for text in HARD.values() if "\u2581" not in text and not set(text) & set("<>"))]


@needs_transformers
def test_siglip_ids_equal_those_of_transformers(tmp_path: Path) -> None:
    files = siglip_files()
    tokenizer = ours(files, lower_case=True, removes_punctuation=True)
    peer = transformers().SiglipTokenizer(str(write_files(tmp_path, files) / "spiece.model"))
    assert (tokenizer.config.begin_id, tokenizer.config.end_id, tokenizer.config.pad_id) == (None, 1, 1)
    assert peer.pad_token_id == peer.eos_token_id == 1
    for text in [*ALL_TEXTS, *nasty_texts(seed=1, count=300)]:
        if any("\ud800" <= letter <= "\udfff" for letter in text) or "</s>" in text or "<unk>" in text:
            continue  # transformers raises, or parses special tokens in the text
        assert np.array_equal(tokenizer([text]), theirs(peer, [text])), ascii(text)


@needs_transformers
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("has_post_processor", [True, False])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
def test_ids_of_a_tokenizer_json_equal_those_of_transformers(
    tmp_path: Path, side: str, has_post_processor: bool, settings: dict[str, bool]
) -> None:
    files = gemma_files(padding_side=side, **settings)
    if not has_post_processor:
        content = json.loads(gemma_json()) | {"post_processor": None}
        files["tokenizer.json"] = json.dumps(content).encode()
    peer = transformers().AutoTokenizer.from_pretrained(write_files(tmp_path, files))
    texts = [text for text in ALL_TEXTS if text.isprintable()]
    assert np.array_equal(ours(files)(texts), theirs(peer, texts))


@needs_transformers
def test_siglip_2_lower_cases_as_transformers_does(tmp_path: Path) -> None:
    model = json.loads(gemma_json())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    peer = transformers().Siglip2Tokenizer(
        vocab=model["vocab"], merges=merges, padding_side="right", add_bos_token=False, add_eos_token=True
    )
    tokenizer = ours(gemma_files(), lower_case=True)
    assert (tokenizer.config.begin_id, tokenizer.config.end_id, tokenizer.config.pad_id) == (None, 1, 0)
    for text in TEXTS:
        assert np.array_equal(tokenizer([text]), theirs(peer, [text])), ascii(text)
    assert not np.array_equal(ours(gemma_files())(TEXTS), theirs(peer, TEXTS))


@needs_transformers
def test_the_default_padding_side_is_that_of_the_transformers_class(tmp_path: Path) -> None:
    for class_name in ("GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast"):
        files = gemma_files(tokenizer_class=class_name)
        config = json.loads(files["tokenizer_config.json"])
        del config["padding_side"]
        files["tokenizer_config.json"] = to_json(**config)
        peer = transformers().AutoTokenizer.from_pretrained(write_files(tmp_path, files))
        assert np.array_equal(ours(files)(TEXTS), theirs(peer, TEXTS)), class_name


@needs_open_clip
@needs_transformers
def test_siglip_ids_of_a_tokenizer_json_equal_those_of_open_clip(tmp_path: Path) -> None:
    """As open_clip publishes SigLIP: a saved T5 tokenizer with the cleaning of open_clip."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=spiece())
    pieces = [(model.id_to_piece(id), model.get_score(id)) for id in range(model.get_piece_size())]
    t5 = transformers().T5Tokenizer(vocab=pieces, extra_ids=0, pad_token="</s>")
    t5.save_pretrained(tmp_path / "saved")
    files = tokenizer_files(tmp_path / "saved")
    peer = open_clip().tokenizer.HFTokenizer(str(tmp_path / "saved"), context_length=LENGTH, clean="canonicalize")
    tokenizer = ours(files, repairs=True, lower_case=True, removes_punctuation=True)
    assert (tokenizer.config.family, tokenizer.config.end_id, tokenizer.config.pad_id) == ("tokenizers", 1, 1)
    for text in [*TEXTS, *HARD.values()]:
        assert np.array_equal(tokenizer([text]), peer([text]).numpy()), ascii(text)


@needs_transformers
def test_begin_and_end_of_a_word_piece_tokenizer_come_from_the_file(tmp_path: Path) -> None:
    files = words_files()
    peer = transformers().AutoTokenizer.from_pretrained(write_files(tmp_path, files))
    tokenizer = ours(files)
    assert (tokenizer.config.begin_id, tokenizer.config.end_id) == (2, 3)
    assert np.array_equal(tokenizer(TEXTS), theirs(peer, TEXTS))


@needs_open_clip
@needs_transformers
@pytest.mark.parametrize(
    ("clean", "changes"),
    [
        ("whitespace", {}),
        ("lower", {"lower_case": True}),
        ("canonicalize", {"lower_case": True, "removes_punctuation": True}),
    ],
)
@pytest.mark.parametrize("files", [gemma_files, words_files])
def test_ids_equal_those_of_open_clips_hf_tokenizer(
    tmp_path: Path, clean: str, changes: dict[str, Any], files: Any
) -> None:
    peer = open_clip().tokenizer.HFTokenizer(str(write_files(tmp_path, files())), context_length=LENGTH, clean=clean)
    tokenizer = ours(files(), repairs=True, **changes)
    for text in [*TEXTS, *HARD.values()]:
        assert np.array_equal(tokenizer([text]), peer([text]).numpy()), ascii(text)


@needs_open_clip
@needs_transformers
def test_strip_sep_token_of_open_clip_equals_an_end_id_of_padding(tmp_path: Path) -> None:
    files = words_files()
    peer = open_clip().tokenizer.HFTokenizer(
        str(write_files(tmp_path, files)), context_length=LENGTH, strip_sep_token=True
    )
    assert np.array_equal(ours(files, repairs=True, end_id=0)(TEXTS), peer(TEXTS).numpy())


@needs_transformers
def test_negative_control_every_setting_changes_an_id(tmp_path: Path) -> None:
    files = siglip_files()
    peer = transformers().SiglipTokenizer(str(write_files(tmp_path, files) / "spiece.model"))
    right = {"lower_case": True, "removes_punctuation": True}
    for wrong in (
        {"lower_case": False},
        {"removes_punctuation": False},
        {"repairs": True},
        {"pad_id": 0},
        {"end_id": None},
        {"begin_id": 2},
        {"padding_side": "left"},
    ):
        assert not np.array_equal(ours(files, **(right | wrong))(TEXTS), theirs(peer, TEXTS)), wrong


def test_a_file_tokenizer_has_the_interface_of_the_clip_tokenizer() -> None:
    tokenizer = ours(gemma_files())
    assert tokenizer("a cat").shape == (1, LENGTH)
    assert tokenizer([]).shape == (0, LENGTH)
    assert tokenizer("a cat").dtype == clip_tokenizer()("a cat").dtype == np.int32
    with pytest.raises(TextError, match="expected a string or a list of strings, found int"):
        tokenizer(3)
    with pytest.raises(TextError, match="text 1: expected a string, found NoneType"):
        tokenizer(["a", None])
    with pytest.raises(TextError, match=r"text 1, 'two dogs.*ids with begin and end, the context has 16"):
        tokenizer(["a", "two dogs " * 30], truncate=False)
    assert np.array_equal(tokenizer(["a", "a cat"], truncate=False), tokenizer(["a", "a cat"]))
    assert tokenizer(["\ud800"]).shape == (1, LENGTH)


@pytest.mark.parametrize("files", [siglip_files, gemma_files])
def test_decode_inverts_encode(files: Any) -> None:
    tokenizer = ours(files())
    text = "two dogs running over wet sand"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == text
    assert tokenizer.decode(tokenizer(text)[0]).strip() == text
    with pytest.raises(TextError, match="id 100000: not in the vocabulary"):
        tokenizer.decode([100_000])


@pytest.mark.parametrize("files", [siglip_files, gemma_files])
def test_a_pickled_tokenizer_gives_the_same_ids(files: Any) -> None:
    tokenizer = ours(files())
    assert np.array_equal(pickle.loads(pickle.dumps(tokenizer))(TEXTS), tokenizer(TEXTS))


def test_the_clip_family_needs_no_files_and_has_no_other_keys() -> None:
    assert build_tokenizer(TokenizerConfig(context_length=12), {}) is clip_tokenizer(12)
    with pytest.raises(ConfigError, match=r"tokenizer.pad_id: the family clip does not have this key"):
        TokenizerConfig(pad_id=1)


def test_a_missing_or_different_file_is_rejected() -> None:
    config = read_tokenizer(gemma_files(), LENGTH, 600, "here")
    with pytest.raises(ConfigError, match=r"tokenizer.json: no such file"):
        build_tokenizer(config, {})
    with pytest.raises(ConfigError, match=r"tokenizer.json: its SHA-256 differs from the one in the card"):
        build_tokenizer(config, words_files())


@pytest.mark.parametrize("family", ["sentencepiece", "tokenizers"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"[" * 10_000, b'{"model": 3}', b"\xff\xfe"])
def test_a_damaged_file_is_a_one_line_error(family: Any, content: bytes) -> None:
    config = TokenizerConfig(family=family, file="x")
    with pytest.raises(ConfigError, match=r"^x: not a tokenizer of the .*; download it again$") as caught:
        build_tokenizer(config, {"x": content})
    assert "\n" not in str(caught.value)


def test_contradictory_keys_are_rejected() -> None:
    for wrong, message in [
        ({"file": ""}, "expected the name of a file"),
        ({"file": "../x"}, "expected the name of a file"),
        ({"pad_id": -1}, "at least 0"),
        ({"context_length": 1}, "context_length 1: expected at least 2"),
    ]:
        with pytest.raises(ConfigError, match=message):
            TokenizerConfig(**({"family": "tokenizers", "file": "x", "end_id": 1} | wrong))


def test_a_vocabulary_that_is_too_small_is_rejected() -> None:
    read_tokenizer(siglip_files(), LENGTH, 50, "here")
    with pytest.raises(WeightsError, match=r"here: spiece.model has ids beyond the model's vocabulary of 49"):
        read_tokenizer(siglip_files(), LENGTH, 49, "here")


def test_ids_that_no_text_produces_may_exceed_the_vocabulary() -> None:
    content = json.loads(gemma_json())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"]["<extra_id_0>"] = size
    files = gemma_files() | {"tokenizer.json": json.dumps(content).encode()}
    read_tokenizer(files, LENGTH, size, "here")
    content["model"]["vocab"]["word"] = size + 1
    with pytest.raises(WeightsError, match="ids beyond"):
        read_tokenizer(files | {"tokenizer.json": json.dumps(content).encode()}, LENGTH, size, "here")


def test_invalid_settings_are_rejected() -> None:
    for files, message in [
        ({}, "a vocabulary of 600 needs its own tokenizer"),
        (gemma_files(pad_token=None), "has no pad_token"),
        (gemma_files(padding_side="top"), "padding_side 'top': expected left or right"),
        (gemma_files() | {"tokenizer_config.json": b"["}, "tokenizer_config.json: not JSON"),
        (gemma_files() | {"tokenizer_config.json": b"[]"}, "tokenizer_config.json: expected a JSON object"),
        (gemma_files() | {"tokenizer_config.json": b"[" + b"0," * (3 << 20) + b"0]"}, "more than 2,097,152 values"),
    ]:
        with pytest.raises(WeightsError, match=message):
            read_tokenizer(files, LENGTH, 600, "here")
    with pytest.raises(ConfigError, match="no token '<none>', which the tokenizer's settings name"):
        read_tokenizer(gemma_files(pad_token="<none>"), LENGTH, 600, "here")


def test_only_tokenizer_files_are_read(tmp_path: Path) -> None:
    write_files(tmp_path, gemma_files() | {"other.json": b"{}"})
    assert tokenizer_files(tmp_path) == gemma_files()
