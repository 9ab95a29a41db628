"""Training crops against hand-computed cases where they are exact and closed forms where they are random."""

import math

import numpy as np
import pytest
from PIL import Image

from wordsight import config
from wordsight.errors import ConfigError
from wordsight.image import Augmentation, augment


def coordinates(width: int, height: int) -> np.ndarray:
    """An image whose red samples are column numbers and whose green samples are row numbers."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    return image


def resized(image: np.ndarray, size_px: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size_px, size_px), Image.Resampling.BICUBIC))


def test_equal_generators_give_equal_crops_and_different_ones_differ() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    before = image.copy()
    first, again, other = (
        augment(image, 64, Augmentation(flip=True), np.random.Generator(np.random.Philox(seed))) for seed in (1, 1, 2)
    )
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert first.flags.c_contiguous
    assert first.flags.writeable
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.array_equal(image, before)


def test_a_crop_of_the_output_size_is_not_resampled_and_is_uniformly_distributed() -> None:
    image = coordinates(100, 100)
    augmentation = Augmentation(scale=(0.64, 0.64), ratio=(1.0, 1.0))  # sqrt(0.64) is 0.8: 80 pixels
    generator = np.random.default_rng(5)
    num_crops = 4000
    corners = np.zeros((num_crops, 2), dtype=int)
    for row in range(num_crops):
        pixels = augment(image, 80, augmentation, generator)
        left, top = int(pixels[0, 0, 0]), int(pixels[0, 0, 1])
        assert np.array_equal(pixels, image[top : top + 80, left : left + 80])
        corners[row] = left, top
    for axis in range(2):  # 21 positions, uniform: chi-squared with 20 degrees of freedom, 45.3 at 0.1 %
        counts = np.bincount(corners[:, axis], minlength=21)
        assert len(counts) == 21
        assert ((counts - num_crops / 21) ** 2 / (num_crops / 21)).sum() < 45.3
    assert abs(np.corrcoef(corners.T)[0, 1]) < 4 / math.sqrt(num_crops)


def boxes(augmentation: Augmentation, num_crops: int) -> np.ndarray:
    """Widths and heights of crops of a 200 x 200 image, from the slopes of its coordinates, to within a pixel."""
    image, generator = coordinates(200, 200), np.random.default_rng(9)
    sizes = np.zeros((num_crops, 2))
    for row in range(num_crops):
        pixels = augment(image, 64, augmentation, generator).astype(float)
        sizes[row] = [(pixels[32, 60, 0] - pixels[32, 3, 0]), (pixels[60, 32, 1] - pixels[3, 32, 1])]
    return sizes * 64 / 57


def test_area_is_uniform_and_ratio_log_uniform_within_their_ranges() -> None:
    num_crops = 2000
    width, height = boxes(Augmentation(scale=(0.1, 0.5), ratio=(0.75, 4 / 3)), num_crops).T  # always fits
    area, log_ratio = width * height / 200**2, np.log(width / height)
    assert area.min() > 0.09
    assert area.max() < 0.52
    assert abs(log_ratio).max() < math.log(4 / 3) + 0.05
    for values, low, high in ((area, 0.1, 0.5), (log_ratio, -math.log(4 / 3), math.log(4 / 3))):
        spread = (high - low) / math.sqrt(12)
        assert abs(values.mean() - (low + high) / 2) < 4 * spread / math.sqrt(num_crops)
        assert values.std() == pytest.approx(spread, rel=0.08)


def test_boxes_that_do_not_fit_are_drawn_again_before_the_whole_image_is_used() -> None:
    generator, num_crops = np.random.default_rng(2), 2000
    area = generator.uniform(0.9, 1.0, 100_000)  # torchvision's rule for all draws at once
    ratio = np.exp(generator.uniform(math.log(0.75), math.log(4 / 3), len(area)))
    sides = np.round(np.sqrt(np.stack([area * ratio, area / ratio])) * 200)
    fitting = sides[:, (sides <= 200).all(axis=0)]
    share_never_fitting = (1 - fitting.shape[1] / len(area)) ** 10
    assert share_never_fitting == pytest.approx(0.11, abs=0.01)
    sizes = boxes(Augmentation(), num_crops)
    for axis in range(2):
        expected = (1 - share_never_fitting) * fitting[axis].mean() + share_never_fitting * 200
        assert abs(sizes[:, axis].mean() - expected) < 4 * sizes[:, axis].std() / math.sqrt(num_crops) + 0.1
        without_second_draws = 200 + (fitting[axis].mean() - 200) * fitting.shape[1] / len(area)
        assert abs(sizes[:, axis].mean() - without_second_draws) > 4, "negative control: a single try"


def test_detail_is_lost_by_reducing_the_crop_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = Augmentation(scale=(1, 1), ratio=(1, 1))
    half = Augmentation(scale=(1, 1), ratio=(1, 1), detail=(0.5, 0.5))
    assert np.array_equal(augment(image, 32, half, np.random.default_rng(0)), resized(resized(image, 16), 32))
    assert not np.array_equal(augment(image, 32, whole, np.random.default_rng(0)), resized(resized(image, 16), 32))
    small = image[:10, :10]
    assert np.array_equal(augment(small, 32, half, np.random.default_rng(0)), resized(small, 32)), "nothing to reduce"


@pytest.mark.parametrize(
    ("width", "height", "box"),
    [(10, 200, (0, 93, 10, 106)), (200, 10, (93, 0, 106, 10)), (1, 5000, (0, 2499, 1, 2500))],
)
def test_if_no_box_fits_the_centre_with_the_nearest_ratio_is_used(
    width: int, height: int, box: tuple[int, int, int, int]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    left, top, right, bottom = box  # for example: 10 / 0.75 is 13, and (200 - 13) // 2 is 93
    assert np.array_equal(
        augment(image, 32, Augmentation(), np.random.default_rng(0)), resized(image[top:bottom, left:right], 32)
    )


def test_full_scale_uses_the_whole_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    whole = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert np.array_equal(augment(image, 64, whole, np.random.default_rng(0)), resized(image, 64))
    assert augment(image[:1, :1], 64, whole, np.random.default_rng(0)).shape == (64, 64, 3)


def test_flip_mirrors_half_of_the_crops() -> None:
    image = coordinates(8, 8)
    whole = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=True)
    generator, num_crops = np.random.default_rng(4), 4000
    mirrored = 0
    for _ in range(num_crops):
        pixels = augment(image, 8, whole, generator)
        is_mirrored = pixels[0, 0, 0] == 7
        assert np.array_equal(pixels, image[:, ::-1] if is_mirrored else image)
        mirrored += int(is_mirrored)
    assert abs(mirrored - num_crops / 2) < 4 * math.sqrt(num_crops) / 2
    without_flip = Augmentation(scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert all(np.array_equal(augment(image, 8, without_flip, generator), image) for _ in range(200))


def test_later_draws_do_not_depend_on_the_image_or_the_settings() -> None:
    next_draws = set()
    for shape in ((5, 5), (1, 300), (128, 96)):
        for flip in (False, True):
            generator = np.random.Generator(np.random.Philox(3))
            augment(np.zeros((*shape, 3), np.uint8), 16, Augmentation(flip=flip), generator)
            next_draws.add(generator.random())
    assert len(next_draws) == 1


def test_flip_does_not_change_the_boxes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for seed in range(20):
        plain, flipped = (
            augment(image, 32, Augmentation(flip=flip), np.random.default_rng(seed)) for flip in (False, True)
        )
        assert np.array_equal(plain, flipped) or np.array_equal(plain, flipped[:, ::-1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": (0.0, 1.0)},
        {"scale": (0.9, 0.5)},
        {"scale": (0.5, 1.5)},
        {"ratio": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"detail": (0.0, 1.0)},
        {"detail": (0.5, 1.1)},
    ],
)
def test_invalid_ranges_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=r"^augmentation (scale|ratio|detail) .*: expected "):
        Augmentation(**wrong)
    with pytest.raises(ConfigError, match="expected"):
        config.decode({key: list(value) for key, value in wrong.items()}, Augmentation, "recipe.toml")
