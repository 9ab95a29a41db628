"""The size in the header of AV1 data, compared with what was encoded, and files that state another size in a box."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import ImageError
from wordsight.image import decode
from wordsight.image.av1 import largest_frame


def avif(width: int, height: int, mode: str = "RGB", frames: int = 1, **options) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).convert(mode)
    file = io.BytesIO()
    images = [image.resize((width, height)).rotate(90 * number) for number in range(frames)]
    images[0].save(file, "AVIF", speed=10, save_all=frames > 1, append_images=images[1:], **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (31, 23), (64, 64), (1000, 10), (3, 2049), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_the_size_of_a_still_image_is_found(size: tuple[int, int], mode: str) -> None:
    assert largest_frame(avif(*size, mode)) == size[0] * size[1]
    assert largest_frame(avif(*size, mode, subsampling="4:4:4", autotiling=False)) == size[0] * size[1]


@pytest.mark.parametrize("size", [(31, 23), (640, 480)])
def test_the_size_of_a_sequence_is_bounded(size: tuple[int, int]) -> None:
    assert size[0] * size[1] <= largest_frame(avif(*size, frames=3)) <= 4 * size[0] * size[1]


def stated(content: bytes, width: int, height: int) -> bytes:
    offset = content.index(b"ispe") + 8
    return content[:offset] + struct.pack(">II", width, height) + content[offset + 8 :]


def test_memory_is_reserved_for_the_coded_size_not_for_the_stated_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "20MB")
    with pytest.raises(ImageError, match="decoding needs about 78 MB of memory, more than the limit of 20 MB"):
        decode(stated(avif(2000, 1500), 16, 16))


def test_damaged_files_are_never_an_exception() -> None:
    content, generator = avif(31, 23, "RGBA"), np.random.default_rng(0)
    for _ in range(3000):
        changed = bytearray(content[: generator.integers(1, len(content) + 1)])
        for index in generator.integers(0, len(changed), 4):
            changed[index] = generator.choice([0, 255, generator.integers(256)])
        assert largest_frame(bytes(changed)) >= 0
