"""Hand-computed cases of resizing, cropping and normalisation, and the limits of the configuration."""

import numpy as np
import pytest

from wordsight import config
from wordsight.errors import ConfigError, ImageError
from wordsight.image import CLIP_MEAN, CLIP_STD, Preprocessing, normalise, preprocess, resize_and_crop


def columns(width: int, height: int) -> np.ndarray:
    """An image whose red samples are column numbers and whose green samples are row numbers."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


@pytest.mark.parametrize(
    ("width", "first_column"),
    [(64, 0), (65, 0), (66, 1), (67, 2), (68, 2), (69, 2), (71, 4), (164, 50)],  # halves are rounded to even
)
def test_the_centre_crop_is_rounded_as_published(width: int, first_column: int) -> None:
    image = columns(width, 64)  # the shorter side already has the right size, so nothing is resampled
    pixels = resize_and_crop(image, Preprocessing(size_px=64))
    assert np.array_equal(pixels, image[:, first_column : first_column + 64])
    upright = resize_and_crop(image.transpose(1, 0, 2), Preprocessing(size_px=64))
    assert np.array_equal(upright, image[:, first_column : first_column + 64].transpose(1, 0, 2))


def test_an_image_of_the_right_size_is_copied_unchanged() -> None:
    image = columns(32, 32)
    pixels = resize_and_crop(image, Preprocessing(size_px=32))
    assert np.array_equal(pixels, image)
    assert not np.shares_memory(pixels, image)
    assert pixels.flags.writeable


def test_a_single_pixel_fills_the_square() -> None:
    assert np.array_equal(
        resize_and_crop(np.full((1, 1, 3), 77, np.uint8), Preprocessing(size_px=224)), np.full((224, 224, 3), 77)
    )


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3)])
def test_a_very_narrow_image_is_refused_only_above_the_limit(shape: tuple[int, ...]) -> None:
    image = np.full(shape, 200, np.uint8)
    assert np.array_equal(resize_and_crop(image, Preprocessing(size_px=16)), np.full((16, 16, 3), 200))
    with pytest.raises(ImageError, match=r"would be (1120000 x 224|224 x 1120000) before the centre is cropped"):
        resize_and_crop(image, Preprocessing(size_px=224))
    with pytest.raises(ImageError, match=r"^narrow\.png: "):
        preprocess(image, Preprocessing(size_px=224), name="narrow.png")
    squashed = Preprocessing(size_px=224, resize="squash")
    assert resize_and_crop(image, squashed).shape == (224, 224, 3)


def test_normalise_equals_hand_computed_values() -> None:
    preprocessing = Preprocessing(size_px=1, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    assert normalise(np.array([[[0, 255, 255]]], np.uint8), preprocessing).ravel().tolist() == [0.0, 1.0, 0.0]
    assert normalise(np.array([[[255, 0, 0]]], np.uint8), preprocessing).ravel().tolist() == [1.0, -1.0, -4.0]


def test_a_batch_is_normalised_like_its_images() -> None:
    batch = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    before = batch.copy()
    pixels = normalise(batch, Preprocessing(size_px=8))
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels.flags.c_contiguous
    for image, expected in zip(batch, pixels, strict=True):
        assert np.array_equal(normalise(image, Preprocessing(size_px=8)), expected)
    assert np.array_equal(batch, before)


def test_the_defaults_are_those_of_openai_clip() -> None:
    preprocessing = Preprocessing(size_px=224)
    assert (preprocessing.mean, preprocessing.std) == (CLIP_MEAN, CLIP_STD)
    assert (preprocessing.resize, preprocessing.interpolation) == ("shortest", "bicubic")


def test_preprocessing_survives_a_round_trip_and_misspelt_keys_are_errors() -> None:
    preprocessing = Preprocessing(size_px=64, resize="squash")
    assert config.decode(config.plain(preprocessing), Preprocessing, "card") == preprocessing
    with pytest.raises(ConfigError, match=r"card: unknown key 'sizepx'; did you mean 'size_px'"):
        config.decode({"sizepx": 64}, Preprocessing, "card")
    with pytest.raises(ConfigError, match="card: "):
        config.decode({"size_px": 64, "interpolation": "nearest"}, Preprocessing, "card")


@pytest.mark.parametrize(
    "wrong", [{"size_px": 0}, {"size_px": -5}, {"size_px": 9000}, {"size_px": 8, "std": (1, 0, 1)}]
)
def test_invalid_values_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Preprocessing(**wrong)


def test_cropped_decoding_differs_by_at_most_one_level_where_a_wide_image_shrinks() -> None:
    generator = np.random.default_rng(0)
    cropped, total = Preprocessing(size_px=64, decoding="cropped"), 0
    for width, height in ((1024, 768), (333, 100), (700, 70), (129, 65)):
        noise = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        difference = np.abs(
            resize_and_crop(noise, Preprocessing(size_px=64)).astype(int) - resize_and_crop(noise, cropped)
        )
        assert difference.max() <= 1
        total += int(difference.sum())
        upright = noise.transpose(1, 0, 2)
        assert np.array_equal(resize_and_crop(upright, cropped), resize_and_crop(upright, Preprocessing(size_px=64)))
    assert 0 < total < 100  # different, but only slightly
