"""List the files of a repository on the Hugging Face hub, or on a server with its API.

The server is not trusted: the size of its answer is bounded, and commit, sizes and hashes must have the expected form.
A file whose hash is missing or unknown is refused, because its download could not be verified.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from wordsight.config import Config
from wordsight.errors import ConfigError, DownloadError, printable
from wordsight.web import Address, Patience, StatusError, parse_address, read_url, without_credentials

HUB = "https://huggingface.co"
MAX_LISTING_BYTES = 1 << 23
"""Answer of the hub's API; with 10,000 files it has about 2 MB."""

COMMIT = re.compile(r"[0-9a-f]{40}")
HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""The hash of git (SHA-1) for small files, or SHA-256 for files in large file storage (LFS)."""

_MAX_TOKEN_BYTES = 1 << 12
_PATIENCE = Patience(tries=3)
_MAX_SHOWN_CHARS = 80

T = TypeVar("T")


class HubFile(Config, frozen=True):
    """Size and hash of a file, as a hub states them.

    Attributes:
        size_bytes: its size.
        hash: 40 digits are the hash of git, 64 those of SHA-256, in lower-case hexadecimal.
    """

    size_bytes: int
    hash: str


class UnreachableError(DownloadError):
    """The server does not respond, or its response is not that of a hub."""


class Endpoint(NamedTuple):
    """A server with the API of the hub.

    Attributes:
        url: its URL, possibly with credentials.
        token: the user's access token; empty if there is none, or if it must not be sent to this server.
    """

    url: str
    token: str

    def __str__(self) -> str:
        return without_credentials(self.url)

    def __repr__(self) -> str:
        return f"Endpoint({str(self)!r})"

    def address(self, path: str) -> Address:
        """The address of a path on this server."""
        return parse_address(f"{self.url}{path}", self.token)


def select_endpoint(mirror: str | None) -> Endpoint:
    """Return the server given by `mirror`, by `HF_ENDPOINT`, or the hub.

    The access token is sent to the server in `HF_ENDPOINT` or to the hub, but not to another mirror.

    Raises:
        ConfigError: the URL is not a web address, or the token cannot be sent.
    """
    configured = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    url = (mirror or configured).rstrip("/")
    try:
        address = parse_address(url)
    except DownloadError as error:
        name = "mirror" if mirror else "HF_ENDPOINT"
        raise ConfigError(f"{name} {error}, such as https://mirror.example.org") from error
    is_trusted = url == configured and not address.authorization
    return Endpoint(url.partition("?")[0].partition("#")[0], _token() if is_trusted else "")


class _Lfs(msgspec.Struct):
    size: int | None = None
    sha256: str = ""
    oid: str = ""


class _Entry(msgspec.Struct):
    """A file in an answer of the hub; its name is `rfilename` for a revision, and `path` for a tree."""

    rfilename: str = ""
    path: str = ""
    size: int | None = None
    blob_id: str | None = msgspec.field(default=None, name="blobId")
    oid: str | None = None
    lfs: _Lfs | None = None


class _Revision(msgspec.Struct):
    sha: str
    siblings: list[_Entry]


class Listing:
    """The files of one revision of a repository.

    Attributes:
        commit: 40 digits of hexadecimal.
        names: the names of all files, unchecked.
    """

    def __init__(self, endpoint: Endpoint, repository: str, commit: str, entries: Iterable[_Entry]) -> None:
        self.commit = commit
        self._endpoint, self._repository = endpoint, repository
        self._entries = {entry.rfilename: entry for entry in entries}
        self.names = sorted(self._entries)

    def describe(self, names: Iterable[str]) -> dict[str, HubFile]:
        """Return size and hash of files.

        Raises:
            DownloadError: the server does not state them, or not in a known form.
        """
        entries: Mapping[str, _Entry] = {name: self._entries[name] for name in names}
        if any(_size_and_hash(entry) == (None, "") for entry in entries.values()):  # this server ignores `blobs=true`
            path = f"/api/models/{self._repository}/tree/{self.commit}"
            tree = _read(self._endpoint, self._repository, path, list[_Entry])
            entries = {**entries, **{entry.path: entry for entry in tree if entry.path in entries}}
        return {name: self._described(name, entry) for name, entry in entries.items()}

    def _described(self, name: str, entry: _Entry) -> HubFile:
        size_bytes, stated = _size_and_hash(entry)
        if size_bytes is None or size_bytes < 0 or not HASH.fullmatch(stated):
            raise DownloadError(
                f"{self._repository}: {self._endpoint} states the size {size_bytes} and the hash {_shown(stated)} for "
                f"{name}; expected 40 or 64 digits of hexadecimal; use another server"
            )
        return HubFile(size_bytes=size_bytes, hash=stated)


def list_repository(endpoint: Endpoint, repository: str, revision: str) -> Listing:
    """Ask a server for the files of a repository.

    Raises:
        UnreachableError: the server cannot be reached, fails, or is not a hub.
        DownloadError: there is no such repository or revision, it is gated, or the answer is not trustworthy.
    """
    path = f"/api/models/{repository}/revision/{quote(revision, safe='')}?blobs=true"
    answer = _read(endpoint, repository, path, _Revision)
    if not COMMIT.fullmatch(answer.sha) or (COMMIT.fullmatch(revision) and answer.sha != revision):
        raise DownloadError(
            f"{repository}: {endpoint} answers with the commit {_shown(answer.sha)}; expected "
            f"{revision if COMMIT.fullmatch(revision) else '40 digits of hexadecimal'}; use another server"
        )
    return Listing(endpoint, repository, answer.sha, answer.siblings)


def _size_and_hash(entry: _Entry) -> tuple[int | None, str]:
    if entry.lfs:
        return entry.size if entry.lfs.size is None else entry.lfs.size, entry.lfs.sha256 or entry.lfs.oid
    return entry.size, entry.blob_id or entry.oid or ""


def _read(endpoint: Endpoint, repository: str, path: str, answer_type: type[T]) -> T:
    try:
        content, _ = read_url(endpoint.address(path), MAX_LISTING_BYTES + 1, _PATIENCE)
    except StatusError as error:
        raise error_of_status(endpoint, repository, error) from error
    except DownloadError as error:
        reason = str(error).partition("; ")[0]
        raise UnreachableError(
            f"{repository}: {endpoint} cannot be reached, or the connection broke: {reason}; try again, or pass "
            "--mirror"
        ) from error
    try:
        if len(content) > MAX_LISTING_BYTES:
            raise msgspec.DecodeError(f"it has more than {MAX_LISTING_BYTES:,} bytes")
        return msgspec.json.decode(content, type=answer_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnreachableError(
            f"{repository}: the answer of {endpoint} is not that of a hub: {printable(error)}; check the address"
        ) from error


def error_of_status(endpoint: Endpoint, name: str, error: StatusError) -> DownloadError:
    """Convert the status of a response into an error that says what to do about the repository `name`."""
    if error.error_code == "GatedRepo":
        return DownloadError(
            f"{name}: the repository is gated: accept its terms on {endpoint}, then set HF_TOKEN or run `hf auth login`"
        )
    if error.error_code == "RevisionNotFound":
        return DownloadError(f"{name}: no such revision on {endpoint}; omit the revision for the newest")
    if error.is_not_found or error.status in (401, 403):
        return DownloadError(
            f"{name}: no such repository on {endpoint}, or it is private: check the name, then set HF_TOKEN or run "
            "`hf auth login`"
        )
    return UnreachableError(f"{name}: {endpoint} responded with status {error.status}; try again later")


def hugging_face_home() -> Path:
    """The directory of Hugging Face's libraries: `HF_HOME`, by default `~/.cache/huggingface`."""
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME")
    return (Path(caches).expanduser() if caches else Path.home() / ".cache") / "huggingface"


def _token() -> str:
    """The access token in `HF_TOKEN`, or that which `hf auth login` stored; empty if there is none.

    Raises:
        ConfigError: it contains characters that no token has; the message does not contain it.
    """
    token, source = os.environ.get("HF_TOKEN", "").strip(), "HF_TOKEN"
    if not token:
        path = Path(os.environ.get("HF_TOKEN_PATH") or hugging_face_home() / "token").expanduser()
        source = str(path)
        try:
            if path.is_file():
                with path.open("rb") as file:
                    token = file.read(_MAX_TOKEN_BYTES).decode("ascii", errors="replace").strip()
        except OSError:
            return ""
    if not re.fullmatch(r"[\x21-\x7e]*", token):
        raise ConfigError(f"{source}: not an access token: it contains spaces or other characters; set HF_TOKEN again")
    return token


def _shown(text: str) -> str:
    return repr(printable(text[:_MAX_SHOWN_CHARS]))
