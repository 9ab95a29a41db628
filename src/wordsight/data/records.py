"""The sources of `wordsight shards` (directories, tar files of directories, shards and tables) as streams of records.

`detect_input` distinguishes them; `layouts.py` reads directories. A table (CSV, TSV, Parquet, JSON Lines) has a column
of images (paths or bytes) and columns of texts or a label.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from wordsight.data.class_names import LabelNames, read_label_names
from wordsight.data.columns import InputOptions, choose_columns, refuse_table_options
from wordsight.data.detect import detect_input, find_tables
from wordsight.data.entries import Entry, Record, Source, bytes_of, group, path_of, texts_of_row
from wordsight.data.file_listing import open_listing, read_file
from wordsight.data.layouts import files_source
from wordsight.data.locate import ImageRoots
from wordsight.data.sample import MAX_IMAGE_BYTES, BrokenSampleError, Texts
from wordsight.data.shard_reader import ShardSet, open_shards
from wordsight.data.tables import Columns, Row, Table
from wordsight.data.walk import check_exists
from wordsight.errors import DataError, encodable

__all__ = ["InputOptions", "Record", "Source", "open_source"]


def open_source(path: Path, options: InputOptions | None = None) -> Source:
    """Open a directory, a tar file, shards or a table as a source of records.

    Raises:
        DataError: the path does not exist, its layout is not recognised, or a table has no suitable columns.
    """
    options = options or InputOptions()
    kind = detect_input(path)
    if kind != "shards":
        check_exists(path)
    labels = read_label_names(options.names) if options.names else None
    if kind == "table":
        return _table_source(path, options, labels)
    if kind == "tables":
        return _tables_source(path, options, labels)
    if kind in ("directory", "tar"):
        return files_source(open_listing(path), options, labels)
    refuse_table_options(path, options)
    if kind == "shards":
        return _shards_source(open_shards(path), labels or LabelNames())
    raise DataError(f"{path}: expected a directory, a .tar file or a table (.csv, .tsv, .parquet, .jsonl){_hint(path)}")


def _hint(path: Path) -> str:
    name = path.name.lower()
    if name.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip", ".gz")):
        return "; it is compressed: unpack it first"
    return "; name the directory that contains it and the images" if name.endswith((".json", ".txt")) else ""


def _shards_source(shards: ShardSet, labels: LabelNames) -> Source:
    def records() -> Iterator[Record]:
        for number in range(len(shards)):
            name = shards.name_of(number)
            try:
                sample = shards.sample(number, labels)
            except BrokenSampleError as error:
                yield Record(file=error.broken.key, name=name, read=bytes, problem=error.broken.reason)
                continue
            texts = Texts(captions=sample.captions, names=sample.names, columns=sample.columns)
            yield Record(file=sample.key, name=name, read=partial(bytes, sample.image), texts=texts)
        for name, reason in shards.skipped:
            yield Record(file=name, name=name, read=bytes, problem=reason)

    return Source(layout="WebDataset shards", count=len(shards) + len(shards.skipped), records=records())


def _tables_source(path: Path, options: InputOptions, labels: LabelNames | None) -> Source:
    """The records of all Parquet files in a directory, such as a Hugging Face dataset or the output of img2dataset."""
    tables = find_tables(path)
    sources = [_table_source(table, options, labels, f"{table.stem}/") for table in tables]
    counts = [source.count for source in sources]
    return Source(
        layout=f"{len(tables)} tables, {sources[0].layout}",
        count=None if None in counts else sum(filter(None, counts)),
        records=chain.from_iterable(source.records for source in sources),
        check=sources[0].check,
    )


def _table_source(path: Path, options: InputOptions, labels: LabelNames | None, prefix: str = "") -> Source:
    table = Table(path, names=options.columns)
    columns = choose_columns(table, options)
    used = f"{columns.image} + {', '.join([*columns.texts, *([columns.label] if columns.label else [])])}"
    names = labels or LabelNames(origin=path.name, classes=table.class_names(columns.label) if columns.label else ())
    rows = table.rows(columns)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: no rows")
    rows = chain([first], rows)
    layout = f"{table.path.suffix[1:].lower()} table, columns {used}"
    roots = ImageRoots(path, options.image_root)
    value = first.values.get(columns.image)
    is_empty = isinstance(value, dict) and path_of(value) is None
    if columns.image in table.binary_columns or bytes_of(value) is not None or is_empty:
        return Source(layout=layout, count=table.num_rows, records=_byte_records(roots, rows, columns, names, prefix))
    entries: dict[str, Entry] = {}
    group(rows, columns, names, entries)
    images = [file for file, entry in entries.items() if not entry.problem]
    read = partial(_read_listed, roots)
    records = (entry.record(file, encodable(file), partial(read, file)) for file, entry in entries.items())
    check = partial(roots.check, images, columns.image)
    return Source(layout=layout, count=len(entries), records=records, check=check)


def _byte_records(
    roots: ImageRoots, rows: Iterable[Row], columns: Columns, labels: LabelNames, prefix: str
) -> Iterator[Record]:
    for number, row in enumerate(rows):
        value = row.values.get(columns.image)
        image, file = bytes_of(value), path_of(value)
        record = partial(Record, file=f"{prefix}row-{number:09d}", name=row.name)
        try:
            if row.problem:
                raise DataError(f"{row.name}: {row.problem}")
            texts = texts_of_row(row, columns, labels, ())
        except DataError as error:
            yield record(read=bytes, problem=str(error))
            continue
        problem = "" if image or file else f"{row.name}: no image in {columns.image}"
        read = partial(bytes, image or b"") if image or not file else partial(_read_listed, roots, file)
        yield record(read=read, texts=texts, problem=problem)


def _read_listed(roots: ImageRoots, file: str) -> bytes:
    """Read the image that a table calls `file`.

    Raises:
        DataError: it is missing, a web address, or cannot be read; the message does not name it.
    """
    if "://" in file:
        raise DataError("a web address; fetch the images first")
    try:
        return read_file(roots.find(file), MAX_IMAGE_BYTES)
    except DataError as error:
        hint = " (paths are relative to the table)" if isinstance(error.__cause__, FileNotFoundError) else ""
        raise DataError(f"{error}{hint}") from error
