import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wordsight.errors import WeightsError
from wordsight.weights.containers.safetensors import as_float32, read_safetensors

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(4).half(),
    "c": torch.tensor(7),
    "d": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
}


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Two shards and their index, as Hugging Face names them."""
    files = {"model-00001-of-00002.safetensors": ["a", "b"], "model-00002-of-00002.safetensors": ["c", "d"]}
    for file, names in files.items():
        save_file({name: TENSORS[name] for name in names}, tmp_path / file)
    write_index(tmp_path / "model.safetensors.index.json", {n: file for file, names in files.items() for n in names})
    return tmp_path / "model.safetensors.index.json"


def write_index(path: Path, weight_map: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def assert_equal(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert torch.equal(actual[name], tensor), name


def test_a_single_file_is_read_as_by_the_library(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert_equal(read_safetensors(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors"))


def test_shards_are_read_as_one_dictionary(index):
    assert_equal(read_safetensors(index), TENSORS)


def test_a_shard_that_contradicts_the_index_is_refused(index):
    save_file({"c": TENSORS["c"], "e": TENSORS["d"]}, index.with_name("model-00002-of-00002.safetensors"))
    with pytest.raises(WeightsError, match=r"00002-of-00002.safetensors: not the file .*: missing d; unexpected e"):
        read_safetensors(index)


def test_a_missing_shard_is_named(index):
    index.with_name("model-00001-of-00002.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"1 of its 2 files are missing: model-00001-of-00002.safetensors"):
        read_safetensors(index)


@pytest.mark.parametrize(
    "file", ["../x.safetensors", "/x.safetensors", "a/x.safetensors", "a\\x.safetensors", "c:x.safetensors", "x.pt", ""]
)
def test_an_index_may_only_name_files_in_its_directory(index, file):
    write_index(index, {"a": file})
    with pytest.raises(WeightsError, match=r"expected a safetensors or \.bin file in the index's directory"):
        read_safetensors(index)


def test_the_header_is_bounded_before_it_is_parsed(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", 1 << 23) + b" " * (1 << 23))
    with pytest.raises(WeightsError, match="its header claims more than 4194304 bytes"):
        read_safetensors(tmp_path / "x.safetensors")


def test_half_precision_becomes_float32_one_tensor_at_a_time():
    releases = []
    converted = as_float32(TENSORS, "x", lambda: releases.append(1))
    assert_equal(converted, {n: t.float() if t.is_floating_point() else t for n, t in TENSORS.items()})
    assert converted["a"].data_ptr() == TENSORS["a"].data_ptr()
    assert len(releases) == 2
    assert as_float32({"a": torch.tensor([0.1]).double()}, "x", lambda: None)["a"].dtype == torch.float32
    with pytest.raises(WeightsError, match="x: a is float8_e5m2; expected float32, float16, bfloat16 or float64"):
        as_float32({"a": torch.zeros(1).to(torch.float8_e5m2)}, "x", lambda: None)
