"""Inconsistent, truncated and foreign files: each is one `ImageError`, without a warning from Pillow."""

import io
import os
import resource
import struct
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from wordsight.errors import ImageError

try:
    import pillow_heif
except ImportError:  # the extra `heif`
    pillow_heif = None
from wordsight.image import MAX_PIXELS, decode

IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8))
ROTATED = [IMAGE.rotate(90), IMAGE.rotate(180)]


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FILES = {
    "jpeg": encode(IMAGE, "JPEG"),
    "jpeg-progressive": encode(IMAGE, "JPEG", progressive=True),
    "jpeg-cmyk": encode(IMAGE.convert("CMYK"), "JPEG"),
    "png": encode(IMAGE, "PNG"),
    "png-palette": encode(IMAGE.quantize(17), "PNG", transparency=bytes(range(17))),
    "png-animated": encode(IMAGE, "PNG", save_all=True, append_images=ROTATED),
    "webp": encode(IMAGE, "WEBP"),
    "webp-lossless": encode(IMAGE.convert("RGBA"), "WEBP", lossless=True),
    "webp-animated": encode(IMAGE, "WEBP", save_all=True, append_images=ROTATED),
    "gif": encode(IMAGE, "GIF"),
    "gif-animated": encode(IMAGE, "GIF", save_all=True, append_images=ROTATED, disposal=2),
    "tiff": encode(IMAGE, "TIFF"),
    "tiff-lzw": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "bmp": encode(IMAGE, "BMP"),
    "avif": encode(IMAGE, "AVIF"),
}


def heif(image: Image.Image) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90)
    return file.getvalue()


if pillow_heif is not None:
    FILES["heif"] = heif(IMAGE)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def claiming(content: bytes, side: int) -> bytes:
    """Change the size of the item in an AVIF or HEIF file; the image of a HEIF file is a part of the item."""
    offset = content.index(b"ispe") + 8
    return content[:offset] + struct.pack(">II", side, side) + content[offset + 8 :]


def bombs() -> dict[str, bytes]:
    """Small files whose headers claim billions of pixels."""
    side = 60000
    start_of_frame = FILES["jpeg"].index(b"\xff\xc0") + 5
    tiff_tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, side), (279, side)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tiff_tags)
    canvas = (side - 1).to_bytes(3, "little") * 2
    lossless = struct.pack("<BI", 0x2F, 16382 | 16382 << 14)
    return {
        "png": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b""),
        "jpeg": FILES["jpeg"][:start_of_frame] + struct.pack(">HH", side, side) + FILES["jpeg"][start_of_frame + 4 :],
        "gif": b"GIF89a" + struct.pack("<HH", side, side) + FILES["gif"][10:],
        "gif-frame": FILES["gif"][:10] + b"\0\0\0," + struct.pack("<4HB", 0, 0, side, side, 0) + b"\x02\x02L\x01\0;",
        "webp": b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + canvas + bytes(20),
        "webp-lossless": b"RIFF" + struct.pack("<I", 40) + b"WEBPVP8L" + struct.pack("<I", 20) + lossless + bytes(15),
        "bmp": FILES["bmp"][:18] + struct.pack("<ii", side, side) + FILES["bmp"][26:],
        **{kind: claiming(FILES[kind], side) for kind in ("avif", "heif") if kind in FILES},
        "tiff": b"II*\0\x08\0\0\0" + struct.pack("<H", len(tiff_tags)) + entries + bytes(4),
    }


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("kind", bombs())
def test_a_decompression_bomb_is_refused_without_allocating_its_memory(kind: str) -> None:
    before, start_s = peak_bytes(), time.perf_counter()
    with pytest.raises(ImageError, match=r"^bomb: (60000 x 60000|16383 x 16383) pixels, more than|more pixels than"):
        decode(bombs()[kind], name="bomb")
    assert time.perf_counter() - start_s < 1
    assert peak_bytes() - before < 50e6


def test_the_limit_is_that_of_pillow_whose_globals_are_not_changed() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS in (2 * Image.MAX_IMAGE_PIXELS, 2 * Image.MAX_IMAGE_PIXELS + 1)
    decode(FILES["png"])
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)


@pytest.mark.parametrize("kind", FILES)
def test_max_pixels_is_exact(kind: str) -> None:
    width, height = (64, 64) if kind == "heif" else (31, 23)  # the size of the coded item, of which the image is a part
    assert decode(FILES[kind], max_pixels=width * height).shape == (23, 31, 3)
    with pytest.raises(ImageError, match=rf"^a\.jpg: {width} x {height} pixels, more than the limit of \d+; "):
        decode(FILES[kind], max_pixels=width * height - 1, name="a.jpg")
    if kind != "heif":
        with pytest.raises(ImageError, match=r"31 x 23 pixels, more than the limit of 712; "):
            decode(Image.open(io.BytesIO(FILES[kind])), max_pixels=23 * 31 - 1)


@pytest.mark.parametrize("kind", FILES)
def test_pillows_warning_about_large_images_is_not_raised(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23 * 31 - 1)
    if not kind.startswith(("tiff", "heif")):  # warnings are errors in the tests
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(FILES[kind]))
    assert decode(FILES[kind]).shape == (23, 31, 3)


def test_pillows_refusal_of_large_images_is_an_image_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"^<bytes>: more pixels than Pillow decodes from TIFF .*; make it smaller$"):
        decode(FILES["tiff"])


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_a_file_truncated_anywhere_is_an_error_or_the_complete_image(kind: str, policy: Any) -> None:
    content = FILES[kind]
    whole = decode(content, policy)
    cuts = sorted({*range(0, len(content), 37), *range(len(content) - 30, len(content))})
    for cut in cuts:
        try:
            decoded = decode(content[:cut], policy, name="cut.jpg")
        except ImageError as error:
            assert str(error).startswith("cut.jpg: ")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:  # only checksums, padding or later frames are missing
            assert np.array_equal(decoded, whole)
            assert cut > len(content) / 4, "a quarter of the file cannot hold it"


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_truncated_jpeg_is_an_error_even_if_pillow_is_set_to_accept_it(
    keep: float, progressive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(IMAGE.resize((700, 500)), "JPEG", quality=95, progressive=progressive)
    assert len(content) > 1 << 16  # more than one of the blocks that Pillow reads
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert decode(content).shape == (500, 700, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode(content[: int(len(content) * keep)])


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_raise_only_image_errors(kind: str, capfd: pytest.CaptureFixture) -> None:
    generator = np.random.default_rng(11)
    for trial in range(60):
        content = bytearray(FILES[kind])
        for index in generator.integers(0, 200 if trial % 2 else len(content), 3):
            content[index] = generator.choice([0, 255, generator.integers(256)])
        try:
            assert decode(bytes(content), max_pixels=1 << 20).ndim == 3
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
    capfd.readouterr()  # libtiff writes to stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, not an image"),
        (b"a cat sat on the mat\n", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"%PDF-1.7\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"P6 1 1 255 abc", "not an image"),
        (b"\xff\xd8\xff", "cannot be decoded as JPEG"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded as PNG"),
        (b"RIFF\0\0\0\0WEBP", "cannot be decoded as WebP"),
        (b"GIF89a", "cannot be decoded as GIF"),
        (b"II*\0\xff\xff\xff\xff", "cannot be decoded as TIFF"),
        (b"BM" + bytes(60), "cannot be decoded as BMP"),
        (FILES["gif"][:6] + bytes(20), "cannot be decoded as GIF"),
    ],
)
def test_files_that_are_not_images_are_errors_that_name_the_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    for source, name in ((path, str(path)), (content, "<bytes>")):
        with pytest.raises(ImageError) as caught:
            decode(source)
        assert str(caught.value).startswith(f"{name}: {message}")
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=r"^shard\.tar: 0001\.jpg: "):
        decode(content, name="shard.tar: 0001.jpg")


def test_missing_files_directories_and_pipes_are_errors_that_name_the_path(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "a directory, not an image"),
        (pipe, "not a regular file"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(path)
        assert str(caught.value).startswith(f"{path}: {message}")
    with pytest.raises(ImageError, match="cannot be read"):
        decode("a\0b.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        decode("a" * 5000)


def test_a_file_above_the_size_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.jpg"
    with path.open("wb") as file:
        file.write(FILES["jpeg"])
        file.truncate((1 << 30) + 1)  # sparse: uses no disk space
    before = peak_bytes()
    with pytest.raises(ImageError, match=r"film\.jpg: 1073741825 bytes; expected at most 1073741824"):
        decode(path)
    assert peak_bytes() - before < 50e6


def broken_exif_blocks() -> dict[str, bytes]:
    entry = struct.pack("<HHII", 0x010F, 2, 5000, 9000)
    return {
        "no bytes": b"Exif\0\0",
        "half a header": b"Exif\0\0II*",
        "directory outside": b"Exif\0\0II*\0" + struct.pack("<I", 1 << 31),
        "more entries than bytes": b"Exif\0\0II*\0" + struct.pack("<IH", 8, 65535) + entry,
        "value outside": b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry,
        "not EXIF": b"Exif\0\0" + bytes(range(100)),
    }


@pytest.mark.parametrize("kind", broken_exif_blocks())
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_a_damaged_exif_block_is_ignored_without_a_warning(kind: str, policy: Any) -> None:
    plain = encode(IMAGE, "JPEG")
    block = broken_exif_blocks()[kind]
    segment = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    without_resolution = plain[:2] + segment + plain[20:]  # no JFIF segment, so that Pillow would read the EXIF block
    assert np.array_equal(decode(without_resolution, policy), decode(plain, policy))


def test_an_invalid_animation_is_decoded_without_a_warning() -> None:
    png = encode(IMAGE, "PNG")
    content = png[:33] + chunk(b"acTL", struct.pack(">II", 0, 0)) + png[33:]
    with pytest.raises(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(content))
    assert np.array_equal(decode(content), np.asarray(IMAGE))


def test_decoding_in_many_threads_does_not_change_the_warning_filters() -> None:
    before = list(warnings.filters)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                for kind in ("tiff", "gif", "png-animated", "jpeg"):
                    decode(FILES[kind])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert warnings.filters == before
