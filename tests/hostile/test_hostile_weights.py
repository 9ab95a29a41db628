"""Hostile weights files: each raises a one-line `WeightsError`, and none of its code runs.

Each may take 5 s of CPU time and 512 MB.

All are read in one subprocess, whose address space is limited to 512 MB more than it occupies after importing torch.
"""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.weights.archives import call, group, hand_archive, name, program, storage, tensor, value

from wordsight.weights.formats.nesting import AVERAGED_KEYS, PLAIN_KEYS

PARTS = ("logit_scale", "visual.x")
MAX_SECONDS = 5
MAX_BYTES = 512 << 20

READER = """
import json, resource, sys, time
from pathlib import Path
import torch
from wordsight.errors import WeightsError
from wordsight.weights.formats.state_dict import read_checkpoint
from wordsight.weights.formats.openai import read_openai
from wordsight.weights.read import read as read_any

torch.zeros(1000).half().float()
readers = [lambda path: read_checkpoint(path, "ViT-B-32", None), read_openai, lambda path: read_any(path, "ViT-B-32")]
pages = int(Path("/proc/self/statm").read_text().split()[0])
used = pages * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), -1))
for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in readers if path.suffix == ".pt" else readers[:1]:
        started = time.process_time()
        try:
            read(path)
            result = "read"
        except WeightsError as error:
            result = "refused: " + str(error)
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        print(json.dumps([path.name, result, time.process_time() - started]), flush=True)
"""


class Call:
    """An object whose unpickling calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def with_state(receiver: bytes, state: bytes) -> bytes:
    return receiver + state + b"b"


def pickles(canary: Path) -> dict[str, bytes]:
    """Pickles that try to create the canary file, to exhaust memory or time, or to confuse the interpreter."""
    touch = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    record = name("__torch__", "Module") + b")\x81"
    doubling = b"]q\x00" + b"".join(b"]" + b"(" + b"h\x00" * 2 + b"eq\x00" for _ in range(60))
    module = record + b"q\x00}(" + b"".join(value(f"m{n}") + b"h\x00" for n in range(40)) + b"ub"
    deep = record + b"}(" + value("weight")
    weights = call(name("torch._utils", "_rebuild_parameter"), tensor(), b"\x88", b"N")
    return {
        "os-system": pickle.dumps(Call(os.system, touch), 2),
        "os-system-named": pickle.dumps({"state_dict": {"weight": Call(os.system, touch)}}, 4),
        "posix-system-by-stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + value(touch) + b"\x85R.",
        "eval": pickle.dumps(Call(eval, python), 2),
        "exec": pickle.dumps(Call(exec, python), 5),
        "getattr": pickle.dumps(Call(getattr, Call(__import__, "os"), "system"), 2),
        "subprocess": pickle.dumps(Call(subprocess.Popen, ["touch", str(canary)]), 3),
        "nested-reduce": pickle.dumps(Call(list, Call(map, Call(eval, "print"), [Call(os.system, touch)])), 2),
        "torch-load": program(call(name("torch", "load"), value(str(canary)))),
        "torch-hub": program(call(name("torch.hub", "load"), value("a/b"), value("c"))),
        "script-name-of-a-real-class": program(call(name("__torch__.os", "system"), value(touch))),
        "script-name-with-dots": program(call(name("__torch__", "..os.system"), value(touch))),
        "inert-name-called": program(call(name("torch", "FloatStorage"), value(1 << 40))),
        "dtype-called": program(call(name("torch", "float32"), value(touch))),
        "ordered-dictionary-of-a-call": program(
            call(name("collections", "OrderedDict"), call(name("os", "system"), value(touch)))
        ),
        "setstate-of-a-record": program(with_state(record, b"}" + value("__setstate__") + name("os", "system") + b"s")),
        "setstate-of-a-list": program(with_state(b"]", b"}" + value("__class__") + value("x") + b"s")),
        "setstate-of-a-tensor": program(with_state(tensor(), b"}" + value("data") + value(1) + b"s")),
        "class-of-a-record": program(with_state(record, b"}" + value("__class__") + value("x") + b"s")),
        "instance": b"(ios\nsystem\n.",
        "object": b"(" + name("os", "system") + value(touch) + b"o.",
        "extension": b"\x80\x02\x82\x01.",
        "new-object-with-keywords": b"\x80\x04" + name("os", "system") + b")}\x92.",
        "name-by-stack-of-numbers": b"\x80\x04" + value(1) + value(2) + b"\x93.",
        "name-by-stack-of-allowed-and-not": b"\x80\x04\x8c\x0btorch._util\x8c\x08s.system\x93.",
        "name-with-spaces": program(name("os", "system torch")),
        "name-with-lines": program(b"\x8c\x04a\n\rb\x8c\x03\x00\x1bc\x93"),
        "name-of-a-megabyte": program(name("a" * (1 << 20), "b")),
        "huge-bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
        "huge-bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 38) + b"abc.",
        "huge-text": b"\x80\x04\x8d" + struct.pack("<Q", (1 << 63) - 1) + b"abc.",
        "huge-text-of-two-gigabytes": b"\x80\x02X" + struct.pack("<I", (1 << 32) - 1) + b"abc.",
        "huge-number": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc.",
        "negative-number": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abc.",
        "long-number": b"\x80\x02I" + b"9" * 100_000 + b"\n.",
        "huge-frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "huge-memo": b"\x80\x02Nr\xff\xff\xff\xff.",
        "deep-lists": b"\x80\x02" + b"](" * 170_000 + b"e" * 170_000 + b".",
        "deep-tuples": b"\x80\x02)" + b"\x85" * 400_000 + b".",
        "deep-tuples-as-a-key": b"\x80\x02})" + b"\x85" * 400_000 + b"Ns.",
        "deep-records": program(deep * 20_000 + b"N" + b"ub" * 20_000),
        "doubling-lists": program(doubling),
        "doubling-records": program(
            record + b"q\x00}b" + b"".join(record + b"}(X\x01\0\0\0ah\x00X\x01\0\0\0bh\x00ubq\x00" for _ in range(60))
        ),
        "record-in-itself": program(module),
        "keys-that-collide": program(
            b"}("
            + b"".join(b"\x8a\x0a" + (n * ((1 << 61) - 1)).to_bytes(10, "little") + b"N" for n in range(60_000))
            + b"u"
        ),
        "too-many-instructions": b"\x80\x02" + b"N0" * 400_000 + b"N.",
        "nothing-on-the-stack": b"\x80\x02R.",
        "no-mark": b"\x80\x02t.",
        "append-to-nothing": b"\x80\x02(e.",
        "key-without-value": b"\x80\x02}(Nu.",
        "memo-of-nothing": b"\x80\x02h\x05.",
        "no-end": b"\x80\x02N",
        "no-instruction": b"\x80\x02\xff.",
        "nothing": b"",
        "an-end-alone": b".",
        "id-that-is-a-text": program(value("storage") + b"Q"),
        "id-of-three": program(group(value("storage"), value("0"), value(4)) + b"Q"),
        "id-of-a-class": program(group(value("module"), name("__torch__", "M"), value(4)) + b"Q"),
        "id-out-of-the-directory": program(tensor(over=storage(key="../data.pkl"))),
        "id-of-a-negative-count": program(tensor(over=storage(count=-4))),
        "id-of-a-huge-count": program(tensor(over=storage(count=1 << 62))),
        "id-of-another-type": program(group(tensor(), tensor(over=storage("HalfStorage", count=8)))),
        "tensor-longer-than-its-storage": program(tensor((5,))),
        "tensor-behind-its-storage": program(tensor(offset=1)),
        "tensor-before-its-storage": program(tensor(offset=-1)),
        "tensor-of-negative-size": program(tensor((-4,))),
        "tensor-of-two-negative-sizes": program(tensor((-2, -2), (1, 1))),
        "tensor-of-negative-stride": program(tensor((4,), (-1,), 3)),
        "tensor-of-wide-strides": program(tensor((2, 2), (2, 2))),
        "tensor-of-no-strides-and-endless": program(tensor((1 << 40,), (0,))),
        "tensor-that-overflows": program(tensor((1 << 62, 1 << 62, 4), (1 << 62, 1, 1))),
        "tensor-of-nothing-far-away": program(tensor((0,), (1,), 1 << 40)),
        "tensor-of-many-axes": program(tensor((1,) * 1000, (1,) * 1000)),
        "tensor-of-a-number": program(call(name("torch._utils", "_rebuild_tensor_v2"), value(1), value(2))),
        "tensor-of-floats": program(
            call(name("torch._utils", "_rebuild_tensor_v2"), storage(), value(0.5), group(value(1.5)), group(value(1)))
        ),
        "tensor-of-zero-strides": program(tensor((2, 4), (0, 1))),
        "tensor-of-overlapping-strides": program(tensor((3, 3), (1, 1))),
        "tensor-of-a-petabyte": program(tensor((1 << 25, 1 << 25), (0, 0))),
        "sparse-tensor": program(call(name("torch._utils", "_rebuild_sparse_tensor"), value(1), value(2))),
        "quantised-tensor": program(call(name("torch._utils", "_rebuild_qtensor"), storage(), value(0))),
        "complex-storage": program(tensor(over=storage("ComplexFloatStorage"))),
        "meta-tensor": program(call(name("torch._utils", "_rebuild_meta_tensor_no_storage"), value(1))),
        "distributed-tensor": program(call(name("torch.distributed.tensor", "DTensor"), tensor())),
        "state-dict-in-itself": program(b"}q\x00(" + value("state_dict") + b"h\x00u"),
        "every-key-in-itself": program(
            b"}q\x00(" + b"".join(value(key) + b"h\x00" for key in (*PLAIN_KEYS, *AVERAGED_KEYS)) + b"u"
        ),
        "many-models": program(
            b"}(" + b"".join(value(f"m{n}.{part}") + b"N" for n in range(40_000) for part in PARTS) + b"u"
        ),
        "many-models-of-tensors": program(
            tensor()
            + b"q\x000}("
            + b"".join(value(f"m{n}.{part}") + b"h\x00" for n in range(40_000) for part in PARTS)
            + b"u"
        ),
        "many-averaged-models": program(
            tensor()
            + b"q\x000}("
            + b"".join(value(f"{n}.ema.{part}") + b"h\x00" for n in range(40_000) for part in PARTS)
            + value("logit_scale")
            + b"h\x00"
            + value("visual.x")
            + b"h\x00u"
        ),
        "name-of-many-towers": program(b"}(" + value("visual." * 200_000 + "logit_scale") + tensor() + b"u"),
        "name-of-many-dots": program(b"}(" + value("." * 2_000_000) + tensor() + b"u"),
        "names-that-become-the-same": program(b"}(" + value("module.a") + tensor() + value("a") + tensor() + b"u"),
        "run-in-itself": program(
            b"}q\x00("
            + b"".join(value(key) + b"h\x00" for key in ("identity", "learner", "ema", "recipe", "model"))
            + b"u"
        ),
        "items-of-a-class": program(name("omegaconf", "DictConfig") + b")\x81(" + value(3) + tensor() + b"u"),
        "parameter-of-nothing": program(call(name("torch._utils", "_rebuild_parameter"))),
        "no-state-dict": program(weights),
    }


def other_archives(canary: Path) -> dict[str, bytes]:
    """Inconsistent zip files, and files that are not zip files."""
    good = hand_archive(program(b"}(" + value("weight") + tensor() + b"u"), {"0": bytes(16)})
    directory = good.index(b"PK\x01\x02")
    end = good.index(b"PK\x05\x06")
    first_size = directory + 20
    cases = {
        "zip-bomb": packed_archive(canary.parent / "bomb.zip", bytes(1 << 28)),
        "zip-bomb-as-storage": packed_archive(canary.parent / "bomb.zip", bytes(1 << 28), "data/0"),
        "zip-bomb-as-code": packed_archive(canary.parent / "bomb.zip", bytes(1 << 28), "code/x.py"),
        "bomb-that-claims-to-be-stored": good[:8] + b"\x08\0" + good[10:],
        "archive-in-an-archive": zipped(path=canary.parent / "bomb.zip", **{"model.pt": good, "config.json": b"{}"}),
        "archive-as-its-pickle": hand_archive(good),
        "web-page": b"<!DOCTYPE html><html>" + b" " * 5000,
        "large-file-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize " + b"9" * 1000,
        "end-elsewhere": good[: end + 16] + struct.pack("<L", 1 << 31) + good[end + 20 :],
        "directory-of-four-gigabytes": good[: end + 12] + struct.pack("<L", 0xFFFFFFFE) + good[end + 16 :],
        "member-of-four-gigabytes": good[:first_size] + struct.pack("<LL", 1 << 31, 1 << 31) + good[first_size + 8 :],
        "member-elsewhere": good[: directory + 42] + struct.pack("<L", 1 << 30) + good[directory + 46 :],
        "member-of-64-bits-without-them": good[:first_size] + b"\xff" * 8 + good[first_size + 8 :],
        "something-behind": good + b"PK\x03\x04",
        "no-zip": b"PK\x03\x04" + bytes(100),
        "empty": b"",
        "text": b"not weights",
        "old-file-of-torch": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02cos\nsystem\n.",
        "bare-pickle": pickle.dumps(Call(os.system, f"touch {canary}")),
        "two-of-one-name": hand_archive(program(b"}"), {"0": b"", "1": b""}).replace(b"data/1", b"data/0"),
        "two-roots": hand_archive(program(b"}"), other123=b"").replace(b"archive/other123", b"another/data.pkl"),
        "byte-order-of-the-middle": hand_archive(program(b"}"), {}, byteorder=b"middle"),
        "byte-order-of-a-gigabyte": hand_archive(program(b"}"), {}, byteorder=b"big" * 100),
        "many-members": hand_archive(program(b"}"), {str(n): b"" for n in range(20_000)}),
        "storage-of-odd-bytes": hand_archive(program(tensor()), {"0": bytes(17)}),
        "tensors-many-times-over": hand_archive(
            program(b"](" + tensor((1 << 18,), over=storage(count=1 << 18)) * 3 + b"e"), {"0": bytes(1 << 20)}
        ),
    }
    step = max(1, len(good) // 40)
    return cases | {f"cut-at-{length:04d}": good[:length] for length in range(0, len(good), step)}


def packed_archive(path: Path, content: bytes, member: str = "data.pkl") -> bytes:
    """The bytes of an archive with a compressed member."""
    with zipfile.ZipFile(path, "w") as file:
        if member != "data.pkl":
            file.writestr("archive/data.pkl", program(tensor(over=storage(count=len(content) // 4))))
        file.writestr(f"archive/{member}", content, zipfile.ZIP_DEFLATED)
    packed = path.read_bytes()
    path.unlink()
    return packed


def zipped(path: Path, **members: bytes) -> bytes:
    """The bytes of a zip file that torch did not write."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    packed = path.read_bytes()
    path.unlink()
    return packed


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tensor_files() -> dict[str, bytes]:
    """Inconsistent safetensors files and indexes."""
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    files = {
        "header-of-an-exabyte": struct.pack("<Q", 1 << 60) + b"{}",
        "header-of-ten-megabytes": safetensors(b" " * (10 << 20)),
        "header-behind-the-end": struct.pack("<Q", 100) + b"{}",
        "offsets-that-overlap": safetensors({"a": one, "b": one}, bytes(4)),
        "offsets-behind-the-end": safetensors({"a": one | {"data_offsets": [1 << 40, (1 << 40) + 4]}}, bytes(4)),
        "offsets-in-reverse-order": safetensors({"a": one | {"data_offsets": [4, 0]}}, bytes(4)),
        "offsets-negative": safetensors({"a": one | {"data_offsets": [-4, 0]}}, bytes(4)),
        "shape-that-overflows": safetensors({"a": one | {"shape": [1 << 33, 1 << 33]}}, bytes(4)),
        "shape-of-the-wrong-size": safetensors({"a": one | {"shape": [2]}}, bytes(4)),
        "type-that-is-none": safetensors({"a": one | {"dtype": "F31"}}, bytes(4)),
        "type-of-six-bits": safetensors(
            {"a": one | {"dtype": "F6_E2M3", "shape": [16], "data_offsets": [0, 12]}}, bytes(12)
        ),
        "type-of-four-bits": safetensors({"a": one | {"dtype": "F4", "shape": [8]}}, bytes(4)),
        "type-of-eight-bits": safetensors({"a": one | {"dtype": "F8_E4M3", "shape": [4]}}, bytes(4)),
        "type-of-exponents": safetensors({"a": one | {"dtype": "F8_E8M0", "shape": [4]}}, bytes(4)),
        "complex-type": safetensors({"logit_scale": one | {"dtype": "C64", "data_offsets": [0, 8]}}, bytes(8)),
        "names-that-are-equal": safetensors(b'{"a":%s,"a":%s}' % ((json.dumps(one).encode(),) * 2), bytes(4)),
        "nothing-of-a-huge-shape": safetensors({"a": one | {"shape": [0, 1 << 63], "data_offsets": [0, 0]}}),
        "shape-of-many-axes": safetensors({"logit_scale": one | {"shape": [1] * 10_000}}, bytes(4)),
        "offsets-of-text": safetensors({"a": one | {"data_offsets": ["0", "4"]}}, bytes(4)),
        "offsets-of-fractions": safetensors({"a": one | {"data_offsets": [0.5, 4.5]}}, bytes(4)),
        "offsets-that-overflow": safetensors({"a": one | {"data_offsets": [0, (1 << 64) - 1]}}, bytes(4)),
        "header-of-a-hundred-megabytes": struct.pack("<Q", 100 << 20) + b"{" + b" " * (100 << 20),
        "metadata-alone": safetensors({"__metadata__": {"format": "pt"}}),
        "bytes-left-over": safetensors({"a": one}, bytes(8)),
        "nested-json": safetensors(b"[" * 100_000),
        "nested-metadata": safetensors(b'{"__metadata__":' + b'{"a":' * 50_000),
        "not-json": safetensors(b"\xff\xfe" * 9),
        "no-tensors": safetensors({}),
        "short": b"\1\0\0",
    }
    indexes = {
        "outside": {"weight_map": {"a": "../outside.safetensors"}},
        "absolute": {"weight_map": {"a": "/etc/passwd"}},
        "pickle": {"weight_map": {"a": "os-system.pt"}},
        "missing": {"weight_map": {"a": "nowhere.safetensors"}},
        "itself": {"weight_map": {"a": "itself.safetensors.index.json"}},
        "numbers": {"weight_map": {"a": 3}},
        "control": {"weight_map": {"a": "a\nb.safetensors"}},
        "lists": [],
    }
    texts = {f"{key}.safetensors.index.json": json.dumps(index).encode() for key, index in indexes.items()}
    texts["pointer.safetensors.index.json"] = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    texts["nested.safetensors.index.json"] = b"[" * 1_000_000
    texts["many-lists.safetensors.index.json"] = b"[" + b"[]," * 1_300_000 + b"[]]"
    texts["zeros.safetensors.index.json"] = bytes(20 << 20)
    return {f"{key}.safetensors": content for key, content in files.items()} | texts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, float]]]:
    """For each file, the result and the seconds of each reader."""
    root = tmp_path_factory.mktemp("hostile")
    canary, directory = root / "canary", root / "files"
    directory.mkdir()
    for key, content in pickles(canary).items():
        (directory / f"{key}.pt").write_bytes(hand_archive(content, {"0": bytes(16)}))
    for key, content in other_archives(canary).items():
        (directory / f"{key}.pt").write_bytes(content)
    for key, content in tensor_files().items():
        (directory / key).write_bytes(content)
    command = [sys.executable, "-c", READER, str(directory), str(MAX_BYTES)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stderr[-2000:]
    by_file: dict[str, list[tuple[str, float]]] = {}
    for line in run.stdout.splitlines():
        file, result, seconds = json.loads(line)
        by_file.setdefault(file, []).append((result, seconds))
    assert not canary.exists(), "code in a file was run"
    assert sorted(by_file) == sorted(path.name for path in directory.iterdir())
    return by_file


def test_each_file_is_refused_in_one_line_in_time(results):
    for file, attempts in results.items():
        for result, seconds in attempts:
            assert result.startswith("refused: "), (file, result)
            assert "/files/" in result
            assert result.isprintable(), (file, result)
            assert len(result) < 700, (file, result)
            assert seconds < MAX_SECONDS, (file, seconds)


@pytest.mark.parametrize(
    ("file", "function"),
    [
        ("os-system", "posix.system"),
        ("posix-system-by-stack", "posix.system"),
        ("eval", "__builtin__.eval"),
        ("exec", "builtins.exec"),
        ("subprocess", "subprocess.Popen"),
        ("torch-load", "torch.load"),
        ("ordered-dictionary-of-a-call", "os.system"),
    ],
)
def test_the_function_that_a_pickle_names_is_reported(results, file, function):
    for result, _ in results[f"{file}.pt"]:
        assert f"it names {function}, which" in result
        assert "nothing was run" in result


def test_the_error_states_the_reason(results):
    reasons = {
        "zip-bomb": "data.pkl claims 268435456 bytes",
        "zip-bomb-as-storage": "is compressed",
        "huge-bytes": "not a complete pickle",
        "deep-tuples-as-a-key": "a dictionary key is neither a string nor a small integer but tuple",
        "keys-that-collide": "a dictionary key is neither a string nor a small integer but int",
        "too-many-instructions": "torch does not write the instruction POP",
        "tensor-longer-than-its-storage": "does not fit its storage of 4 elements",
        "tensor-of-no-strides-and-endless": "does not fit its storage of 4 elements",
        "tensors-many-times-over": "its tensors are larger than the file",
        "id-out-of-the-directory": "member 'data/../data.pkl' is missing",
        "two-of-one-name": "two members are named",
        "two-roots": "a zip file with 2 members named data.pkl",
        "old-file-of-torch": "written by torch before 1.6",
        "something-behind": "not a complete torch file",
    }
    for file, reason in reasons.items():
        assert any(reason in result for result, _ in results[f"{file}.pt"]), (file, results[f"{file}.pt"])


def test_python_would_have_run_the_code_in_these_files(tmp_path):
    """Negative control: a pickle of the corpus creates the canary file if Python unpickles it."""
    pickle.loads(pickles(tmp_path / "canary")["os-system"])
    assert (tmp_path / "canary").exists()
