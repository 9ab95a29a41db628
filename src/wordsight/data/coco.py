"""COCO's annotation files: captions, or the classes of the objects in each image.

Karpathy's `dataset_coco.json` and `dataset_flickr8k.json`, which contain the captions of an image in its own entry, are
read too. Only the needed keys are decoded, so that polygons and boxes take no memory.
"""

import re
from collections import defaultdict

import msgspec

MAX_ANNOTATION_BYTES = 1 << 29
"""`instances_train2017.json` has 448 MB."""

_ANNOTATION_FILE = re.compile(
    r"(?:.*/)?(?:annotations/[^/]+|(?:captions|instances|dataset|annotations)[^/]*|[^/]*coco[^/]*)\.json", re.IGNORECASE
)
_Id = int | str


class _Sentence(msgspec.Struct, gc=False):
    raw: str = ""


class _Image(msgspec.Struct):
    id: _Id | None = None
    file_name: str = ""
    filename: str = ""
    filepath: str = ""
    sentences: list[_Sentence] = []


class _Annotation(msgspec.Struct, gc=False):
    image_id: _Id | None = None
    caption: str | None = None
    category_id: _Id | None = None


class _Category(msgspec.Struct, gc=False):
    id: _Id
    name: str


class _Annotations(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation] = []
    categories: list[_Category] = []


class AnnotatedImage(msgspec.Struct, frozen=True):
    """The texts of one image in an annotation file.

    Attributes:
        file: path of the image, or its last part.
        captions: texts that describe it.
        classes: different names of the classes of its objects, in the order of their annotations.
    """

    file: str
    captions: tuple[str, ...]
    classes: tuple[str, ...]


def is_annotation_name(file: str) -> bool:
    """Return whether a path could be that of an annotation file."""
    return _ANNOTATION_FILE.fullmatch(file) is not None


def parse_annotations(content: bytes) -> list[AnnotatedImage] | None:
    """Parse an annotation file; None if it is JSON of another structure, or not JSON."""
    try:
        parsed = msgspec.json.decode(content, type=_Annotations)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    names = {category.id: category.name for category in parsed.categories}
    captions: dict[_Id | None, list[str]] = defaultdict(list)
    classes: dict[_Id | None, dict[str, None]] = defaultdict(dict)
    for annotation in parsed.annotations:
        if annotation.caption is not None:
            captions[annotation.image_id].append(annotation.caption)
        elif annotation.category_id in names:
            classes[annotation.image_id][names[annotation.category_id]] = None
    images = [
        AnnotatedImage(
            image.file_name or (f"{image.filepath}/{image.filename}" if image.filepath else image.filename),
            (*captions.get(image.id, ()), *(sentence.raw for sentence in image.sentences)),
            tuple(classes.get(image.id, ())),
        )
        for image in parsed.images
    ]
    return [image for image in images if image.file]
