"""Tokenizers of other families, against transformers' and open_clip's on the same tiny files.

No published file is at hand: the models are trained here, on a few sentences, with the settings of the published ones.
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
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(3, 9))) for _ in range(400)]


@functools.cache
def spiece() -> bytes:
    """A sentencepiece model with T5's settings: unigrams, ids pad 0, end 1, unknown 2, none for begin."""
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
    """A tokenizer.json with Gemma's structure: byte-pair merges over \u2581, bytes for what is unknown."""
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
    """A tokenizer.json with BERT's structure: word pieces between [CLS] and [SEP], lower case by its own rule."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str().encode()


def settings(**given: Any) -> bytes:
    return json.dumps(given).encode()


def siglip_files() -> dict[str, bytes]:
    told = settings(tokenizer_class="SiglipTokenizer", eos_token="</s>", pad_token="</s>", unk_token="<unk>")
    return {"spiece.model": spiece(), "tokenizer_config.json": told}


def gemma_files(**more: Any) -> dict[str, bytes]:
    named = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    named |= {"padding_side": "right", "tokenizer_class": "PreTrainedTokenizerFast"} | more
    return {"tokenizer.json": gemma_json(), "tokenizer_config.json": settings(**named)}


def words_files(**more: Any) -> dict[str, bytes]:
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    named |= {"tokenizer_class": "PreTrainedTokenizerFast"} | more
    return {"tokenizer.json": words_json(), "tokenizer_config.json": settings(**named)}


def tiny_tokenizer_files() -> dict[str, bytes]:
    """For tests of directories: a tokenizer.json whose 200 ids fit every vocabulary."""
    return words_files()


def written(directory: Path, files: dict[str, bytes]) -> Path:
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
def test_siglips_ids_are_those_of_transformers(tmp_path: Path) -> None:
    files = siglip_files()
    tokenizer = ours(files, lower_case=True, removes_punctuation=True)
    peer = transformers().SiglipTokenizer(str(written(tmp_path, files) / "spiece.model"))
    assert (tokenizer.config.begin_id, tokenizer.config.end_id, tokenizer.config.pad_id) == (None, 1, 1)
    assert peer.pad_token_id == peer.eos_token_id == 1
    for text in [*ALL_TEXTS, *nasty_texts(seed=1, count=300)]:
        if any("\ud800" <= letter <= "\udfff" for letter in text) or "</s>" in text or "<unk>" in text:
            continue  # transformers raises, or reads symbols out of the text
        assert np.array_equal(tokenizer([text]), theirs(peer, [text])), ascii(text)


@needs_transformers
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("says_around", [True, False])
@pytest.mark.parametrize("told", [{}, {"add_bos_token": True}, {"add_bos_token": True, "add_eos_token": True}])
def test_ids_of_a_tokenizer_json_are_those_of_transformers(
    tmp_path: Path, side: str, says_around: bool, told: dict[str, bool]
) -> None:
    files = gemma_files(padding_side=side, **told)
    if not says_around:
        content = json.loads(gemma_json()) | {"post_processor": None}
        files["tokenizer.json"] = json.dumps(content).encode()
    peer = transformers().AutoTokenizer.from_pretrained(written(tmp_path, files))
    texts = [text for text in ALL_TEXTS if text.isprintable()]
    assert np.array_equal(ours(files)(texts), theirs(peer, texts))


@needs_transformers
def test_siglip_2_is_lower_case_as_in_transformers(tmp_path: Path) -> None:
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
def test_a_side_that_is_not_stated_is_that_of_transformers_class(tmp_path: Path) -> None:
    for kind in ("GemmaTokenizer", "GemmaTokenizerFast", "PreTrainedTokenizerFast"):
        files = gemma_files(tokenizer_class=kind)
        told = json.loads(files["tokenizer_config.json"])
        del told["padding_side"]
        files["tokenizer_config.json"] = settings(**told)
        peer = transformers().AutoTokenizer.from_pretrained(written(tmp_path, files))
        assert np.array_equal(ours(files)(TEXTS), theirs(peer, TEXTS)), kind


@needs_open_clip
@needs_transformers
def test_siglips_ids_of_a_tokenizer_json_are_those_of_open_clip(tmp_path: Path) -> None:
    """The form in which open_clip publishes SigLIP: T5's class, saved, and its own cleaning before it."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=spiece())
    pieces = [(model.id_to_piece(id), model.get_score(id)) for id in range(model.get_piece_size())]
    made = transformers().T5Tokenizer(vocab=pieces, extra_ids=0, pad_token="</s>")
    made.save_pretrained(tmp_path / "saved")
    files = tokenizer_files(tmp_path / "saved")
    peer = open_clip().tokenizer.HFTokenizer(str(tmp_path / "saved"), context_length=LENGTH, clean="canonicalize")
    tokenizer = ours(files, repairs=True, lower_case=True, removes_punctuation=True)
    assert (tokenizer.config.family, tokenizer.config.end_id, tokenizer.config.pad_id) == ("tokenizers", 1, 1)
    for text in [*TEXTS, *HARD.values()]:
        assert np.array_equal(tokenizer([text]), peer([text]).numpy()), ascii(text)


@needs_transformers
def test_begin_and_end_of_word_pieces_come_from_the_file(tmp_path: Path) -> None:
    files = words_files()
    peer = transformers().AutoTokenizer.from_pretrained(written(tmp_path, files))
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
def test_ids_are_those_of_open_clips_tokenizer_of_files(
    tmp_path: Path, clean: str, changes: dict[str, Any], files: Any
) -> None:
    peer = open_clip().tokenizer.HFTokenizer(str(written(tmp_path, files())), context_length=LENGTH, clean=clean)
    tokenizer = ours(files(), repairs=True, **changes)
    for text in [*TEXTS, *HARD.values()]:
        assert np.array_equal(tokenizer([text]), peer([text]).numpy()), ascii(text)


@needs_open_clip
@needs_transformers
def test_an_end_that_open_clip_strips_is_an_end_of_padding(tmp_path: Path) -> None:
    files = words_files()
    peer = open_clip().tokenizer.HFTokenizer(str(written(tmp_path, files)), context_length=LENGTH, strip_sep_token=True)
    assert np.array_equal(ours(files, repairs=True, end_id=0)(TEXTS), peer(TEXTS).numpy())


@needs_transformers
def test_negative_control_every_rule_moves_an_id(tmp_path: Path) -> None:
    files = siglip_files()
    peer = transformers().SiglipTokenizer(str(written(tmp_path, files) / "spiece.model"))
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


def test_a_tokenizer_of_files_is_called_as_clips() -> None:
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
def test_ids_become_the_text_again(files: Any) -> None:
    tokenizer = ours(files())
    text = "two dogs running over wet sand"
    assert tokenizer.decode(tokenizer.encode(text)).strip() == text
    assert tokenizer.decode(tokenizer(text)[0]).strip() == text
    with pytest.raises(TextError, match="id 100000: not in the vocabulary"):
        tokenizer.decode([100_000])


@pytest.mark.parametrize("files", [siglip_files, gemma_files])
def test_another_process_gets_the_same_tokenizer(files: Any) -> None:
    tokenizer = ours(files())
    assert np.array_equal(pickle.loads(pickle.dumps(tokenizer))(TEXTS), tokenizer(TEXTS))


def test_clip_needs_no_files_and_no_other_words() -> None:
    assert build_tokenizer(TokenizerConfig(context_length=12), {}) is clip_tokenizer(12)
    with pytest.raises(ConfigError, match=r"tokenizer.pad_id: the clip tokenizer is published whole"):
        TokenizerConfig(pad_id=1)


def test_a_file_that_is_not_the_cards_is_refused() -> None:
    config = read_tokenizer(gemma_files(), LENGTH, 600, "here")
    with pytest.raises(ConfigError, match=r"tokenizer.json: no such file"):
        build_tokenizer(config, {})
    with pytest.raises(ConfigError, match=r"tokenizer.json: not the file of the card \(its SHA-256 differs\)"):
        build_tokenizer(config, words_files())


@pytest.mark.parametrize("family", ["sentencepiece", "tokenizers"])
@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 100, b"[" * 10_000, b'{"model": 3}', b"\xff\xfe"])
def test_a_broken_file_is_one_line(family: Any, content: bytes) -> None:
    config = TokenizerConfig(family=family, file="x")
    with pytest.raises(ConfigError, match=r"^x: not a tokenizer of the .*; fetch it again$") as caught:
        build_tokenizer(config, {"x": content})
    assert "\n" not in str(caught.value)


def test_contradictions_of_a_tokenizer_are_refused() -> None:
    for wrong, message in [
        ({"file": ""}, "expected the name of a file"),
        ({"file": "../x"}, "expected the name of a file"),
        ({"pad_id": -1}, "at least 0"),
        ({"context_length": 1}, "no room"),
    ]:
        with pytest.raises(ConfigError, match=message):
            TokenizerConfig(**({"family": "tokenizers", "file": "x", "end_id": 1} | wrong))


def test_a_vocabulary_that_does_not_fit_is_refused() -> None:
    read_tokenizer(siglip_files(), LENGTH, 50, "here")
    with pytest.raises(WeightsError, match=r"here: spiece.model has ids beyond the model's vocabulary of 49"):
        read_tokenizer(siglip_files(), LENGTH, 49, "here")


def test_ids_that_no_text_gets_may_lie_beyond_the_vocabulary() -> None:
    content = json.loads(gemma_json())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"]["<extra_id_0>"] = size
    files = gemma_files() | {"tokenizer.json": json.dumps(content).encode()}
    read_tokenizer(files, LENGTH, size, "here")
    content["model"]["vocab"]["word"] = size + 1
    with pytest.raises(WeightsError, match="ids beyond"):
        read_tokenizer(files | {"tokenizer.json": json.dumps(content).encode()}, LENGTH, size, "here")


def test_settings_that_cannot_be_are_refused() -> None:
    for files, message in [
        ({}, "a vocabulary of 600 needs its own tokenizer"),
        (gemma_files(pad_token=None), "has no pad_token"),
        (gemma_files(padding_side="top"), "padding_side 'top': expected left or right"),
        (gemma_files() | {"tokenizer_config.json": b"["}, "tokenizer_config.json: not JSON"),
        (gemma_files() | {"tokenizer_config.json": b"[]"}, "tokenizer_config.json: expected a JSON object"),
    ]:
        with pytest.raises(WeightsError, match=message):
            read_tokenizer(files, LENGTH, 600, "here")
    with pytest.raises(ConfigError, match="no symbol '<none>', which the tokenizer's settings name"):
        read_tokenizer(gemma_files(pad_token="<none>"), LENGTH, 600, "here")


def test_only_the_files_of_tokenizers_are_read(tmp_path: Path) -> None:
    written(tmp_path, gemma_files() | {"other.json": b"{}"})
    assert tokenizer_files(tmp_path) == gemma_files()
