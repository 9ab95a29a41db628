import hashlib
import json
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_clip import tiny_card, tiny_clip

from wordsight.errors import OutputError, WeightsError
from wordsight.model import CLIP
from wordsight.weights import Card
from wordsight.weights.formats.wordsight import read_wordsight, save_directory


def load_directory(directory: Path) -> tuple[CLIP, Card]:
    checkpoint = read_wordsight(directory)
    return checkpoint.build(str(directory / "model.safetensors")), checkpoint.card


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny_clip().save(tmp_path / "model")
    return tmp_path / "model"


def edit_card(directory: Path, **changes: object) -> None:
    path = directory / "wordsight.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    """Change the weights and their hash in the card, as someone would who writes both files."""
    tensors = load_file(directory / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, directory / "model.safetensors")
    weights_sha256 = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    edit_card(directory, weights_sha256=weights_sha256)


def refusal(directory: Path) -> str:
    """The error message with which a directory is refused; it is one line."""
    with pytest.raises(WeightsError) as refused:
        load_directory(directory)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["vit", "residual"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_read_back_bit_for_bit(tmp_path, kind, dtype):
    model = tiny_clip(kind).model.to(dtype)
    written = save_directory(tmp_path / "model", model.state_dict(), tiny_card(kind))
    loaded, card = load_directory(tmp_path / "model")
    assert card == written
    expected, actual = model.state_dict(), loaded.state_dict()
    assert list(expected) == list(actual)
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name
    assert not loaded.training


def test_the_directory_has_two_files_in_standard_formats(directory):
    assert sorted(path.name for path in directory.iterdir()) == ["model.safetensors", "wordsight.json"]
    card = json.loads((directory / "wordsight.json").read_text())
    assert card["weights_sha256"] == hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    assert torch.equal(load_file(directory / "model.safetensors")["logit_scale"], tiny_clip().model.logit_scale)


def test_views_and_other_memory_formats_are_saved_by_value(tmp_path):
    model = tiny_clip("residual").model
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(memory_format=torch.channels_last)
    save_directory(tmp_path / "model", model.state_dict(), tiny_card("residual"))
    assert all(
        torch.equal(tensor, original[name])
        for name, tensor in load_directory(tmp_path / "model")[0].state_dict().items()
    )


def test_saving_again_replaces_the_whole_model(directory):
    tiny_clip(seed=1).save(directory)
    assert torch.equal(load_directory(directory)[0].ln_final.bias, tiny_clip(seed=1).model.ln_final.bias)
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_saving_never_replaces_a_directory_with_other_files(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"contains other files \(thesis.txt\); choose a new directory"):
        tiny_clip().save(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_the_previous_model(directory):
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            tiny_clip(seed=1).save(directory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    assert [path.name for path in directory.parent.iterdir()] == ["model"]


def test_a_path_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        tiny_clip().save(tmp_path / "file" / "model")


def test_weights_without_their_card_are_refused_with_advice(directory):
    (directory / "wordsight.json").unlink()
    assert "a model needs the wordsight.json that was saved with its weights: put it next to them" in refusal(directory)


def test_a_card_without_its_weights_is_refused_with_advice(directory):
    (directory / "model.safetensors").unlink()
    assert "the card is there but its weights are missing: download them again" in refusal(directory)


def test_the_first_five_missing_tensors_and_their_number_are_listed(directory):
    names = sorted(load_file(directory / "model.safetensors"))[:7]
    edit_tensors(directory, **dict.fromkeys(names))
    assert f"missing {', '.join(names[:5])}, ... (7 in all); download the weights and their card again" in refusal(
        directory
    )


def test_unexpected_tensors_are_named(directory):
    edit_tensors(directory, extra=torch.zeros(1), logit_scale=None)
    assert "missing logit_scale; unexpected extra" in refusal(directory)


def test_a_wrong_shape_is_named_with_the_expected_one(directory):
    edit_tensors(directory, text_projection=torch.zeros(16, 9))
    assert "text_projection is (16, 9), the card says (16, 8)" in refusal(directory)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_several_precisions_become_float32(directory, dtype):
    projection = torch.linspace(-1, 1, 128, dtype=torch.float64).reshape(16, 8).to(dtype)
    edit_tensors(directory, text_projection=projection)
    model = read_wordsight(directory).build("test")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.text_projection, projection.to(torch.float32))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_types_that_are_not_floats_of_16_bits_or_more_are_refused(directory, dtype):
    edit_tensors(directory, text_projection=torch.zeros(16, 8).to(dtype))
    assert str(dtype).removeprefix("torch.") in refusal(directory)
    assert "expected float32, float16, bfloat16 or float64" in refusal(directory)


def test_a_truncated_file_is_refused_wherever_it_ends(directory):
    content = (directory / "model.safetensors").read_bytes()
    for length in (4, 8, 100, len(content) // 2, len(content) - 1):
        (directory / "model.safetensors").write_bytes(content[:length])
        assert "not a complete safetensors file" in refusal(directory)
    assert f"truncated, {len(content) - 1:,} of {len(content):,} bytes" in refusal(directory)
    (directory / "model.safetensors").write_bytes(b"")
    assert "the file is empty; download it again" in refusal(directory)


def test_inconsistent_headers_are_refused(directory):
    header = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}
    outside = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [1 << 40, (1 << 40) + 4]}}
    texts = [json.dumps(header), json.dumps(outside), "[" * 100_000, "{}", '{"a": 1}', "\0" * 9]
    headers = [struct.pack("<Q", len(text)) + text.encode() + b"0000" for text in texts]
    for content in [struct.pack("<Q", 1 << 62), b"\xff" * 64, b"PK\x03\x04" * 9, *headers]:
        (directory / "model.safetensors").write_bytes(content)
        assert str(directory / "model.safetensors") in refusal(directory)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 200_000, b'{"name": "x"}', b'{"name": "\xed\xa0\x80"}', b"NaN"],
)
def test_hostile_cards_are_refused(directory, content):
    (directory / "wordsight.json").write_bytes(content)
    assert str(directory / "wordsight.json") in refusal(directory)


def test_a_huge_card_is_not_read(directory):
    with (directory / "wordsight.json").open("wb") as file:
        file.truncate(1 << 40)
    assert "expected at most 16,777,216" in refusal(directory)


def test_a_card_that_would_take_too_long_to_build_is_refused(directory):
    model = json.loads((directory / "wordsight.json").read_text())["model"]
    edit_card(directory, model=model | {"text": model["text"] | {"layers": 10**9}})
    assert "the architecture has layers 1000000000" in refusal(directory)
    edit_card(directory, model=model | {"text": model["text"] | {"layers": 10**6}})
    assert "the architecture has 1000002 layers, but the file has only" in refusal(directory)
    edit_card(directory, model=model | {"embed_dim": 10**15})
    assert "the architecture has embed_dim" in refusal(directory)


def test_an_unknown_key_in_the_card_is_refused_with_the_nearest(directory):
    edit_card(directory, licens="MIT")
    assert refusal(directory).endswith("unknown key 'licens'; did you mean 'licence'?")


@pytest.mark.parametrize("is_large", [False, True])
def test_weights_of_another_model_with_the_same_shapes_are_refused(directory, tmp_path, monkeypatch, is_large):
    if is_large:
        monkeypatch.setattr("wordsight.cache._MAX_HASHED_AGAIN_BYTES", 0)
    load_directory(directory)
    other = tiny_clip(seed=1)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", directory)
    assert "model.safetensors: damaged or replaced: its SHA-256 is" in refusal(directory)
    edit_card(directory, weights_sha256="")
    load_directory(directory)


def test_one_flipped_bit_of_the_weights_is_noticed(directory):
    content = bytearray((directory / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (directory / "model.safetensors").write_bytes(content)
    assert "damaged or replaced" in refusal(directory)
