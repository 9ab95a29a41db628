"""Download one file, completely and verified or not at all.

An interrupted download is resumed where it stopped, provided that the server still has the same file. Size and hash
are verified before the file appears under its name, and no more than the expected size is ever written. If several
processes want the same file, one downloads it while the others wait.

While a download is incomplete, `.NAME.partial` holds its bytes and `.NAME.partial.json` identifies the file that they
belong to.
"""

import contextlib
import glob
import hashlib
import http.client
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from wordsight.config import Config
from wordsight.errors import DownloadError, OutputError, printable
from wordsight.files import (
    as_output_error,
    make_directory,
    read_limited,
    sha256_file,
    sync_directory,
    write_atomic,
)
from wordsight.locks import lock
from wordsight.web.address import Address, parse_address
from wordsight.web.connection import Attempts, Patience, StatusError, TransientError, content_length, open_url

Progress = Callable[[int, int | None], None]
"""Called with the number of bytes received and the total, which is None if the server does not state it."""

_MAX_INFO_BYTES = 1 << 20
MAX_FILE_BYTES = 1 << 36
"""Largest file if neither its size nor a limit is known; the largest published weights have 20 GB."""

_BLOCK_BYTES = 1 << 20
_TAG = re.compile(r'"[\x21\x23-\x7e]{1,200}"')  # RFC 9110, section 8.8.3, in ASCII
_DATE = re.compile(r"[0-9A-Za-z ,:+-]{1,64}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class _PartialInfo(Config, frozen=True):
    """Identifies the file that a partial download belongs to, so that it is never resumed with another one.

    Attributes:
        url: the URL of the file, or its SHA-256 if it contains a query or credentials, which are not stored.
        validator: its strong ETag or Last-Modified header (RFC 9110, section 13.1.5).
        total_bytes: its size; None if the server did not state it.
    """

    url: str
    validator: str = ""
    total_bytes: int | None = None


def fetch_file(
    url: str | Address,
    destination: Path,
    sha256: str = "",
    size_bytes: int | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
    max_bytes: int = MAX_FILE_BYTES,
    git_sha1: str = "",
) -> Path:
    """Download a file unless it exists already.

    Args:
        url: the URL; an `Address` may include an access token.
        destination: the path under which the complete and verified file appears.
        sha256: the expected hash in lower-case hexadecimal, or its first digits; empty if unknown.
        size_bytes: the expected size, if known.
        patience: timeouts and retries.
        progress: called after every block.
        max_bytes: the largest size that is accepted.
        git_sha1: the expected hash of git (SHA-1 over a header and the content), in lower-case hexadecimal.

    Returns:
        `destination`.

    Raises:
        DownloadError: the file cannot be downloaded, or is not the expected one.
        OutputError: the destination is not writable, or the disk is full.
    """
    address = parse_address(url)
    fetch = _Fetch(address, destination, (sha256, git_sha1), size_bytes, patience or Patience(), progress, max_bytes)
    if is_there(destination, size_bytes) and not fetch.info_path.exists():
        return destination
    make_directory(destination.parent)
    with lock(destination.with_name(f".{destination.name}.lock"), wait=True):
        fetch.remove_leftovers()
        if is_there(destination, size_bytes):
            fetch.info_path.unlink(missing_ok=True)  # the process that wrote it was killed after it renamed the file
        else:
            fetch.run()
    return destination


def is_there(path: Path, size_bytes: int | None) -> bool:
    """Return whether a file exists and, if its size is known, has that size."""
    return path.is_file() and size_bytes in (None, path.stat().st_size)


class _Fetch:
    """One download; the caller holds the lock of the destination."""

    def __init__(
        self,
        address: Address,
        destination: Path,
        hashes: tuple[str, str],
        size_bytes: int | None,
        patience: Patience,
        progress: Progress | None,
        max_bytes: int,
    ) -> None:
        self.address, self.destination, self.size_bytes = address, destination, size_bytes
        self.sha256, self.git_sha1 = hashes
        self.patience, self.progress, self.max_bytes = patience, progress, max_bytes
        self.attempts = Attempts(patience)
        self.was_resumed = False
        is_secret = address.authorization or "?" in address.url
        self.url = hashlib.sha256(address.url.encode()).hexdigest() if is_secret else address.url
        self.partial = destination.with_name(f".{destination.name}.partial")
        self.info_path = destination.with_name(f".{destination.name}.partial.json")

    def remove_leftovers(self) -> None:
        """Delete what a process left that was killed while it wrote the file at `info_path`."""
        for path in self.destination.parent.glob(f".{glob.escape(self.info_path.name)}.*.partial"):
            path.unlink(missing_ok=True)

    def run(self) -> None:
        """Download, verify and rename the file; if a resumed file fails verification, download it once more in full."""
        self.attempts = Attempts(self.patience)  # the time starts now, not while another process held the lock
        self._fetch_with_retries()
        mismatch = self._mismatch()
        if mismatch and self.was_resumed:
            self._discard()
            self._fetch_with_retries()
            mismatch = self._mismatch()
        if mismatch:
            self._discard()
            raise DownloadError(f"{self.address}: {mismatch}; the file was discarded: try again")
        self._finish()

    def _fetch_with_retries(self) -> None:
        while True:
            before = self._num_received()
            try:
                self._fetch_once()
                return
            except TransientError as error:
                received = self._num_received()
                note = f", at byte {received}"
                advice = "check the network and try again: the download will resume"
                self.attempts.pause(self.address, error, note, advice, has_progress=received > before)

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
        if received > self._limit(info.total_bytes):
            self._discard()
            received = 0
        if not (info.validator or self.sha256 or self.git_sha1):  # a changed file would go unnoticed
            received = 0
        with self._open(received, info) as response:
            start, total = _range_of(response, received)
            if start not in (0, received) or (start and info.total_bytes not in (None, total)):
                self._discard()
                raise TransientError("the server resumed with another file")
            self._check_total(total)
            self.was_resumed = start > 0
            if start == 0:
                self._discard()
                info = _PartialInfo(url=self.url, validator=_validator(response), total_bytes=total)
                write_atomic(self.info_path, msgspec.json.encode(info))
            self._check_free_space((total or self.size_bytes or 0) - start)
            self._receive(response, start, total)

    def _limit(self, total: int | None) -> int:
        """Return the largest number of bytes that the file can have, given the size that the server states."""
        sizes = [size for size in (self.size_bytes, total) if size is not None]
        return min([*sizes, self.max_bytes])

    def _receive(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        received = start
        limit = self._limit(total)
        try:
            with _open_unbuffered(self.partial, "ab" if start else "wb") as file:
                while block := response.read1(_BLOCK_BYTES):
                    received += len(block)
                    if received > limit:
                        raise DownloadError(f"{self.address}: more than the expected {limit:,} bytes; check the URL")
                    _write(file, block, self.destination)
                    self.attempts.count(len(block))
                    if self.progress:
                        self.progress(received, total or self.size_bytes)
        except (DownloadError, OutputError) as error:
            if total is None or isinstance(error, DownloadError):  # it cannot become the expected file
                self._discard()
            raise
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
            with open_url(self.address, headers, self.attempts, self._limit(None)) as response:
                yield response
        except StatusError as error:
            if error.status != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not received:
                raise
            self._discard()
            raise TransientError("the file on the server has changed") from error

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.size_bytes not in (None, total):
            self._discard()
            raise DownloadError(
                f"{self.address}: the file on the server has {total:,} bytes, expected {self.size_bytes:,}; "
                "try again later"
            )
        if total > self.max_bytes:
            raise DownloadError(f"{self.address}: {total:,} bytes, expected at most {self.max_bytes:,}; check the URL")

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
        if self.git_sha1:
            digest = (
                git_sha1_file(self.partial) if size else hashlib.sha1(b"blob 0\0", usedforsecurity=False).hexdigest()
            )
            if digest != self.git_sha1:
                return f"received a file with git hash {digest}, expected {self.git_sha1}"
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
        is_same_url = self._info().url == self.url and self.partial.is_file()
        return self.partial.stat().st_size if is_same_url else 0

    def _info(self) -> _PartialInfo:
        try:
            content = read_limited(self.info_path, _MAX_INFO_BYTES, OutputError)
            return msgspec.json.decode(content, type=_PartialInfo)
        except (OutputError, msgspec.DecodeError, UnicodeDecodeError):
            return _PartialInfo(url="")

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)
        self.info_path.unlink(missing_ok=True)


def _range_of(response: http.client.HTTPResponse, requested: int) -> tuple[int, int | None]:
    """Return the position of the first byte of a response, and the size of the whole file if the server states it.

    Raises:
        TransientError: the response is a part that is not the rest of the file from the requested position on.
    """
    length = content_length(response)
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return 0, length
    stated = response.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(stated)
    if match is None or not requested:
        raise TransientError(
            f"the server sends a part of the file, {printable(stated)[:60]!r}, which was not requested"
        )
    start, end, total = (int(number) for number in match.groups())
    if end != total - 1 or start > end or length not in (None, total - start):
        raise TransientError(f"the server contradicts itself about the range {match[0]!r}")
    return start, total


def git_sha1_file(path: Path) -> str:
    """Return the hash by which git, and with it the hub, names a small file: SHA-1 over its size and content."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _validator(response: http.client.HTTPResponse) -> str:
    """Return the value for `If-Range`: a strong ETag or the Last-Modified date (RFC 9110, section 13.1.5)."""
    tag, date = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    if _TAG.fullmatch(tag):
        return tag
    return date if _DATE.fullmatch(date) else ""


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
