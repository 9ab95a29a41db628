"""The memory budget of decoding: what it is, who waits for it, and that estimates are not exceeded."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import ConfigError, ImageError
from wordsight.image import Preprocessing, decode, load_pixels
from wordsight.image.machine import _cgroup_limits
from wordsight.image.memory import BUDGET, DEFAULT_MEMORY_SHARE, MemoryBudget, max_memory

MEGABYTE = 10**6


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("1000000", 10**6),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 << 29),
        ("500M", 500 * 10**6),
        ("64MiB", 64 << 20),
        ("10k", 10**4),
        ("1TB", 10**12),
    ],
)
def test_the_variable_is_a_number_of_bytes_with_a_unit(text: str, num_bytes: int, monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", text)
    assert max_memory() == num_bytes


@pytest.mark.parametrize("text", ["much", "-1", "0", "2 bananas", "1e9", "GB", "nan", "1" * 40])
def test_any_other_value_is_an_error_that_names_the_variable(text: str, monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", text)
    with pytest.raises(ConfigError, match=r"^WORDSIGHT_MAX_MEMORY=.*: expected a number of bytes such as 2GB"):
        decode(encode(Image.new("RGB", (4, 4)), "PNG"))


def test_without_the_variable_it_is_a_share_of_the_machines_memory(monkeypatch) -> None:
    monkeypatch.delenv("WORDSIGHT_MAX_MEMORY", raising=False)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < max_memory() <= DEFAULT_MEMORY_SHARE * physical
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", " ")
    assert 0 < max_memory() <= DEFAULT_MEMORY_SHARE * physical


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/a/b\n", {"a/memory.max": "3000\n", "a/b/memory.max": "max\n"}, 3000),
        ("0::/\n", {"memory.max": "5000\n"}, 5000),
        ("9:memory:/x\n1:cpu:/y\n", {"memory/x/memory.limit_in_bytes": "700\n", "y/memory.max": "1\n"}, 700),
        ("9:memory:/x\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 1 << 60),
        ("0::/gone\n", {}, 1 << 60),
        ("nonsense\n", {"memory.max": "junk"}, 1 << 60),
    ],
)
def test_the_limits_of_a_container_are_found(tmp_path: Path, groups: str, files: dict, limit: int) -> None:
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert min(_cgroup_limits(tmp_path / "cgroup", tmp_path)) == limit
    assert _cgroup_limits(tmp_path / "none", tmp_path) == [1 << 60]


def test_threads_wait_until_their_bytes_fit_and_never_exceed_the_limit(monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "100")
    budget, lock = MemoryBudget(), threading.Lock()
    held, highest, finished = 0, 0, 0

    def work(num_bytes: int) -> None:
        nonlocal held, highest, finished
        with budget.reserve(num_bytes, "x"):
            with lock:
                held += num_bytes
                highest = max(highest, held)
            time.sleep(0.001)
            with lock:
                held -= num_bytes
                finished += 1

    sizes = np.random.default_rng(0).integers(1, 101, 150).tolist()
    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert finished == 150
    assert 50 < highest <= 100


def test_a_large_image_is_not_overtaken_for_ever(monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "100")
    budget, order = MemoryBudget(), []
    first = budget.reserve(60, "first")
    first.__enter__()

    def work(num_bytes: int) -> None:
        with budget.reserve(num_bytes, "x"):
            order.append(num_bytes)

    threads = []
    for number, num_bytes in enumerate((100, 10, 20), start=1):
        threads.append(threading.Thread(target=work, args=(num_bytes,)))
        threads[-1].start()
        while len(budget._waiting) < number:  # the small ones would fit now
            time.sleep(0.001)
    assert order == []
    first.__exit__(None, None, None)
    for thread in threads:
        thread.join(timeout=30)
    assert order[0] == 100
    assert sorted(order) == [10, 20, 100]


def test_a_failure_returns_the_memory(monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "1MB")
    damaged = encode(Image.new("RGB", (64, 64)), "PNG")[:-60]
    for _ in range(20):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode(damaged)
    assert decode(encode(Image.new("RGB", (64, 64)), "PNG")).shape == (64, 64, 3)
    assert BUDGET._used_bytes == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "pillow", "array", "grey array"])
def test_an_image_that_cannot_fit_is_one_helpful_line(kind: str, monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "10MB")
    image = Image.new("RGB", (2000, 1500))
    sources = {"pillow": image, "array": np.asarray(image), "grey array": np.asarray(image.convert("L"))}
    source = sources[kind] if kind in sources else encode(image, kind)
    with pytest.raises(ImageError, match=r"^a\.x: decoding needs about \d+ MB of memory, more than the limit of 10 MB"):
        decode(source, name="a.x")
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "100MB")
    assert decode(source).shape == (1500, 2000, 3)


def test_a_scaled_jpeg_needs_less_memory(monkeypatch) -> None:
    pytest.importorskip("simplejpeg")
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "10MB")
    content = encode(Image.new("RGB", (4000, 3000)), "JPEG")
    scaled = Preprocessing(size_px=224, decoding="scaled")
    assert load_pixels(content, scaled).shape == (224, 224, 3)
    with pytest.raises(ImageError, match="more than the limit of 10 MB"):
        load_pixels(content, Preprocessing(size_px=224))


def test_enlarging_a_narrow_image_is_part_of_the_budget(monkeypatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", "100MB")
    narrow = np.zeros((20000, 20, 3), np.uint8)
    with pytest.raises(ImageError, match=r"^<array>: decoding needs about 401 MB of memory"):
        load_pixels(narrow, Preprocessing(size_px=224))


PEAK = """
import re, sys
from wordsight.image import Preprocessing, load_pixels
from wordsight.image.memory import Reservation
reserved = []
hold = Reservation.hold
Reservation.hold = lambda self, num_bytes, name: reserved.append(num_bytes) or hold(self, num_bytes, name)
small, content, policy = open(sys.argv[1], "rb").read(), open(sys.argv[2], "rb").read(), sys.argv[3]
load_pixels(small, Preprocessing(size_px=32), policy)
def peak():  # unlike ru_maxrss, not that of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
load_pixels(content, Preprocessing(size_px=224), policy)
print(peak() - before, reserved[-1])
"""


def large_files() -> dict[str, tuple[Image.Image, str, dict]]:
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8))
    rgb = colour.resize((4000, 3000), Image.Resampling.NEAREST)
    rgba, grey = rgb.convert("RGBA"), rgb.convert("L")
    rgba.putalpha(grey)
    grey16 = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return {
        "jpeg": (rgb, "JPEG", {}),
        "jpeg-progressive": (rgb, "JPEG", {"progressive": True, "subsampling": 0}),
        "jpeg-rotated": (rgb, "JPEG", {"exif": exif}),
        "jpeg-cmyk": (rgb.convert("CMYK"), "JPEG", {"progressive": True}),
        "png": (rgb, "PNG", {"compress_level": 1}),
        "png-rgba-rotated": (rgba, "PNG", {"compress_level": 1, "exif": exif}),
        "png-16-bit": (grey16, "PNG", {"compress_level": 1}),
        "png-palette": (rgb.quantize(16, method=2), "PNG", {"compress_level": 1, "transparency": 3}),
        "gif": (rgb.quantize(16, method=2), "GIF", {"transparency": 3}),
        "webp": (rgb, "WEBP", {"method": 0}),
        "webp-rgba-rotated": (rgba, "WEBP", {"method": 0, "exif": exif}),
        "webp-lossless": (rgba, "WEBP", {"method": 0, "lossless": True, "quality": 0}),
        "tiff-rgba": (rgba, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        "bmp": (rgb, "BMP", {}),
        "avif-rgba-rotated": (rgba, "AVIF", {"speed": 10, "exif": exif}),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs VmHWM of Linux")
@pytest.mark.parametrize("kind", large_files())
def test_the_peak_does_not_exceed_the_reservation(kind: str, tmp_path: Path) -> None:
    image, file_format, options = large_files()[kind]
    (tmp_path / "small").write_bytes(encode(image.crop((0, 0, 64, 64)), file_format, **options))
    (tmp_path / "large").write_bytes(encode(image, file_format, **options))
    arguments = [sys.executable, "-c", PEAK, str(tmp_path / "small"), str(tmp_path / "large"), "viewer"]
    peak, reserved = map(int, subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split())
    assert peak < 1.05 * reserved + 4 * MEGABYTE
    assert peak > 0.3 * reserved, "the estimate refuses images that fit"
