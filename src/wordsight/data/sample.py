"""One pair as it lies in a shard, the ways in which it can be broken, and how its texts are read."""

from typing import Any

import msgspec

from wordsight.errors import DataError

MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 20


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """A image with its captions, or with the names of its label.

    Attributes:
        key: names the sample within its shard.
        image: the file's bytes, not decoded.
        captions: what was written about this image; empty for a labelled sample.
        names: what its label is called, the label itself first; empty for a captioned sample.
        shard: path or address of the shard.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    shard: str = ""


class BrokenSample(msgspec.Struct, frozen=True):
    """A sample that cannot be used, and why."""

    key: str
    shard: str
    reason: str


class BrokenSampleError(DataError):
    """One sample cannot be used; the others can."""

    def __init__(self, broken: BrokenSample) -> None:
        super().__init__(f"{broken.shard}: {broken.key}: {broken.reason}")
        self.broken = broken


class Texts(msgspec.Struct, frozen=True):
    """The texts of one image: captions, or the names of a label."""

    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def clean_texts(value: Any, what: str) -> tuple[str, ...]:
    """One text or a list of them, stripped and without the empty ones.

    Args:
        value: plain data from a file.
        what: its name in errors, as `captions`.

    Raises:
        DataError: not text, or nothing but white space; the message is a reason without a place.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise DataError(f"{what} is {_kind(value)}, not a text or a list of texts")
    for item in items:
        if not isinstance(item, str):
            raise DataError(f"{what} has {_kind(item)} among its texts")
    texts = tuple(text for text in (item.strip() for item in items) if text)
    if not texts:
        raise DataError(f"{what}: empty text" if items else f"{what}: no text")
    if sum(map(len, texts)) > MAX_TEXT_BYTES:
        raise DataError(f"{what}: more than {MAX_TEXT_BYTES:,} characters")
    return texts


def read_json(content: bytes) -> Any:
    """Plain data from JSON.

    Raises:
        DataError: not JSON, not UTF-8, nested too deeply; the message is a reason without a place.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from error


def texts_of_json(content: bytes) -> Texts | None:
    """The texts in a sample's `.json`: `captions` or `caption` (also `texts`, `text`), or `names` and `label`.

    Returns:
        None where it speaks of other things.

    Raises:
        DataError: not a JSON object, or its texts are unusable; the message is a reason without a place.
    """
    value = read_json(content)
    if not isinstance(value, dict):
        raise DataError(f"the JSON is {_kind(value)}, not an object")
    for key in ("captions", "caption", "texts", "text"):
        if value.get(key) is not None:
            return Texts(captions=clean_texts(value[key], key))
    if value.get("names") is not None:
        names = clean_texts(value["names"], "names")
        label = value.get("label")
        first = clean_texts(label, "label")[:1] if isinstance(label, str) else ()
        return Texts(names=first + tuple(name for name in names if name not in first))
    if value.get("label") is not None:
        return Texts(names=clean_texts(value["label"], "label"))
    return None


def texts_of_txt(content: bytes) -> Texts:
    """The caption in a sample's `.txt`.

    Raises:
        DataError: not UTF-8, or empty; the message is a reason without a place.
    """
    try:
        return Texts(captions=clean_texts(content.decode("utf-8-sig"), "caption"))
    except UnicodeDecodeError as error:
        raise DataError(f"caption: not UTF-8: {error.reason} at byte {error.start}") from error


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of kind {type(value).__name__}"
