"""A few rows of the sidecar of a NumPy file, without the time and the memory for all of them.

A million rows are 107 MB of JSON, which take more than a second and 800 MB as Python objects. Only the beginning of the
file is parsed for the fingerprint, and only the wanted lines for a row: in files that we write, each value of a list
has a line of its own. Other JSON with the same content is read as a whole.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wordsight.config import decode
from wordsight.embed.embedding_files import read_sidecar, sidecar_content
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.files import open_regular

_HEAD_BYTES = 1 << 16
_HEAD = '{\n  "fingerprint": '
_BLOCK_BYTES = 1 << 20


def read_fingerprint(path: Path) -> Fingerprint:
    """Read the fingerprint in a sidecar; raises ConfigError or OSError if the file is not one."""
    with open_regular(path) as file:
        head = file.read(_HEAD_BYTES).decode("utf-8", "replace")
    if head.startswith(_HEAD):
        try:
            value, _ = json.JSONDecoder().raw_decode(head, len(_HEAD))
        except (ValueError, RecursionError):
            pass
        else:
            return decode(value, Fingerprint, str(path))
    return read_sidecar(path).fingerprint


class _RawSidecar(msgspec.Struct):
    """The lists of a sidecar, as JSON."""

    paths: msgspec.Raw
    sha256: msgspec.Raw
    columns: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)


class SidecarRows:
    """The rows of a sidecar, which is held in memory as JSON.

    Args:
        path: the sidecar.
        num_rows: N, of the array.

    Raises:
        ConfigError: it cannot be read.
        ValueError: it is not JSON, or its rows are not those of the array.
    """

    def __init__(self, path: Path, num_rows: int) -> None:
        sidecar = msgspec.json.decode(sidecar_content(path), type=_RawSidecar)
        self._paths, self._sha256 = _List(sidecar.paths, num_rows), _List(sidecar.sha256, num_rows)
        self._columns = {name: _List(values, num_rows) for name, values in sidecar.columns.items()}

    def __getitem__(self, number: int) -> tuple[str, str, dict[str, Any]]:
        """Return path, hash and columns of a row."""
        columns = {name: values[number] for name, values in self._columns.items()}
        return self._paths[number], self._sha256[number], columns


class _List:
    """A JSON list of which single values are parsed."""

    def __init__(self, values: msgspec.Raw, num_rows: int) -> None:
        self._content = memoryview(values)
        blocks = range(0, len(self._content), _BLOCK_BYTES)
        ends = [
            np.flatnonzero(np.frombuffer(self._content[at : at + _BLOCK_BYTES], np.uint8) == ord("\n")) + at
            for at in blocks
        ]
        self._line_ends = np.concatenate(ends)
        self._values: list[Any] | None = None
        if len(self._line_ends) != num_rows + 1:  # not a value per line: written by another program, or lists
            self._values = msgspec.json.decode(self._content, type=list)
            if len(self._values) != num_rows:
                raise ValueError(f"{len(self._values):,} rows, expected {num_rows:,}")

    def __getitem__(self, number: int) -> Any:
        if self._values is not None:
            return self._values[number]
        start, end = self._line_ends[number : number + 2]
        return msgspec.json.decode(bytes(self._content[start:end]).strip().removesuffix(b","))
