"""What `wordsight shards` packs: folders, tar files of folders, tables and shards, all as one kind of record.

Forms, in the order in which they are looked for:

- `captions.jsonl` (`file`, `captions`), `pairs.jsonl` (`file`, `texts`) or `labels.jsonl` (`file`, `label`, with
  `classes.json` beside it) in the folder or tar file;
- pictures with a text beside them, `cat.jpg` with `cat.txt` (a line, a caption) or `cat.json`;
- pictures in one folder for each class, the folder's name being the label (`_` read as a space);
- a folder of WebDataset shards;
- a CSV, TSV, Parquet or JSONL table of pictures (paths, or bytes) with texts or a label.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.class_names import MAX_NAMES_BYTES, LabelNames, parse_label_names, read_label_names
from wordsight.data.file_listing import Tree, open_tree, read_file
from wordsight.data.sample import (
    MAX_PICTURE_BYTES,
    MAX_TEXT_BYTES,
    PICTURE_SUFFIXES,
    BrokenSampleError,
    Texts,
    clean_texts,
    texts_of_json,
    texts_of_txt,
)
from wordsight.data.shard_reader import ShardSet, open_shards
from wordsight.data.tables import TABLE_SUFFIXES, Columns, Row, Table, choose_columns, jsonl_rows
from wordsight.errors import DataError, nearest

_LISTINGS = {
    "captions.jsonl": Columns(image="file", texts=("captions",)),
    "pairs.jsonl": Columns(image="file", texts=("texts",)),
    "labels.jsonl": Columns(image="file", label="label"),
}
_MAX_LISTING_BYTES = 1 << 31
_Read = Callable[[], bytes]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that could be packed.

    Attributes:
        file: where it lies in its source, as `cats/1.jpg`; of a table of bytes, the row, as `row-000003`.
        read: gives the picture's bytes, or raises DataError with a reason.
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
        raise DataError(f"{path}: no such file or folder{nearest(path.name, known)}")
    labels = read_label_names(options.names) if options.names else None
    is_table = path.is_file() and path.suffix.lower() in TABLE_SUFFIXES
    if not is_table and (options.image_column or options.text_columns or options.label_column):
        raise DataError(f"{path}: not a table (.csv, .tsv, .parquet, .jsonl); columns are options of tables only")
    if is_table:
        return _table_source(Table(path), options, labels)
    if path.is_file() and path.suffix.lower() != ".tar":
        raise DataError(f"{path}: expected a folder, a .tar, or a table (.csv, .tsv, .parquet, .jsonl)")
    tree = open_tree(path)
    if not any(map(_is_picture, tree.files)) and any(file.endswith(".tar") for file in tree.files):
        return _shards_source(open_shards(path))
    return _tree_source(tree, labels)


def _tree_source(tree: Tree, labels: LabelNames | None) -> Source:
    pictures = [file for file in tree.files if _is_picture(file)]
    listing = _find_listing(tree)
    if listing is not None:
        return _listing_source(tree, listing, pictures, labels)
    if not pictures:
        raise DataError(f"{tree.name}: no pictures in it ({', '.join(sorted(PICTURE_SUFFIXES))})")
    files = set(tree.files)
    sidecars = {file: [side for side in _sidecars(file) if side in files] for file in pictures}
    if any(sidecars.values()):
        records = (_sidecar_record(tree, file, sides) for file, sides in sidecars.items())
        return Source(form="texts beside the pictures", count=len(pictures), records=records)
    if any("/" in file for file in pictures):
        names = labels or LabelNames()
        records = (_folder_record(tree, file, names) for file in pictures)
        return Source(form="a folder for each class", count=len(pictures), records=records)
    raise DataError(
        f"{tree.name}: {len(pictures)} pictures and no texts; expected captions.jsonl, pairs.jsonl, labels.jsonl, "
        "a .txt or .json beside each picture, or a folder for each class"
    )


def _find_listing(tree: Tree) -> str | None:
    """The listing nearest to the root; of two there, the first kind of `_LISTINGS`."""
    order = list(_LISTINGS)
    found = [file for file in tree.files if _base(file) in _LISTINGS]
    return min(found, key=lambda file: (file.count("/"), order.index(_base(file))), default=None)


def _listing_source(tree: Tree, listing: str, pictures: list[str], labels: LabelNames | None) -> Source:
    folder = listing[: len(listing) - len(_base(listing))]
    columns = _LISTINGS[_base(listing)]
    classes = f"{folder}classes.json"
    try:
        content = tree.read(listing, _MAX_LISTING_BYTES)
        if columns.label and labels is None and classes in tree.files:
            labels = parse_label_names(tree.read(classes, MAX_NAMES_BYTES), classes)
    except DataError as error:
        raise DataError(f"{tree.name}: {listing} or {classes}: {error}") from error
    rows = jsonl_rows(content.splitlines(), _base(listing))
    files = {file.removeprefix(folder) for file in tree.files}

    def open_file(file: str) -> _Read:
        return lambda: tree.read(folder + file)

    entries = _group(rows, columns, labels or LabelNames())
    records = [entry.record(file, open_file(file), file in files) for file, entry in entries.items()]
    listed = {folder + file for file in entries}
    records += [
        Record(file=file, read=open_file(file.removeprefix(folder)), problem=f"no text: not in {_base(listing)}")
        for file in pictures
        if file not in listed
    ]
    return Source(form=listing, count=len(records), records=iter(records))


def _sidecar_record(tree: Tree, file: str, sides: list[str]) -> Record:
    def read() -> bytes:
        return tree.read(file)

    try:
        for side in sides:
            content = tree.read(side, MAX_TEXT_BYTES)
            texts = texts_of_json(content) if side.endswith(".json") else _lines(texts_of_txt(content))
            if texts is not None:
                return Record(file=file, read=read, texts=texts)
    except DataError as error:
        return Record(file=file, read=read, problem=str(error))
    return Record(file=file, read=read, problem="no text beside it")


def _lines(texts: Texts) -> Texts:
    return Texts(captions=clean_texts([line for text in texts.captions for line in text.splitlines()], "caption"))


def _folder_record(tree: Tree, file: str, labels: LabelNames) -> Record:
    folders = tuple(file.split("/")[:-1])
    try:
        if not folders:
            raise DataError("no text: it lies in no class's folder")
        label = folders[-1] if labels.names else folders[-1].replace("_", " ")
        texts = Texts(names=labels.of(label, {}, folders))
    except DataError as error:
        return Record(file=file, read=lambda: tree.read(file), problem=str(error))
    return Record(file=file, read=lambda: tree.read(file), texts=texts)


def _shards_source(shards: ShardSet) -> Source:
    def records() -> Iterator[Record]:
        for number in range(len(shards)):
            try:
                sample = shards.sample(number)
            except BrokenSampleError as error:
                yield Record(file=error.broken.key, read=bytes, problem=error.broken.reason)
                continue
            texts = Texts(captions=sample.captions, names=sample.names)
            yield Record(file=sample.key, read=lambda picture=sample.picture: picture, texts=texts)  # type: ignore[misc]

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
        picture = _bytes_of(row.values.get(columns.image))
        try:
            texts = _texts_of_row(row, columns, labels, ())
        except DataError as error:
            yield Record(file=name, read=bytes, problem=str(error))
            continue
        problem = "" if picture else f"{row.place}: no picture in {columns.image}"
        yield Record(file=name, read=lambda picture=picture or b"": picture, texts=texts, problem=problem)  # type: ignore[misc]


class _Entry:
    """What the rows about one picture say together."""

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
            problem = problem or f"{self.place}: no such picture"
        return Record(file=file, read=read, texts=Texts(tuple(self.captions), self.names), problem=problem)


def _group(rows: Iterable[Row], columns: Columns, labels: LabelNames) -> dict[str, _Entry]:
    """Rows by picture, in order of first appearance: a table may have a row for each caption."""
    entries: dict[str, _Entry] = {}
    for row in rows:
        file = _path_of(row.values.get(columns.image))
        entry = entries.setdefault(file or row.place, _Entry(row.place))
        try:
            if not file:
                raise DataError(f"{row.place}: {row.problem or 'no picture'}")
            entry.add(_texts_of_row(row, columns, labels, tuple(file.split("/")[:-1])))
        except DataError as error:
            entry.problem = entry.problem or str(error)
    return entries


def _texts_of_row(row: Row, columns: Columns, labels: LabelNames, folders: tuple[str, ...]) -> Texts:
    try:
        if columns.label:
            return Texts(names=labels.of(row.values.get(columns.label), row.values, folders))
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
            raise DataError("a web address; fetch the pictures first")
        return read_file(table.parent / file, MAX_PICTURE_BYTES)

    return read


def _bytes_of(value: Any) -> bytes | None:
    """The picture's bytes: of a binary column, or of the `{"bytes", "path"}` that Hugging Face's tables have."""
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


def _is_picture(file: str) -> bool:
    return file.rpartition(".")[2].lower() in PICTURE_SUFFIXES


def _sidecars(file: str) -> Sequence[str]:
    stem = file.rpartition(".")[0]
    return (f"{stem}.json", f"{stem}.txt")


def _base(file: str) -> str:
    return file.rpartition("/")[2]
