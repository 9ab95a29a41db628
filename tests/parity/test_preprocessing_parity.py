"""Preprocessing is compared bit for bit with torchvision's transforms, reimplemented with Pillow and torch.

torchvision itself is not a dependency, because it may install another torch. Its documented behaviour: `Resize(size)`
resizes the shorter side to `size` and the longer to `int(size * longer / shorter)`; `CenterCrop` starts at
`int(round((side - size) / 2.0))`; `ToTensor` divides by 255 in float32; `Normalize` subtracts, then divides.
"""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from tests.parity import peers
from wordsight.image import CLIP_MEAN, CLIP_STD, Preprocessing, normalise, preprocess, resize_and_crop

SIDES = (1, 2, 5, 31, 32, 33, 63, 64, 65, 97, 100, 128, 333)
SHAPES = [
    (width, height)
    for width, height in itertools.product(SIDES, SIDES)
    if max(width, height) < 170 * min(width, height)
]


def image(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(1000 * width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def torchvision_resize_and_crop(
    array: np.ndarray,
    size: int,
    resample: int = 3,  # Pillow's number for bicubic
    longer: Callable[[float], int] = int,
    offset: Callable[[float], int] = round,
) -> np.ndarray:
    image = Image.fromarray(array)
    w, h = image.size
    if w < h:
        image = image.resize((size, longer(size * h / w)), resample)
    elif h < w:
        image = image.resize((longer(size * w / h), size), resample)
    else:
        image = image.resize((size, size), resample)
    x, y = offset((image.size[0] - size) / 2.0), offset((image.size[1] - size) / 2.0)
    return np.asarray(image)[y : y + size, x : x + size]


@pytest.mark.parametrize("size_px", [1, 32, 64, 97])
def test_resize_and_crop_equals_torchvision_bit_for_bit(size_px: int) -> None:
    preprocessing = Preprocessing(size_px=size_px)
    for width, height in SHAPES:
        array = image(width, height)
        cropped = resize_and_crop(array, preprocessing)
        assert cropped.shape == (size_px, size_px, 3)
        assert np.array_equal(cropped, torchvision_resize_and_crop(array, size_px)), (width, height)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (640, 427), (1023, 769), (224, 224), (225, 224)])
def test_resize_and_crop_equals_torchvision_at_the_published_size(width: int, height: int) -> None:
    array = image(width, height)
    assert np.array_equal(resize_and_crop(array, Preprocessing(size_px=224)), torchvision_resize_and_crop(array, 224))


def test_bilinear_equals_torchvision_and_squash_is_a_single_resize() -> None:
    for width, height in SHAPES[::7]:
        array = image(width, height)
        bilinear = resize_and_crop(array, Preprocessing(size_px=32, interpolation="bilinear"))
        assert np.array_equal(bilinear, torchvision_resize_and_crop(array, 32, resample=2))
        squashed = resize_and_crop(array, Preprocessing(size_px=32, resize="squash"))
        assert np.array_equal(squashed, np.asarray(Image.fromarray(array).resize((32, 32), 3)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"resample": 2},
        {"resample": 1},
        {"longer": round},
        {"longer": lambda side: -int(-side // 1)},
        {"offset": lambda half: int(half)},
        {"offset": lambda half: int(half + 0.5)},
    ],
    ids=["bilinear", "lanczos", "longer side rounded", "longer side rounded up", "offset floored", "half rounded up"],
)
def test_negative_control_another_filter_or_rounding_gives_other_pixels(wrong: dict) -> None:
    preprocessing = Preprocessing(size_px=32)
    differs = []
    for width, height in SHAPES:
        array = image(width, height)
        other = torchvision_resize_and_crop(array, 32, **wrong)
        differs.append(not np.array_equal(resize_and_crop(array, preprocessing), other))
    assert any(differs)


def test_normalised_pixels_equal_totensor_and_normalize_bit_for_bit() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)  # every value in every channel
    for mean, std in ((CLIP_MEAN, CLIP_STD), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5,) * 3, (0.5,) * 3)):
        tensor = torch.from_numpy(values.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        tensor.sub_(torch.tensor(mean).view(-1, 1, 1)).div_(torch.tensor(std).view(-1, 1, 1))
        pixels = normalise(values, Preprocessing(size_px=16, mean=mean, std=std))
        assert pixels.dtype == np.float32
        assert pixels.flags.c_contiguous
        assert np.array_equal(pixels, tensor.numpy())


def test_negative_control_a_fused_multiplication_is_not_bit_equal() -> None:
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    scale, shift = (np.float32(1 / (255 * np.array(CLIP_STD))), np.float32(np.array(CLIP_MEAN) / np.array(CLIP_STD)))
    fused = (values.astype(np.float32) * scale - shift).transpose(2, 0, 1)
    assert not np.array_equal(normalise(values, Preprocessing(size_px=16)), fused)


def test_preprocess_combines_resize_crop_and_normalise() -> None:
    array = image(100, 65)
    preprocessing = Preprocessing(size_px=64)
    expected = normalise(torchvision_resize_and_crop(array, 64), preprocessing)
    for policy in ("viewer", "published"):
        assert np.array_equal(preprocess(array, preprocessing, policy), expected)


@pytest.mark.skipif(not peers.has_open_clip(), reason="open_clip is not installed")
def test_mean_and_standard_deviation_are_those_of_open_clip() -> None:
    open_clip = peers.open_clip()
    assert open_clip.OPENAI_DATASET_MEAN == CLIP_MEAN
    assert open_clip.OPENAI_DATASET_STD == CLIP_STD
