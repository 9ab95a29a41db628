"""The same rows by the processors of many machines: Daft's Ray runner (extra `scale`).

This process finds the items, looks up what is known, and writes the rows in their order. Groups of items, by name, go
to workers, which read, decode and encode them as `rows_here` does; so files have to be where every machine finds them,
and wordsight installed there. Frames of videos are decoded here. A worker that dies is started again, and what it had
in hand is done again.
"""

import contextlib
import os
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordsight.embed.embedding_files import Known, Row
from wordsight.embed.job import AT_ONCE, look_up, prepare, rows_here
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.errors import ConfigError, MissingExtraError, WeightsError, WordsightError
from wordsight.image import ImageRef
from wordsight.parallel import ordered_map

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

LOCAL = "local"

_GROUPS_AT_ONCE = 2048  # one query of Daft's, at whose begin each worker loads the model
_BYTES_AT_ONCE = 1 << 28
_ANSWER_S = 10.0
_QUIET = {"DAFT_PROGRESS_BAR": "0", "DAFT_ANALYTICS_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class OnRay:
    """Computes rows on a Ray cluster; a `RowsOf`.

    Attributes:
        address: of the cluster, as Ray takes it (`host:6379`, `ray://host:10001`, `auto`); or `local`: one is started
            on this machine's processors and ends with the work.
        load: gives a worker the model; can be pickled.

    Raises:
        MissingExtraError: Daft or Ray is not installed.
        ConfigError: there is no cluster at the address, the work failed there, or a worker has no such model.
    """

    address: str
    load: Callable[[], "DualEncoder"]

    def __call__(self, clip: "DualEncoder", items: Iterable[ImageRef], known: Known) -> Iterator[Row]:
        """Each item's row, in order."""
        entries = ordered_map(partial(_entry, clip, known), items, ahead=AT_ONCE)
        groups = iter(lambda: list(islice(entries, AT_ONCE)), [])
        with _cluster(self.address) as daft:
            encoder = _encoder(daft, self.load, clip.fingerprint)
            for chunk in _chunks(groups):
                yield from _rows(daft, encoder, chunk)


Group = list[Row | ImageRef]


class Worker:
    """What a worker keeps: the model."""

    def __init__(self, load: Callable[[], "DualEncoder"], fingerprint: Fingerprint, directory: str) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is a worker for each processor
        with contextlib.suppress(OSError):
            os.chdir(directory)  # paths may be relative to it
        self._load = load
        self._fingerprint = fingerprint
        self._clip: DualEncoder | None = None

    def rows(self, items: bytes) -> bytes:
        """Pickled items to their rows, or to the error that makes all work vain."""
        try:
            return pickle.dumps(list(rows_here(self._loaded(), pickle.loads(items), Known({}))))
        except WordsightError as error:
            return pickle.dumps(ConfigError(f"on a worker: {error}"))

    def _loaded(self) -> "DualEncoder":
        if self._clip is None:
            clip = self._load()
            if clip.fingerprint != self._fingerprint:
                raise WeightsError(f"the model is {clip.fingerprint}, not {self._fingerprint}; give all machines one")
            self._clip = clip
        return self._clip


def _entry(clip: "DualEncoder", known: Known, item: ImageRef) -> Row | ImageRef:
    """What is known or cannot be read as its row; else an item that can be sent."""
    if item.sha256:  # a frame, whose pixels are here alone
        row, square = prepare(clip, item, known)
        return row if square is None else item._replace(read=partial(_given, square))
    if not known.places:
        return item
    row, image = look_up(item, known)
    return row if image is None else item


def _given(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return square


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Daft, with a cluster to run on."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import daft
        import ray
    except ImportError as error:
        raise MissingExtraError("--ray", "scale") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(include_dashboard=False, **quiet)
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise ConfigError(f"--ray {address}: no cluster of Ray there ({reason})") from error
    try:
        daft.set_runner_ray(noop_if_initialized=True)
        yield daft
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: expected host:port, ray://host:port, auto or local")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()


def _encoder(daft: Any, load: Callable[[], "DualEncoder"], fingerprint: Fingerprint) -> Any:
    """A worker for each GPU of the cluster, or where there is none for each processor."""
    import ray

    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    kind = daft.cls(Worker, cpus=1, gpus=1 if gpus else 0, max_concurrency=gpus or max(1, int(resources.get("CPU", 1))))
    return kind(load, fingerprint, str(Path.cwd()))


def _chunks(groups: Iterator[Group]) -> Iterator[list[tuple[Group, bytes]]]:
    """Groups with their items pickled, as many as one query takes."""
    chunk: list[tuple[Group, bytes]] = []
    num_bytes = 0
    for group in groups:
        items = [entry for entry in group if isinstance(entry, ImageRef)]
        chunk.append((group, pickle.dumps(items) if items else b""))
        num_bytes += len(chunk[-1][1])
        if len(chunk) == _GROUPS_AT_ONCE or num_bytes > _BYTES_AT_ONCE:
            yield chunk
            chunk, num_bytes = [], 0
    if chunk:
        yield chunk


def _rows(daft: Any, encoder: Any, chunk: Sequence[tuple[Group, bytes]]) -> Iterator[Row]:
    to_do = {number: items for number, (_, items) in enumerate(chunk) if items}
    results = _results(daft, encoder, to_do) if to_do else iter(())
    done: dict[int, list[Row]] = {}
    for number, (group, _) in enumerate(chunk):
        while number in to_do and number not in done:
            found, rows = next(results)
            done[found] = rows
        new = iter(done.pop(number, ()))
        for entry in group:
            yield next(new) if isinstance(entry, ImageRef) else entry


def _results(daft: Any, encoder: Any, to_do: dict[int, bytes]) -> Iterator[tuple[int, list[Row]]]:
    """The rows of each group, some of them while others are worked at."""
    import ray

    frame = daft.from_pydict({"number": list(to_do), "items": list(to_do.values())}).into_partitions(len(to_do))
    results = frame.select("number", encoder.rows(daft.col("items")).alias("rows")).iter_rows()
    while True:
        try:
            result = next(results, None)
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(f"--ray: the work failed on the cluster ({_first_line(error)})") from error
        if result is None:
            return
        rows = pickle.loads(result["rows"])
        if isinstance(rows, ConfigError):
            raise rows
        yield result["number"], rows


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
