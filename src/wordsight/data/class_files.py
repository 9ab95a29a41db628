"""Files of class names: plain text, JSON, YAML and tables, read into one list of classes.

`wordsight classify --labels` and the class names of labelled data (`class_names.py`) share this reader. Some published
files cannot be distinguished from a list of names by their format alone, so a file that looks like something else
(numbers, a table without a header, WordNet ids without names) is refused with the reason and is never guessed at.
"""

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from wordsight.data.class_lines import MAX_LINES, classes_of_lines, decode_text, plain_lines
from wordsight.data.named_class import MAX_CLASSES, WORDNET_ID, NamedClass, check_names, name_problem, quote
from wordsight.errors import DataError

MAX_CLASS_FILE_BYTES = 1 << 23
"""8 MiB; the longest published list, the 21,841 classes of ImageNet-21k with all synonyms, has less than 2 MB."""

MAX_YAML_BYTES = 1 << 20
"""1 MiB, which libyaml parses in 2 s at worst; YAML is 50 times slower to parse than JSON."""

CLASS_FILE_SUFFIXES = (".txt", ".json", ".yaml", ".yml", ".csv", ".tsv", ".names")
"""The suffixes that are read; a file with an unknown suffix is read as plain text."""

REFUSED_SUFFIXES = (
    ".jsonl", ".parquet", ".toml", ".xml", ".html", ".pbtxt", ".md", ".py", ".ini", ".cfg", ".xls", ".xlsx", ".npy",
    ".npz", ".pkl", ".pt", ".pth", ".mat", ".safetensors", ".tar", ".zip", ".gz",
)  # fmt: skip
"""Suffixes of files in other formats, which are not read."""

EXPECTED = (
    "one name per line (.txt), a list or an object (.json, .yaml), or a table with a column of names (.csv, .tsv)"
)

_MAX_COLUMNS = 1_000
_MAX_ERROR_CHARACTERS = 200
_NAME_COLUMNS = (
    "class_name", "label_name", "category_name", "display_name", "displayname", "name", "names", "label", "class",
    "category", "labels", "classes", "synset_words",
)  # fmt: skip
_ID_COLUMNS = ("id", "index", "class_id", "label_id", "category_id", "class_index", "number", "wnid", "synset", "mid")
_NESTED_KEYS = ("names", "categories", "classes", "id2label", "class_names", "label_names")


def read_class_file(path: Path) -> bytes:
    """Return the content of a regular file of at most `MAX_CLASS_FILE_BYTES`.

    Raises:
        DataError: the reason, without the name of the file.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in REFUSED_SUFFIXES:
            raise DataError(f"{suffix} files are not read; expected {EXPECTED}")
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a regular file"
            raise DataError(f"{kind}; expected a file with {EXPECTED}")
        with path.open("rb") as file:
            content = file.read(MAX_CLASS_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataError(str(getattr(error, "strerror", None) or error)) from error
    if len(content) > MAX_CLASS_FILE_BYTES:
        raise DataError(f"larger than {MAX_CLASS_FILE_BYTES:,} bytes; check that it is a file of names")
    return content


def parse_classes(content: bytes, suffix: str) -> list[NamedClass]:
    """Parse a file of class names.

    Args:
        content: the bytes of the file.
        suffix: its suffix, such as `.csv`.

    Raises:
        DataError: the reason, without the name of the file.
    """
    lines = plain_lines(content, suffix)
    if lines is not None:
        indented = next((number for number, line in enumerate(lines, start=1) if line[:1].isspace()), None)
        if indented and any(line and not line[:1].isspace() for line in lines):
            raise DataError(f"line {indented} is indented; expected one name per line")
        classes = classes_of_lines([line.strip() for line in lines])
    else:
        text = decode_text(content)
        if suffix in (".csv", ".tsv"):
            classes = _classes_of_table(text, suffix)
        elif suffix in (".yaml", ".yml"):
            classes = _classes_of_yaml(text)
        else:
            classes = _classes_of_json(text)
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{len(classes):,} names; expected at most {MAX_CLASSES:,}")
    for named in classes:
        check_names(named.names)
    return classes


# --- JSON and YAML ---


def _classes_of_json(text: str) -> list[NamedClass]:
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}; expected a list of names") from error
    return _classes_of_value(value)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"the key {quote(key)} occurs twice; remove one")
    return unique


def _classes_of_yaml(text: str) -> list[NamedClass]:
    if len(text) > MAX_YAML_BYTES:
        raise DataError(f"more than {MAX_YAML_BYTES:,} characters of YAML; write long lists as .txt or .json")
    import yaml

    base: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # every scalar stays text: `no` is a name, not False

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _unique_keys([(key.value, None) for key, _ in node.value if isinstance(key.value, str)])
            return super().construct_mapping(node, deep)

    try:
        value = yaml.load(text, Loader)  # constructs only text, lists and dictionaries
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:_MAX_ERROR_CHARACTERS]
        raise DataError(f"not YAML: {reason}; expected a list of names") from error
    if isinstance(value, dict):
        has_names = any(key in value for key in _NESTED_KEYS)
        if not has_names and not all(isinstance(key, str) and _is_id(key) for key in value):
            keys = ", ".join(map(quote, list(value)[:5]))
            raise DataError(f"no key 'names' with a list of names; the keys are {keys}")
        if "names" in value and str(value.get("nc", "")).isdecimal() and isinstance(value["names"], list | dict):
            stated, actual = int(value["nc"]), len(value["names"])
            if stated != actual:
                raise DataError(f"nc is {stated}, but there are {actual} names; correct one of them")
    return _classes_of_value(value)


def _is_id(key: str) -> bool:
    return key.isdecimal() or bool(WORDNET_ID.fullmatch(key))


def _classes_of_value(value: Any) -> list[NamedClass]:
    if isinstance(value, dict):
        value = next((value[key] for key in _NESTED_KEYS if isinstance(value.get(key), list | dict)), value)
    if isinstance(value, list | dict) and len(value) > MAX_CLASSES:
        raise DataError(f"{len(value):,} names; expected at most {MAX_CLASSES:,}")
    if isinstance(value, dict):
        if value and all(isinstance(number, int) and not isinstance(number, bool) for number in value.values()):
            if len(set(value.values())) < len(value):
                raise DataError("two names have the same number; expected one number per name")
            return [NamedClass((name,), (str(value[name]),)) for name in sorted(value, key=value.__getitem__)]
        return [_class_of_item(quote(key), item, (key,)) for key, item in value.items()]
    if isinstance(value, list):
        return [_class_of_item(str(number), item) for number, item in enumerate(value)]
    raise DataError("expected a list of class names, or an object whose values are names")


def _class_of_item(where: str, item: Any, ids: tuple[str, ...] = ()) -> NamedClass:
    if isinstance(item, dict) and isinstance(item.get("name"), str):  # the categories of COCO and LVIS
        ids = tuple(str(item[key]) for key in ("id", "wnid", "synset") if isinstance(item.get(key), str | int))
        item = item["name"]
    if isinstance(item, dict):
        raise DataError(f"label {where} is an object; expected a name (a hierarchy is written as indented lines)")
    names = item if isinstance(item, list) else [item]
    if len(names) > 1 and isinstance(names[0], str) and WORDNET_ID.fullmatch(names[0]):
        ids = (*ids, names[0])  # imagenet_class_index.json: {"0": ["n01440764", "tench"]}
        names = [name.replace("_", " ") if isinstance(name, str) else name for name in names[1:]]
    problem = next(filter(None, map(name_problem, names)), "" if names else "no name; give it a name or remove it")
    if problem:
        raise DataError(f"label {where}: {problem}")
    return NamedClass(tuple(names), ids)


# --- tables ---


def _classes_of_table(text: str, suffix: str) -> list[NamedClass]:
    rows = list(islice(_table_rows(text, suffix), MAX_CLASSES + 2))
    if len(rows) > MAX_CLASSES + 1:
        raise DataError(f"more than {MAX_CLASSES:,} rows; check that it is a file of names")
    if not rows:
        return []
    width = max(max((i + 1 for i, cell in enumerate(row) if cell), default=0) for _, row in rows)  # trailing commas
    titles = rows[0][1][:width]
    header = [cell.lower().replace(" ", "_").lstrip("#") for cell in titles]
    candidates = [header.index(name) for name in _NAME_COLUMNS if name in header]
    if not candidates:
        columns, expected = ", ".join(map(quote, titles[:7])), ", ".join(_NAME_COLUMNS[:7])
        raise DataError(
            f"no column of names ({expected} ...); the columns are: {columns}; add a first row with the titles, or "
            "write one name per line in a .txt file"
        )
    is_number = [
        all(cell[index : index + 1] and cell[index].isdecimal() for _, cell in rows[1:]) for index in candidates
    ]
    if all(is_number) and len(rows) > 1:
        raise DataError(f"column {titles[candidates[0]]!r} has numbers, not names; expected a column of names")
    column = candidates[is_number.index(False)] if len(rows) > 1 else candidates[0]
    id_columns = [
        index for index, name in enumerate(header) if index != column and name in (*_ID_COLUMNS, *_NAME_COLUMNS)
    ]
    return [
        NamedClass((_cell(number, row, column),), tuple(row[index] for index in id_columns if row[index : index + 1]))
        for number, row in rows[1:]
    ]


def _cell(number: int, row: list[str], column: int) -> str:
    value = row[column] if column < len(row) else ""
    problem = name_problem(value)
    if problem:
        raise DataError(f"row {number}: {problem}; give it a name or remove it")
    return value


def _table_rows(text: str, suffix: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, with their numbers. Quotation marks are ordinary characters in `.tsv`."""
    first = text.lstrip().partition("\n")[0]
    delimiter = "\t" if suffix == ".tsv" else ";" if ";" in first and "," not in first else ","
    lines = io.StringIO(text, newline="")
    reader = (
        csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        if suffix == ".tsv"
        else csv.reader(lines, delimiter=delimiter, strict=True)
    )
    try:
        for number, row in enumerate(reader, start=1):
            if number > MAX_LINES:
                raise DataError(f"more than {MAX_LINES:,} lines; check that it is a file of names")
            if len(row) > _MAX_COLUMNS:
                raise DataError(f"row {number}: {len(row):,} columns; expected at most {_MAX_COLUMNS:,}")
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield number, cells
    except csv.Error as error:
        raise DataError(f"row {reader.line_num}: {error}; check the quotation marks") from error
