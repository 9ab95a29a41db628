"""Samples of TIFF and PNG files of all depths and meanings, compared with arithmetic on files written by hand."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import ImageError
from wordsight.image import decode

RAMP = np.linspace(0, 1, 16)[None].repeat(16, axis=0)
LEVELS = np.round(RAMP * 255)[..., None].repeat(3, axis=2)
BLACK_IS_ZERO, WHITE_IS_ZERO = 1, 0


def tiff(data: bytes, bits: int, photometric: int | None, order: str = "<", **tags: int) -> bytes:
    """A TIFF file of 16 x 16 pixels (TIFF 6.0, section 8); `samples`, `extra`, `sample_format` and `fill_order`."""
    samples = tags.get("samples", 1)
    entries = [(256, 4, [16]), (257, 4, [16]), (258, 3, [bits] * samples), (259, 3, [1]), (273, 4, [0])]
    entries += [(277, 3, [samples]), (278, 4, [16]), (279, 4, [len(data)])]
    if photometric is not None:
        entries.append((262, 3, [photometric]))
    for name, tag in (("fill_order", 266), ("extra", 338)):
        if name in tags:
            entries.append((tag, 3, [tags[name]]))
    if "sample_format" in tags:
        entries.append((339, 3, [tags["sample_format"]] * samples))
    entries.sort()
    end_of_tags, outside, directory = 8 + 2 + 12 * len(entries) + 4, b"", b""
    data_offset = end_of_tags + sum(2 * len(values) for _, kind, values in entries if kind == 3 and len(values) > 2)
    for tag, kind, values in entries:
        packed = struct.pack(order + "HI"[kind - 3] * len(values), *([data_offset] if tag == 273 else values))
        if len(packed) > 4:
            packed, outside = struct.pack(order + "I", end_of_tags + len(outside)), outside + packed
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    header = magic + struct.pack(order + "IH", 8, len(entries))
    return header + directory + struct.pack(order + "I", 0) + outside + data


def packed(samples: np.ndarray, bits: int, order: str) -> bytes:
    """Rows of samples, most significant bit first, each padded to bytes; whole bytes in the byte order of the file."""
    if bits >= 16:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    shifted = samples.astype(np.int64)[..., None] >> np.arange(bits - 1, -1, -1)
    return np.packbits((shifted & 1).reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def reversed_bits(data: bytes) -> bytes:
    return np.packbits(np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, 1), axis=1)[:, ::-1], axis=1).tobytes()


def stored(bits: int, photometric: int) -> np.ndarray:
    largest = (1 << bits) - 1
    samples = np.round(RAMP * largest).astype(np.int64)
    return samples if photometric == BLACK_IS_ZERO else largest - samples


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize(
    ("bits", "order"), [(1, "<"), (1, ">"), (2, "<"), (4, ">"), (8, "<"), (8, ">"), (12, "<"), (16, "<"), (16, ">")]
)
def test_grey_of_any_depth_is_decoded_with_black_as_black(photometric: int, bits: int, order: str) -> None:
    samples = stored(bits, photometric)
    exact = np.round((samples if photometric else samples.max() - samples) / ((1 << bits) - 1) * 255)
    decoded = decode(tiff(packed(samples, bits, order), bits, photometric, order))
    assert np.array_equal(decoded, exact[..., None].repeat(3, axis=2))
    assert decoded[0, 0].tolist() == [0, 0, 0]
    assert decoded[0, -1].tolist() == [255, 255, 255]


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_order_of_bits_is_respected(photometric: int, bits: int) -> None:
    data = reversed_bits(packed(stored(bits, photometric), bits, "<"))
    assert np.array_equal(decode(tiff(data, bits, photometric, fill_order=2)), LEVELS)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_the_alpha_of_a_grey_file_is_not_inverted(photometric: int, order: str) -> None:
    grey_and_alpha = np.stack([stored(8, photometric), np.full((16, 16), 51)], axis=-1)
    content = tiff(grey_and_alpha.astype(np.uint8).tobytes(), 8, photometric, order, samples=2, extra=2)
    assert np.abs(decode(content).astype(int) - (LEVELS * 0.2 + 255 * 0.8)).max() <= 1


def test_a_file_without_the_tag_is_read_as_white_is_zero_as_by_pillow() -> None:
    assert np.array_equal(decode(tiff(packed(stored(8, WHITE_IS_ZERO), 8, "<"), 8, None)), LEVELS)
    assert np.array_equal(decode(tiff(packed(stored(16, WHITE_IS_ZERO), 16, "<"), 16, None)), LEVELS)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "group4", "group3"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_compressed_white_is_zero_files_are_decoded_as_uncompressed_ones(compression: str, order: str) -> None:
    bits = 1 if compression.startswith("group") else 16
    plain = Image.open(io.BytesIO(tiff(packed(stored(bits, BLACK_IS_ZERO), bits, order), bits, BLACK_IS_ZERO, order)))
    plain.load()
    file = io.BytesIO()
    plain.save(file, "TIFF", compression=compression, tiffinfo={262: WHITE_IS_ZERO})
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert image.tag_v2[262] == WHITE_IS_ZERO
        negated_by_pillow = bits == 1  # ImageOps.invert, so that the file shows the same image
    ramp = decode(tiff(packed(stored(bits, BLACK_IS_ZERO), bits, order), bits, BLACK_IS_ZERO, order))
    assert np.array_equal(decode(file.getvalue()), ramp if negated_by_pillow else 255 - ramp)


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_an_image_opened_by_pillow_is_decoded_as_its_file(bits: int, photometric: int) -> None:
    if (bits, photometric) == (12, WHITE_IS_ZERO):
        pytest.skip("Pillow does not open it")
    content = tiff(packed(stored(bits, photometric), bits, "<"), bits, photometric)
    assert np.array_equal(decode(Image.open(io.BytesIO(content))), decode(content))


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_published_keeps_what_pillow_does(photometric: int) -> None:
    content = tiff(packed(stored(16, photometric), 16, "<"), 16, photometric)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(decode(content, "published"), expected)


@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize(
    ("bits", "sample_format", "message"),
    [(8, 2, "signed samples"), (16, 2, "signed samples"), (32, 1, "32-bit samples"), (32, 3, "floating-point samples")],
)
def test_samples_without_a_standard_range_are_refused(
    photometric: int, bits: int, sample_format: int, message: str
) -> None:
    samples = RAMP.astype("<f4").tobytes() if sample_format == 3 else packed(stored(bits - 1, 1), bits, "<")
    with pytest.raises(ImageError, match=rf"^<bytes>: {message} have no standard range; save it with 8-bit"):
        decode(tiff(samples, bits, photometric, sample_format=sample_format))


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_colour_keeps_its_high_byte(order: str) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    data = (colours * 257).astype(f"{order}u2").tobytes()
    assert np.array_equal(decode(tiff(data, 16, 2, order, samples=3)), colours)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, bits: int, colour_type: int, row: bytes, *chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("bits", "row", "levels"),
    [(2, b"\x1b", [0, 85, 170, 255]), (4, b"\x01\x2f", [0, 17, 34, 255]), (8, b"\x00\x01\x02\xff", [0, 1, 2, 255])],
)
def test_the_transparent_grey_of_a_png_is_white_at_any_depth(bits: int, row: bytes, levels: list[int]) -> None:
    content = png(4, bits, 0, row, chunk(b"tRNS", b"\0\x01"))
    assert decode(content, "published")[0, :, 0].tolist() == levels
    assert decode(content, "viewer")[0, :, 0].tolist() == [levels[0], 255, *levels[2:]]


def test_the_transparent_colour_of_a_16_bit_png_is_white() -> None:
    content = png(
        2, 16, 2, struct.pack(">6H", 1000, 2000, 3000, 4, 5, 6), chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    )
    assert decode(content, "viewer").tolist() == [[[255, 255, 255], [0, 0, 0]]]
    assert decode(content, "published").tolist() == [[[3, 7, 11], [0, 0, 0]]]


ORIENTED = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x02\0\0\0\0\0\0\0"  # mirrored
METADATA: dict[str, bytes] = {
    "large zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b'{"n":1}' * 300_000)),
    "large iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(2_000_000))),
    "large iCCP": chunk(b"iCCP", b"display\0\0" + zlib.compress(np.random.default_rng(0).bytes(1_500_000))),
    "zTXt of an unknown method": chunk(b"zTXt", b"a\0\x07abc"),
    "iCCP of an unknown method": chunk(b"iCCP", b"a\0\x07abc"),
    "empty iCCP": chunk(b"iCCP", b""),
    "short gAMA, cHRM, pHYs, sRGB": b"".join(chunk(kind, b"") for kind in (b"gAMA", b"cHRM", b"pHYs", b"sRGB")),
    "tEXt with a wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "eXIf with a wrong checksum": chunk(b"eXIf", ORIENTED)[:-1] + b"?",
    "tEXt transparency": chunk(b"tEXt", b"transparency\x00\x05"),
    "tEXt interlace": chunk(b"tEXt", b"interlace\x001"),
    "tEXt bbox": chunk(b"tEXt", b"bbox\x001"),
    "tEXt exif": chunk(b"tEXt", b"exif\0" + ORIENTED),
    "animation frames out of order": chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(26)) * 2,
    "short acTL and fcTL": chunk(b"acTL", b"") + chunk(b"fcTL", b""),
    "private chunk": chunk(b"prVt", bytes(100)),
}


@pytest.mark.parametrize("kind", METADATA)
@pytest.mark.parametrize("policy", ["viewer", "published"])
@pytest.mark.parametrize("is_after", [False, True])
def test_metadata_of_a_png_neither_stops_nor_changes_the_pixels(kind: str, policy: Any, is_after: bool) -> None:
    plain = png(3, 8, 0, b"\x05\x06\x07")
    position = len(plain) - 12 if is_after else 33
    content = plain[:position] + METADATA[kind] + plain[position:]
    assert decode(content, policy)[0, :, 0].tolist() == [5, 6, 7]


def test_the_orientation_of_a_png_is_kept() -> None:
    content = png(3, 8, 0, b"\x05\x06\x07", chunk(b"tEXt", b"a\0b"), chunk(b"eXIf", ORIENTED))
    assert decode(content, "viewer")[0, :, 0].tolist() == [7, 6, 5]
    assert decode(content, "published")[0, :, 0].tolist() == [5, 6, 7]


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("size", [100, 60_000, 1_500_000])
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_profiles_exif_and_xmp_do_not_change_the_pixels(kind: str, size: int, policy: Any) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8))
    noise = np.random.default_rng(0).bytes(size)
    options: dict[str, Any] = (
        {"icc_profile": noise} if kind == "TIFF" else {"icc_profile": noise, "xmp": noise[:60_000]}
    )
    if kind != "TIFF":
        options["exif"] = b"Exif\0\0" + noise[:60_000]
    files = []
    for chosen in ({}, options):
        file = io.BytesIO()
        if kind == "AVIF":
            chosen.pop("exif", None)  # libavif refuses to write what is not EXIF
        image.save(file, kind, **chosen)
        files.append(decode(file.getvalue(), policy))
    assert np.array_equal(*files)


def test_trailing_data_and_further_images_of_a_jpeg_are_ignored(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8))
    file, several = io.BytesIO(), io.BytesIO()
    image.save(file, "JPEG", progressive=True)
    image.save(several, "MPO", save_all=True, append_images=[image.rotate(90)])
    plain = decode(file.getvalue())
    assert np.array_equal(decode(file.getvalue() + b"\xff\xda\0\x0c" * 5000), plain)
    assert np.array_equal(decode(file.getvalue() * 50), plain)
    baseline = io.BytesIO()
    image.save(baseline, "JPEG")
    assert np.array_equal(decode(several.getvalue()), decode(baseline.getvalue()))
