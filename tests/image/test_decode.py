"""The two decoding policies, format by format, on images that are small enough to write down."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import ConfigError, ImageError, MissingExtraError
from wordsight.image import decode
from wordsight.image.decode import _fast_jpeg, as_pillow

PIXELS = np.random.default_rng(7).integers(0, 256, (5, 7, 3), dtype=np.uint8)
# EXIF orientation (EXIF 2.32, tag 0x0112) -> the operation that makes a stored array upright.
UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: stored.transpose(1, 0, 2)[:, ::-1],
    7: lambda stored: stored.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda stored: stored.transpose(1, 0, 2)[::-1],
}


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def over_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha over white in closed form, rounded half up."""
    mixed = rgb.astype(int) * alpha[..., None] + 255 * (255 - alpha[..., None].astype(int))
    return ((2 * mixed + 255) // 510).astype(np.uint8)


def test_all_types_of_sources_give_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    content = encode(Image.fromarray(PIXELS), "PNG")
    path.write_bytes(content)
    for source in (path, str(path), content, Image.open(path), Image.fromarray(PIXELS), PIXELS):
        decoded = decode(source)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert np.array_equal(decoded, PIXELS)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {})],
)
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_lossless_formats_are_decoded_exactly(kind: str, options: dict[str, Any], policy: Any) -> None:
    assert np.array_equal(decode(encode(Image.fromarray(PIXELS), kind, **options), policy), PIXELS)


def test_decoded_pixels_are_writeable() -> None:
    assert decode(encode(Image.fromarray(PIXELS), "PNG")).flags.writeable


def test_both_policies_agree_with_pillow_on_real_images(shared_data: Path) -> None:
    num_images = 0
    for name in ("flickr8k-val", "flowers102", "illus-noto"):
        with tarfile.open(shared_data / f"{name}.tar") as archive:
            for member in archive:
                if not member.name.endswith((".jpg", ".png")):
                    continue
                content = archive.extractfile(member).read()
                with Image.open(io.BytesIO(content)) as image:
                    if image.mode != "RGB":
                        continue
                    expected = np.asarray(image)
                assert np.array_equal(decode(content, "viewer"), expected), member.name
                assert np.array_equal(decode(content, "published"), expected), member.name
                num_images += 1
                if num_images % 40 == 0:
                    break
    assert num_images >= 80


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_viewer_applies_the_exif_orientation_and_published_does_not(
    orientation: int, kind: str, options: dict[str, Any]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(PIXELS), kind, exif=exif, **options)
    assert np.array_equal(decode(content, "viewer"), UPRIGHT[orientation](PIXELS))
    assert np.array_equal(decode(content, "published"), PIXELS)
    assert np.array_equal(decode(Image.open(io.BytesIO(content)), "viewer"), UPRIGHT[orientation](PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_exif_orientation_of_a_jpeg_is_read_in_both_byte_orders(orientation: int, order: str) -> None:
    exif = Image.Exif()
    exif.endian = order
    exif[0x010E] = "a preceding entry"
    exif[0x0112] = orientation
    content = encode(Image.fromarray(PIXELS), "JPEG", exif=exif)
    stored = decode(content, "published")
    assert stored.shape == PIXELS.shape
    assert np.array_equal(decode(content, "viewer"), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_invalid_orientations_are_ignored(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(decode(encode(Image.fromarray(PIXELS), "PNG", exif=exif)), PIXELS)


def test_viewer_blends_alpha_with_white_and_published_drops_it() -> None:
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    rgba = np.dstack([PIXELS, alpha])
    for source in (encode(Image.fromarray(rgba), "PNG"), Image.fromarray(rgba), rgba):
        assert np.array_equal(decode(source, "viewer"), over_white(PIXELS, alpha))
        assert np.array_equal(decode(source, "published"), PIXELS)


def test_grey_with_alpha_is_decoded_by_the_same_rule() -> None:
    grey, alpha = PIXELS[..., 0], PIXELS[..., 1]
    content = encode(Image.fromarray(np.dstack([grey, alpha])), "PNG")
    repeated = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(decode(content, "viewer"), over_white(repeated, alpha))
    assert np.array_equal(decode(content, "published"), repeated)


def palette_image() -> Image.Image:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2, 1])
    return image


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white_for_viewer_and_its_colour_for_published(kind: str) -> None:
    content = encode(palette_image(), kind, transparency=1)
    red, green, blue, white = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
    assert decode(content, "published").tolist() == [[red, green], [blue, green]]
    assert decode(content, "viewer").tolist() == [[red, white], [blue, white]]


def test_palette_entries_with_alpha_are_blended_with_white() -> None:
    content = encode(palette_image(), "PNG", transparency=bytes([255, 0, 51]))  # 51 of 255 is one fifth
    assert decode(content, "viewer").tolist() == [[[255, 0, 0], [255] * 3], [[204, 204, 255], [255] * 3]]
    assert decode(content, "published").tolist()[1] == [[0, 0, 255], [0, 255, 0]]
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert "transparency" in image.info
        decode(image, "published")
        assert "transparency" in image.info, "the source is not modified"


def test_a_transparent_colour_is_white_for_viewer_and_unchanged_for_published() -> None:
    grey = encode(Image.fromarray(np.array([[10, 20]], dtype=np.uint8)), "PNG", transparency=20)
    assert decode(grey, "viewer")[0, :, 0].tolist() == [10, 255]
    assert decode(grey, "published")[0, :, 0].tolist() == [10, 20]
    rgb = encode(Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], dtype=np.uint8)), "PNG", transparency=(4, 5, 6))
    assert decode(rgb, "viewer").tolist() == [[[1, 2, 3], [255, 255, 255]]]
    assert decode(rgb, "published").tolist() == [[[1, 2, 3], [4, 5, 6]]]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_converted_as_ink_on_white_paper(kind: str) -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        content = encode(Image.new("CMYK", (16, 16), ink), kind)
        for policy in ("viewer", "published"):
            assert np.abs(decode(content, policy).astype(int) - np.array(colour)).max() <= 2  # JPEG rounds


def test_cmyk_is_converted_as_by_pillow() -> None:
    content = encode(Image.fromarray(PIXELS).convert("CMYK"), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "CMYK"
        assert "adobe" in image.info
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(content, "viewer"), expected)
    assert np.array_equal(decode(content, "published"), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_viewer_scales_16_bit_grey_and_published_clips_it(kind: str) -> None:
    samples = np.array([[0, 128, 129, 255, 256], [257, 1000, 32768, 65406, 65535]], dtype=np.uint16)
    content = encode(Image.fromarray(samples), kind)
    exact = np.round(samples / 65535 * 255).astype(np.uint8)  # no sample is half-way between two levels
    assert exact.tolist() == [[0, 0, 1, 1, 1], [1, 4, 128, 254, 255]]
    assert np.array_equal(decode(content, "viewer"), np.repeat(exact[..., None], 3, axis=2))
    assert decode(content, "published")[..., 0].tolist() == np.minimum(samples, 255).tolist()


def test_a_transparent_16_bit_sample_is_white() -> None:
    image = Image.fromarray(np.array([[257, 514]], dtype=np.uint16))
    image.info["transparency"] = 257
    assert decode(image, "viewer")[0, :, 0].tolist() == [255, 2]


def test_32_bit_grey_is_scaled_within_16_bits_and_refused_beyond() -> None:
    assert decode(Image.fromarray(np.array([[0, 65535]], dtype=np.int32)))[0, :, 0].tolist() == [0, 255]
    for samples in (np.array([[0, 65536]], dtype=np.int32), np.array([[0.5]], dtype=np.float32)):
        with pytest.raises(ImageError, match=r"^<image>: .* samples have no standard range; save it with 8-bit"):
            decode(Image.fromarray(samples), "viewer")


def test_grey_and_bilevel_images_become_rgb() -> None:
    grey = PIXELS[..., 0]
    for source in (encode(Image.fromarray(grey), "PNG"), grey):
        assert np.array_equal(decode(source), np.repeat(grey[..., None], 3, axis=2))
    bilevel = encode(Image.fromarray(grey > 99), "PNG")
    assert np.array_equal(decode(bilevel)[..., 1], np.where(grey > 99, 255, 0))


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
@pytest.mark.parametrize("policy", ["viewer", "published"])
def test_an_animation_is_decoded_as_its_first_frame(kind: str, options: dict[str, Any], policy: Any) -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    content = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, **options)
    with Image.open(io.BytesIO(content)) as image:
        assert image.n_frames == 3
    assert np.array_equal(decode(content, policy), np.asarray(frames[0]))


def test_a_gif_without_a_canvas_size_has_the_size_of_its_frame() -> None:
    content = encode(Image.new("RGB", (4, 3), "red"), "GIF")
    assert np.array_equal(decode(content[:6] + bytes(4) + content[10:]), decode(content))


def test_a_multi_page_tiff_is_decoded_as_its_first_page() -> None:
    pages = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime")]
    content = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert np.array_equal(decode(content), np.asarray(pages[0]))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 3)),
        np.zeros((2, 2, 2), np.uint8),
        np.zeros((1, 2, 2, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 2, 3), np.uint8),
    ],
)
def test_arrays_of_other_shapes_and_dtypes_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"^<array>: "):
        decode(array)


def test_objects_of_other_types_are_refused() -> None:
    with pytest.raises(ImageError, match=r"^row 3: expected a path, .* not int$"):
        decode(3, name="row 3")  # type: ignore[arg-type]


def test_a_misspelt_policy_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'published'"):
        decode(PIXELS, "publishd")  # type: ignore[arg-type]


@pytest.mark.parametrize("subsampling", [0, 1, 2, None])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("size", [(64, 48), (61, 37), (1, 1)])
def test_simplejpeg_gives_the_same_pixels_as_pillow(
    subsampling: int | None, progressive: bool, size: tuple[int, int]
) -> None:
    pytest.importorskip("simplejpeg")
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    grey = subsampling is None
    options = {} if grey else {"subsampling": subsampling}
    content = encode(noise.convert("L") if grey else noise, "JPEG", quality=90, progressive=progressive, **options)
    assert _fast_jpeg(content, Image.open(io.BytesIO(content))) is not None
    assert np.array_equal(decode(content), np.array(Image.open(io.BytesIO(content)).convert("RGB")))


def test_scaled_decoding_is_as_small_as_allowed_and_nearly_the_same_image() -> None:
    pytest.importorskip("simplejpeg")
    rows, columns = np.mgrid[0:480, 0:640]
    smooth = np.stack([rows // 2, columns // 3, (rows + columns) // 5], axis=-1).astype(np.uint8)
    content = encode(Image.fromarray(smooth), "JPEG", quality=95)
    scaled = decode(content, min_px=200)
    assert scaled.shape == (240, 320, 3)
    averaged = np.asarray(Image.fromarray(decode(content)).resize((320, 240), Image.Resampling.BOX))
    assert np.abs(scaled.astype(int) - averaged).max() <= 4
    assert decode(content, min_px=1000).shape == (480, 640, 3)
    assert np.array_equal(decode(encode(Image.fromarray(PIXELS), "PNG"), min_px=2), PIXELS)


def test_scaled_decoding_without_simplejpeg_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["wordsight.image.decode"], "simplejpeg", None)
    with pytest.raises(
        MissingExtraError, match=r"scaled decoding needs optional packages: pip install 'wordsight\[fast\]'"
    ):
        decode(b"", min_px=8)


def test_a_truncated_jpeg_is_the_same_error_with_and_without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    content = encode(noise, "JPEG")[:-200]
    with pytest.raises(ImageError) as with_simplejpeg:
        decode(content)
    monkeypatch.setattr(sys.modules["wordsight.image.decode"], "simplejpeg", None)
    with pytest.raises(ImageError) as without_simplejpeg:
        decode(content)
    assert str(with_simplejpeg.value) == str(without_simplejpeg.value)


def test_the_image_package_does_not_import_torch() -> None:
    code = "import sys, wordsight.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_padded_image_has_the_same_pixels_and_shares_its_memory_with_pillow() -> None:
    pytest.importorskip("simplejpeg")
    samples = np.random.default_rng(0).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(samples).save(buffer, "JPEG", subsampling=2)
    plain, padded = (decode(buffer.getvalue(), padded=padded) for padded in (False, True))
    np.testing.assert_array_equal(plain, padded)
    assert plain.flags.c_contiguous
    image = as_pillow(padded)
    np.testing.assert_array_equal(np.asarray(image), plain)
    np.testing.assert_array_equal(np.asarray(image.resize((7, 9))), np.asarray(Image.fromarray(plain).resize((7, 9))))
    padded.base[0, 0] = 255 - padded.base[0, 0]
    assert image.getpixel((0, 0)) == tuple(padded[0, 0])  # shared memory
    for other in (plain, padded[:, 1:], np.zeros((2, 2, 4), np.uint8)[:, :, 1:], plain[::2]):
        np.testing.assert_array_equal(np.asarray(as_pillow(other)), other)
