"""Which file and which weights are read, and that the advice in every refusal works when it is followed."""

import argparse
import io
import json
import os
import pathlib
import re
import shutil
import tarfile
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.tiny_clip import png, tiny_clip
from tests.weights.archives import VIT, TinyClip, write_script
from tests.weights.models import checkpoint_of, convert_without_hashes
from torch import Tensor

from wordsight.cli import main
from wordsight.encoder import load
from wordsight.errors import WordsightError
from wordsight.model import PUBLISHED
from wordsight.weights.formats.key_layouts import to_theirs
from wordsight.weights.read import read

PLAIN = {name: tensor.clone() for name, tensor in TinyClip(seed=1).state_dict().items()}
AVERAGED = {name: tensor + 1 for name, tensor in PLAIN.items()}


@pytest.fixture(autouse=True)
def _register_a_tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "tiny", VIT)


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def refusal(path: Path, architecture: str | None = None, averaged: bool | None = None) -> str:
    with pytest.raises(WordsightError) as refused:
        load(path, "cpu", architecture, averaged)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 900
    return str(refused.value)


def assert_reads(path: Path, expected: dict[str, Tensor], *options: Any) -> None:
    tensors = read(path, *options).tensors
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name].float(), tensor.float()) for name, tensor in expected.items())


# Nesting


WRAPPED: dict[str, Any] = {
    "open_clip, DDP": {"epoch": 3, "state_dict": prefixed(PLAIN, "module."), "optimizer": {"state": {}}},
    "torch.compile": {"state_dict": prefixed(PLAIN, "_orig_mod.")},
    "torch.compile of the towers": {
        "state_dict": {name.replace("visual.", "visual._orig_mod."): tensor for name, tensor in PLAIN.items()}
    },
    "DDP of a compiled model": {"model": prefixed(PLAIN, "module._orig_mod.")},
    "Lightning": {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": prefixed(PLAIN, "model.") | {"loss.logit_scale": torch.ones([]), "metric.total": torch.ones(3)},
        "hyper_parameters": argparse.Namespace(path=pathlib.PurePosixPath("a/b"), seed=defaultdict(int, a=1)),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": "x", "best": torch.tensor(1.0)}},
        "rng": {"numpy": np.random.default_rng(0).random(3)},
    },
    "Lightning with DDP": {"state_dict": prefixed(PLAIN, "model.module.")},
    "Lightning's strategy": {"state_dict": prefixed(PLAIN, "_forward_module.model.")},
    "an attribute clip": {"state_dict": prefixed(PLAIN, "clip.")},
    "attributes within attributes": prefixed(PLAIN, "net.backbone.clip_model."),
    "PyTorch's tutorial": {"epoch": 3, "model_state_dict": PLAIN, "loss": 0.5},
    "FSDP": {"model": {name.replace("resblocks.", "resblocks._fsdp_wrapped_module."): t for name, t in PLAIN.items()}},
    "activation checkpointing": {
        name.replace("resblocks.0.", "resblocks.0._checkpoint_wrapped_module."): tensor
        for name, tensor in PLAIN.items()
    },
    "DeepSpeed": {"module": PLAIN, "optimizer": None, "ds_version": "0.16", "param_shapes": [{"a": torch.Size([1])}]},
    "an unusual key": {"clip_net": PLAIN, "optimizer": {"state": {0: {"step": 3}}}},
    "two levels": {"checkpoint": {"state_dict": PLAIN}},
    "the text tower apart": {
        "state_dict": {
            name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": tensor
            for name, tensor in PLAIN.items()
        }
    },
    "the text tower apart, in Lightning": {
        "state_dict": {
            f"model.{name}" if name.startswith(("visual.", "logit_scale")) else f"model.text.{name}": tensor
            for name, tensor in PLAIN.items()
        }
    },
    "transformers": to_theirs(PLAIN, "hugging_face_clip"),
    "transformers in a wrapper": {"state_dict": prefixed(to_theirs(PLAIN, "hugging_face_clip"), "module.clip.")},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_every_nesting_is_read_as_the_message_advises(tmp_path: Path, kind: str) -> None:
    torch.save(WRAPPED[kind], tmp_path / "epoch_3.ckpt")
    advice = re.search(r"the file looks like tiny: pass --as (\S+) \(GELU\)", refusal(tmp_path / "epoch_3.ckpt"))
    assert advice
    assert_reads(tmp_path / "epoch_3.ckpt", PLAIN, advice[1])
    assert_reads(tmp_path, PLAIN, advice[1])


BOTH = {
    "open_clip": {"state_dict": PLAIN, "state_dict_ema": AVERAGED},
    "timm": {"state_dict": PLAIN, "ema": prefixed(AVERAGED, "module.")},
    "unusual keys": {"my_clip": PLAIN, "my_clip_ema": AVERAGED},
    "Lightning": {"state_dict": prefixed(PLAIN, "model.") | prefixed(AVERAGED, "ema_model.")},
    "one without a prefix": PLAIN | prefixed(AVERAGED, "ema."),
    "nested twice": {"model": {"state_dict": PLAIN}, "model_ema": {"module": AVERAGED}},
}


@pytest.mark.parametrize("kind", BOTH)
def test_plain_and_averaged_weights_are_chosen_as_the_message_advises(tmp_path: Path, kind: str) -> None:
    torch.save(BOTH[kind], tmp_path / "both.pt")
    assert "choose with --averaged or --plain" in refusal(tmp_path / "both.pt", "tiny")
    assert_reads(tmp_path / "both.pt", AVERAGED, "tiny", True)
    assert_reads(tmp_path / "both.pt", PLAIN, "tiny", False)
    assert read(tmp_path / "both.pt", "tiny", True).card.training == {"averaged": True}


def test_several_models_in_one_file_are_not_confused(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed(PLAIN, "student.") | prefixed(AVERAGED, "teacher.")}, tmp_path / "a.pt")
    assert "has several models, student., teacher.; save the state dict of one" in refusal(tmp_path / "a.pt", "tiny")
    torch.save({"a": PLAIN, "b": AVERAGED}, tmp_path / "a.pt")
    assert "has several models, a, b; save the state dict of one" in refusal(tmp_path / "a.pt", "tiny")


def test_checkpoints_that_hold_no_whole_model_say_what_to_do(tmp_path: Path) -> None:
    torch.save({"model": {"_flat_param": torch.zeros(9)}}, tmp_path / "a.pt")
    assert "FSDP has divided; save a full state dict" in refusal(tmp_path / "a.pt", "tiny")
    torch.save({"state_dict": {"weight": torch.zeros(2, 2).to_sparse()}}, tmp_path / "a.pt")
    assert "has sparse, quantised, complex or distributed tensors" in refusal(tmp_path / "a.pt", "tiny")
    torch.save({"state_dict": PLAIN | {"logit_scale": torch.ones([], dtype=torch.complex64)}}, tmp_path / "a.pt")
    assert "has sparse, quantised, complex or distributed tensors" in refusal(tmp_path / "a.pt", "tiny")
    torch.save({"state_dict": PLAIN | {"ln_final.bias": torch.zeros(64, dtype=torch.int8)}}, tmp_path / "a.pt")
    assert "expected float32, float16, bfloat16 or float64" in refusal(tmp_path / "a.pt", "tiny")
    (tmp_path / "a.pt").unlink()
    (tmp_path / "__0_0.distcp").write_bytes(b"x")
    assert "dcp_to_torch_save" in refusal(tmp_path)


# Precisions

PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def mixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(PRECISIONS[number % 4]) for number, (name, tensor) in enumerate(tensors.items())}


@pytest.mark.parametrize("target", ["wordsight", "open_clip", "hf", "openai"])
@pytest.mark.parametrize("dtype", [*PRECISIONS, "mixed", torch.float8_e4m3fn])
def test_every_precision_is_read_from_every_directory(tmp_path: Path, target: str, dtype: Any) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", target)
    path = next(path for path in (tmp_path / "out").iterdir() if path.suffix in (".pt", ".safetensors"))
    loading = {".pt": lambda: torch.load(path, weights_only=True)}
    from safetensors.torch import load_file

    tensors = loading.get(path.suffix, lambda: load_file(path))()
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    cast = mixed(floats) if dtype == "mixed" else {name: tensor.to(dtype) for name, tensor in floats.items()}
    torch.save(tensors | cast, path) if path.suffix == ".pt" else save_file(tensors | cast, path)
    if dtype == torch.float8_e4m3fn:
        assert "float8_e4m3fn; expected float32, float16, bfloat16 or float64" in refusal(tmp_path / "out")
        return
    clip = load(tmp_path / "out", "cpu")
    single = target != "openai" and dtype in (torch.float16, torch.bfloat16)
    assert clip.runtime.precision == (str(dtype).removeprefix("torch.") if single else "float32")
    expected = checkpoint_of("vit").build("test").logit_scale.to(cast["logit_scale"].dtype).float()
    assert torch.equal(clip.model.logit_scale.float(), expected)
    assert np.isfinite(clip.embed_texts("a cat")).all()


def test_torch_files_of_mixed_precision_are_read(tmp_path: Path) -> None:
    torch.save({"state_dict": mixed(PLAIN)}, tmp_path / "a.pt")
    tensors = read(tmp_path / "a.pt", "tiny").tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert all(torch.equal(tensors[name], tensor.float()) for name, tensor in mixed(PLAIN).items())


# Which file is read


@pytest.mark.parametrize("target", ["wordsight", "open_clip", "hf"])
def test_a_file_that_is_named_is_the_file_that_is_read(tmp_path: Path, target: str) -> None:
    first, second = checkpoint_of("vit", seed=0), checkpoint_of("vit", seed=5)
    convert_without_hashes(first, tmp_path / "out", target)
    convert_without_hashes(second, tmp_path / "other", target)
    weights = next((tmp_path / "other").glob("*.safetensors"))
    weights.rename(tmp_path / "out" / "other.safetensors")
    assert_reads(tmp_path / "out", dict(first.tensors))
    assert_reads(tmp_path / "out" / weights.name, dict(first.tensors))
    assert_reads(tmp_path / "out" / "other.safetensors", dict(second.tensors))
    torch.save({"state_dict": dict(second.tensors)}, tmp_path / "out" / "epoch.pt")
    if target != "hf":
        assert_reads(tmp_path / "out" / "epoch.pt", dict(second.tensors))
    (tmp_path / "out" / "junk.bin").write_bytes(b"\x01\xffjunk\x00")
    assert "junk.bin: not a complete safetensors file" in refusal(tmp_path / "out" / "junk.bin")


def test_a_file_of_another_model_than_its_directory_describes_is_refused_until_it_is_named(tmp_path: Path) -> None:
    convert_without_hashes(checkpoint_of("vit-narrow-heads"), tmp_path / "out", "hf")
    torch.save({"state_dict": PLAIN}, tmp_path / "out" / "epoch.pt")
    message = refusal(tmp_path / "out" / "epoch.pt")
    assert "read as config.json describes it; if it is another model, name its architecture with --as" in message
    assert_reads(tmp_path / "out" / "epoch.pt", PLAIN, "tiny")


def test_the_description_and_a_part_of_a_sharded_model_stand_for_the_model(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    convert_without_hashes(checkpoint, tmp_path / "out", "hf")
    tensors = to_theirs(checkpoint.tensors, "hugging_face_clip")
    (tmp_path / "out" / "model.safetensors").unlink()
    names = sorted(tensors)
    for suffix, save in ((".safetensors", save_file), (".bin", torch.save)):
        stem = "model" if suffix == ".safetensors" else "pytorch_model"
        halves = {f"{stem}-0000{n + 1}-of-00002{suffix}": names[n::2] for n in range(2)}
        for file, part in halves.items():
            save({name: tensors[name] for name in part}, tmp_path / "out" / file)
        index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
        (tmp_path / "out" / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
        for path in (f"{stem}{suffix}.index.json", *halves, "config.json", ""):
            assert_reads(tmp_path / "out" / path, dict(checkpoint.tensors))
        for file in halves:
            (tmp_path / "out" / file).unlink()
        assert f"2 of its 2 files are missing: {stem}-00001-of" in refusal(tmp_path / "out")
        (tmp_path / "out" / f"{stem}{suffix}.index.json").unlink()


# --as, --averaged and --plain in directories


def open_clip_directory(directory: Path, weights: Any) -> Path:
    convert_without_hashes(checkpoint_of("vit"), directory, "open_clip")
    (directory / "open_clip_model.safetensors").unlink()
    torch.save(weights, directory / "open_clip_pytorch_model.bin")
    return directory


def test_averaged_weights_are_chosen_in_directories(tmp_path: Path) -> None:
    plain, averaged = (dict(checkpoint_of("vit", seed=seed).tensors) for seed in (0, 5))
    directory = open_clip_directory(tmp_path / "m", {"state_dict": plain, "state_dict_ema": averaged})
    assert "choose with --averaged or --plain" in refusal(directory)
    for option, expected in ((True, averaged), (False, plain)):
        assert_reads(directory, expected, None, option)
        assert_reads(directory / "open_clip_pytorch_model.bin", expected, None, option)
        flag = "--averaged" if option else "--plain"
        assert main(["convert", str(directory), str(tmp_path / flag), "--to", "wordsight", flag]) == 0
        assert_reads(tmp_path / flag, expected)
        assert_reads(tmp_path / flag, expected, None, option)
        assert f"no {'plain' if option else 'averaged'} weights" in refusal(tmp_path / flag, None, not option)


@pytest.mark.parametrize("target", ["open_clip", "hf", "openai"])
def test_a_directory_without_averaged_weights_says_so(tmp_path: Path, target: str) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "out", target)
    assert "has no averaged weights, only plain ones; use --plain" in refusal(tmp_path / "out", None, True)
    assert read(tmp_path / "out", None, False).tensors


def test_an_architecture_that_contradicts_the_description_is_refused(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("vit")
    PUBLISHED["same"] = checkpoint.card.model  # removed with the fixture's change below
    try:
        for target in ("wordsight", "open_clip", "hf", "openai"):
            convert_without_hashes(checkpoint, tmp_path / target, target)
            assert_reads(tmp_path / target, dict(checkpoint.tensors), "same-quickgelu")
            if target == "openai":
                continue
            message = refusal(tmp_path / target, "same")
            assert "an architecture that is not same (they differ in image.activation, text.activation)" in message
            weights = next((tmp_path / target).glob("*.safetensors"))
            overridden = read(weights, "same")  # as the message advises
            assert overridden.card.model.text.activation == "gelu"
            assert torch.equal(overridden.tensors["text_projection"], checkpoint.tensors["text_projection"])
        error = refusal(tmp_path / "hf", "samee")
        assert error.startswith("unknown architecture 'samee'; ")
        assert error.endswith("did you mean 'same'?")
    finally:
        del PUBLISHED["same"]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_an_openai_archive_states_its_architecture(tmp_path: Path) -> None:
    from tests.weights.archives import CONTEXT, SIZE

    example = (torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, CONTEXT, dtype=torch.int64))
    with pytest.warns() as _:
        write_script(tmp_path / "tiny.pt", TinyClip(seed=1), example)
    assert_reads(tmp_path / "tiny.pt", PLAIN)
    assert_reads(tmp_path / "tiny.pt", PLAIN, "tiny-quickgelu")
    assert "an architecture that is not tiny (they differ" in refusal(tmp_path / "tiny.pt", "tiny")
    assert "has no averaged weights" in refusal(tmp_path / "tiny.pt", None, True)
    (tmp_path / "config.json").write_text("{}")
    assert_reads(tmp_path / "tiny.pt", PLAIN)


def test_a_published_name_states_its_architecture() -> None:
    message = refusal(Path("openai/ViT-B-32"), "RN50")
    assert "openai/ViT-B-32: states an architecture that is not RN50" in message


def test_the_checkpoint_of_a_run_is_read(tmp_path: Path) -> None:
    golden = Path(__file__).parents[1] / "golden" / "files" / "run"
    last = read(golden / "last")
    content = torch.load(golden / "checkpoint.pt", weights_only=True)
    learner = {n.removeprefix("clip."): t for n, t in content["learner"].items() if n.startswith("clip.")}
    ema = learner | content["ema"]
    assert_reads(golden / "checkpoint.pt", ema)
    assert read(golden / "checkpoint.pt").card.model == last.card.model
    assert_reads(golden / "checkpoint.pt", learner, None, False)
    if content["ema"]:
        assert_reads(golden / "checkpoint.pt", ema, None, True)
    else:
        assert "has no averaged weights" in refusal(golden / "checkpoint.pt", None, True)
    torch.save(content, tmp_path / "checkpoint.pt")
    assert "put it back next to last or best" in refusal(tmp_path / "checkpoint.pt")


def test_the_checkpoint_of_a_run_is_read_without_the_run(tmp_path: Path) -> None:
    clip = tiny_clip()
    tensors = clip.model.state_dict()
    recipe = {"model": msgspec.to_builtins(clip.card.model), "preprocessing": None}
    learner = prefixed(tensors, "clip.") | {"caption_head.weight": torch.zeros(2, 2)}
    content = {"identity": {"recipe": recipe, "data": "", "start": ""}, "learner": learner, "ema": {}, "steps": 3}
    torch.save(content, tmp_path / "checkpoint.pt")
    loaded = load(tmp_path / "checkpoint.pt", "cpu")
    assert loaded.fingerprint == clip.fingerprint
    averaged = {name: tensor + 1 for name, tensor in tensors.items()}
    torch.save(content | {"ema": averaged}, tmp_path / "checkpoint.pt")
    assert_reads(tmp_path / "checkpoint.pt", averaged)
    assert_reads(tmp_path / "checkpoint.pt", averaged, None, True)
    assert_reads(tmp_path / "checkpoint.pt", dict(tensors), None, False)
    for broken in ({"model": "ViT-B-23"}, {"model": 3}, {"model": {}}, {}, recipe | {"preprocessing": {"x": 1}}):
        torch.save(content | {"identity": {"recipe": broken, "start": ""}}, tmp_path / "checkpoint.pt")
        assert str(tmp_path / "checkpoint.pt") in refusal(tmp_path / "checkpoint.pt")


def test_the_model_of_a_run_says_where_its_other_weights_are(tmp_path: Path) -> None:
    clip = tiny_clip()
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    clip.save(tmp_path / "best")
    card = json.loads((tmp_path / "best" / "wordsight.json").read_text())
    for training, averaged, message in (
        ({"steps": 3}, True, "its card does not say whether its weights are averaged or plain"),
        ({"steps": 3}, False, "its card does not say whether its weights are averaged or plain"),
        ({"averaged": True}, False, "has no plain weights, only averaged ones"),
        ({"averaged": False}, True, "has no averaged weights, only plain ones"),
        ({}, True, "has no averaged weights, only plain ones"),
    ):
        (tmp_path / "best" / "wordsight.json").write_text(json.dumps(card | {"training": training}))
        error = refusal(tmp_path / "best", None, averaged)
        assert message in error
        assert f"{tmp_path / 'checkpoint.pt'} may have them" in error


# Files that are not weights


def tar_of(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return buffer.getvalue()


def zip_of(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 605157884\n"
MISTAKES = {
    "Git LFS pointer": (LFS, "a Git LFS pointer instead of the file of 605,157,884 bytes; run 'git lfs pull'"),
    "git-annex pointer": (b"/annex/objects/SHA256E-s605--ab.bin\n", "run 'git annex get'"),
    "empty": (b"", "the file is empty; download it again"),
    "web page": (b"\n<!DOCTYPE html>\n<html><title>404", "a web page or a server's error message"),
    "error message": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "a web page or a server's error message"),
    "text": (b"Entry not found", "a text file that begins with 'Entry not found', not weights"),
    "JSON": (b'{"error":"Repository not found"}', 'a text file that begins with \'{"error":'),
    "gzip": (b"\x1f\x8b\x08\x00" + b"\0" * 99, "a gzip archive; unpack it"),
    "tar": (tar_of("model/config.json"), "a tar archive; unpack it"),
    "zip of a directory": (zip_of("model/config.json", "model/model.safetensors"), "it contains model/config.json, "),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "an HDF5 file (TensorFlow)"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "a bare pickle"),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in the directory of each format."""
    root = tmp_path_factory.mktemp("directories")
    for target in ("wordsight", "open_clip", "hf"):
        convert_without_hashes(checkpoint_of("vit"), root / target, target)
    return root


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_what_is_found_in_place_of_weights_is_named(tmp_path: Path, directories: Path, kind: str, name: str) -> None:
    content, message = MISTAKES[kind]
    shutil.copytree(directories / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    for path in (tmp_path / "hf" / name, tmp_path / name):
        path.write_bytes(content)
        assert message in refusal(path)
    assert f"{tmp_path / 'hf' / name}: " in refusal(tmp_path / "hf")
    assert message in refusal(tmp_path / "hf")


@pytest.mark.parametrize("kind", ["Git LFS pointer", "git-annex pointer", "empty", "web page", "gzip"])
@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("wordsight", "wordsight.json"),
        ("open_clip", "open_clip_config.json"),
        ("hf", "config.json"),
        ("hf", "preprocessor_config.json"),
    ],
)
def test_what_is_found_in_place_of_a_description_is_named(
    tmp_path: Path, directories: Path, kind: str, target: str, name: str
) -> None:
    shutil.copytree(directories / target, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(MISTAKES[kind][0])
    assert MISTAKES[kind][1] in refusal(tmp_path / "out")


def test_downloads_that_are_not_finished_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.incomplete").write_bytes(b"\x80\x03" + b"\0" * 99)
    assert "a download in it is unfinished" in refusal(tmp_path)
    assert "an unfinished download" in refusal(tmp_path / "model.safetensors.incomplete", "tiny")
    save_file(PLAIN, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    os.truncate(tmp_path / "model.safetensors", size - 10)
    assert f"truncated, {size - 10:,} of {size:,} bytes" in refusal(tmp_path / "model.safetensors", "tiny")
    torch.save(PLAIN, tmp_path / "model.pt")
    os.truncate(tmp_path / "model.pt", 10_000)
    assert "not a complete torch file" in refusal(tmp_path / "model.pt", "tiny")


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    convert_without_hashes(checkpoint_of("vit"), tmp_path / "hf", "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    (tmp_path / "hf" / "model.safetensors").symlink_to("../.git/annex/objects/aa/bb/SHA256E-s6--c")
    assert "run 'git annex get'" in refusal(tmp_path / "hf")
    assert "run 'git annex get'" in refusal(tmp_path / "hf" / "model.safetensors")
    (tmp_path / "lost.pt").symlink_to("nowhere.pt")
    assert "a link to nowhere.pt, which does not exist" in refusal(tmp_path / "lost.pt")


@pytest.mark.parametrize(
    "name", ["wordsight.json", "open_clip_config.json", "config.json", "model.safetensors", "model.pt", "x.index.json"]
)
@pytest.mark.parametrize("kind", ["fifo", "zero", "directory"])
def test_only_regular_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / "m" / name
    path.parent.mkdir()
    {"fifo": os.mkfifo, "zero": lambda path: path.symlink_to("/dev/zero"), "directory": Path.mkdir}[kind](path)
    if kind != "directory":
        assert "not a regular file" in refusal(path)
    assert f"{tmp_path / 'm'}" in refusal(tmp_path / "m")


def test_names_that_no_file_can_have_are_refused(tmp_path: Path) -> None:
    assert "File name too long" in refusal(tmp_path / ("a" * 300))


# The command line


@pytest.mark.parametrize("command", ["classify", "embed", "convert"])
def test_every_command_follows_the_advice(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.png").write_bytes(png(1))
    torch.save({"state_dict": prefixed(PLAIN, "model."), "state_dict_ema": prefixed(AVERAGED, "model.")}, "e.ckpt")
    arguments = {
        "classify": ["classify", "p.png", "--labels", "a,b", "--model", "e.ckpt"],
        "embed": ["embed", "p.png", "--out", "out.npy", "--model", "e.ckpt"],
        "convert": ["convert", "e.ckpt", "out", "--to", "wordsight"],
    }[command]
    options: list[str] = []
    for _ in range(3):
        if main([*arguments, *options]) == 0:
            break
        message = capsys.readouterr().err
        options += re.search(r"--averaged|--as \S+", message)[0].split()  # type: ignore[index]
    assert options == ["--averaged", "--as", "tiny"]
