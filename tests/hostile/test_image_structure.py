"""Image files with too many scans, chunks, tags or blocks are refused; the largest allowed numbers are read."""

import io
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import ImageError
from wordsight.image import Preprocessing, decode, load_pixels, read_image
from wordsight.image.memory import BUDGET
from wordsight.image.structure import MAX_JPEG_SCANS, MAX_PARTS, MAX_RLE_PIXELS

PIXELS = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(autouse=True)
def at_most_10_s() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < 10
    assert BUDGET._used_bytes == 0


def with_scans(num_scans: int, side: int = 64, mode: str = "L") -> bytes:
    """A progressive JPEG whose last scan is repeated, so that it has `num_scans` scans."""
    content = encode(Image.new(mode, (side, side)), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * (num_scans - content.count(b"\xff\xda")) + content[-2:]


def test_a_jpeg_may_have_100_scans_and_no_more() -> None:
    assert decode(with_scans(MAX_JPEG_SCANS)).shape == (64, 64, 3)
    for policy in ("viewer", "published"):
        with pytest.raises(ImageError, match=r"^a\.jpg: 101 scans of 4096 pixels, more than the limit of 100; save it"):
            decode(with_scans(MAX_JPEG_SCANS + 1), policy, name="a.jpg")
    with pytest.raises(ImageError, match="2000 scans"):
        decode(with_scans(2000, side=2048))
    with pytest.raises(ImageError, match="2000 scans"):
        load_pixels(with_scans(2000, side=2048), Preprocessing(size_px=32, decoding="scaled"))


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_scans_of_other_modes_are_counted(mode: str) -> None:
    with pytest.raises(ImageError, match="300 scans"):
        decode(with_scans(300, mode=mode))


def test_scans_cannot_be_hidden_behind_a_comment_or_an_image_in_it() -> None:
    content = with_scans(300)
    first = content.index(b"\xff\xda")
    second = content.index(b"\xff\xda", first + 2)
    for hidden in (b"\xff\xd9", content[first:], b"\xff\xd8\xff\xd9"):
        comment = b"\xff\xfe" + struct.pack(">H", len(hidden) + 2) + hidden
        with pytest.raises(ImageError, match="scans of"):
            decode(content[:second] + comment + content[second:])


def test_a_sequential_jpeg_with_repeated_scans_is_counted_too() -> None:
    """Each component in a scan of its own, as `jpegtran -scans` writes it; libjpeg then reads all scans of the file."""
    content = encode(Image.new("RGB", (16, 16)), "JPEG", subsampling=0, progressive=True)
    assert b"\xff\xc2" in content
    head = content[: content.index(b"\xff\xda")].replace(b"\xff\xc2", b"\xff\xc0")
    tables = encode(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    begin, end = tables.index(b"\xff\xc4"), tables.index(b"\xff\xda")
    scans = b"".join(b"\xff\xda\0\x08\x01" + bytes((number, 0)) + b"\0\x3f\0\0" for number in (1, 2, 3))
    with pytest.raises(ImageError, match="301 scans"):
        decode(head + tables[begin:end] + scans * 100 + scans[:10] + b"\xff\xd9")


def test_the_number_of_scans_of_a_huge_jpeg_is_limited_further() -> None:
    content = bytearray(with_scans(90))
    frame = content.index(b"\xff\xc2") + 5
    content[frame : frame + 4] = struct.pack(">HH", 13000, 13000)
    with pytest.raises(ImageError, match=r"90 scans of 169000000 pixels, more than the limit of 19; save it again"):
        decode(bytes(content))


JPEG = encode(IMAGE, "JPEG")
PNG = encode(IMAGE, "PNG")
GIF = encode(IMAGE.quantize(64), "GIF")
GIF_PALETTE_END = 13 + (3 << (GIF[10] & 7) + 1)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tiff(**changes: tuple[int, bytes, int]) -> bytes:
    """A grey TIFF of 64 x 64 pixels; a change is the type of a tag, its bytes, and its number."""
    entries = {256: (4, [64]), 257: (4, [64]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [122])}
    entries |= {277: (3, [1]), 278: (4, [64]), 279: (4, [4096])}
    tags = {
        tag: (kind, struct.pack("<" + "HI"[kind - 3] * len(values), *values)) for tag, (kind, values) in entries.items()
    }
    tags |= {tag: (kind, content) for kind, content, tag in changes.values()}
    end, outside, directory = 8 + 2 + 12 * len(tags) + 4, b"", b""
    for tag, (kind, content) in sorted(tags.items()):
        count = len(content) // {1: 1, 3: 2, 4: 4}[kind]
        if len(content) > 4:
            content, outside = struct.pack("<I", end + len(outside)), outside + content
        directory += struct.pack("<HHI", tag, kind, count) + content.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + outside + bytes(4096)


def bmp(width: int, height: int, data: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 0, 0, 0, 14 + 40 + 1024) + header + bytes(1024) + data


TILES = {"a": (3, struct.pack("<H", 8), 259), "b": (4, struct.pack("<I", 8), 324), "c": (4, struct.pack("<I", 99), 325)}
FLOODS = {
    "segments of a JPEG": JPEG[:2] + b"\xff\xfe\0\x02" * 5_000_000 + JPEG[2:],
    "bytes before the image of a JPEG": JPEG[:20] + bytes(20_000_000) + JPEG[20:],
    "fill bytes of a JPEG": JPEG[:20] + b"\xff" * 20_000_000 + JPEG[20:],
    "tables between scans": with_scans(10)[:-2] + b"\xff\xfe\0\x02" * 3_000_000 + b"\xff\xd9",
    "chunks of a PNG": PNG[:33] + chunk(b"tEXt", b"") * 1_000_000 + PNG[33:],
    "empty data chunks of a PNG": PNG[:33] + chunk(b"IDAT", b"") * 1_000_000 + PNG[33:],
    "comments of a GIF": GIF[:GIF_PALETTE_END] + b"!\xfe" + b"\x01a" * 5_000_000 + b"\0" + GIF[GIF_PALETTE_END:],
    "extensions of a GIF": GIF[:GIF_PALETTE_END] + b"!\xf9\x04\0\0\0\0\0" * 500_000 + GIF[GIF_PALETTE_END:],
    "strips of a TIFF": tiff(a=(4, struct.pack("<I", 2_000_000), 257), b=(4, struct.pack("<I", 8) * 2_000_000, 273)),
    "values of a tag": tiff(a=(3, bytes(20_000_000), 700)),
    "tags of a BigTIFF": b"II+\0\x08\0\0\0"
    + struct.pack("<QQ", 16, 1 << 60)
    + struct.pack("<HHQQ", 1, 4, 1, 8) * 2_000_000,
    "run-length encoded rows": bmp(13000, 13000, b"\0\0" * 13000 + b"\0\x01"),
    "run-length encoded jumps": bmp(1 << 27, 1, b"\0\x02\xff\xff" * 9),
    "run-length encoded bytes": bmp(64, 64, b"\0\0" * (1 << 23)),
    "tiles larger than the image": tiff(
        **TILES, d=(4, struct.pack("<I", 1 << 16), 322), e=(4, struct.pack("<I", 1 << 16), 323)
    ),
}


@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_a_flood_of_parts_is_refused_at_once(kind: str, policy) -> None:
    begin = time.process_time()
    with pytest.raises(ImageError, match=r"^x: [^\n]*(more than|no image data)"):
        decode(FLOODS[kind], policy, name="x")
    assert time.process_time() - begin < 1.5


LARGEST = {
    "segments of a JPEG": (JPEG[:2] + b"\xff\xfe\0\x02" * (MAX_PARTS - 50) + JPEG[2:], JPEG),
    "chunks of a PNG": (PNG[:33] + chunk(b"tEXt", b"a\0b") * (MAX_PARTS - 50) + PNG[33:], PNG),
    "comments of a GIF": (
        GIF[:GIF_PALETTE_END] + b"!\xfe" + b"\x01a" * (MAX_PARTS - 50) + b"\0" + GIF[GIF_PALETTE_END:],
        GIF,
    ),
    "frames of a GIF": (GIF[:-1] + GIF[GIF_PALETTE_END:-1] * 2000 + b";", GIF),
    "a directory loop": (tiff()[:118] + struct.pack("<I", 8) + tiff()[122:], tiff()),
}


@pytest.mark.parametrize("kind", LARGEST)
def test_the_largest_allowed_number_of_parts_is_read(kind: str) -> None:
    content, plain = LARGEST[kind]
    assert np.array_equal(decode(content), decode(plain))


def test_an_animated_png_with_many_frames_is_its_first() -> None:
    def frame(number: int) -> bytes:
        return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 64, 64, 0, 0, 1, 1, 0, 0))

    frames = b"".join(map(frame, range(1, 60_000)))
    content = PNG[:33] + chunk(b"acTL", struct.pack(">II", 60_000, 0)) + frame(0) + PNG[33:-12] + frames + PNG[-12:]
    assert np.array_equal(decode(content), PIXELS)


def test_run_length_encoded_bmp_files_of_a_screen_are_read() -> None:
    rows = (b"\xff\x07" * 7 + b"\x87\x07" + b"\0\0") * 1080  # 7 x 255 + 135 = 1920
    content = bmp(1920, 1080, rows + b"\0\x01")
    assert decode(content).shape == (1080, 1920, 3)
    assert MAX_RLE_PIXELS >= 3840 * 2160


def test_many_threads_with_large_images_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "40MB")
    fits = encode(Image.new("RGB", (1000, 1000)), "WEBP")  # about 26 MB
    never = encode(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True)  # 416 MB, in 50 bytes
    results: list[str] = []

    def work(content: bytes) -> None:
        try:
            results.append(str(load_pixels(content, Preprocessing(size_px=32)).shape))
        except ImageError as error:
            results.append(str(error)[:30])

    threads = [threading.Thread(target=work, args=(content,)) for content in [fits, never, PNG, GIF] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(set(results)) == ["(32, 32, 3)", "<bytes>: decoding needs about "]
    assert len(results) == 32


@pytest.mark.parametrize(
    "name",
    [b"\xff\xfe.png", b"line\nbreak.png", b"\x1b[31mred\x1b[0m.png", b"a" * 300 + b".png", "\u202egnp.exe".encode()],
    ids=["not UTF-8", "line break", "terminal escape", "over 255 bytes", "right to left"],
)
@pytest.mark.parametrize("exists", [False, True])
def test_any_file_name_is_one_printable_line(name: bytes, exists: bool, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))  # noqa: PTH118
    if exists and len(name) < 256:
        path.write_bytes(b"not an image")
    for read in (decode, read_image, lambda path: load_pixels(path, Preprocessing(size_px=16))):
        if exists and len(name) < 256 and read is read_image:
            assert read(path) == b"not an image"
            continue
        with pytest.raises(ImageError) as caught:
            read(path)
        message = str(caught.value)
        assert message.isprintable()
        message.encode()
        assert (
            "not an image" if exists and len(name) < 256 else "no such file"
        ) in message or "cannot be read" in message


def test_a_directory_without_search_permission_is_one_line(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "a.png").write_bytes(PNG)
    secret.chmod(0)
    code = (
        "import sys; from wordsight.image import decode; from wordsight.errors import ImageError\n"
        "try: decode(sys.argv[1])\nexcept ImageError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(secret / "a.png")]
    if os.getuid() == 0:
        caps = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}", *command]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        secret.chmod(0o755)
    assert shown == f"{secret / 'a.png'}: cannot be read: Permission denied\n"
