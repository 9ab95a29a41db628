"""Shards on a web server, fetched whole into a bounded directory.

A shard is fetched once, in one sequential read, and continued where it broke off. Where the server's directory has our
`manifest.json`, size and SHA-256 are checked against it; otherwise a copy belongs to the address together with the
length and the tag that the server gives.
"""

import hashlib
import os
import threading
from pathlib import Path

import msgspec

from wordsight.cache import cache_directory
from wordsight.data.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest, ManifestShard, parse_manifest
from wordsight.errors import DownloadError
from wordsight.files import as_output_error
from wordsight.web import Patience, ask, fetch_file


def is_remote(where: str) -> bool:
    """Whether a place is a web address."""
    return where.startswith(("http://", "https://"))


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How patiently to fetch, and how much to keep.

    Attributes:
        max_bytes: of all copies together; the oldest are deleted first.
        max_shard_bytes: refuse a longer shard.
        patience: with the server.
    """

    max_bytes: int = 1 << 34
    max_shard_bytes: int = 1 << 34
    patience: Patience = Patience(timeout_s=60)


class RemoteCache:
    """Local copies of remote shards. Threads may share it; each shard is fetched by one of them."""

    def __init__(self, directory: Path | None = None, settings: RemoteSettings | None = None) -> None:
        self.directory = directory or cache_directory("shards")
        self.settings = settings or RemoteSettings()
        self._manifests: dict[str, Manifest | None] = {}
        self._identities: dict[str, str] = {}
        self._fetch_lock = threading.Lock()

    def manifest(self, address: str) -> Manifest | None:
        """The `manifest.json` in a remote directory, or None where there is none of ours.

        Raises:
            DownloadError: the server cannot be reached.
        """
        if address not in self._manifests:
            found = ask(f"{address}/{MANIFEST_NAME}", MAX_MANIFEST_BYTES, self.settings.patience)
            self._manifests[address] = parse_manifest(found[0]) if found else None
        return self._manifests[address]

    def fetch(self, address: str, told: ManifestShard | None) -> Path:
        """The local copy of a shard, fetched if it is not there.

        Raises:
            DownloadError: the server cannot be reached, has no such shard, or sends another one than the manifest says.
            OutputError: the cache cannot be written.
        """
        identity = told.sha256 if told else self._identity(address)
        name = hashlib.sha256(f"{address}\n{identity}".encode()).hexdigest()
        path = self.directory / f"{name}.tar"
        if path.exists():
            return path
        with self._fetch_lock:
            if not path.exists():
                self._make_room(told.bytes if told else 0)
                fetch_file(
                    address,
                    path,
                    sha256=told.sha256 if told else "",
                    size_bytes=told.bytes if told else None,
                    patience=self.settings.patience,
                    max_bytes=self.settings.max_shard_bytes,
                )
                os.utime(path, ns=(0, 0))  # a copy fetched again is the same file to its index
        return path

    def _identity(self, address: str) -> str:
        """Length and tag by which the server tells one content of an address from another."""
        if address not in self._identities:
            found = ask(address, patience=self.settings.patience)
            if found is None:
                raise DownloadError(f"{address}: not on the server; check the address")
            names = ("Content-Length", "ETag", "Last-Modified")
            self._identities[address] = " ".join(found[1].get(name, "") for name in names)
        return self._identities[address]

    def _make_room(self, needed_bytes: int) -> None:
        """Delete the oldest copies until there is room for another."""
        try:
            copies = sorted(
                (path.stat().st_ctime_ns, path.stat().st_size, path) for path in self.directory.glob("*.tar")
            )
            held = sum(size for _, size, _ in copies)
            for _, size, path in copies:
                if held + needed_bytes <= self.settings.max_bytes:
                    break
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}.index").unlink(missing_ok=True)
                held -= size
        except OSError as error:
            raise as_output_error(error, self.directory) from error
