"""One file from a web address, whole and right or not at all.

A download that broke off goes on where it stopped, as long as the server still has the same file; size and SHA-256 are
checked before the file appears under its name; one process fetches while the others wait.
"""

import contextlib
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
from wordsight.web.connection import AgainError, OutOfRangeError, Patience, opened

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are there, and of how many; None where the server does not say."""

_BLOCK_BYTES = 1 << 20


class _Notes(Config, frozen=True):
    """What a partial file is part of, so that it is never continued with another."""

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
    """Download a file, unless it is there already.

    Args:
        destination: where the file appears when all of it is there and right.
        sha256: lower-case hexadecimal, or its first digits; empty where it is not known.
        size_bytes: that it must have, where that is known.
        progress: is called after every block.
        max_bytes: a longer file is refused.

    Raises:
        DownloadError: not to be had, or not the file that was expected.
        OutputError: the place cannot be written, or the disk is full.
    """
    if is_there(destination, size_bytes):
        return destination
    make_directory(destination.parent)
    with lock(destination.with_name(f".{destination.name}.lock"), wait=True):
        if not is_there(destination, size_bytes):
            _Fetch(url, destination, sha256, size_bytes, patience or Patience(), progress, max_bytes).run()
    return destination


def is_there(path: Path, size_bytes: int | None) -> bool:
    """Whether a file has been fetched; one of another size than is known has not."""
    return path.is_file() and size_bytes in (None, path.stat().st_size)


class _Fetch:
    """One download under its lock."""

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
        self.was_continued = False
        self.partial = destination.with_name(f".{destination.name}.partial")
        self.notes_path = destination.with_name(f".{destination.name}.partial.json")

    def run(self) -> None:
        """Fetch, check, and give the file its name; a continued file that proves wrong is fetched once more, whole."""
        self._fetch_patiently()
        fault = self._fault()
        if fault and self.was_continued:
            self._forget()
            self._fetch_patiently()
            fault = self._fault()
        if fault:
            self._forget()
            raise DownloadError(f"{self.url}: {fault}; nothing was kept: try again")
        self._settle()

    def _fetch_patiently(self) -> None:
        failures = 0
        while True:
            before = self._have()
            try:
                self._fetch_once()
                return
            except AgainError as error:
                failures = 1 if self._have() > before else failures + 1
                if failures >= self.patience.tries:
                    raise DownloadError(
                        f"{self.url}: {error}, {failures} times, at byte {self._have()}; check the network, then try "
                        "again: it goes on from there"
                    ) from error
            time.sleep(self.patience.pause_s * 2 ** (failures - 1))

    def _fetch_once(self) -> None:
        """One connection: all that is missing, if all goes well.

        Raises:
            AgainError: busy, broken or slow; what came is kept.
        """
        notes = self._notes()
        have = self._have()
        if have and have == notes.total_bytes:
            self.was_continued = True
            return
        if not (notes.validator or self.sha256):  # nothing would tell that the rest is that of another file
            have = 0
        with self._open(have, notes) as answer:
            start, total = _extent(answer)
            if start not in (0, have) or (start and notes.total_bytes not in (None, total)):
                self._forget()
                raise AgainError("the server goes on with another file")
            self._check_total(total)
            self.was_continued = start > 0
            if start == 0:
                self._forget()
                notes = _Notes(url=self.url, validator=_validator(answer), total_bytes=total)
                write_atomic(self.notes_path, msgspec.json.encode(notes))
            self._check_room((total or 0) - start)
            self._receive(answer, start, total)

    def _receive(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        done = start
        limit = total or self.max_bytes
        with _writing(self.partial, "ab" if start else "wb") as file:
            while block := answer.read1(_BLOCK_BYTES):
                done += len(block)
                if done > limit:
                    self._forget()
                    raise DownloadError(f"{self.url}: more than {limit:,} bytes; not what is meant")
                _write(file, block, self.destination)
                if self.progress:
                    self.progress(done, total)
        if total is not None and done < total:
            raise AgainError("the connection ended early")
        if total is None:  # the end of the connection is all that tells the end of the file
            write_atomic(self.notes_path, msgspec.json.encode(_Notes(url=self.url, total_bytes=done)))

    @contextlib.contextmanager
    def _open(self, have: int, notes: _Notes) -> Iterator[http.client.HTTPResponse]:
        headers = {}
        if have:
            headers["Range"] = f"bytes={have}-"
            if notes.validator:
                headers["If-Range"] = notes.validator
        try:
            with opened(self.url, headers, self.patience.timeout_s) as answer:
                yield answer
        except OutOfRangeError as error:
            self._forget()
            raise AgainError("the file on the server is another one now") from error

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.size_bytes not in (None, total):
            self._forget()
            raise DownloadError(f"{self.url}: the server has {total} bytes, expected {self.size_bytes}; try again")
        if total > self.max_bytes:
            raise DownloadError(f"{self.url}: {total:,} bytes, more than {self.max_bytes:,}; not what is meant")

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.destination.parent).free
        if needed_bytes > free_bytes:
            raise OutputError(
                f"{self.destination.parent}: {needed_bytes:,} bytes are to come, {free_bytes:,} are free; make room, "
                "or move the cache with WORDSIGHT_CACHE"
            )

    def _fault(self) -> str:
        """What is wrong with the whole partial file; empty if nothing is."""
        size = self._have()
        if self.size_bytes not in (None, size):
            return f"{size} bytes came, expected {self.size_bytes}"
        if self.sha256:
            found = sha256_file(self.partial) if size else "that of no bytes"
            if not found.startswith(self.sha256):
                return f"SHA-256 of what came is {found}, expected {self.sha256}"
        return ""

    def _settle(self) -> None:
        try:
            if not self.partial.exists():
                self.partial.touch()
            with self.partial.open("rb") as file:
                os.fsync(file.fileno())
            self.partial.replace(self.destination)
            sync_directory(self.destination.parent)
        except OSError as error:
            raise as_output_error(error, self.destination) from error
        self.notes_path.unlink(missing_ok=True)

    def _have(self) -> int:
        """Bytes that are there of what lies at the address."""
        is_ours = self._notes().url == self.url and self.partial.exists()
        return self.partial.stat().st_size if is_ours else 0

    def _notes(self) -> _Notes:
        try:
            return msgspec.json.decode(self.notes_path.read_bytes(), type=_Notes)
        except (OSError, msgspec.DecodeError):
            return _Notes(url="")

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.notes_path.unlink(missing_ok=True)


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The byte at which an answer begins, and the length of the whole file where the server says it."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if not (start.isdigit() and total.isdigit()):
            raise AgainError(f"the server answers a range with {answer.headers.get('Content-Range')!r}")
        return int(start), int(total)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(answer: http.client.HTTPResponse) -> str:
    """The strong tag of a content, or its time of change (RFC 9110, 13.1.5): what `If-Range` may hold."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


@contextlib.contextmanager
def _writing(path: Path, mode: str) -> Iterator[IO[bytes]]:
    try:
        file = path.open(mode, buffering=0)
    except OSError as error:
        raise as_output_error(error, path) from error
    with file:
        yield file


def _write(file: IO[bytes], block: bytes, destination: Path) -> None:
    """Write all of a block; the disk may take less than is offered."""
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise as_output_error(error, destination) from error
