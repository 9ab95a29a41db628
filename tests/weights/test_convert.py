"""Every combination of architecture and target format is read back bit for bit, or refused with the reason."""

import hashlib
import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from tests.weights.models import MODELS, checkpoint_of

from wordsight.errors import OutputError, WeightsError
from wordsight.weights.certificate import Certificate
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.read import read

POSSIBLE = {
    "openai": {"vit", "resnet"},
    "open_clip": {"vit", "vit-gelu", "vit-narrow-heads", "vit-leftover", "vit-mean", "resnet", "class-token"},
    "hf": {"vit", "vit-gelu", "vit-mixed", "vit-narrow-heads", "vit-leftover", "siglip", "siglip-leftover"},
    "wordsight": set(MODELS),
    "onnx": set(MODELS),
}
"""The models that each format can represent, as documented; all others are refused."""

REASONS = {
    ("vit-gelu", "openai"): "cannot represent model.image.activation 'gelu'.*'quick_gelu'",
    ("vit-leftover", "openai"): "openai cannot represent image_size_px 30",
    ("siglip", "openai"): "openai cannot represent this model",
    ("class-token", "openai"): "openai cannot represent this model",
    ("vit-mixed", "open_clip"): "quick_gelu in both towers or in neither",
    ("siglip", "open_clip"): "timm",
    ("residual", "open_clip"): "no such image tower",
    ("resnet", "hf"): "no CLIP with this kind of image tower",
    ("vit-mean", "hf"): "class token",
    ("class-token", "hf"): "end token of a causal text",
}


_OURS = ("target", "images", "texts", "scale", "pixels", "ids", "crop")
"""The fields that do not depend on the installed libraries, which tests/parity/test_written_files.py tests."""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", [target for target in POSSIBLE if target != "onnx"])
def test_each_combination_is_read_back_bit_for_bit_or_refused(name: str, target: str, tmp_path: Path) -> None:
    checkpoint, out = checkpoint_of(name), tmp_path / "out"
    if name not in POSSIBLE[target]:
        with pytest.raises(WeightsError, match=REASONS.get((name, target), ".")) as refused:
            convert(checkpoint, out, target)
        assert "\n" not in str(refused.value)
        assert list(tmp_path.iterdir()) == []
        return
    certificate = convert(checkpoint, out, target)
    crop = "round to floor" if target == "hf" and not name.startswith("siglip") else ""
    ours = {key: value for key, value in msgspec.structs.asdict(certificate).items() if key in _OURS}
    assert Certificate(**ours) == Certificate(target=target, images=0, texts=0, crop=crop)
    assert certificate.library_agrees
    assert json.loads((out / "certificate.json").read_text())["images"] == 0
    written = read(out)
    assert written.card.model == checkpoint.card.model
    assert msgspec.structs.replace(written.card.preprocessing, crop="round") == checkpoint.card.preprocessing
    assert written.card.tokenizer == checkpoint.card.tokenizer
    assert written.files == checkpoint.files
    assert written.tensors.keys() == checkpoint.tensors.keys()
    for key, tensor in checkpoint.tensors.items():
        assert torch.equal(written.tensors[key], tensor), key
    again = tmp_path / "again"
    convert(written, again, "wordsight")
    for key, tensor in read(again).tensors.items():
        assert torch.equal(tensor, checkpoint.tensors[key]), key


SLOW = ("vit-leftover", "siglip-leftover", "residual")


@pytest.mark.parametrize(
    "name", ["vit", "class-token", "siglip", "resnet", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_onnx_graphs_compute_the_same_as_the_model(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    certificate = convert(checkpoint_of(name), tmp_path / "out", "onnx")
    assert certificate.holds
    assert 0 < max(certificate.images, certificate.texts) < 1e-5
    names = {"image.onnx", "text.onnx", "wordsight.json", "exported.json", "certificate.json"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names | set(checkpoint_of(name).files)


@pytest.mark.slow
def test_onnx_weights_beyond_two_gigabytes_are_stored_in_a_separate_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    checkpoint = checkpoint_of("vit")
    vocabulary_size = 9_000_000  # of width 64: 2.3 GB
    embedding = torch.randn(vocabulary_size, 64, generator=torch.Generator().manual_seed(0)) / 50
    text = msgspec.structs.replace(checkpoint.card.model.text, vocabulary_size=vocabulary_size)
    card = msgspec.structs.replace(checkpoint.card, model=msgspec.structs.replace(checkpoint.card.model, text=text))
    large = Checkpoint({**checkpoint.tensors, "token_embedding.weight": embedding}, card, checkpoint.files)
    certificate = convert(large, tmp_path / "out", "onnx")
    assert 0 < max(certificate.images, certificate.texts) < 1e-5
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert sizes["text.onnx"] < 1e6 < 2**31 < sizes["text.onnx.data"]


@pytest.mark.parametrize("target", ["openai", "open_clip", "hf", "wordsight"])
def test_an_end_id_that_is_the_highest_is_implied(tmp_path: Path, target: str) -> None:
    checkpoint = checkpoint_of("vit")
    text = msgspec.structs.replace(checkpoint.card.model.text, end_id=49407)
    card = msgspec.structs.replace(checkpoint.card, model=msgspec.structs.replace(checkpoint.card.model, text=text))
    certificate = convert(Checkpoint(checkpoint.tensors, card), tmp_path / "out", target)
    assert (certificate.texts, certificate.ids) == (0, 0)
    assert read(tmp_path / "out").card.model.text.end_id in (None, 49407)


def test_an_end_id_that_is_not_the_highest_is_not_lost(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    text = msgspec.structs.replace(checkpoint.card.model.text, end_id=49000)
    card = msgspec.structs.replace(checkpoint.card, model=msgspec.structs.replace(checkpoint.card.model, text=text))
    with pytest.raises(WeightsError, match=r"openai cannot represent model\.text\.end_id 49000"):
        convert(Checkpoint(checkpoint.tensors, card), tmp_path / "out", "openai")


def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    half = Checkpoint(
        {k: v.half() if v.is_floating_point() else v for k, v in checkpoint.tensors.items()}, checkpoint.card
    )
    convert(half, tmp_path / "out", "hf")
    for key, tensor in read(tmp_path / "out").tensors.items():
        assert torch.equal(tensor, half.tensors[key].float()), key


def test_a_format_that_changes_the_model_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: files whose model computes different values are not written."""
    from wordsight.weights import convert as module

    hugging_face = module.FORMATS["hf"]

    def read_swapped(directory: Path) -> Checkpoint:
        again = hugging_face.read(directory)
        one, other = (f"visual.transformer.resblocks.{n}.mlp.c_fc.bias" for n in (0, 1))
        tensors = dict(again.tensors)
        tensors[one], tensors[other] = tensors[other], tensors[one]
        return Checkpoint(tensors, again.card, again.files)

    monkeypatch.setitem(module.FORMATS, "hf", hugging_face._replace(read=read_swapped))
    with pytest.raises(WeightsError, match=r"computes different values: images differ by 0\.\d+, texts by 0, "):
        convert(checkpoint_of("vit"), tmp_path / "out", "hf")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_and_an_unknown_target_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="already exists; choose a new directory"):
        convert(checkpoint_of("vit"), tmp_path / "out", "hf")
    with pytest.raises(WeightsError, match=r"--to open-clip: expected one of .*; did you mean 'open_clip'\?"):
        convert(checkpoint_of("vit"), tmp_path / "new", "open-clip")


def test_transformers_reads_the_written_files(tmp_path: Path) -> None:
    from tests.parity.peers import has_transformers, transformers

    if not has_transformers():
        pytest.skip("needs transformers")
    checkpoint = checkpoint_of("vit")
    convert(checkpoint, tmp_path / "out", "hf")
    peer = transformers().CLIPModel.from_pretrained(tmp_path / "out").eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = peer.vision_model(pixels).pooler_output @ peer.visual_projection.weight.T
        ours = checkpoint.build("vit").encode_image(pixels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    texts = ["a photo of a cat", "two dogs running over wet sand", "it's 12 o'clock"]
    ids = transformers().CLIPTokenizer.from_pretrained(tmp_path / "out")(texts)["input_ids"]
    from wordsight.text import clip_tokenizer

    for row, expected in zip(clip_tokenizer(16)(texts), ids, strict=True):
        assert row[: len(expected)].tolist() == expected
    assert np.all(clip_tokenizer(16)(texts[0])[0, len(ids[0]) :] == 0)


def test_a_certificate_belongs_to_the_files_that_were_written(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    convert(checkpoint, tmp_path / "out", "open_clip")
    stored = json.loads((tmp_path / "out" / "certificate.json").read_text())
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out").iterdir()}
    assert stored["files"] == {name: hashes[name] for name in hashes if name != "certificate.json"}
    read(tmp_path / "out")
    weights = tmp_path / "out" / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match=r"open_clip_model\.safetensors is not the file that was converted, .* delete"):
        read(tmp_path / "out")
    (tmp_path / "out" / "certificate.json").unlink()
    read(tmp_path / "out")
