"""Bytes to pixels: decoding, the published preprocessing, and training crops. Pillow and NumPy alone, no torch."""

from wordsight.image.augment import Augmentation, augment
from wordsight.image.decode import MAX_PIXELS, ImageSource, Policy, decode, read_image
from wordsight.image.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    Decoding,
    Preprocessing,
    load_pixels,
    normalise,
    preprocess,
    resize_and_crop,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "MAX_PIXELS",
    "Augmentation",
    "Decoding",
    "ImageSource",
    "Policy",
    "Preprocessing",
    "augment",
    "decode",
    "load_pixels",
    "normalise",
    "preprocess",
    "read_image",
    "resize_and_crop",
]
