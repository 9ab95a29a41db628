"""Repositories on a loopback server that implements the part of the hub's API that is used here.

Like some mirrors it ignores `blobs=true`, so that sizes and hashes come from the list of a tree.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving

from wordsight.errors import DownloadError
from wordsight.files import sha256_file
from wordsight.weights.hub.download import resolve
from wordsight.weights.hub.repository import fetch_repository

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/tiny-clip"
FILES = {
    ".gitattributes": b"*.bin filter=lfs",
    "README.md": b"# tiny",
    "open_clip_config.json": b'{"model_cfg": {}}',
    "config.json": b"{}",
    "vocab.json": b'{"a": 0}',
    "merges.txt": b"a b",
    "open_clip_model.safetensors": b"weights" * 1000,
    "open_clip_pytorch_model.bin": b"pickled" * 1000,
    "model.safetensors": b"others" * 1000,
    "modeling_tiny.py": b"raise SystemExit",
    "onnx/config.json": b"{}",
}
EXPECTED = ["config.json", "merges.txt", "open_clip_config.json", "open_clip_model.safetensors", "vocab.json"]


def is_large(name: str) -> bool:
    return name.endswith((".bin", ".safetensors"))


def hub_hash(name: str, content: bytes) -> str:
    """The hash that the hub states: SHA-256 of large files, git's SHA-1 of others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(LoopbackServer):
    """One repository; `replaced` has other contents to send for some files, `status` an error for all requests."""

    files: dict[str, bytes]
    replaced: dict[str, bytes]
    status: tuple[int, str] | None = None
    requests: list[str]


class Handler(QuietHandler):
    server: Hub

    def respond(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.requests.append(f"{self.command} {path}")
        if hub.status:
            return self.send(hub.status[0], b"{}", {"X-Error-Code": hub.status[1], "X-Error-Message": hub.status[1]})
        if path.startswith(f"/api/models/{NAME}/tree/"):
            return self.send(200, json.dumps([self.described(name) for name in hub.files]).encode())
        if path.removeprefix(f"/api/models/{NAME}") in ("", "/revision/main", f"/revision/{COMMIT}"):
            names = [{"rfilename": name} for name in hub.files]
            return self.send(200, json.dumps({"id": NAME, "sha": COMMIT, "siblings": names}).encode())
        name = path.removeprefix(f"/{NAME}/resolve/{COMMIT}/")
        if name not in hub.files:
            missing = "RevisionNotFound" if f"/{NAME}/revision/" in path else "RepoNotFound"
            return self.send(404, b"{}", {"X-Error-Code": missing})
        content = hub.files[name]
        tag = hub_hash(name, content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
        if is_large(name):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{tag}"'}
        return self.send(200, hub.replaced.get(name, content), headers)

    def described(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        entry = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if is_large(name):
            entry["lfs"] = {"oid": hub_hash(name, content), "size": len(content), "pointerSize": 134}
        else:
            entry["oid"] = hub_hash(name, content)
        return entry

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.files, server.replaced, server.requests = dict(FILES), {}, []
    for name in ("HF_HUB_OFFLINE", "WORDSIGHT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    with serving(server):
        yield server


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())


def test_files_that_a_model_needs_are_downloaded_but_no_code(hub):
    directory = fetch_repository(NAME)
    assert names(directory) == EXPECTED
    assert all((directory / name).read_bytes() == FILES[name] for name in EXPECTED)
    assert not any("modeling" in request or "pytorch_model" in request for request in hub.requests)


def test_pickled_weights_are_downloaded_if_there_is_no_safetensors_file(hub):
    del hub.files["open_clip_model.safetensors"]
    assert "open_clip_pytorch_model.bin" in names(fetch_repository(NAME))


def test_shards_are_downloaded_with_their_index(hub):
    for name in ("open_clip_config.json", "model.safetensors"):
        del hub.files[name]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    hub.files |= {shards[0]: b"one", shards[1]: b"two", "model.safetensors.index.json": b"{}"}
    downloaded = names(fetch_repository(NAME))
    assert downloaded == ["config.json", "merges.txt", *shards, "model.safetensors.index.json", "vocab.json"]


def test_files_can_be_selected_by_pattern(hub):
    assert names(fetch_repository(NAME, ["*.txt", "*.py"])) == ["merges.txt"]
    with pytest.raises(DownloadError, match=r"someone/tiny-clip: has none of x.json; it has config.json, merges.txt"):
        fetch_repository(NAME, ["x.json"])


def test_offline_mode_uses_the_cache_and_sends_no_request(hub, monkeypatch):
    directory = fetch_repository(NAME)
    hub.requests.clear()
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert fetch_repository(NAME) == directory
    with pytest.raises(DownloadError, match="someone/other: not in the cache, and offline mode is on"):
        fetch_repository("someone/other")
    (directory / "open_clip_model.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"in the cache \(offline\): has none of open_clip_model.safetensors"):
        fetch_repository(NAME)
    assert hub.requests == []


def test_the_cache_is_used_if_the_server_cannot_be_reached(hub):
    directory = fetch_repository(NAME)
    assert fetch_repository(NAME, mirror="http://127.0.0.1:1") == directory


def test_an_unreachable_server_without_a_cached_copy_is_one_line(hub):
    message = "http://127.0.0.1:1 cannot be reached, or the connection broke: .*; try again, or pass --mirror"
    with pytest.raises(DownloadError, match=f"^{NAME}: {message}"):
        fetch_repository(NAME, mirror="http://127.0.0.1:1")


def test_a_mirror_takes_precedence_over_the_environment(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert names(fetch_repository(NAME, mirror=hub.address)) == EXPECTED


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((404, "RepoNotFound"), "no such repository on http://127.0.0.1:.*, or it is private"),
        ((401, "RepoNotFound"), "no such repository on http://127.0.0.1:.*, or it is private"),
        ((403, "GatedRepo"), "the repository is gated: accept its terms on"),
        ((500, ""), "http://127.0.0.1:.* responded with status 500; try again later"),
    ],
)
def test_an_error_of_the_server_is_one_line(hub, status, message):
    hub.status = status
    with pytest.raises(DownloadError, match=f"^{NAME}: {message}") as caught:
        fetch_repository(NAME)
    assert "\n" not in str(caught.value)


def test_a_missing_revision_is_reported(hub):
    with pytest.raises(DownloadError, match="no such revision on"):
        fetch_repository(NAME, revision="v2")


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_a_damaged_file_is_refused_and_downloaded_again_next_time(hub, name):
    hub.replaced[name] = FILES[name][::-1]
    with pytest.raises(DownloadError, match=rf"{NAME}: .*/{name}: received a file with .*, .*discarded: try again"):
        fetch_repository(NAME)
    hub.replaced.clear()
    assert (fetch_repository(NAME) / name).read_bytes() == FILES[name]


def test_a_truncated_file_is_refused(hub):
    hub.replaced["open_clip_model.safetensors"] = b"weights"
    with pytest.raises(DownloadError, match=f"^{NAME}: .*: the file on the server has 7 bytes, expected 7,000"):
        fetch_repository(NAME)


@pytest.mark.parametrize("name", ["clip", "a/b/c", "../x/y", ""])
def test_an_invalid_repository_name_is_refused(hub, name):
    with pytest.raises(DownloadError, match="not a repository; expected owner/name"):
        fetch_repository(name)
    assert hub.requests == []


def test_a_repository_without_weights_is_refused(hub):
    hub.files = {"README.md": b"", "setup.py": b""}
    with pytest.raises(DownloadError, match=r"has none of wordsight.json, open_clip_config.json"):
        fetch_repository(NAME)


def test_a_large_file_is_hashed_once(hub, monkeypatch):
    hashed = []
    monkeypatch.setattr("wordsight.cache.sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    fetch_repository(NAME)
    assert len(hashed) == 1
    fetch_repository(NAME)
    assert len(hashed) == 1


def test_a_name_with_the_hub_prefix_is_a_repository(hub):
    assert names(resolve(f"hf-hub:{NAME}")) == EXPECTED
    assert names(resolve(f"hf-hub:{NAME}@{COMMIT}")) == EXPECTED
