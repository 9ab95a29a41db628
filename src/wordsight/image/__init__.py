"""From image files to pixels: decoding, the published preprocessing, and training crops.

Only Pillow and NumPy are needed; torch is not imported.
"""

from wordsight.image.augment import Augmentation, augment
from wordsight.image.decode import MAX_PIXELS, decode, read_image
from wordsight.image.memory import BUDGET
from wordsight.image.perceptual import PERCEPTUAL_PX, PerceptualThumbnail, perceptual_thumbnail
from wordsight.image.policies import Policy
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
from wordsight.image.thumbnail import THUMBNAIL_PX, thumbnail

__all__ = [
    "BUDGET",
    "CLIP_MEAN",
    "CLIP_STD",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "PERCEPTUAL_PX",
    "THUMBNAIL_PX",
    "Augmentation",
    "Decoding",
    "ImageRef",
    "ImageSource",
    "PerceptualThumbnail",
    "Policy",
    "Preprocessing",
    "augment",
    "decode",
    "is_image_file",
    "load_pixels",
    "normalise",
    "perceptual_thumbnail",
    "preprocess",
    "read_image",
    "resize_and_crop",
    "thumbnail",
]
