"""Shards on a web server, fetched whole into a bounded folder.

A shard is fetched once, in one sequential read, continued where it broke off and tried again with growing pauses.
Where the server's folder has our `manifest.json`, size and SHA-256 are checked against it; otherwise a copy belongs to
the address together with the length and the tag that the server gives.
"""

import contextlib
import hashlib
import http
import http.client
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

from wordsight.data.index import cache_folder
from wordsight.data.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, ManifestShard, parse_manifest
from wordsight.errors import DataError
from wordsight.files import as_output_error, make_folder, open_whole

_BLOCK_BYTES = 1 << 20
_TIMEOUT_S = 60
_BROKEN_CONNECTION = (OSError, http.client.HTTPException)
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}


def is_remote(where: str) -> bool:
    """Whether a place is a web address."""
    return where.startswith(("http://", "https://"))


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How patiently to fetch, and how much to keep.

    Attributes:
        max_bytes: of all copies together; the oldest are deleted first.
        max_shard_bytes: refuse a longer shard.
        tries: how often a broken connection is made again.
        pause_s: before the second try; doubled each time.
    """

    max_bytes: int = 1 << 34
    max_shard_bytes: int = 1 << 34
    tries: int = 5
    pause_s: float = 0.5


class RemoteCache:
    """Local copies of remote shards. Threads may share it; each shard is fetched by one of them."""

    def __init__(self, folder: Path | None = None, settings: RemoteSettings | None = None) -> None:
        self.folder = folder or cache_folder() / "shards"
        self.settings = settings or RemoteSettings()
        self._manifests: dict[str, Manifest | None] = {}
        self._identities: dict[str, str] = {}
        self._fetch_lock = threading.Lock()

    def manifest(self, address: str) -> Manifest | None:
        """The `manifest.json` in a remote folder, or None where there is none of ours.

        Raises:
            DataError: the server cannot be reached.
        """
        if address not in self._manifests:
            self._manifests[address] = self._read_manifest(f"{address}/{MANIFEST_NAME}")
        return self._manifests[address]

    def fetch(self, address: str, told: ManifestShard | None) -> Path:
        """The local copy of a shard, fetched if it is not there.

        Raises:
            DataError: the server cannot be reached, has no such shard, or sends another one than the manifest says.
            OutputError: the cache cannot be written.
        """
        identity = told.sha256 if told else self._identity(address)
        name = hashlib.sha256(f"{address}\n{identity}".encode()).hexdigest()
        path = self.folder / f"{name}.tar"
        if path.exists():
            return path
        with self._fetch_lock:
            if not path.exists():
                make_folder(self.folder)
                self._make_room(told.bytes if told else 0)
                self._download(address, path, told)
        return path

    def _identity(self, address: str) -> str:
        """Length and tag by which the server tells one content of an address from another."""
        if address not in self._identities:
            with self._open_patiently(address) as answer:
                names = ("Content-Length", "ETag", "Last-Modified")
                self._identities[address] = " ".join(answer.headers.get(name, "") for name in names)
        return self._identities[address]

    def _read_manifest(self, address: str) -> Manifest | None:
        try:
            with self._open_patiently(address) as answer:
                content = answer.read(MAX_MANIFEST_BYTES)
        except _NotThereError:
            return None
        except _BROKEN_CONNECTION as error:
            raise DataError(f"{address}: {_words(error)}; try again later") from error
        return parse_manifest(content)

    def _download(self, address: str, path: Path, told: ManifestShard | None) -> None:
        digest = hashlib.sha256()
        size = 0
        with open_whole(path) as file:
            for block in self._blocks(address):
                size += len(block)
                if size > self.settings.max_shard_bytes:
                    raise DataError(f"{address}: more than {self.settings.max_shard_bytes:,} bytes; cut it smaller")
                file.write(block)
                digest.update(block)
            if told and (size, digest.hexdigest()) != (told.bytes, told.sha256):
                raise DataError(f"{address}: {size} bytes that are not those of {MANIFEST_NAME}; upload it again")
        os.utime(path, ns=(0, 0))  # a copy fetched again is the same file to its index

    def _blocks(self, address: str) -> Iterator[bytes]:
        """The content of an address; a connection that breaks is continued where it broke.

        Raises:
            DataError: not there, or broken too often.
        """
        done = 0
        problem = ""
        for attempt in range(self.settings.tries):
            if attempt:
                time.sleep(self.settings.pause_s * 2 ** (attempt - 1))
            try:
                with self._open_patiently(address, done) as answer:
                    start = _start(answer, done)
                    length = answer.headers.get("Content-Length", "")
                    while block := answer.read(_BLOCK_BYTES):
                        done += len(block)
                        yield block
                    if not length.isdigit() or done >= start + int(length):
                        return
                    problem = "the connection ended early"
            except _BROKEN_CONNECTION as error:
                problem = _words(error)
        raise DataError(f"{address}: {problem}, {self.settings.tries} times, at byte {done}; try again later")

    @contextlib.contextmanager
    def _open_patiently(self, address: str, offset: int = 0) -> Iterator[http.client.HTTPResponse]:
        """Open an address; busy servers are asked again.

        Raises:
            DataError: it is not there, or the server stays busy or away.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        for attempt in range(self.settings.tries):
            try:
                request = urllib.request.Request(address, headers=headers)
                answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
                break
            except urllib.error.HTTPError as error:
                error.close()
                if error.code in (404, 410):
                    raise _NotThereError(f"{address}: not on the server ({error.code}); check the address") from error
                if error.code not in _WORTH_ANOTHER_TRY or attempt + 1 == self.settings.tries:
                    raise DataError(f"{address}: the server answers {error.code} {error.reason}") from error
            except _BROKEN_CONNECTION as error:
                if attempt + 1 == self.settings.tries:
                    raise DataError(f"{address}: {_words(error)}; check the address and the network") from error
            except ValueError as error:
                raise DataError(f"{address}: not an address: {error}") from error
            time.sleep(self.settings.pause_s * 2**attempt)
        with answer:
            yield answer

    def _make_room(self, needed_bytes: int) -> None:
        """Delete the oldest copies until there is room for another."""
        try:
            copies = sorted((path.stat().st_ctime_ns, path.stat().st_size, path) for path in self.folder.glob("*.tar"))
            held = sum(size for _, size, _ in copies)
            for _, size, path in copies:
                if held + needed_bytes <= self.settings.max_bytes:
                    break
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.index").unlink(missing_ok=True)
                held -= size
        except OSError as error:
            raise as_output_error(error, self.folder) from error


class _NotThereError(DataError):
    """The server knows no such address."""


def _start(answer: http.client.HTTPResponse, wanted: int) -> int:
    """Bring an answer to byte `wanted`, for servers that ignore ranges; the byte at which its length counts from."""
    if wanted and answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        return wanted
    rest = wanted
    while rest > 0 and (block := answer.read(min(rest, _BLOCK_BYTES))):
        rest -= len(block)
    return 0


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
