"""Bytes to pixels: decoding, the published preprocessing, and training crops. Pillow and NumPy alone, no torch."""

from wordsight.image.augment import Augmentation, augment
from wordsight.image.decode import MAX_PIXELS, PictureSource, Policy, decode, read_picture
from wordsight.image.preprocess import (
    CLIP_MEAN,
    CLIP_STD,
    Decoding,
    Preprocessing,
    normalise,
    preprocess,
    square_of,
    to_square,
)

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "MAX_PIXELS",
    "Augmentation",
    "Decoding",
    "PictureSource",
    "Policy",
    "Preprocessing",
    "augment",
    "decode",
    "normalise",
    "preprocess",
    "read_picture",
    "square_of",
    "to_square",
]
