"""Fixtures that generate small images, tar files written by the standard library, and directories of shards."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user-cache"))


@pytest.fixture
def image() -> Callable[..., bytes]:
    """A function that encodes an image; each number gives a different one."""

    def make(number: int = 0, size: tuple[int, int] = (20, 16), file_format: str = "JPEG") -> bytes:
        pixels = np.random.Generator(np.random.Philox(number)).integers(0, 256, (size[1] // 4, size[0] // 4, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).resize(size).save(file, file_format)
        return file.getvalue()

    return make


@pytest.fixture
def write_tar() -> Callable[[Path, Sequence[tuple[str, bytes]]], Path]:
    """A function that writes a tar file with the standard library."""

    def write(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                information = tarfile.TarInfo(name)
                information.size = len(content)
                tar.addfile(information, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def make_shards(tmp_path: Path, image: Callable[..., bytes], write_tar: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes a directory of shards without manifest.

    `counts` are the numbers of samples in each shard, and `text_of(number)` is the JSON of a sample.
    """

    def make(name: str, counts: Sequence[int], text_of: Callable[[int], Any] | None = None) -> Path:
        number = 0
        for shard, count in enumerate(counts):
            members = []
            for _ in range(count):
                texts = text_of(number) if text_of else {"captions": [f"image {number}", f"number {number}"]}
                members.append((f"{name}{number:04d}.jpg", image(number)))
                members.append((f"{name}{number:04d}.json", json.dumps(texts).encode()))
                number += 1
            write_tar(tmp_path / name / f"{shard:06d}.tar", members)
        return tmp_path / name

    return make
