"""Pictures to a file of vectors, which carries the fingerprint of what made them.

`OUT.parquet`: columns `path`, `vector` (null where broken) and `error`; the fingerprint in the schema's metadata under
`wordsight.fingerprint`. `OUT.npy`: the vectors of readable pictures, (N, E) float32; beside it `OUT.npy.json` with the
fingerprint, the path of each row, the broken pictures with reasons, and the hash of the vectors' file.
Either appears whole or not at all.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import numpy as np

from wordsight.errors import ConfigError, DataError
from wordsight.files import open_whole, sha256_file
from wordsight.infer.pictures import Embedded, embed_each

if TYPE_CHECKING:
    from wordsight.infer.dual_encoder import DualEncoder

FINGERPRINT_KEY = "wordsight.fingerprint"

_ROWS_IN_GROUP = 4096


@dataclass(frozen=True)
class BrokenPicture:
    """A picture without a vector, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Embedding:
    """What `embed_files` wrote: the number of vectors, and the pictures without."""

    vectors: int
    broken: tuple[BrokenPicture, ...]


def sidecar_of(out: Path) -> Path:
    """Where the JSON of a NumPy file lies."""
    return out.with_name(f"{out.name}.json")


def check_out(out: Path) -> None:
    """Refuse a name whose kind is not known, before there is work to lose.

    Raises:
        ConfigError: neither .parquet nor .npy.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"{out}: vectors go to a file that ends in .parquet or .npy")


def embed_files(
    clip: "DualEncoder",
    paths: Iterable[Path],
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> Embedding:
    """Embed pictures and write their vectors in the order of the paths.

    Args:
        paths: may stream; only a few hundred pictures and a few thousand vectors are held.
        out: a `.parquet` or `.npy` file; a former one is replaced.
        progress: is told after each picture how many are done.

    Raises:
        ConfigError: another kind of file.
        DataError: not one picture could be read; nothing is written.
        OutputError: the place cannot be written; a former file stays.
    """
    check_out(out)
    tally = _Tally(progress)
    rows = tally.watch(embed_each(clip, paths))
    if out.suffix == ".parquet":
        with open_whole(out) as file:
            _write_parquet(file, rows, clip)
            tally.check()
    else:
        with open_whole(sidecar_of(out)) as sidecar:
            with open_whole(out) as file:
                _write_numpy(file, rows, clip.card.model.embed_dim)
                tally.check()
            sidecar.write(_sidecar(clip, tally, sha256_file(out)))
    return Embedding(len(tally.paths), tuple(tally.broken))


class _Tally:
    """Counts what passes."""

    def __init__(self, progress: Callable[[int], None]) -> None:
        self.paths: list[str] = []
        self.broken: list[BrokenPicture] = []
        self._progress = progress

    def watch(self, rows: Iterable[Embedded]) -> Iterator[Embedded]:
        for row in rows:
            if row.vector is None:
                self.broken.append(BrokenPicture(_text(row.source), row.error))
            else:
                self.paths.append(_text(row.source))
            yield row
            self._progress(len(self.paths) + len(self.broken))

    def check(self) -> None:
        if not self.paths:
            first = f"; the first: {self.broken[0].reason}" if self.broken else ""
            raise DataError(f"none of {len(self.broken)} pictures could be read{first}")


def _text(path: Any) -> str:
    """A path as text that any file can hold; what is not UTF-8 in it is written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _write_parquet(file: BinaryIO, rows: Iterator[Embedded], clip: "DualEncoder") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    width = clip.card.model.embed_dim
    columns = [("path", pa.string()), ("vector", pa.list_(pa.float32(), width)), ("error", pa.string())]
    schema = pa.schema(columns, metadata={FINGERPRINT_KEY: msgspec.json.encode(clip.fingerprint)})
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_IN_GROUP)):
            columns = [
                pa.array([_text(row.source) for row in group], pa.string()),
                pa.array([row.vector for row in group], schema.field("vector").type),
                pa.array([row.error or None for row in group], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _write_numpy(file: BinaryIO, rows: Iterator[Embedded], width: int) -> None:
    """The header comes first and says how many rows there are; NumPy leaves room in it for the number to grow."""
    count = 0
    _write_header(file, count, width)
    start = file.tell()
    for row in rows:
        if row.vector is not None:
            file.write(row.vector.astype("<f4").tobytes())
            count += 1
    file.seek(0)
    _write_header(file, count, width)
    assert file.tell() == start


def _write_header(file: BinaryIO, count: int, width: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})


def _sidecar(clip: "DualEncoder", tally: _Tally, sha256: str) -> bytes:
    content = {
        "format": "wordsight-vectors-1",
        "fingerprint": clip.fingerprint,
        "vectors_sha256": sha256,
        "paths": tally.paths,
        "broken": tally.broken,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
