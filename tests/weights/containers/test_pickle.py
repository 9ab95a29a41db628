"""Files that torch wrote, compared with what `torch.load` returns for them."""

import argparse
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.weights.archives import hand_archive, name, program, rewrite, tensor, value
from torch import nn

from wordsight.errors import WeightsError
from wordsight.weights.containers.pickle import MAX_INSTRUCTIONS, Name, Record, unpickle
from wordsight.weights.containers.torch_archive import is_archive, read_archive

TYPED_STORAGE_TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8),
    *(torch.int8, torch.int16, torch.int32, torch.int64, torch.bool),
]
UNTYPED_STORAGE_TYPES = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn]


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def is_same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether two tensors are equal in type, size, strides and every byte."""
    has_same_layout = (actual.dtype, actual.shape, actual.stride()) == (
        expected.dtype,
        expected.shape,
        expected.stride(),
    )
    return has_same_layout and actual.contiguous().view(-1).view(torch.uint8).equal(
        expected.contiguous().view(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("dtype", TYPED_STORAGE_TYPES + UNTYPED_STORAGE_TYPES, ids=str)
@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("is_aligned", [True, False])
def test_every_type_is_read_in_both_byte_orders(tmp_path, dtype, order, is_aligned):
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (24 * dtype.itemsize,), dtype=torch.uint8)
    path = saved(tmp_path / "x.pt", {"a": raw.view(dtype).view(2, 3, 4), "b": torch.tensor(3.0)})
    if order == "big" or not is_aligned:
        rewrite(path, "moved" if is_aligned else "moved.by", byteorder=order.encode())
    if order == "big" and dtype in UNTYPED_STORAGE_TYPES and dtype.itemsize > 1:
        with pytest.raises(WeightsError, match=r"big-endian torch.uint\d\d is not supported"):
            read_archive(path)
        return
    expected = torch.load(path, weights_only=True)["a"]
    assert is_same(read_archive(path).value["a"], expected)
    if order == "big" and dtype.itemsize > 1:
        assert not torch.equal(expected.view(torch.uint8).view(-1), raw)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(tmp_path, protocol):
    content = {
        "numbers": [1, 300, 70_000, 1 << 40, -5, 0.5, True, None],
        "texts": ("short", "long" * 100, "größer", b"bytes"),
        "ordered": OrderedDict(a=1, b=2),
        "set": {1, 2},
        "weights": nn.Linear(3, 2).state_dict(),
    }
    path = saved(tmp_path / "x.pt", content, pickle_protocol=protocol)
    loaded = read_archive(path).value
    assert loaded["numbers"] == content["numbers"]
    assert loaded["ordered"] == {"a": 1, "b": 2}
    assert loaded["texts"][:3] == content["texts"][:3]
    for key, expected in torch.load(path, weights_only=False)["weights"].items():
        assert is_same(loaded["weights"][key], expected)


def test_views_of_one_storage_share_memory(tmp_path):
    whole = torch.arange(24.0).view(4, 6)
    path = saved(tmp_path / "x.pt", {"whole": whole, "transposed": whole.T, "part": whole[1:3, ::2], "none": whole[:0]})
    loaded, expected = read_archive(path).value, torch.load(path, weights_only=True)
    for key in expected:
        assert is_same(loaded[key], expected[key]), key
    loaded["whole"][1, 0] = 100
    assert loaded["transposed"][0, 1] == loaded["part"][0, 0] == 100


def test_writing_to_a_tensor_does_not_change_the_file(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.zeros(1000)})
    before = path.read_bytes()
    read_archive(path).value["a"].fill_(1)
    assert path.read_bytes() == before


def test_a_large_aligned_tensor_is_mapped_instead_of_copied(tmp_path):
    path = saved(tmp_path / "x.pt", {"a": torch.ones(1 << 21)})
    archive = read_archive(path)
    start = archive.value["a"].data_ptr()
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert any(int(low, 16) <= start < int(high, 16) for low, high in (line.split()[0].split("-") for line in maps))
    assert archive.value["a"].sum() == 1 << 21
    archive.release()
    assert archive.value["a"].sum() == 1 << 21


def test_scalars_and_empty_tensors_are_read(tmp_path):
    content = {"scalar": torch.tensor(7), "empty": torch.empty(0, 3), "parameter": nn.Parameter(torch.ones(2))}
    loaded = read_archive(saved(tmp_path / "x.pt", content)).value
    assert loaded["scalar"].item() == 7
    assert loaded["empty"].shape == (0, 3)
    assert torch.equal(loaded["parameter"], torch.ones(2))


def test_other_objects_in_a_checkpoint_become_records(tmp_path):
    others = {
        "args": argparse.Namespace(lr=0.1),
        "milestones": Counter({3: 1}),
        "best": np.float64(0.5),
        "device": torch.device("cuda:3"),
        "size": torch.Size([2]),
        "type": torch.float16,
        "bytes": bytearray(b"x"),
    }
    loaded = read_archive(saved(tmp_path / "x.pt", others)).value
    assert {key: type(part) for key, part in loaded.items()} == dict.fromkeys(others, Record) | {"type": Name}
    assert (loaded["args"].class_name, loaded["args"].state) == ("argparse.Namespace", {"lr": 0.1})


def test_an_object_in_torchscript_is_a_record_of_its_attributes():
    script = name("__torch__.torch.nn", "Module") + b")\x81}" + value("weight") + value(3) + b"sb"
    loaded = unpickle(program(script), "x", {}, lambda identity: None)
    assert (loaded.class_name, loaded.state, loaded.is_script) == ("__torch__.torch.nn.Module", {"weight": 3}, True)


def test_a_storage_must_have_the_size_that_the_pickle_says(tmp_path):
    (tmp_path / "x.pt").write_bytes(hand_archive(program(tensor()), {"0": bytes(16)}))
    assert torch.equal(read_archive(tmp_path / "x.pt").value, torch.zeros(4))
    (tmp_path / "x.pt").write_bytes(hand_archive(program(tensor()), {"0": bytes(12)}))
    with pytest.raises(WeightsError, match="storage data/0 has 3 elements of float32, which contradicts the pickle"):
        read_archive(tmp_path / "x.pt")


def test_the_limits_allow_a_large_training_checkpoint():
    """A checkpoint with AdamW has four tensors per parameter, each of about 30 instructions."""
    num_parameters = 2000
    assert num_parameters * 4 * 30 < MAX_INSTRUCTIONS


def test_only_zip_files_are_archives(tmp_path):
    torch.save({}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not is_archive(tmp_path / "old.pt")
    assert is_archive(saved(tmp_path / "new.pt", {}))
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        is_archive(tmp_path / "none.pt")
