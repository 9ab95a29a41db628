"""A sample of a shard, the error for one that is broken, and the parsing of its texts."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from wordsight.errors import DataError, encodable

MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 20
_UTF8_MARK = b"\xef\xbb\xbf"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """An image with its captions, the names of its label, or both.

    Attributes:
        key: identifies the sample within its shard.
        image: the bytes of the image file, not decoded.
        captions: texts that describe this image; empty if there are only names.
        names: names of the label, the label itself first; empty if there are only captions.
        shard: path or address of the shard.
        columns: value by name of the other columns of the table that the sample is from.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    shard: str = ""
    columns: Mapping[str, Any] = {}


class BrokenSample(msgspec.Struct, frozen=True):
    """A sample that cannot be used: its key, the shard (or, while packing, the file) it is in, and the reason.

    Undecodable bytes of names are escaped, so that the sample can be listed in a file.
    """

    key: str
    shard: str
    reason: str

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            msgspec.structs.force_setattr(self, name, encodable(getattr(self, name)))


class BrokenSampleError(DataError):
    """One sample cannot be used; the others can."""

    def __init__(self, broken: BrokenSample) -> None:
        super().__init__(f"{broken.shard}: {broken.key}: {broken.reason}")
        self.broken = broken


def sample_key(name: str) -> str:
    """Return a name up to the first dot in its last part, which identifies a sample in WebDataset."""
    directory, slash, base = name.rpartition("/")
    return f"{directory}{slash}{base.partition('.')[0]}"


class Texts(msgspec.Struct, frozen=True):
    """The texts of one image: captions, the names of its label, or both; and the other values of its row in a table."""

    captions: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    columns: Mapping[str, Any] = {}


def clean_texts(value: Any, what: str) -> tuple[str, ...]:
    """Strip a text or a list of texts, and drop the empty ones.

    Args:
        value: plain data from a file.
        what: name of the value in errors, such as `captions`.

    Raises:
        DataError: the value is not text, is longer than `MAX_TEXT_BYTES` characters, or only white space; the message
            does not name the file.
    """
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise DataError(f"{what} is {_type_of(value)}, not a text or a list of texts")
    for item in items:
        if not isinstance(item, str):
            raise DataError(f"{what} has {_type_of(item)} among its texts")
    texts = tuple(text for text in (item.strip() for item in items) if text)
    if not texts:
        raise DataError(f"{what}: empty text" if items else f"{what}: no text")
    if sum(map(len, texts)) > MAX_TEXT_BYTES:
        raise DataError(f"{what}: more than {MAX_TEXT_BYTES:,} characters")
    return texts


def parse_json(content: bytes) -> Any:
    """Parse JSON, which can begin with a byte order mark, into plain data.

    Raises:
        DataError: the content is not JSON, not UTF-8, or nested too deeply; the message does not name the file.
    """
    try:
        return msgspec.json.decode(content.removeprefix(_UTF8_MARK))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from error


def texts_of_json(
    content: bytes, names_of: Callable[[Any, dict[str, Any]], tuple[str, ...]] | None = None
) -> Texts | None:
    """Read the texts of a sample's `.json`: `captions` or `caption` (also `texts`, `text`), and `names` and `label`.

    Args:
        content: the file.
        names_of: returns the names of a label, given the label and the whole object; by default the label is a name.

    Returns:
        The texts; None if the object has none of these keys.

    Raises:
        DataError: the content is not a JSON object, or its texts are unusable; the message does not name the file. A
            label that is not usable is ignored if there are captions, because other programs write numbers.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise DataError(f"the JSON is {_type_of(value)}, not an object")
    key = next((key for key in ("captions", "caption", "texts", "text") if value.get(key) is not None), None)
    captions = clean_texts(value[key], key) if key else ()
    try:
        names = _names_of_json(value, names_of)
    except DataError:
        if not captions:
            raise
        names = ()
    columns = value.get("columns")
    if not captions and not names:
        return None
    return Texts(captions=captions, names=names, columns=columns if isinstance(columns, dict) else {})


def _names_of_json(
    value: dict[str, Any], names_of: Callable[[Any, dict[str, Any]], tuple[str, ...]] | None
) -> tuple[str, ...]:
    label = value.get("label")
    if value.get("names") is not None:
        names = clean_texts(value["names"], "names")
        first = clean_texts(label, "label")[:1] if isinstance(label, str) else ()
        return first + tuple(name for name in names if name not in first)
    if label is None:
        return ()
    return names_of(label, value) if names_of else clean_texts(label, "label")


def texts_of_txt(content: bytes) -> Texts:
    """Read the caption in a sample's `.txt`.

    Raises:
        DataError: the content is not UTF-8, or empty; the message does not name the file.
    """
    try:
        return Texts(captions=clean_texts(content.decode("utf-8-sig"), "caption"))
    except UnicodeDecodeError as error:
        raise DataError(f"caption: not UTF-8: {error.reason} at byte {error.start}") from error


def _type_of(value: Any) -> str:
    return "null" if value is None else f"a value of type {type(value).__name__}"
