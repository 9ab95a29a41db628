"""Directories written by `convert` are opened by their target's own library, with nothing but the written files."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.parity.peers import has_open_clip, has_transformers, open_clip, transformers
from tests.text.test_families import gemma_json, words_json
from tests.weights.models import checkpoint_of, convert_without_hashes
from wordsight.encoder import DualEncoder
from wordsight.errors import WeightsError
from wordsight.weights.certificate import Certificate
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.read import read

pytestmark = pytest.mark.filterwarnings("ignore:.* longer than the model's context")
needs_transformers = pytest.mark.skipif(not has_transformers(), reason="needs transformers")
needs_open_clip = pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")
S = msgspec.structs.replace

TEXTS = [
    "a photo of a cat",
    "Two DOGS, running over Wet sand!",
    "it's a caf\u00e9 (fig. 12): NA\u00cfVE cr\u00e8me br\u00fbl\u00e9e; cafe\u0301",
    "don\u2019t stop",
    "\u201cquoted\u201d \u2018text\u2019",
    "a \U0001f63a and \U0001f469\u200d\U0001f680",
    "\u4e00\u53ea\u732b\u5750\u5728\u57ab\u5b50\u4e0a\u3002 \uff21\uff22\uff23\uff01",
    "  tabs\tand \n line   feeds  ",
    "cats &amp; dogs &lt;b&gt; &quot;x&quot; &eacute;&nbsp;&#39;s &amp;amp;",
    "",
    " ",
    "!!!",
    "two dogs running over wet sand " * 30,
    "\ufb01re \x00\x1b[31mred",
]
IMAGES = [(40, 31), (33, 64), (64, 33), (32, 32), (5, 7), (301, 97)]


def with_tokenizer(name: str, content: bytes, **changes: Any) -> Checkpoint:
    """A model whose tokenizer is a `tokenizer.json`."""
    checkpoint = checkpoint_of(name)
    size = len(json.loads(content)["model"]["vocab"])
    text = S(checkpoint.card.model.text, vocabulary_size=size)
    generator = torch.Generator().manual_seed(2)
    embedding = torch.randn(size, text.width, generator=generator) / 50
    tokenizer = S(
        checkpoint.card.tokenizer,
        **{
            "family": "tokenizers",
            "file": "tokenizer.json",
            "file_sha256": hashlib.sha256(content).hexdigest(),
            "lower_case": False,
            "removes_punctuation": False,
            **changes,
        },
    )
    card = S(checkpoint.card, model=S(checkpoint.card.model, text=text), tokenizer=tokenizer)
    return Checkpoint({**checkpoint.tensors, "token_embedding.weight": embedding}, card, {"tokenizer.json": content})


SIGLIP_2 = {"end_id": 1, "pad_id": 0, "lower_case": True}
WORDS = {"begin_id": 2, "end_id": 3, "pad_id": 0, "repairs": True}


def siglip_2() -> Checkpoint:
    return with_tokenizer("siglip", gemma_json(), **SIGLIP_2)


def of_open_clip(clean: str) -> Checkpoint:
    """A class-token or SigLIP-like model whose texts open_clip cleans."""
    lowers, removes = clean != "whitespace", clean == "canonicalize"
    checkpoint = with_tokenizer("vit", words_json(), **WORDS, lower_case=lowers, removes_punctuation=removes)
    text = S(checkpoint.card.model.text, end_id=3)
    return Checkpoint(
        checkpoint.tensors, S(checkpoint.card, model=S(checkpoint.card.model, text=text)), checkpoint.files
    )


FAMILIES = {
    "CLIP with QuickGELU": lambda: checkpoint_of("vit"),
    "CLIP with GELU": lambda: checkpoint_of("vit-gelu"),
    "CLIP with narrow heads": lambda: checkpoint_of("vit-narrow-heads"),
    "SigLIP": lambda: checkpoint_of("siglip"),
    "SigLIP 2": siglip_2,
    "SigLIP of open_clip": lambda: with_tokenizer(
        "siglip", gemma_json(), **SIGLIP_2, repairs=True, removes_punctuation=True
    ),
    "word pieces": lambda: of_open_clip("lower"),
}


def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    made = [Image.fromarray(generator.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in IMAGES]
    made += [made[0].convert("L"), made[1].convert("RGBA"), made[2].convert("L").convert("1")]
    return made


def encoder_of(directory: Path) -> DualEncoder:
    checkpoint = read(directory)
    return DualEncoder(checkpoint.build("written"), checkpoint.card, "published", checkpoint.files)


def unit(output: Any) -> np.ndarray:
    tensor: Tensor = getattr(output, "pooler_output", output)
    return F.normalize(tensor, dim=1).numpy()


@needs_transformers
@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_transformers_gives_the_same_ids_and_embeddings(name: str, tmp_path: Path) -> None:
    source = FAMILIES[name]()
    certificate = convert(source, tmp_path / "out", "hf")
    assert certificate.library.startswith("transformers ")
    assert certificate.library_agrees
    library, ours = transformers(), DualEncoder(source.build("source"), source.card, "published", source.files)
    model = library.AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = library.AutoProcessor.from_pretrained(tmp_path / "out")
    tokenizer = library.AutoTokenizer.from_pretrained(tmp_path / "out")
    expected = ours.tokenize(TEXTS)
    for each in (tokenizer, processor.tokenizer):
        batch = each(TEXTS, padding="max_length", truncation=True, return_tensors="pt")
        ids = batch["input_ids"].numpy()
        if name.startswith("SigLIP"):
            assert set(batch) == {"input_ids"}  # a mask would change the embeddings
            assert np.array_equal(ids, expected)
        else:
            mask = batch["attention_mask"].numpy().astype(bool)
            assert np.array_equal(np.where(mask, ids, source.card.tokenizer.pad_id), expected)
        theirs = unit(model.get_text_features(**batch))
        np.testing.assert_allclose(theirs, ours.embed_texts(TEXTS), atol=1e-5)
    pixels = processor.image_processor(images(), return_tensors="pt")
    np.testing.assert_allclose(
        unit(model.get_image_features(**pixels)), encoder_of(tmp_path / "out").embed_images(images()), atol=1e-5
    )


@needs_transformers
@pytest.mark.parametrize("name", FAMILIES)
def test_a_directory_for_transformers_is_read_back_with_the_same_ids(name: str, tmp_path: Path) -> None:
    source = FAMILIES[name]()
    convert(source, tmp_path / "out", "hf")
    ours = DualEncoder(source.build("source"), source.card, "published", source.files)
    assert np.array_equal(encoder_of(tmp_path / "out").tokenize(TEXTS), ours.tokenize(TEXTS))


@needs_transformers
def test_the_certificate_lists_the_texts_that_transformers_cleans_differently(tmp_path: Path) -> None:
    """ftfy repairs wrongly decoded text; transformers has no ftfy, so the ids must differ."""
    certificate = convert(checkpoint_of("vit"), tmp_path / "out", "hf")
    stored = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert tuple(stored["differing_texts"]) == certificate.differing_texts
    tokenizer = transformers().AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = encoder_of(tmp_path / "out")
    for text in certificate.differing_texts:
        assert tokenizer(text)["input_ids"] != ours.tokenize([text])[0][: len(tokenizer(text)["input_ids"])].tolist()
    assert "caf\u00c3\u00a9 it\u00e2\u20ac\u2122s" in certificate.differing_texts


@needs_transformers
def test_files_that_transformers_understands_differently_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: without lower-casing in the file, transformers gives other ids for SigLIP 2."""
    from wordsight.weights.formats import tokenizer_files

    monkeypatch.setattr(tokenizer_files, "with_cleaning", lambda content, config: content)
    with pytest.raises(WeightsError, match=r"not written, because transformers .* the ids of 2 texts") as refused:
        convert(siglip_2(), tmp_path / "out", "hf")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_without_the_library_the_certificate_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wordsight.weights import target_library

    monkeypatch.setattr(target_library, "_DISTRIBUTIONS", {"transformers": "no-such-package"})
    certificate = convert(checkpoint_of("vit"), tmp_path / "out", "hf")
    assert (certificate.library, certificate.unchecked) == ("", "transformers is not installed")


def test_a_library_that_cannot_be_imported_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("open_clip_torch")
    except PackageNotFoundError:
        pytest.skip("needs open_clip")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    certificate = convert(checkpoint_of("vit"), tmp_path / "out", "open_clip")
    assert certificate.library == ""
    assert "cannot open them: import of open_clip halted" in certificate.unchecked


def test_a_certificate_of_an_earlier_version_is_read() -> None:
    stored = b'{"target": "hf", "images": 0.0, "texts": 0.0, "scale": 0.0, "pixels": 0.0, "ids": 0, "crop": ""}'
    assert msgspec.json.decode(stored, type=Certificate).holds


OPEN_CLIP = {
    "plain": lambda: checkpoint_of("vit"),
    "gelu": lambda: checkpoint_of("vit-gelu"),
    "mean": lambda: checkpoint_of("vit-mean"),
    "resnet": lambda: checkpoint_of("resnet"),
    "class token": lambda: checkpoint_of("class-token"),
    **{clean: lambda clean=clean: of_open_clip(clean) for clean in ("whitespace", "lower", "canonicalize")},
}


@needs_open_clip
@pytest.mark.parametrize("name", OPEN_CLIP)
@torch.inference_mode()
def test_open_clip_gives_the_same_ids_and_embeddings(name: str, tmp_path: Path) -> None:
    library, source = open_clip(), OPEN_CLIP[name]()
    certificate = convert(source, tmp_path / "out", "open_clip")
    assert certificate.library.startswith("open_clip ")
    assert certificate.library_agrees
    ours = DualEncoder(source.build("source"), source.card, "published", source.files)
    address = f"local-dir:{tmp_path / 'out'}"
    model, _, transform = library.create_model_and_transforms(address)
    ids = library.get_tokenizer(address)(TEXTS)
    assert np.array_equal(ids.numpy(), ours.tokenize(TEXTS))
    np.testing.assert_allclose(unit(model.eval().encode_text(ids)), ours.embed_texts(TEXTS), atol=1e-5)
    pixels = torch.stack([transform(image) for image in images()[:-1]])  # Pillow resizes bilevel images differently
    np.testing.assert_allclose(unit(model.encode_image(pixels)), ours.embed_images(images()[:-1]), atol=1e-5)


@needs_open_clip
@pytest.mark.filterwarnings("ignore:.*torch.jit.load:DeprecationWarning")
@pytest.mark.parametrize("name", ["vit", "resnet"])
@torch.inference_mode()
def test_open_clip_opens_an_openai_archive(name: str, tmp_path: Path) -> None:
    library, source = open_clip(), checkpoint_of(name)
    certificate = convert(source, tmp_path / "out", "openai")
    assert certificate.library.startswith("open_clip ")
    model = library.load_openai_model(str(tmp_path / "out" / "model.pt"), precision="fp32", device="cpu").eval()
    ours = DualEncoder(source.build("source"), source.card, "published", source.files)
    ids = library.SimpleTokenizer(context_length=16)(TEXTS)
    assert np.array_equal(ids.numpy(), ours.tokenize(TEXTS))
    # OpenAI's loaders round most weights to float16
    np.testing.assert_allclose(unit(model.encode_text(ids)), ours.embed_texts(TEXTS), atol=3e-3)


def swapped(directory: Path, kind: str) -> None:
    """Swap the ids of two tokens in the tokenizer of a directory, which keeps one of its two kinds of files."""
    one, other = "cat</w>", "dog</w>"
    if kind == "tokenizer.json":
        content = json.loads((directory / kind).read_text())
        vocabulary = content["model"]["vocab"]
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
        (directory / kind).write_text(json.dumps(content))
        return
    (directory / "tokenizer.json").unlink()
    vocabulary = json.loads((directory / "vocab.json").read_text())
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "CLIPTokenizer"  # only this class reads the two files
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


@needs_transformers
@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json"])
@torch.inference_mode()
def test_a_directorys_own_tokenizer_of_clips_size_is_used(kind: str, tmp_path: Path) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", "hf")
    published = encoder_of(tmp_path / "out").tokenize(["a cat and a dog"])
    swapped(tmp_path / "out", kind)
    ours, library = encoder_of(tmp_path / "out"), transformers()
    assert ours.card.tokenizer.family == "tokenizers"
    batch = library.AutoTokenizer.from_pretrained(tmp_path / "out")(
        ["a cat and a dog"], padding="max_length", truncation=True, max_length=16, return_tensors="pt"
    )
    ids = ours.tokenize(["a cat and a dog"])
    assert np.array_equal(ids, batch["input_ids"].numpy())
    assert not np.array_equal(ids, published)
    theirs = unit(library.AutoModel.from_pretrained(tmp_path / "out").eval().get_text_features(**batch))
    np.testing.assert_allclose(theirs, ours.embed_texts(["a cat and a dog"]), atol=1e-5)
    with pytest.raises(WeightsError, match="openai cannot represent tokenizer"):
        convert(read(tmp_path / "out"), tmp_path / "openai", "openai")
    convert(read(tmp_path / "out"), tmp_path / "again", "hf")
    assert np.array_equal(encoder_of(tmp_path / "again").tokenize(["a cat and a dog"]), ids)


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json", "none"])
def test_the_published_tokenizer_in_a_directory_needs_no_files(kind: str, tmp_path: Path) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", "hf")
    for name in {"tokenizer.json", "vocab.json", "merges.txt"} - {kind, "merges.txt" if kind == "vocab.json" else ""}:
        (tmp_path / "out" / name).unlink()
    assert read(tmp_path / "out").card.tokenizer.family == "clip"


def test_merges_in_another_order_and_a_vocabulary_that_keeps_case_are_other_tokenizers(tmp_path: Path) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", "hf")
    path = tmp_path / "out" / "tokenizer.json"
    original = path.read_text()
    for change in ("merges", "case"):
        content = json.loads(original)
        if change == "merges":
            merges = content["model"]["merges"]
            merges[0], merges[1] = merges[1], merges[0]
        else:
            content["normalizer"] = {"type": "NFC"}
        path.write_text(json.dumps(content))
        assert read(tmp_path / "out").card.tokenizer.family == "tokenizers", change


@needs_open_clip
def test_open_clips_directory_uses_its_own_tokenizer_only_if_it_names_one(tmp_path: Path) -> None:
    """open_clip ignores tokenizer files unless the configuration has `hf_tokenizer_name`."""
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "hf", "hf")
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", "open_clip")
    swapped(tmp_path / "hf", "tokenizer.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "out" / name).write_bytes((tmp_path / "hf" / name).read_bytes())
    path, text = tmp_path / "out" / "open_clip_config.json", ["a cat and a dog"]
    for is_named in (False, True):
        config = json.loads(path.read_text())
        config["model_cfg"]["text_cfg"] |= {"hf_tokenizer_name": "any"} if is_named else {}
        path.write_text(json.dumps(config))
        theirs = open_clip().get_tokenizer(f"local-dir:{tmp_path / 'out'}")(text).numpy()
        assert np.array_equal(encoder_of(tmp_path / "out").tokenize(text), theirs), is_named


HOSTILE_CLIP = {
    "a list": ("tokenizer.json", b"[]", "expected a JSON object"),
    "no JSON": ("tokenizer.json", b"{", "not JSON"),
    "deep nesting": ("tokenizer.json", b'{"a":' * 100_000, "not JSON"),
    "many values": ("tokenizer.json", b"[" + b"0," * (3 << 20) + b"0]", "more than 2,097,152 values"),
    "no model": ("tokenizer.json", b"{}", "tokenizer.json: not a tokenizer"),
    "a vocabulary of text": ("tokenizer.json", b'{"model": {"vocab": "x", "merges": 3}}', "not a tokenizer"),
    "ids of text": ("vocab.json", b'{"a": "b", "<|endoftext|>": "c"}', "not a tokenizer"),
    "an empty vocabulary": ("vocab.json", b"{}", "tokenizer.json: "),
    "many lines": ("merges.txt", b"\n" * (3 << 20), "more than 2,097,152 lines"),
    "no merges": ("merges.txt", b"\xff\xfe\n\x00\n", "not a tokenizer"),
}


@pytest.mark.parametrize("case", HOSTILE_CLIP)
def test_a_damaged_tokenizer_in_a_directory_is_one_line(case: str, tmp_path: Path) -> None:
    name, content, message = HOSTILE_CLIP[case]
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", "hf")
    if name in ("vocab.json", "merges.txt"):
        (tmp_path / "out" / "tokenizer.json").unlink()
    (tmp_path / "out" / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        read(tmp_path / "out")
    assert "\n" not in str(error.value)
