"""AVIF by Pillow, HEIF by pillow-heif (extra `heif`), or else a reason that says what to install."""

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.image.test_decode import UPRIGHT

from wordsight.errors import ImageError
from wordsight.image import decode

# six flat patches: no two turns of them agree, and lossy coding leaves their middles alone
PATCHES = np.array(
    [[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 10], [10, 240, 240], [128, 128, 128]]], np.uint8
)
ENTRY = b"\x01\x12\0\3\0\0\0\1\0"  # of an EXIF block, without the orientation
PIXELS = PATCHES.repeat(32, 0).repeat(32, 1)


def middles(pixels: np.ndarray) -> np.ndarray:
    return pixels[16::32, 16::32].astype(int)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def avif(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", quality=95, subsampling="4:4:4", **options)
    return file.getvalue()


def heif(pixels: np.ndarray, **options: Any) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs pillow-heif, extra heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1, chroma=444, **options)
    return file.getvalue()


@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_avif_is_as_pillow_decodes_it(policy: Any) -> None:
    content = avif(PIXELS)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode(content, policy), np.asarray(image))
    assert np.abs(middles(decode(content)) - PATCHES).max() <= 6


@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_heif_is_as_pillow_heif_decodes_it(policy: Any) -> None:
    content = heif(PIXELS)
    import pillow_heif

    with io.BytesIO(content) as file:
        expected = np.asarray(pillow_heif.open_heif(file))
    decoded = decode(content, policy)
    assert np.array_equal(decoded, expected)
    assert np.abs(middles(decoded) - PATCHES).max() <= 2
    assert np.array_equal(decode(content.replace(b"heic", b"mif1", 1)), expected)  # the brand may stand second


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_avif_is_turned_once(orientation: int) -> None:
    content = avif(PIXELS, exif=exif(orientation))
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif().get(0x0112, 1) == orientation
    assert np.abs(middles(decode(content)) - middles(UPRIGHT[orientation](PIXELS))).max() <= 6
    assert np.abs(middles(decode(content, "published")) - PATCHES).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_heif_is_turned_once_although_its_exif_block_says_so_too(orientation: int) -> None:
    content = heif(PIXELS, exif=exif(orientation))
    assert (b"irot" in content or b"imir" in content) == (orientation != 1)
    assert content.count(ENTRY + bytes([orientation])) == 1  # as telephones write it
    assert np.abs(middles(decode(content)) - middles(UPRIGHT[orientation](PIXELS))).max() <= 2


def test_the_orientation_in_the_exif_block_of_a_heif_file_is_void_alone() -> None:
    content = heif(PIXELS, exif=exif(1))
    turned = content.replace(ENTRY + b"\1", ENTRY + b"\6")
    assert turned != content
    assert np.array_equal(decode(turned), decode(content))


def test_transparent_heif_lies_over_white() -> None:
    alpha = np.zeros((64, 96, 1), np.uint8)
    content = heif(np.concatenate([PIXELS, alpha], axis=2))
    assert decode(content).min() >= 254
    assert np.abs(middles(decode(content, "published")) - PATCHES).max() <= 2


def test_heif_without_pillow_heif_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ImageError, match=r"a\.heic: a HEIC or HEIF image needs .*: pip install 'wordsight\[heif\]'$"):
        decode(tmp_path / "a.heic")


def test_a_film_is_not_a_image() -> None:
    with pytest.raises(ImageError, match="not a image"):
        decode(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(100))


def test_pillow_heif_is_loaded_late() -> None:
    code = "import wordsight.image, sys; print('pillow_heif' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
