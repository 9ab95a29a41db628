"""The layouts of a directory, or of a tar file of a directory: where the texts of its images are.

They are searched for in this order:

- listings (`captions.jsonl`, Hugging Face's `metadata.csv`, Flickr8k's `captions.txt`, ...), in any directory;
- COCO's annotation files;
- a text file next to each image: `cat.jpg` with `cat.txt`, `cat.jpg.txt`, `cat.json`, `cat.caption` or `cat.cls`;
- one directory per class: its name, with `_` read as a space, is the label of the images in it.

The last one is a guess, so it is refused where texts would be lost: if all images have the same label although there
are text files, or if the directories are called `train` and `test`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from wordsight.data.class_files import MAX_CLASS_FILE_BYTES
from wordsight.data.class_names import LabelNames, parse_label_names
from wordsight.data.coco import MAX_ANNOTATION_BYTES, AnnotatedImage, is_annotation_name, parse_annotations
from wordsight.data.columns import InputOptions, choose_columns, refuse_table_options
from wordsight.data.entries import Entry, Record, Source, group
from wordsight.data.file_listing import FileListing
from wordsight.data.locate import ImageLocator
from wordsight.data.sample import MAX_TEXT_BYTES, Texts, clean_texts, sample_key, texts_of_json, texts_of_txt
from wordsight.data.tables import Columns, Table, is_table_name
from wordsight.errors import DataError, counted, encodable
from wordsight.image import IMAGE_SUFFIXES, is_image_file

_LISTINGS: dict[str, Columns | None] = {  # None: the columns are chosen by their names
    "captions.jsonl": Columns(image="file", texts=("captions",)),
    "pairs.jsonl": Columns(image="file", texts=("texts",)),
    "labels.jsonl": Columns(image="file", label="label"),
    **dict.fromkeys(("metadata.jsonl", "metadata.csv", "metadata.parquet", "metadata.tsv")),
    **dict.fromkeys(("captions.csv", "captions.tsv", "captions.txt", "captions.parquet", "results.csv")),
}
_SIDECAR_SUFFIXES = ("json", "txt", "caption", "captions", "cls")
_TEXT_FILE = re.compile(
    r".*\.(?:txt|text|json|jsonl|csv|tsv|parquet|captions?|cls|xml|token|ya?ml|toml|md|markdown|rst|html?|tags?|labels?"
    r"|prompts?|desc|description|info|lst|dat)",
    re.IGNORECASE,
)
_ABOUT_FILE = re.compile(
    r"(?:read_?me|licen[cs]e|notice|sources?|copyright|attribution|about|classes)\b.*", re.IGNORECASE
)
_SPLIT = re.compile(
    r"(?:train|training|val|valid|validation|dev|test|testing|images?|imgs?|jpegimages|data|all)(?:[-_ ]?\d{4})?",
    re.IGNORECASE,
)
_NUM_SHOWN_FILES = 3


def files_source(root: FileListing, options: InputOptions, labels: LabelNames | None) -> Source:
    """Open a directory or a tar file of a directory as a source of records.

    Raises:
        DataError: it contains no images, its layout is not recognised, or texts would be lost.
    """
    images = [file for file in root.files if is_image_file(file)]
    source = _find_source(root, images, options, labels)
    unlisted = [
        Record(file=directory, name=_name_of(root, directory), read=bytes, problem=f"{directory}: {problem}")
        for directory, problem in root.problems.items()
    ]
    count = None if source.count is None else source.count + len(unlisted)
    return Source(layout=encodable(source.layout), count=count, records=chain(source.records, unlisted))


def _name_of(root: FileListing, file: str) -> str:
    """Return the name of an image in outputs: its path including the directory or tar file."""
    return encodable(Path(root.name) / file)


def _find_source(root: FileListing, images: Sequence[str], options: InputOptions, labels: LabelNames | None) -> Source:
    listings = _find_listings(root, images)
    if listings and not options.image_root:
        return _listing_source(root, listings, images, options, labels)
    refuse_table_options(root.name, options)
    if not images:
        raise _no_images(root)
    annotated = _annotation_source(root, images, labels)
    if annotated is not None:
        return annotated
    names = labels or _class_names(root, "") or LabelNames()
    sidecars = _find_sidecars(root.files, images)
    if any(sidecars):
        records = (_sidecar_record(root, *pair, names) for pair in zip(images, sidecars, strict=True))
        return Source(layout="texts next to the images", count=len(images), records=records)
    if any("/" in file for file in images):
        _check_classes(root, images)
        records = (_directory_record(root, file, labels or LabelNames()) for file in images)
        return Source(layout="one directory per class", count=len(images), records=records)
    raise DataError(
        f"{root.name}: {counted(len(images), 'image')} and no texts{_unread(root)}; expected captions.jsonl, "
        "pairs.jsonl, labels.jsonl, metadata.jsonl, a .txt or .json next to each image, or one directory per class"
    )


def _no_images(root: FileListing) -> DataError:
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    reason = f"{root.name}: no images in it ({suffixes})"
    tars = [file for file in root.files if file.lower().endswith(".tar")]
    if tars:
        directories = sorted({f"{root.name}/{tar.rpartition('/')[0]}".rstrip("/") for tar in tars})
        shown = " or ".join(directories[:_NUM_SHOWN_FILES])
        return DataError(f"{reason}; it contains {tars[0]}: name the directory of the shards, {shown}")
    unlisted = "".join(f"; {directory}: {problem}" for directory, problem in list(root.problems.items())[:1])
    return DataError(f"{reason}{_unread(root)}{unlisted}")


# --- listings ---


def _find_listings(root: FileListing, images: Sequence[str]) -> list[str]:
    """Return the listing of each directory that has one; if it has several, the first in the order of `_LISTINGS`."""
    order = {name: number for number, name in enumerate(_LISTINGS)}
    stems = {image.rpartition(".")[0] for image in images}
    nearest: dict[str, tuple[int, str]] = {}
    for file in root.files:
        directory, _, base = file.rpartition("/")
        is_token = base.lower().endswith((".token", ".token.txt")) and "lemma" not in base.lower()
        number = order.get(base.lower(), len(order) if is_token else -1)
        if number < 0 or file.rpartition(".")[0] in stems:  # captions.txt can belong to captions.jpg
            continue
        if base.lower() == "results.csv" and not _is_captions(root, file):
            continue
        nearest[directory] = min(nearest.get(directory, (number, file)), (number, file))
    return [file for _, file in sorted(nearest.values(), key=lambda item: (item[1].count("/"), item[1]))]


def _is_captions(root: FileListing, file: str) -> bool:
    """Return whether a table with a general name, such as `results.csv`, has columns of images and texts."""
    try:
        return bool(choose_columns(_open_table(root, file)).texts)
    except DataError:
        return False


def _open_table(root: FileListing, file: str, names: Sequence[str] = ()) -> Table:
    return Table(Path(root.name) / file, partial(root.open, file), names)


def _listing_source(
    root: FileListing, listings: Sequence[str], images: Sequence[str], options: InputOptions, labels: LabelNames | None
) -> Source:
    locator = ImageLocator(root.files)
    entries: dict[str, Entry] = {}
    for listing in listings:
        directory, _, base = listing.rpartition("/")
        table = _open_table(root, listing, options.columns)
        columns = _columns_of(table, base.lower(), options)
        names = labels
        if columns.label and labels is None:
            names = _class_names(root, directory) or LabelNames(origin=base, classes=table.class_names(columns.label))
        group(table.rows(columns), columns, names or LabelNames(), entries, partial(locator.locate, directory))
    if not entries:
        raise DataError(f"{root.name}: no rows in {listings[0]}")
    prefix = listings[0][: -len(listings[0].rpartition("/")[2])] if len(listings) == 1 else ""
    layout = listings[0] if len(listings) == 1 else f"{listings[0]} and {len(listings) - 1} more"
    return _entries_source(root, layout, entries, images, locator, prefix)


def _columns_of(table: Table, base: str, options: InputOptions) -> Columns:
    usual = _LISTINGS.get(base)
    if usual is not None and not options.columns and (usual.image in table.columns or not table.columns):
        return usual
    return choose_columns(table, options)


def _entries_source(
    root: FileListing,
    layout: str,
    entries: dict[str, Entry],
    images: Sequence[str],
    locator: ImageLocator,
    prefix: str = "",
) -> Source:
    """The records of listed images, and of images that are not listed; `prefix` is left out of their names."""
    records = [
        entry.record(
            file.removeprefix(prefix),
            _name_of(root, file),
            partial(root.read, file),
            "" if locator.exists(file) else locator.ambiguous.get(file, "no such image"),
        )
        for file, entry in entries.items()
    ]
    base = layout.removeprefix(prefix)
    records += [
        Record(
            file=file.removeprefix(prefix),
            name=_name_of(root, file),
            read=partial(root.read, file),
            problem=f"no text: not in {base}",
        )
        for file in images
        if file not in entries
    ]
    return Source(layout=layout, count=len(records), records=iter(records))


def _class_names(root: FileListing, directory: str) -> LabelNames | None:
    file = f"{directory}/classes.json".lstrip("/")
    if file not in root.files:
        return None
    try:
        return parse_label_names(root.read(file, MAX_CLASS_FILE_BYTES), file)
    except DataError as error:
        raise DataError(f"{root.name}: {file}: {error}") from error


# --- COCO ---


def _annotation_source(root: FileListing, images: Sequence[str], labels: LabelNames | None) -> Source | None:
    """The records of COCO's annotation files: those with captions if there are any, otherwise those with classes."""
    parsed = {}
    for file in filter(is_annotation_name, root.files):
        try:
            content = root.read(file, MAX_ANNOTATION_BYTES)
        except DataError as error:
            raise DataError(f"{root.name}: {file}: {error}") from error
        parsed[file] = parse_annotations(content) or []
    captioned = {file: items for file, items in parsed.items() if any(item.captions for item in items)}
    labelled = {file: items for file, items in parsed.items() if any(item.classes for item in items)}
    if not captioned:
        labelled = {file: items for file, items in labelled.items() if "instances" in file} or labelled
    chosen = captioned or labelled
    if not chosen:
        return None
    locator = ImageLocator(root.files)
    entries: dict[str, Entry] = {}
    is_labelled = not captioned and all(len(item.classes) <= 1 for items in chosen.values() for item in items)
    for file, items in chosen.items():
        directory = file.rpartition("/")[0]
        stem = file.rpartition("/")[2].rpartition(".")[0]
        for item in items:
            path = locator.locate(directory, item.file, stem)
            entry = entries.setdefault(path, Entry(file))
            _add_annotation(entry, item, is_labelled, labels or LabelNames())
    kind = "captions" if captioned else "instances"
    return _entries_source(root, f"COCO {kind}, {', '.join(list(chosen)[:_NUM_SHOWN_FILES])}", entries, images, locator)


def _add_annotation(entry: Entry, item: AnnotatedImage, is_labelled: bool, labels: LabelNames) -> None:
    """Add captions or classes: a single class is a label, and the names of several classes are captions."""
    try:
        if item.captions:
            entry.add(Texts(captions=clean_texts(item.captions, "captions")))
        elif item.classes:
            names = [labels.names_of(name, {}) for name in item.classes]
            entry.add(Texts(names=names[0]) if is_labelled else Texts(captions=tuple(chain.from_iterable(names))))
        else:
            entry.problem = entry.problem or "no text: neither a caption nor an object"
    except DataError as error:
        entry.problem = entry.problem or f"{entry.row}: {error}"


# --- texts next to the images ---


def _find_sidecars(files: Iterable[str], images: Sequence[str]) -> list[list[str]]:
    """Return the text files of each image, in the order in which they are read.

    They are `a.txt` or `a.jpg.txt` or, if `a.input.jpg` is the only image with this beginning, `a.output.txt`.
    """
    by_stem: dict[str, list[str]] = {}
    by_key: dict[str, list[str]] = {}
    for file in files:
        stem, _, suffix = file.rpartition(".")
        if suffix.lower() in _SIDECAR_SUFFIXES:
            by_stem.setdefault(stem, []).append(file)
            by_key.setdefault(sample_key(stem), []).append(file)
    num_images = Counter(map(sample_key, images))
    sidecars = []
    for image in images:
        texts = by_stem.get(image.rpartition(".")[0], []) + by_stem.get(image, [])
        key = sample_key(image)
        texts = texts or (by_key.get(key, []) if num_images[key] == 1 else [])
        sidecars.append(sorted(texts, key=lambda file: _SIDECAR_SUFFIXES.index(file.rpartition(".")[2].lower())))
    return sidecars


def _sidecar_record(root: FileListing, file: str, sidecars: Sequence[str], labels: LabelNames) -> Record:
    record = partial(Record, file=file, name=_name_of(root, file), read=partial(root.read, file))
    try:
        for sidecar in sidecars:
            texts = _texts_of_sidecar(sidecar, root.read(sidecar, MAX_TEXT_BYTES), labels)
            if texts is not None:
                return record(texts=texts)
    except DataError as error:
        return record(problem=str(error))
    return record(problem="no text next to it")


def _texts_of_sidecar(name: str, content: bytes, labels: LabelNames) -> Texts | None:
    suffix = name.rpartition(".")[2].lower()
    if suffix == "json":
        return texts_of_json(content, labels.names_of)
    (text,) = texts_of_txt(content).captions
    if suffix == "txt" and all(map(_is_box, text.splitlines())):
        raise DataError("its .txt has boxes (YOLO), not a caption")
    if suffix == "cls":
        return Texts(names=labels.names_of(text, {}))
    return Texts(captions=clean_texts(text.splitlines(), "caption"))  # each line is a caption


def _is_box(line: str) -> bool:
    """Return whether a line is one of YOLO's: a class and at least four coordinates."""
    numbers = line.split()
    try:
        return len(numbers) > 4 and numbers[0].isdecimal() and all(-1e9 < float(number) < 1e9 for number in numbers[1:])
    except ValueError:
        return False


# --- one directory per class ---


def _check_classes(root: FileListing, images: Sequence[str]) -> None:
    """Refuse to read directories as classes where texts would be lost."""
    classes = {image.split("/")[-2] for image in images if "/" in image}
    if all(_SPLIT.fullmatch(name) for name in classes):
        raise DataError(
            f"{root.name}: no texts{_unread(root)}; its directories ({', '.join(sorted(classes)[:_NUM_SHOWN_FILES])}) "
            "look like splits, not classes: add captions.jsonl, or rename them"
        )
    unread = _unread_files(root)
    if len(classes) == 1 and unread:
        raise DataError(
            f"{root.name}: every image would get the label {classes.pop()!r}{_unread(root)}; expected captions.jsonl, "
            "metadata.jsonl or a .txt next to each image: convert or remove these files"
        )
    directories = {image.rpartition("/")[0] for image in images}
    described = {file.rpartition("/")[0] for file in unread} & directories
    if len(described) * 2 > len(directories):
        raise DataError(
            f"{root.name}: there are texts in the directories of the images{_unread(root)}; give each the name of its "
            "image, such as 1.txt for 1.jpg, or remove them"
        )
    stems = {file.rpartition("/")[2].rpartition(".")[0] for file in unread}
    if sum(image.rpartition("/")[2].rpartition(".")[0] in stems for image in images) * 2 > len(images):
        raise DataError(
            f"{root.name}: the images have text files in other directories{_unread(root)}; move each next to its image"
        )


def _unread_files(root: FileListing) -> list[str]:
    return [
        file for file in root.files if _TEXT_FILE.fullmatch(file) and not _ABOUT_FILE.fullmatch(file.rpartition("/")[2])
    ]


def _unread(root: FileListing) -> str:
    """Describe the text files that no layout reads, for errors."""
    files = _unread_files(root)
    if not files:
        return ""
    more = f" and {len(files) - _NUM_SHOWN_FILES} more" if len(files) > _NUM_SHOWN_FILES else ""
    table = next(filter(is_table_name, files), None)
    advice = f" (to read a table, name it: {root.name}/{table})" if table else ""
    return f", and {', '.join(files[:_NUM_SHOWN_FILES])}{more} would not be read{advice}"


def _directory_record(root: FileListing, file: str, labels: LabelNames) -> Record:
    directories = tuple(file.split("/")[:-1])
    record = partial(Record, file=file, name=_name_of(root, file), read=partial(root.read, file))
    try:
        if not directories:
            raise DataError("no text: it is not in the directory of a class")
        label = directories[-1] if labels.names else directories[-1].replace("_", " ")
        texts = Texts(names=labels.names_of(label, {}, directories))
    except DataError as error:
        return record(problem=str(error))
    return record(texts=texts)
