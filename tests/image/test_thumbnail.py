"""A thumbnail is a small JPEG of the whole image, upright."""

import io
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from wordsight.errors import ImageError
from wordsight.image import ImageRef, read_image, thumbnail


def opened(content: bytes) -> Image.Image:
    assert content.startswith(b"\xff\xd8\xff")
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(("size", "expected"), [((640, 320), (176, 88)), ((50, 20), (50, 20)), ((300, 3), (176, 2))])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_the_whole_image_is_kept_and_never_enlarged(tmp_path: Path, size, expected, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.new("RGB", size, "red").save(path)
    assert opened(thumbnail(path)).size == expected


def test_rotation_and_transparency_are_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (400, 200), "red").save(tmp_path / "x.jpg", exif=exif)
    assert opened(thumbnail(tmp_path / "x.jpg")).size == (88, 176)
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "x.png")
    assert opened(thumbnail(tmp_path / "x.png")).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_an_unreadable_image_is_an_error_with_its_name(tmp_path: Path):
    (tmp_path / "x.jpg").write_bytes(b"hello")
    image = ImageRef("the name", partial(read_image, tmp_path / "x.jpg"))
    with pytest.raises(ImageError, match=r"the name: not an image"):
        thumbnail(image)


def test_no_extra_is_needed(tmp_path: Path):
    Image.new("RGB", (640, 320), "red").save(tmp_path / "x.jpg")
    code = "import sys; sys.modules['simplejpeg'] = None; from wordsight.image import thumbnail"
    process = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.stdout.buffer.write(thumbnail('x.jpg'))"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert opened(process.stdout).size == (176, 88), process.stderr
