"""Local copies of shards on a web server, in a directory of bounded size.

A shard is downloaded once, in one sequential read, and an interrupted download is continued. If the server's directory
has our `manifest.json`, the size and SHA-256 of a copy are checked against it; otherwise a copy is identified by the
address together with the length and ETag that the server sends. The names of copies are hashes, never names that a
server sends.
"""

import contextlib
import hashlib
import os
import re
import threading
from pathlib import Path

import msgspec

from wordsight.cache import cache_directory
from wordsight.data.manifest import MANIFEST_NAME, Manifest, ManifestShard, parse_manifest
from wordsight.errors import DataError, DownloadError
from wordsight.files import as_output_error
from wordsight.web import Patience, ask, fetch_file, without_credentials

MAX_REMOTE_MANIFEST_BYTES = 1 << 26
"""Manifest on a server; one of 300,000 shards has about 50 MB."""
MAX_SHARD_BYTES = 1 << 34
"""One shard, by default; ours have 100 MB, and most others at most a few GB."""
MAX_CACHE_BYTES = 1 << 34
"""All local copies of shards together, by default."""

_MIN_SAMPLE_BYTES = 1024  # two headers of a tar file, of the image and of its text
_SHA256 = re.compile("[0-9a-f]{64}")
_REMOTE = re.compile("(https?):/{1,2}(?=[^/])", re.IGNORECASE)
_OTHER_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}", re.IGNORECASE)  # a drive of Windows has one letter


def is_remote(path: str) -> bool:
    """Return whether a path is a web address, also after `pathlib` has made `https:/a.org` of `https://a.org`.

    Raises:
        DataError: it is an address that cannot be read, such as one of an object store; the message does not contain
            its credentials.
    """
    if _REMOTE.match(path):
        return True
    match = _OTHER_SCHEME.match(path)
    if match and not os.path.lexists(path):
        scheme = match[1].lower()
        advice = "pass the path without file://" if scheme == "file" else "use an https address, or copy the files"
        rest = path[match.end() :].lstrip("/")
        shown = f"file:///{rest}" if scheme == "file" else without_credentials(f"{scheme}://{rest}")
        raise DataError(
            f"{shown}: addresses that begin with {scheme}:// cannot be read, only https:// and http://; {advice}"
        )
    return False


def restore_address(path: str) -> str:
    """Return a web address with both slashes after its scheme, and any other path unchanged."""
    return _REMOTE.sub(r"\1://", path, count=1)


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the cache, and the timeouts and retries of its downloads.

    Attributes:
        max_bytes: limit for all copies together; the oldest are deleted first.
        max_shard_bytes: limit for a single shard.
        patience: timeouts and retries.
    """

    max_bytes: int = MAX_CACHE_BYTES
    max_shard_bytes: int = MAX_SHARD_BYTES
    patience: Patience = Patience(timeout_s=30, total_s=180)


class RemoteCache:
    """Local copies of remote shards; safe to share between threads, of which one fetches at a time.

    Args:
        directory: where the copies are stored; by default `shards` in the user's cache directory.
        settings: limits, timeouts and retries.
    """

    def __init__(self, directory: Path | None = None, settings: RemoteSettings | None = None) -> None:
        self.directory = directory or cache_directory("shards")
        self.settings = settings or RemoteSettings()
        self._manifests: dict[str, Manifest | None] = {}
        self._identities: dict[str, str] = {}
        self._fetch_lock = threading.Lock()

    def manifest(self, address: str) -> Manifest | None:
        """Return the manifest of a remote directory; None if it has none, or one of another program.

        Raises:
            DownloadError: the server cannot be reached, or the manifest contradicts itself.
        """
        if address not in self._manifests:
            url = f"{address}/{MANIFEST_NAME}"
            response = ask(url, MAX_REMOTE_MANIFEST_BYTES + 1, self.settings.patience)
            content = response[0] if response else b""
            if len(content) > MAX_REMOTE_MANIFEST_BYTES:
                raise DownloadError(
                    f"{without_credentials(url)}: more than {MAX_REMOTE_MANIFEST_BYTES:,} bytes; check the address"
                )
            self._manifests[address] = _checked(without_credentials(url), parse_manifest(content))
        return self._manifests[address]

    def fetch(self, address: str, entry: ManifestShard | None) -> Path:
        """Return the path of the local copy of a shard, which is downloaded if it is missing.

        Raises:
            DownloadError: the server cannot be reached, has no such shard, or sends one that differs from the manifest.
            OutputError: the cache directory is not writable.
        """
        identity = entry.sha256 if entry else self._identity(address)
        name = hashlib.sha256(f"{address}\n{identity}".encode()).hexdigest()
        path = self.directory / f"{name}.tar"
        if path.exists():
            return path
        with self._fetch_lock:
            if not path.exists():
                self._make_room(min(entry.bytes, self.settings.max_shard_bytes) if entry else 0)
                fetch_file(
                    address,
                    path,
                    sha256=entry.sha256 if entry else "",
                    size_bytes=entry.bytes if entry else None,
                    patience=self.settings.patience,
                    max_bytes=self.settings.max_shard_bytes,
                )
                os.utime(path, ns=(0, 0))  # so that the stored index stays valid when a copy is fetched again
        return path

    def _identity(self, address: str) -> str:
        """Identify the current content of an address by the headers that the server sends."""
        if address not in self._identities:
            response = ask(address, patience=self.settings.patience)
            if response is None:
                raise DownloadError(f"{without_credentials(address)}: not on the server; check the address")
            names = ("Content-Length", "ETag", "Last-Modified")
            self._identities[address] = " ".join(response[1].get(name, "") for name in names)
        return self._identities[address]

    def _make_room(self, needed_bytes: int) -> None:
        """Delete the oldest copies until `needed_bytes` more fit within the limit."""
        try:
            copies = []
            for path in self.directory.glob("*.tar"):
                with contextlib.suppress(FileNotFoundError):  # deleted by another process since it was listed
                    copies.append((path.stat().st_ctime_ns, path.stat().st_size, path))
            copies.sort()
            total_bytes = sum(size for _, size, _ in copies)
            for _, size, path in copies:
                if total_bytes + needed_bytes <= self.settings.max_bytes:
                    break
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.index").unlink(missing_ok=True)
                total_bytes -= size
        except OSError as error:
            raise as_output_error(error, self.directory) from error


def _checked(url: str, manifest: Manifest | None) -> Manifest | None:
    """Refuse a manifest by whose numbers memory would be allocated, or whose hashes would verify nothing."""
    for entry in manifest.shards if manifest else ():
        is_possible = 0 <= entry.samples * _MIN_SAMPLE_BYTES <= entry.bytes
        if not (is_possible and _SHA256.fullmatch(entry.sha256)):
            raise DownloadError(
                f"{url}: the shard {entry.name[:100]!r} cannot have {entry.samples:,} samples in {entry.bytes:,} bytes "
                f"with the SHA-256 {entry.sha256[:70]!r}; make the manifest again with 'wordsight shards'"
            )
    return manifest
