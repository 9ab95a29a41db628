"""One file from a web address, whole and right or not at all.

A download that broke off goes on where it stopped, as long as the server still has the same file; size and SHA-256 are
checked before the file appears under its name; one process fetches while the others wait. The standard library is
enough: what huggingface_hub speaks HTTP with has changed three times in the versions that we work with. The environment
is read when a function is called.
"""

import contextlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from wordsight.config import Config
from wordsight.errors import OutputError, WeightsError
from wordsight.files import as_output_error, lock, make_folder, sha256_file, write_whole

Progress = Callable[[int, int | None], None]
"""Is told how many bytes are there, and of how many; None where the server does not say."""

_BLOCK_BYTES = 1 << 20
_MAX_BYTES = 1 << 36
_MAX_REDIRECTS = 5
_LOCK_POLL_S = 0.05
_BROKEN_CONNECTION = (OSError, http.client.HTTPException)
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_GONE = {404: "not on the server", 410: "no longer on the server", 401: "not public", 403: "not public"}


class Patience(Config, frozen=True):
    """How long to bear with a server.

    Attributes:
        timeout_s: for a connection, and for every answer on it.
        tries: of a connection that brings nothing new; what does bring something costs none.
        pause_s: before the second try; doubled each time.
    """

    timeout_s: float = 30.0
    tries: int = 5
    pause_s: float = 0.5


class _Notes(Config, frozen=True):
    """What a partial file is part of, so that it is never continued with another."""

    url: str
    validator: str = ""
    total_bytes: int | None = None


class _AgainError(Exception):
    """A fault of the moment; the message says which."""


def is_offline() -> bool:
    """Whether `WORDSIGHT_OFFLINE` or `HF_HUB_OFFLINE` says that the network is not to be used."""
    return any(
        os.environ.get(name, "").strip().casefold() in ("1", "on", "yes", "true")
        for name in ("WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE")
    )


def weights_cache() -> Path:
    """The folder of downloaded weights: `WORDSIGHT_CACHE`, or `wordsight/weights` in the user's folder of caches."""
    if told := os.environ.get("WORDSIGHT_CACHE"):
        return Path(told).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches) if caches else Path.home() / ".cache") / "wordsight" / "weights"


def mirrored(url: str, mirror: str) -> str:
    """The same path on another server, below the path of `mirror` if it has one.

    Raises:
        WeightsError: `mirror` is not a web address.
    """
    there, here = urllib.parse.urlsplit(mirror), urllib.parse.urlsplit(url)
    if there.scheme not in ("http", "https") or not there.netloc:
        raise WeightsError(f"mirror {mirror!r} is not an address; expected such as https://mirror.example.org")
    path = there.path.rstrip("/") + here.path
    return urllib.parse.urlunsplit((there.scheme, there.netloc, path, here.query, ""))


def fetch_file(
    url: str,
    destination: Path,
    sha256: str = "",
    size_bytes: int | None = None,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download a file, unless it is there already.

    Args:
        destination: where the file appears when all of it is there and right.
        sha256: lower-case hexadecimal, or its first digits; empty where it is not known.
        size_bytes: that it must have, where that is known.
        progress: is called after every block.

    Raises:
        WeightsError: offline, not to be had, or not the file that was expected.
        OutputError: the place cannot be written, or the disk is full.
    """
    if _is_there(destination, size_bytes):
        return destination
    if is_offline():
        raise WeightsError(
            f"{destination}: not there, and offline (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set); "
            f"put {url} there, or unset it"
        )
    make_folder(destination.parent)
    with _waiting_lock(destination.with_name(f".{destination.name}.lock")):
        if not _is_there(destination, size_bytes):
            _Fetch(url, destination, sha256, size_bytes, patience or Patience(), progress).run()
    return destination


def _is_there(path: Path, size_bytes: int | None) -> bool:
    return path.is_file() and size_bytes in (None, path.stat().st_size)


@contextlib.contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock; while another process has it, wait."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(path))
                break
            except OutputError as error:
                if not isinstance(error.__cause__, BlockingIOError):
                    raise
            time.sleep(_LOCK_POLL_S)
        yield


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
    ) -> None:
        self.url, self.destination, self.sha256, self.size_bytes = url, destination, sha256, size_bytes
        self.patience, self.progress = patience, progress
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
            raise WeightsError(f"{self.url}: {fault}; nothing was kept: try again, or from elsewhere (--mirror)")
        self._settle()

    def _fetch_patiently(self) -> None:
        failures = 0
        while True:
            before = self._have()
            try:
                self._fetch_once()
                return
            except _AgainError as error:
                failures = 1 if self._have() > before else failures + 1
                if failures >= self.patience.tries:
                    raise WeightsError(
                        f"{self.url}: {error}, {failures} times, at byte {self._have()}; check the network, then try "
                        "again: it goes on from there"
                    ) from error
            time.sleep(self.patience.pause_s * 2 ** (failures - 1))

    def _fetch_once(self) -> None:
        """One connection: all that is missing, if all goes well.

        Raises:
            _AgainError: busy, broken or slow; what came is kept.
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
                raise _AgainError("the server goes on with another file")
            self._check_total(total)
            self.was_continued = start > 0
            if start == 0:
                self._forget()
                notes = _Notes(url=self.url, validator=_validator(answer), total_bytes=total)
                write_whole(self.notes_path, msgspec.json.encode(notes))
            self._check_room((total or 0) - start)
            self._receive(answer, start, total)

    def _receive(self, answer: http.client.HTTPResponse, start: int, total: int | None) -> None:
        done = start
        limit = total or _MAX_BYTES
        with _writing(self.partial, "ab" if start else "wb") as file:
            while block := _read(answer, done):
                done += len(block)
                if done > limit:
                    self._forget()
                    raise WeightsError(f"{self.url}: more than {limit} bytes; not the file that was asked for")
                _write(file, block, self.destination)
                if self.progress:
                    self.progress(done, total)
        if total is not None and done < total:
            raise _AgainError("the connection ended early")
        if total is None:  # the end of the connection is all that tells the end of the file
            write_whole(self.notes_path, msgspec.json.encode(_Notes(url=self.url, total_bytes=done)))

    @contextlib.contextmanager
    def _open(self, have: int, notes: _Notes) -> Iterator[http.client.HTTPResponse]:
        headers = {"User-Agent": "wordsight", "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if notes.validator:
                headers["If-Range"] = notes.validator
        opener = urllib.request.build_opener(_Redirects)
        try:
            answer = opener.open(urllib.request.Request(self.url, headers=headers), timeout=self.patience.timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(error) from error
        except _BROKEN_CONNECTION as error:
            raise _AgainError(_words(error)) from error
        except ValueError as error:
            raise WeightsError(f"{self.url}: not an address: {error}") from error
        with answer:
            yield answer

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in _WORTH_ANOTHER_TRY:
            return _AgainError(f"the server answers {error.code} {error.reason}")
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and self._have():
            self._forget()
            return _AgainError("the file on the server is another one now")
        if error.code in _REDIRECTS:
            return WeightsError(f"{self.url}: redirected in circles, or to where it is not encrypted; take a --mirror")
        reason = _GONE.get(error.code, "refused")
        return WeightsError(f"{self.url}: {reason} ({error.code}); check the address, or take a --mirror")

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self.size_bytes not in (None, total):
            self._forget()
            raise WeightsError(
                f"{self.url}: the server has {total} bytes, expected {self.size_bytes}; try again, or from elsewhere "
                "(--mirror)"
            )
        if total > _MAX_BYTES:
            raise WeightsError(f"{self.url}: {total} bytes, more than any weights have ({_MAX_BYTES})")

    def _check_room(self, needed_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self.destination.parent).free
        if needed_bytes > free_bytes:
            raise OutputError(
                f"{self.destination.parent}: {needed_bytes:,} bytes are to come, {free_bytes:,} are free; make room, "
                "or set WORDSIGHT_CACHE"
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
            folder = os.open(self.destination.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
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


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A few redirects, and none from an encrypted connection to one that is not."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "redirected to an open connection", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _extent(answer: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The byte at which an answer begins, and the length of the whole file where the server says it."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        span, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = span.partition("-")[0]
        if not (start.isdigit() and total.isdigit()):
            raise _AgainError(f"the server answers a range with {answer.headers.get('Content-Range')!r}")
        return int(start), int(total)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _validator(answer: http.client.HTTPResponse) -> str:
    """The strong tag of a content, or its time of change (RFC 9110, 13.1.5): what `If-Range` may hold."""
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")


def _read(answer: http.client.HTTPResponse, done: int) -> bytes:
    try:
        return answer.read1(_BLOCK_BYTES)
    except _BROKEN_CONNECTION as error:
        raise _AgainError(_words(error)) from error


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


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
