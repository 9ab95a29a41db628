"""The types of images that functions accept, and the one detector of image files.

Two types describe an image that has not been decoded yet: `ImageSource` is anything a caller can pass, and `ImageRef`
is an image whose location is known and whose bytes are read only when they are needed.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

ImageSource: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any]
"""A path, the bytes of a file, a Pillow image, or a uint8 array: (H, W, 3), (H, W) or (H, W, 4)."""

IMAGE_SUFFIXES = frozenset(
    {"jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif", "hif"}
)
"""The suffixes of image files, in lower case and without the dot."""


class ImageRef(NamedTuple):
    """An image whose location is known and whose bytes have not been read yet.

    Attributes:
        name: identifies the image in outputs and errors: its path, the value of a table cell, the shard and the row of
            a sample, or for a video frame `film.mp4#t=12.500`, the path of the video and the time in seconds (W3C
            Media Fragments, section 4.2.1).
        read: returns the bytes of the image file, or decoded (H, W, 3) uint8 pixels. Raises ImageError with the
            reason if the image cannot be read. It can be pickled, except for video frames.
        sha256: hash of the video file for a frame; otherwise empty, and the hash of the bytes identifies the image.
        captions: texts that describe this image; empty if its source has none.
        names: names of its label, the label itself first; empty if its source has none.
        columns: value by name of the other columns of a table; not to be modified. An image that a table names has
            all of them but its own, also those of captions and labels; one in shards has those that are neither.
    """

    name: str
    read: Callable[[], bytes | npt.NDArray[np.uint8]]
    sha256: str = ""
    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    columns: Mapping[str, Any] = {}


def is_image_file(name: str) -> bool:
    """Return whether a file name, or a path with `/`, has the suffix of an image; hidden files are not images."""
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return bool(stem) and not stem.startswith(".") and suffix.lower() in IMAGE_SUFFIXES
