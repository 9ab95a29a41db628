"""AVIF decoded by Pillow and HEIF by pillow-heif (extra `heif`), and the error without pillow-heif."""

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

# six flat patches: all eight orientations differ, and lossy coding hardly changes the centres
PATCHES = np.array(
    [[[250, 10, 10], [10, 250, 10], [10, 10, 250]], [[240, 240, 10], [10, 240, 240], [128, 128, 128]]], np.uint8
)
ENTRY = b"\x01\x12\0\3\0\0\0\1\0"  # the orientation entry of an EXIF block, without its value
PIXELS = PATCHES.repeat(32, 0).repeat(32, 1)


def centres(pixels: np.ndarray) -> np.ndarray:
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
def test_avif_is_decoded_as_by_pillow(policy: Any) -> None:
    content = avif(PIXELS)
    with Image.open(io.BytesIO(content)) as image:
        assert np.array_equal(decode(content, policy), np.asarray(image))
    assert np.abs(centres(decode(content)) - PATCHES).max() <= 6


@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_heif_is_decoded_as_by_pillow_heif(policy: Any) -> None:
    content = heif(PIXELS)
    import pillow_heif

    with io.BytesIO(content) as file:
        expected = np.asarray(pillow_heif.open_heif(file))
    decoded = decode(content, policy)
    assert np.array_equal(decoded, expected)
    assert np.abs(centres(decoded) - PATCHES).max() <= 2
    assert np.array_equal(decode(content.replace(b"heic", b"mif1", 1)), expected)  # the brand can be the second one


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_avif_is_made_upright_once(orientation: int) -> None:
    content = avif(PIXELS, exif=exif(orientation))
    with Image.open(io.BytesIO(content)) as image:
        assert image.getexif().get(0x0112, 1) == orientation
    assert np.abs(centres(decode(content)) - centres(UPRIGHT[orientation](PIXELS))).max() <= 6
    assert np.abs(centres(decode(content, "published")) - PATCHES).max() <= 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_heif_is_made_upright_once_despite_its_exif_block(orientation: int) -> None:
    content = heif(PIXELS, exif=exif(orientation))
    assert (b"irot" in content or b"imir" in content) == (orientation != 1)
    assert content.count(ENTRY + bytes([orientation])) == 1  # as phones write it
    assert np.abs(centres(decode(content)) - centres(UPRIGHT[orientation](PIXELS))).max() <= 2


def test_the_exif_orientation_of_a_heif_file_is_ignored() -> None:
    content = heif(PIXELS, exif=exif(1))
    changed = content.replace(ENTRY + b"\1", ENTRY + b"\6")
    assert changed != content
    assert np.array_equal(decode(changed), decode(content))


def test_transparent_heif_is_blended_with_white() -> None:
    alpha = np.zeros((64, 96, 1), np.uint8)
    content = heif(np.concatenate([PIXELS, alpha], axis=2))
    assert decode(content).min() >= 254
    assert np.abs(centres(decode(content, "published")) - PATCHES).max() <= 2


def test_heif_without_pillow_heif_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(ImageError, match=r"a\.heic: a HEIC or HEIF image needs .*: pip install 'wordsight\[heif\]'$"):
        decode(tmp_path / "a.heic")


def test_a_video_is_not_an_image() -> None:
    with pytest.raises(ImageError, match="not an image"):
        decode(b"\0\0\0\x18ftypisom\0\0\0\0isomiso2" + bytes(100))


def test_pillow_heif_is_imported_lazily() -> None:
    code = "import wordsight.image, sys; print('pillow_heif' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
