"""Bytes to pixels: decoding, the published preprocessing, and training crops. Pillow and NumPy alone, no torch."""

from wordsight.image.augment import Augmentation, augment
from wordsight.image.decode import MAX_PIXELS, Policy, decode, read_image
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
from wordsight.image.source import IMAGE_SUFFIXES, ImageRef, ImageSource, is_image_file

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Augmentation",
    "Decoding",
    "ImageRef",
    "ImageSource",
    "Policy",
    "Preprocessing",
    "augment",
    "decode",
    "is_image_file",
    "load_pixels",
    "normalise",
    "preprocess",
    "read_image",
    "resize_and_crop",
]
