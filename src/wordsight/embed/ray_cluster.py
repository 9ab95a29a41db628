"""Embed on the machines of a Ray cluster, with Daft's Ray runner (extra `scale`).

This process lists the images, looks up embeddings of earlier runs, and writes the rows in order. Batches of image names
are sent to workers, which read, decode and encode them as `embed_locally` does. Files must therefore have the same path
on every machine, and wordsight must be installed there. Video frames are decoded here. A worker that dies is restarted,
and its unfinished batches are done again.
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

from wordsight.embed.embedding_files import EmbeddingRow
from wordsight.embed.job import embed_locally
from wordsight.embed.previous import PreviousEmbeddings
from wordsight.embed.table_columns import carried_columns
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.encoder.pipeline import ImagePipeline, PreparedImage, read_ref
from wordsight.errors import ConfigError, MissingExtraError, WeightsError, WordsightError
from wordsight.image import ImageRef
from wordsight.parallel import ordered_map

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

LOCAL = "local"

_BATCHES_PER_QUERY = 2048  # each worker loads the model when a Daft query starts, so a query should be long
_MAX_QUERY_BYTES = 1 << 28
_CONNECT_TIMEOUT_S = 10.0
_QUIET_SETTINGS = {"DAFT_PROGRESS_BAR": "0", "DAFT_ANALYTICS_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
_MAX_REASON_CHARACTERS = 300

Batch = list[EmbeddingRow | ImageRef]
"""Consecutive images: finished rows, and images that a worker has to embed."""


@dataclass(frozen=True)
class RayEmbedder:
    """Embeds images on a Ray cluster; an `Embedder`.

    Attributes:
        address: of the cluster, as Ray takes it (`host:6379`, `ray://host:10001`, `auto`); or `local`, which starts a
            cluster on the CPUs of this machine and stops it after the work.
        load: returns the model, in a worker; must be picklable.

    Raises:
        MissingExtraError: Daft or Ray is not installed.
        ConfigError: no cluster answers at the address, the work failed there, or a worker has no such model.
    """

    address: str
    load: Callable[[], "DualEncoder"]

    def __call__(
        self, encoder: "DualEncoder", images: Iterable[ImageRef], previous: PreviousEmbeddings
    ) -> Iterator[EmbeddingRow]:
        """Yield the row of each image, in order."""
        pipeline = ImagePipeline.of(encoder)
        entries = ordered_map(partial(_row_or_image, pipeline, previous), images, ahead=pipeline.batch_size)
        batches = iter(lambda: list(islice(entries, pipeline.batch_size)), [])
        with _connect(self.address) as daft:
            workers = _start_workers(daft, self.load, encoder.fingerprint)
            for query in _queries(batches):
                yield from _run_query(daft, workers, query)


class Worker:
    """Runs in a process of the cluster and keeps the model loaded."""

    def __init__(self, load: Callable[[], "DualEncoder"], fingerprint: Fingerprint, directory: str) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # there is one worker per CPU
        with contextlib.suppress(OSError):
            os.chdir(directory)  # paths may be relative to it
        self._load = load
        self._fingerprint = fingerprint
        self._encoder: DualEncoder | None = None

    def embed(self, images: bytes) -> bytes:
        """Embed pickled images; return their pickled rows, or the pickled error that ends the whole job."""
        try:
            return pickle.dumps(list(embed_locally(self._loaded(), pickle.loads(images), PreviousEmbeddings())))
        except WordsightError as error:
            return pickle.dumps(ConfigError(f"on a worker: {error}"))

    def _loaded(self) -> "DualEncoder":
        if self._encoder is None:
            encoder = self._load()
            if encoder.fingerprint != self._fingerprint:
                raise WeightsError(
                    f"the model is {encoder.fingerprint}, expected {self._fingerprint}; "
                    "install the same model on all machines"
                )
            self._encoder = encoder
        return self._encoder


def _row_or_image(pipeline: ImagePipeline, previous: PreviousEmbeddings, image: ImageRef) -> EmbeddingRow | ImageRef:
    """Return the row of an image that is finished or unreadable; otherwise an image that can be pickled."""
    if image.sha256:  # a video frame, whose pixels exist only in this process
        prepared = pipeline.prepare(image, find_embedding=previous.find)
        if prepared.pixels is None:
            return _finished_row(image, prepared)
        return image._replace(read=partial(_constant, prepared.pixels))
    if not previous:
        return image
    prepared, content = read_ref(image, previous.find)
    return _finished_row(image, prepared) if content is None else image


def _finished_row(image: ImageRef, prepared: PreparedImage) -> EmbeddingRow:
    return EmbeddingRow(image.name, prepared.sha256, prepared.embedding, prepared.error, False, carried_columns(image))


def _constant(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels


@contextlib.contextmanager
def _connect(address: str) -> Iterator[Any]:
    """Yield the module `daft`, connected to a cluster."""
    for name, value in _QUIET_SETTINGS.items():
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
        reason = getattr(error, "strerror", None) or _one_line(error)
        raise ConfigError(
            f"--ray {address}: no Ray cluster there ({reason}); start one with 'ray start --head', or use 'local'"
        ) from error
    try:
        daft.set_runner_ray(noop_if_initialized=True)
        yield daft
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Fail early; Ray itself waits for minutes if nothing answers."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--ray {address}: expected host:port, ray://host:port, auto or local")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT_S).close()


def _start_workers(daft: Any, load: Callable[[], "DualEncoder"], fingerprint: Fingerprint) -> Any:
    """Start one worker per GPU of the cluster, or one per CPU if there is no GPU."""
    import ray

    resources = ray.cluster_resources()
    num_gpus = int(resources.get("GPU", 0))
    num_workers = num_gpus or max(1, int(resources.get("CPU", 1)))
    worker_class = daft.cls(Worker, cpus=1, gpus=1 if num_gpus else 0, max_concurrency=num_workers)
    return worker_class(load, fingerprint, str(Path.cwd()))


def _queries(batches: Iterator[Batch]) -> Iterator[list[tuple[Batch, bytes]]]:
    """Group batches into queries of bounded size; each batch comes with the pickled images that need a worker."""
    query: list[tuple[Batch, bytes]] = []
    num_bytes = 0
    for batch in batches:
        images = [ImageRef(entry.name, entry.read, entry.sha256) for entry in batch if isinstance(entry, ImageRef)]
        query.append((batch, pickle.dumps(images) if images else b""))
        num_bytes += len(query[-1][1])
        if len(query) == _BATCHES_PER_QUERY or num_bytes > _MAX_QUERY_BYTES:
            yield query
            query, num_bytes = [], 0
    if query:
        yield query


def _run_query(daft: Any, workers: Any, query: Sequence[tuple[Batch, bytes]]) -> Iterator[EmbeddingRow]:
    """Yield all rows of a query in order, although workers finish in any order."""
    pending = {number: images for number, (_, images) in enumerate(query) if images}
    results = _results(daft, workers, pending) if pending else iter(())
    finished: dict[int, list[EmbeddingRow]] = {}
    for number, (batch, _) in enumerate(query):
        while number in pending and number not in finished:
            finished_number, rows = next(results)
            finished[finished_number] = rows
        new_rows = iter(finished.pop(number, ()))
        for entry in batch:
            if isinstance(entry, ImageRef):
                yield next(new_rows)._replace(columns=carried_columns(entry))
            else:
                yield entry


def _results(daft: Any, workers: Any, pending: dict[int, bytes]) -> Iterator[tuple[int, list[EmbeddingRow]]]:
    """Yield the number and the rows of each batch as it is finished."""
    import ray

    columns = {"number": list(pending), "images": list(pending.values())}
    frame = daft.from_pydict(columns).into_partitions(len(pending))
    results = frame.select("number", workers.embed(daft.col("images")).alias("rows")).iter_rows()
    while True:
        try:
            result = next(results, None)
        except (ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigError(f"--ray: the work failed on the cluster ({_one_line(error)})") from error
        if result is None:
            return
        rows = pickle.loads(result["rows"])
        if isinstance(rows, ConfigError):
            raise rows
        yield result["number"], rows


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_CHARACTERS]
