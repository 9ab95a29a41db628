"""The sources of `wordsight shards` (directories, tar files of directories, shards and tables) as streams of records.

`detect_input` distinguishes them. In a directory or a tar file, texts are searched for in this order:

- `captions.jsonl` (`file`, `captions`), `pairs.jsonl` (`file`, `texts`) or `labels.jsonl` (`file`, `label`, with
  `classes.json` next to it);
- a text file next to each image: `cat.jpg` with `cat.txt` (one caption per line) or `cat.json`;
- one directory per class: its name, with `_` read as a space, is the label of the images in it.

A table (CSV, TSV, Parquet or JSON Lines) has a column of images (paths or bytes) and columns of texts or a label.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.class_names import MAX_NAMES_BYTES, LabelNames, parse_label_names, read_label_names
from wordsight.data.file_listing import FileListing, open_listing, read_file
from wordsight.data.inputs import detect_input
from wordsight.data.sample import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    BrokenSampleError,
    Texts,
    clean_texts,
    texts_of_json,
    texts_of_txt,
)
from wordsight.data.shard_reader import ShardSet, open_shards
from wordsight.data.tables import Columns, Row, Table, choose_columns, jsonl_rows
from wordsight.errors import DataError, counted, nearest
from wordsight.image import IMAGE_SUFFIXES, is_image_file

_LISTINGS = {
    "captions.jsonl": Columns(image="file", texts=("captions",)),
    "pairs.jsonl": Columns(image="file", texts=("texts",)),
    "labels.jsonl": Columns(image="file", label="label"),
}
_MAX_LISTING_BYTES = 1 << 31
_Read = Callable[[], bytes]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An image that can be packed, with its texts.

    Attributes:
        file: path of the image in its source, such as `cats/1.jpg`; for a table of bytes the row, as `row-000000003`.
        read: returns the bytes of the image file, or raises DataError with the reason.
        texts: captions, or the names of its label.
        problem: the reason why it cannot be packed, if that is known before the image is read; otherwise empty.
    """

    file: str
    read: _Read
    texts: Texts = Texts()
    problem: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a source.

    Attributes:
        layout: the detected layout, such as `captions.jsonl`, for the summary.
        count: number of records; None if it is not known before they are read.
        records: can be iterated once.
    """

    layout: str
    count: int | None
    records: Iterator[Record]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The user's options for a source; everything else is detected.

    Attributes:
        image_column, text_columns, label_column: columns of a table; None and empty are guessed by name.
        names: JSON file of class names; see `class_names.py`.
    """

    image_column: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    names: Path | None = None


def open_source(path: Path, options: SourceOptions | None = None) -> Source:
    """Open a directory, a tar file, shards or a table as a source of records.

    Raises:
        DataError: the path does not exist, its layout is not recognised, or a table has no suitable columns.
    """
    options = options or SourceOptions()
    kind = detect_input(path)
    if kind != "shards" and not path.exists():
        known = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or directory{nearest(path.name, known)}")
    labels = read_label_names(options.names) if options.names else None
    if kind == "table":
        return _table_source(Table(path), options, labels)
    if options.image_column or options.text_columns or options.label_column:
        raise DataError(f"{path}: not a table (.csv, .tsv, .parquet, .jsonl); only tables have columns to choose")
    if kind == "shards":
        return _shards_source(open_shards(path))
    if kind in ("directory", "tar"):
        return _files_source(open_listing(path), labels)
    raise DataError(f"{path}: expected a directory, a .tar file or a table (.csv, .tsv, .parquet, .jsonl)")


def _files_source(root: FileListing, labels: LabelNames | None) -> Source:
    images = [file for file in root.files if is_image_file(file)]
    listing = _find_listing(root)
    if listing is not None:
        return _listing_source(root, listing, images, labels)
    if not images:
        tar = next((file for file in root.files if file.endswith(".tar")), None)
        hint = f"; it contains {tar}: name the directory of the shards" if tar else ""
        raise DataError(f"{root.name}: no images in it ({', '.join(sorted(IMAGE_SUFFIXES))}){hint}")
    files = set(root.files)
    sidecars = {file: [sidecar for sidecar in _sidecar_names(file) if sidecar in files] for file in images}
    if any(sidecars.values()):
        records = (_sidecar_record(root, file, names) for file, names in sidecars.items())
        return Source(layout="texts next to the images", count=len(images), records=records)
    if any("/" in file for file in images):
        names = labels or LabelNames()
        records = (_directory_record(root, file, names) for file in images)
        return Source(layout="one directory per class", count=len(images), records=records)
    raise DataError(
        f"{root.name}: {counted(len(images), 'image')} and no texts; expected captions.jsonl, pairs.jsonl, "
        "labels.jsonl, a .txt or .json next to each image, or one directory per class"
    )


def _find_listing(root: FileListing) -> str | None:
    """Return the listing nearest to the root; among equally near ones, the first in the order of `_LISTINGS`."""
    order = list(_LISTINGS)
    listings = [file for file in root.files if _base(file) in _LISTINGS]
    return min(listings, key=lambda file: (file.count("/"), order.index(_base(file))), default=None)


def _listing_source(root: FileListing, listing: str, images: list[str], labels: LabelNames | None) -> Source:
    directory = listing[: len(listing) - len(_base(listing))]
    columns = _LISTINGS[_base(listing)]
    classes = f"{directory}classes.json"
    try:
        content = root.read(listing, _MAX_LISTING_BYTES)
        if columns.label and labels is None and classes in root.files:
            labels = parse_label_names(root.read(classes, MAX_NAMES_BYTES), classes)
    except DataError as error:
        raise DataError(f"{root.name}: {listing} or {classes}: {error}") from error
    rows = jsonl_rows(content.splitlines(), _base(listing))
    files = {file.removeprefix(directory) for file in root.files}

    def reader(file: str) -> _Read:
        return lambda: root.read(directory + file)

    entries = _group(rows, columns, labels or LabelNames())
    records = [entry.record(file, reader(file), file in files) for file, entry in entries.items()]
    listed = {directory + file for file in entries}
    records += [
        Record(file=file, read=reader(file.removeprefix(directory)), problem=f"no text: not in {_base(listing)}")
        for file in images
        if file not in listed
    ]
    return Source(layout=listing, count=len(records), records=iter(records))


def _sidecar_record(root: FileListing, file: str, sidecars: list[str]) -> Record:
    def read() -> bytes:
        return root.read(file)

    try:
        for sidecar in sidecars:
            content = root.read(sidecar, MAX_TEXT_BYTES)
            texts = texts_of_json(content) if sidecar.endswith(".json") else _lines(texts_of_txt(content))
            if texts is not None:
                return Record(file=file, read=read, texts=texts)
    except DataError as error:
        return Record(file=file, read=read, problem=str(error))
    return Record(file=file, read=read, problem="no text next to it")


def _lines(texts: Texts) -> Texts:
    """Split captions into lines, each of which is a caption."""
    return Texts(captions=clean_texts([line for text in texts.captions for line in text.splitlines()], "caption"))


def _directory_record(root: FileListing, file: str, labels: LabelNames) -> Record:
    directories = tuple(file.split("/")[:-1])
    try:
        if not directories:
            raise DataError("no text: it is not in the directory of a class")
        label = directories[-1] if labels.names else directories[-1].replace("_", " ")
        texts = Texts(names=labels.names_of(label, {}, directories))
    except DataError as error:
        return Record(file=file, read=lambda: root.read(file), problem=str(error))
    return Record(file=file, read=lambda: root.read(file), texts=texts)


def _shards_source(shards: ShardSet) -> Source:
    def records() -> Iterator[Record]:
        for number in range(len(shards)):
            try:
                sample = shards.sample(number)
            except BrokenSampleError as error:
                yield Record(file=error.broken.key, read=bytes, problem=error.broken.reason)
                continue
            texts = Texts(captions=sample.captions, names=sample.names)
            yield Record(file=sample.key, read=lambda image=sample.image: image, texts=texts)  # type: ignore[misc]

    return Source(layout="WebDataset shards", count=len(shards), records=records())


def _table_source(table: Table, options: SourceOptions, labels: LabelNames | None) -> Source:
    columns = choose_columns(table, options.image_column, options.text_columns, options.label_column)
    used = f"{columns.image} + {', '.join(columns.texts) or columns.label}"
    names = labels or LabelNames()
    rows = table.rows(columns)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{table.path}: no rows")
    rows = chain([first], rows)
    layout = f"{table.path.suffix[1:].lower()} table, columns {used}"
    if _bytes_of(first.values.get(columns.image)) is not None:
        return Source(layout=layout, count=None, records=_byte_records(rows, columns, names))
    entries = _group(rows, columns, names)
    records = (entry.record(file, _file_reader(table.path.parent, file), True) for file, entry in entries.items())
    return Source(layout=layout, count=len(entries), records=records)


def _byte_records(rows: Iterable[Row], columns: Columns, labels: LabelNames) -> Iterator[Record]:
    for number, row in enumerate(rows):
        name = f"row-{number:09d}"
        image = _bytes_of(row.values.get(columns.image))
        try:
            texts = _texts_of_row(row, columns, labels, ())
        except DataError as error:
            yield Record(file=name, read=bytes, problem=str(error))
            continue
        problem = "" if image else f"{row.name}: no image in {columns.image}"
        yield Record(file=name, read=lambda image=image or b"": image, texts=texts, problem=problem)  # type: ignore[misc]


class _Entry:
    """The texts of one image, collected from all its rows.

    Attributes:
        row: name of the first of these rows, for errors.
    """

    def __init__(self, row: str) -> None:
        self.row = row
        self.captions: list[str] = []
        self.names: tuple[str, ...] = ()
        self.problem = ""
        self.conflict = ""

    def add(self, texts: Texts) -> None:
        self.captions += texts.captions
        if self.names and texts.names != self.names:
            self.conflict = f"{self.row}: labelled {self.names[0]!r} here and {texts.names[0]!r} in another row"
        self.names = self.names or texts.names

    def record(self, file: str, read: _Read, exists: bool) -> Record:
        problem = self.conflict or ("" if self.captions or self.names else self.problem)
        if not exists:
            problem = problem or f"{self.row}: no such image"
        return Record(file=file, read=read, texts=Texts(tuple(self.captions), self.names), problem=problem)


def _group(rows: Iterable[Row], columns: Columns, labels: LabelNames) -> dict[str, _Entry]:
    """Collect rows by image, in the order of first appearance, because a table can have one row per caption."""
    entries: dict[str, _Entry] = {}
    for row in rows:
        file = _path_of(row.values.get(columns.image))
        entry = entries.setdefault(file or row.name, _Entry(row.name))
        try:
            if not file:
                raise DataError(f"{row.name}: {row.problem or 'no image'}")
            entry.add(_texts_of_row(row, columns, labels, tuple(file.split("/")[:-1])))
        except DataError as error:
            entry.problem = entry.problem or str(error)
    return entries


def _texts_of_row(row: Row, columns: Columns, labels: LabelNames, directories: tuple[str, ...]) -> Texts:
    try:
        if columns.label:
            return Texts(names=labels.names_of(row.values.get(columns.label), row.values, directories))
        captions: list[str] = []
        problem: DataError | None = None
        for column in columns.texts:
            try:
                captions += clean_texts(row.values.get(column), column)
            except DataError as error:
                problem = problem or error
        if not captions and problem is not None:
            raise problem
        return Texts(captions=clean_texts(captions, "texts"))
    except DataError as error:
        raise DataError(f"{row.name}: {error}") from error


def _file_reader(directory: Path, file: str) -> _Read:
    def read() -> bytes:
        if "://" in file:
            raise DataError("a web address; fetch the images first")
        return read_file(directory / file, MAX_IMAGE_BYTES)

    return read


def _bytes_of(value: Any) -> bytes | None:
    """The bytes of an image: the value of a binary column, or of `{"bytes", "path"}` as in Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _path_of(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("path")
    return value.strip() or None if isinstance(value, str) else None


def _sidecar_names(file: str) -> Sequence[str]:
    stem = file.rpartition(".")[0]
    return (f"{stem}.json", f"{stem}.txt")


def _base(file: str) -> str:
    return file.rpartition("/")[2]
