"""What `wordsight shards` packs: directories, tar files of directories, tables and shards, all as one kind of record.

Forms, in the order in which they are looked for:

- `captions.jsonl` (`file`, `captions`), `pairs.jsonl` (`file`, `texts`) or `labels.jsonl` (`file`, `label`, with
  `classes.json` beside it) in the directory or tar file;
- images with a text beside them, `cat.jpg` with `cat.txt` (a line, a caption) or `cat.json`;
- images in one directory for each class, the directory's name being the label (`_` read as a space);
- a directory of WebDataset shards;
- a CSV, TSV, Parquet or JSONL table of images (paths, or bytes) with texts or a label.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.class_names import MAX_NAMES_BYTES, LabelNames, parse_label_names, read_label_names
from wordsight.data.file_listing import FileListing, open_listing, read_file
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
from wordsight.data.tables import TABLE_SUFFIXES, Columns, Row, Table, choose_columns, jsonl_rows
from wordsight.errors import DataError, nearest
from wordsight.image import IMAGE_SUFFIXES, is_image_file

_LISTINGS = {
    "captions.jsonl": Columns(image="file", texts=("captions",)),
    "pairs.jsonl": Columns(image="file", texts=("texts",)),
    "labels.jsonl": Columns(image="file", label="label"),
}
_MAX_LISTING_BYTES = 1 << 31
_Read = Callable[[], bytes]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A image that could be packed.

    Attributes:
        file: where it lies in its source, as `cats/1.jpg`; of a table of bytes, the row, as `row-000003`.
        read: gives the image's bytes, or raises DataError with a reason.
        texts: captions, or the names of its label.
        problem: why it cannot be packed, where that is known already.
    """

    file: str
    read: _Read
    texts: Texts = Texts()
    problem: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Records and where they come from.

    Attributes:
        form: what was recognised, as `captions.jsonl`, for the summary.
        count: how many records there are, where that is known.
        records: to be gone through once.
    """

    form: str
    count: int | None
    records: Iterator[Record]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the user says about a source; everything else is guessed.

    Attributes:
        image_column, text_columns, label_column: of a table.
        names: a JSON file of label names; see `labels.py`.
    """

    image_column: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    names: Path | None = None


def open_source(path: Path, options: SourceOptions | None = None) -> Source:
    """Recognise what lies at a path.

    Raises:
        DataError: nothing there, nothing recognised, or a column that does not exist.
    """
    options = options or SourceOptions()
    if not path.exists():
        known = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or directory{nearest(path.name, known)}")
    labels = read_label_names(options.names) if options.names else None
    is_table = path.is_file() and path.suffix.lower() in TABLE_SUFFIXES
    if not is_table and (options.image_column or options.text_columns or options.label_column):
        raise DataError(f"{path}: not a table (.csv, .tsv, .parquet, .jsonl); columns are options of tables only")
    if is_table:
        return _table_source(Table(path), options, labels)
    if path.is_file() and path.suffix.lower() != ".tar":
        raise DataError(f"{path}: expected a directory, a .tar, or a table (.csv, .tsv, .parquet, .jsonl)")
    root = open_listing(path)
    if not any(map(is_image_file, root.files)) and any(file.endswith(".tar") for file in root.files):
        return _shards_source(open_shards(path))
    return _files_source(root, labels)


def _files_source(root: FileListing, labels: LabelNames | None) -> Source:
    images = [file for file in root.files if is_image_file(file)]
    listing = _find_listing(root)
    if listing is not None:
        return _listing_source(root, listing, images, labels)
    if not images:
        raise DataError(f"{root.name}: no images in it ({', '.join(sorted(IMAGE_SUFFIXES))})")
    files = set(root.files)
    sidecars = {file: [side for side in _sidecars(file) if side in files] for file in images}
    if any(sidecars.values()):
        records = (_sidecar_record(root, file, sides) for file, sides in sidecars.items())
        return Source(form="texts beside the images", count=len(images), records=records)
    if any("/" in file for file in images):
        names = labels or LabelNames()
        records = (_directory_record(root, file, names) for file in images)
        return Source(form="a directory for each class", count=len(images), records=records)
    raise DataError(
        f"{root.name}: {len(images)} images and no texts; expected captions.jsonl, pairs.jsonl, labels.jsonl, "
        "a .txt or .json beside each image, or a directory for each class"
    )


def _find_listing(root: FileListing) -> str | None:
    """The listing nearest to the root; of two there, the first kind of `_LISTINGS`."""
    order = list(_LISTINGS)
    found = [file for file in root.files if _base(file) in _LISTINGS]
    return min(found, key=lambda file: (file.count("/"), order.index(_base(file))), default=None)


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

    def open_file(file: str) -> _Read:
        return lambda: root.read(directory + file)

    entries = _group(rows, columns, labels or LabelNames())
    records = [entry.record(file, open_file(file), file in files) for file, entry in entries.items()]
    listed = {directory + file for file in entries}
    records += [
        Record(file=file, read=open_file(file.removeprefix(directory)), problem=f"no text: not in {_base(listing)}")
        for file in images
        if file not in listed
    ]
    return Source(form=listing, count=len(records), records=iter(records))


def _sidecar_record(root: FileListing, file: str, sides: list[str]) -> Record:
    def read() -> bytes:
        return root.read(file)

    try:
        for side in sides:
            content = root.read(side, MAX_TEXT_BYTES)
            texts = texts_of_json(content) if side.endswith(".json") else _lines(texts_of_txt(content))
            if texts is not None:
                return Record(file=file, read=read, texts=texts)
    except DataError as error:
        return Record(file=file, read=read, problem=str(error))
    return Record(file=file, read=read, problem="no text beside it")


def _lines(texts: Texts) -> Texts:
    return Texts(captions=clean_texts([line for text in texts.captions for line in text.splitlines()], "caption"))


def _directory_record(root: FileListing, file: str, labels: LabelNames) -> Record:
    directories = tuple(file.split("/")[:-1])
    try:
        if not directories:
            raise DataError("no text: it lies in no class's directory")
        label = directories[-1] if labels.names else directories[-1].replace("_", " ")
        texts = Texts(names=labels.of(label, {}, directories))
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

    return Source(form="WebDataset shards", count=len(shards), records=records())


def _table_source(table: Table, options: SourceOptions, labels: LabelNames | None) -> Source:
    columns = choose_columns(table, options.image_column, options.text_columns, options.label_column)
    used = f"{columns.image} + {', '.join(columns.texts) or columns.label}"
    names = labels or LabelNames()
    rows = table.rows(columns)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{table.path}: no rows")
    rows = _chain(first, rows)
    form = f"{table.path.suffix[1:].lower()} table, columns {used}"
    if _bytes_of(first.values.get(columns.image)) is not None:
        return Source(form=form, count=None, records=_byte_records(rows, columns, names))
    entries = _group(rows, columns, names)
    records = (entry.record(file, _open_beside(table.path, file), True) for file, entry in entries.items())
    return Source(form=form, count=len(entries), records=records)


def _byte_records(rows: Iterable[Row], columns: Columns, labels: LabelNames) -> Iterator[Record]:
    for number, row in enumerate(rows):
        name = f"row-{number:09d}"
        image = _bytes_of(row.values.get(columns.image))
        try:
            texts = _texts_of_row(row, columns, labels, ())
        except DataError as error:
            yield Record(file=name, read=bytes, problem=str(error))
            continue
        problem = "" if image else f"{row.place}: no image in {columns.image}"
        yield Record(file=name, read=lambda image=image or b"": image, texts=texts, problem=problem)  # type: ignore[misc]


class _Entry:
    """What the rows about one image say together."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.captions: list[str] = []
        self.names: tuple[str, ...] = ()
        self.problem = ""
        self.conflict = ""

    def add(self, texts: Texts) -> None:
        self.captions += texts.captions
        if self.names and texts.names != self.names:
            self.conflict = f"{self.place}: labelled {self.names[0]!r} here and {texts.names[0]!r} in another row"
        self.names = self.names or texts.names

    def record(self, file: str, read: _Read, is_there: bool) -> Record:
        problem = self.conflict or ("" if self.captions or self.names else self.problem)
        if not is_there:
            problem = problem or f"{self.place}: no such image"
        return Record(file=file, read=read, texts=Texts(tuple(self.captions), self.names), problem=problem)


def _group(rows: Iterable[Row], columns: Columns, labels: LabelNames) -> dict[str, _Entry]:
    """Rows by image, in order of first appearance: a table may have a row for each caption."""
    entries: dict[str, _Entry] = {}
    for row in rows:
        file = _path_of(row.values.get(columns.image))
        entry = entries.setdefault(file or row.place, _Entry(row.place))
        try:
            if not file:
                raise DataError(f"{row.place}: {row.problem or 'no image'}")
            entry.add(_texts_of_row(row, columns, labels, tuple(file.split("/")[:-1])))
        except DataError as error:
            entry.problem = entry.problem or str(error)
    return entries


def _texts_of_row(row: Row, columns: Columns, labels: LabelNames, directories: tuple[str, ...]) -> Texts:
    try:
        if columns.label:
            return Texts(names=labels.of(row.values.get(columns.label), row.values, directories))
        found: list[str] = []
        problem: DataError | None = None
        for column in columns.texts:
            try:
                found += clean_texts(row.values.get(column), column)
            except DataError as error:
                problem = problem or error
        if not found and problem is not None:
            raise problem
        return Texts(captions=clean_texts(found, "texts"))
    except DataError as error:
        raise DataError(f"{row.place}: {error}") from error


def _open_beside(table: Path, file: str) -> _Read:
    def read() -> bytes:
        if "://" in file:
            raise DataError("a web address; fetch the images first")
        return read_file(table.parent / file, MAX_IMAGE_BYTES)

    return read


def _bytes_of(value: Any) -> bytes | None:
    """The image's bytes: of a binary column, or of the `{"bytes", "path"}` that Hugging Face's tables have."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def _path_of(value: Any) -> str | None:
    if isinstance(value, dict):
        value = value.get("path")
    return value.strip() or None if isinstance(value, str) else None


def _chain(first: Row, rest: Iterator[Row]) -> Iterator[Row]:
    yield first
    yield from rest


def _sidecars(file: str) -> Sequence[str]:
    stem = file.rpartition(".")[0]
    return (f"{stem}.json", f"{stem}.txt")


def _base(file: str) -> str:
    return file.rpartition("/")[2]
