"""Download one file, completely and verified or not at all.

An interrupted download is resumed where it stopped, provided that the server still has the same file. Size and SHA-256
are verified before the file appears under its name. If several processes want the same file, one downloads it while the
others wait.

While a download is incomplete, `.NAME.partial` holds its bytes and `.NAME.partial.json` identifies the file that they
belong to.
"""

import contextlib
import hashlib
import http.client
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from wordsight.config import Config
from wordsight.errors import DownloadError, OutputError
from wordsight.files import as_output_error, lock, make_directory, sha256_file, sync_directory, write_atomic
from wordsight.web.connection import OutOfRangeError, Patience, TransientError, open_url

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and the total, which is None if the server does not state it."""

_BLOCK_BYTES = 1 << 20


class _PartialInfo(Config, frozen=True):
    """Identifies the file that a partial download belongs to, so that it is never resumed with another one.

    Attributes:
        url: the URL of the file.
        validator: its strong ETag or Last-Modified header (RFC 9110, section 13.1.5).
        total_bytes: its size; None if the server did not state it.
    """

    url: str
    validator: str = ""
    total_bytes: int | None = None


def fetch_file(
    url: str,
    destination: Path,
    sha256: str = "",
    size_bytes: int | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
    max_bytes: int = 1 << 36,
) -> Path:
    """Download a file unless it exists already.

    Args:
        url: the URL.
        destination: the path under which the complete and verified file appears.
        sha256: the expected hash in lower-case hexadecimal, or its first digits; empty if unknown.
        size_bytes: the expected size, if known.
        patience: timeouts and retries.
        progress: called after every block.
        max_bytes: the largest size that is accepted.

    Returns:
        `destination`.

    Raises:
        DownloadError: the file cannot be downloaded, or is not the expected one.
        OutputError: the destination is not writable, or the disk is full.
    """
    if is_there(destination, size_bytes):
        return destination
    make_directory(destination.parent)
    with lock(destination.with_name(f".{destination.name}.lock"), wait=True):
        if not is_there(destination, size_bytes):
            _Fetch(url, destination, sha256, size_bytes, patience or Patience(), progress, max_bytes).run()
    return destination


def is_there(path: Path, size_bytes: int | None) -> bool:
    """Return whether a file exists and, if its size is known, has that size."""
    return path.is_file() and size_bytes in (None, path.stat().st_size)


class _Fetch:
    """One download; the caller holds the lock of the destination."""

    def __init__(
        self,
        url: str,
        destination: Path,
        sha256: str,
        size_bytes: int | None,
        patience: Patience,
        progress: Progress | None,
        max_bytes: int,
    ) -> None:
        self.url, self.destination, self.sha256, self.size_bytes = url, destination, sha256, size_bytes
        self.patience, self.progress, self.max_bytes = patience, progress, max_bytes
        self.was_resumed = False
        self.partial = destination.with_name(f".{destination.name}.partial")
        self.info_path = destination.with_name(f".{destination.name}.partial.json")

    def run(self) -> None:
        """Download, verify and rename the file; if a resumed file fails verification, download it once more in full."""
        self._fetch_with_retries()
        mismatch = self._mismatch()
        if mismatch and self.was_resumed:
            self._discard()
            self._fetch_with_retries()
            mismatch = self._mismatch()
        if mismatch:
            self._discard()
            raise DownloadError(f"{self.url}: {mismatch}; the file was discarded: try again")
        self._finish()

    def _fetch_with_retries(self) -> None:
        failures = 0
        while True:
            before = self._num_received()
            try:
                self._fetch_once()
                return
            except TransientError as error:
                failures = 1 if self._num_received() > before else failures + 1
                if failures >= self.patience.tries:
                    raise DownloadError(
                        f"{self.url}: {error} ({failures} attempts, at byte {self._num_received()}); check the network "
                        "and try again: the download will resume"
                    ) from error
            time.sleep(self.patience.pause_s * 2 ** (failures - 1))

    def _fetch_once(self) -> None:
        """Receive the missing part of the file over one connection.

        Raises:
            TransientError: the server is busy or slow, or the connection failed; the received bytes are kept.
        """
        info = self._info()
        received = self._num_received()
        if received and received == info.total_bytes:
            self.was_resumed = True
            return
        if not (info.validator or self.sha256):  # a changed file on the server would go unnoticed
            received = 0
        with self._open(received, info) as response:
            start, total = _range_of(response)
            if start not in (0, received) or (start and info.total_bytes not in (None, total)):
                self._discard()
                raise TransientError("the server resumed with another file")
            self._check_total(total)
            self.was_resumed = start > 0
            if start == 0:
                self._discard()
                info = _PartialInfo(url=self.url, validator=_validator(response), total_bytes=total)
                write_atomic(self.info_path, msgspec.json.encode(info))
            self._check_free_space((total or 0) - start)
            self._receive(response, start, total)

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        received = start
        limit = total or self.max_bytes
        with _open_unbuffered(self.partial, "ab" if start else "wb") as file:
            while block := response.read1(_BLOCK_BYTES):
                received += len(block)
                if received > limit:
                    self._discard()
                    raise DownloadError(f"{self.url}: more than the expected {limit:,} bytes; check the URL")
                _write(file, block, self.destination)
                if self.progress:
                    self.progress(received, total)
        if total is not None and received < total:
            raise TransientError("the connection ended early")
        if total is None:  # only the end of the connection marks the end of the file
            write_atomic(self.info_path, msgspec.json.encode(_PartialInfo(url=self.url, total_bytes=received)))

    @contextlib.contextmanager
    def _open(self, received: int, info: _PartialInfo) -> Iterator[http.client.HTTPResponse]:
        headers = {}
        if received:
            headers["Range"] = f"bytes={received}-"
            if info.validator:
                headers["If-Range"] = info.validator
        try:
            with open_url(self.url, headers, self.patience.timeout_s) as response:
                yield response
        except OutOfRangeError as error:
            self._discard()
            raise TransientError("the file on the server has changed") from error

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.size_bytes not in (None, total):
            self._discard()
            raise DownloadError(
                f"{self.url}: the file on the server has {total:,} bytes, expected {self.size_bytes:,}; try again later"
            )
        if total > self.max_bytes:
            raise DownloadError(f"{self.url}: {total:,} bytes, expected at most {self.max_bytes:,}; check the URL")

    def _check_free_space(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.destination.parent).free
        if needed_bytes > free_bytes:
            raise OutputError(
                f"{self.destination.parent}: {needed_bytes:,} bytes needed, {free_bytes:,} available; free some space, "
                "or move the cache with WORDSIGHT_CACHE"
            )

    def _mismatch(self) -> str:
        """Return how the complete partial file differs from the expected one; empty if it does not."""
        size = self._num_received()
        if self.size_bytes not in (None, size):
            return f"received {size:,} bytes, expected {self.size_bytes:,}"
        if self.sha256:
            digest = sha256_file(self.partial) if size else hashlib.sha256().hexdigest()
            if not digest.startswith(self.sha256):
                return f"received a file with SHA-256 {digest}, expected {self.sha256}"
        return ""

    def _finish(self) -> None:
        try:
            if not self.partial.exists():
                self.partial.touch()
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())
            self.partial.replace(self.destination)
            sync_directory(self.destination.parent)
        except OSError as error:
            raise as_output_error(error, self.destination) from error
        self.info_path.unlink(missing_ok=True)

    def _num_received(self) -> int:
        """Return the number of bytes of this URL's file in the partial file."""
        is_same_url = self._info().url == self.url and self.partial.exists()
        return self.partial.stat().st_size if is_same_url else 0

    def _info(self) -> _PartialInfo:
        try:
            return msgspec.json.decode(self.info_path.read_bytes(), type=_PartialInfo)
        except (OSError, msgspec.DecodeError):
            return _PartialInfo(url="")

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.info_path.unlink(missing_ok=True)


def _range_of(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the position of the first byte of a response, and the size of the whole file if the server states it."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if not (start.isdigit() and total.isdigit()):
            raise TransientError(f"the server answers a range request with {response.headers.get('Content-Range')!r}")
        return int(start), int(total)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(response: http.client.HTTPResponse) -> str:
    """Return the value for `If-Range`: a strong ETag or the Last-Modified date (RFC 9110, section 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


@contextlib.contextmanager
def _open_unbuffered(path: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        file = path.open(mode, buffering=0)
    except OSError as error:
        raise as_output_error(error, path) from error
    with file:
        yield file


def _write(file: IO[bytes], block: bytes, destination: Path) -> None:
    """Write all bytes of a block; one call of an unbuffered write may write fewer."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise as_output_error(error, destination) from error
