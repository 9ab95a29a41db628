"""Repositories from a server on loopback that speaks what huggingface_hub asks of the hub."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
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
WANTED = ["config.json", "merges.txt", "open_clip_config.json", "open_clip_model.safetensors", "vocab.json"]


def is_large(name: str) -> bool:
    return name.endswith((".bin", ".safetensors"))


def identity(name: str, content: bytes) -> str:
    """What the hub names a file by: the SHA-256 of large ones, git's SHA-1 of the others."""
    if is_large(name):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub(LoopbackServer):
    """One repository; `spoilt` says what is sent in place of a file, `status` what is answered in place of all."""

    files: dict[str, bytes]
    spoilt: dict[str, bytes]
    status: tuple[int, str] | None = None
    asked: list[str]


class Handler(QuietHandler):
    server: Hub

    def respond(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
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
        tag = identity(name, content)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'}
        if is_large(name):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-Etag": f'"{tag}"'}
        return self.send(200, hub.spoilt.get(name, content), headers)

    def described(self, name: str) -> dict[str, object]:
        content = self.server.files[name]
        found = {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
        if is_large(name):
            found["lfs"] = {"oid": identity(name, content), "size": len(content), "pointerSize": 134}
        else:
            found["oid"] = identity(name, content)
        return found

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
    found = Hub(("127.0.0.1", 0), Handler)
    found.files, found.spoilt, found.asked = dict(FILES), {}, []
    for name in ("HF_HUB_OFFLINE", "WORDSIGHT_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", found.address)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "own"))
    # what the library read from the environment when it was imported
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serving(found):
        yield found


def names(directory: Path) -> list[str]:
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir())


def test_what_a_model_needs_is_fetched_and_no_code(hub):
    directory = fetch_repository(NAME)
    assert names(directory) == WANTED
    assert all((directory / name).read_bytes() == FILES[name] for name in WANTED)
    assert not any("modeling" in asked or "pytorch_model" in asked for asked in hub.asked)


def test_where_there_is_no_safetensors_the_other_format_is_taken(hub):
    del hub.files["open_clip_model.safetensors"]
    assert "open_clip_pytorch_model.bin" in names(fetch_repository(NAME))


def test_shards_come_with_their_index(hub):
    for name in ("open_clip_config.json", "model.safetensors"):
        del hub.files[name]
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    hub.files |= {shards[0]: b"one", shards[1]: b"two", "model.safetensors.index.json": b"{}"}
    found = names(fetch_repository(NAME))
    assert found == ["config.json", "merges.txt", *shards, "model.safetensors.index.json", "vocab.json"]


def test_files_can_be_named(hub):
    assert names(fetch_repository(NAME, ["*.txt", "*.py"])) == ["merges.txt"]
    with pytest.raises(DownloadError, match=r"someone/tiny-clip: has none of x.json; it has config.json, merges.txt"):
        fetch_repository(NAME, ["x.json"])


def test_offline_what_was_fetched_is_found_and_nothing_is_asked(hub, monkeypatch):
    directory = fetch_repository(NAME)
    hub.asked.clear()
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert fetch_repository(NAME) == directory
    with pytest.raises(DownloadError, match="someone/other: not in the cache, and offline"):
        fetch_repository("someone/other")
    (directory / "open_clip_model.safetensors").unlink()
    with pytest.raises(DownloadError, match=r"in the cache \(offline\): not there: open_clip_model.safetensors"):
        fetch_repository(NAME)
    assert hub.asked == []


def test_where_the_hub_is_away_what_was_fetched_is_taken(hub):
    directory = fetch_repository(NAME)
    assert fetch_repository(NAME, mirror="http://127.0.0.1:1") == directory


def test_where_the_hub_is_away_and_nothing_was_fetched_one_line_says_so(hub):
    message = "someone/tiny-clip: http://127.0.0.1:1 cannot be reached, or broke off: .*; try again, or take a --mirror"
    with pytest.raises(DownloadError, match=message):
        fetch_repository(NAME, mirror="http://127.0.0.1:1")


def test_a_mirror_goes_before_the_environment(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert names(fetch_repository(NAME, mirror=hub.address)) == WANTED


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ((404, "RepoNotFound"), "no such repository on http://127.0.0.1:.*, or private"),
        ((401, "RepoNotFound"), "no such repository on http://127.0.0.1:.*, or private"),
        ((403, "GatedRepo"), "closed: accept its terms on"),
        ((500, ""), "http://127.0.0.1:.* answers 500; try again later"),
    ],
)
def test_a_refusal_is_one_line(hub, status, message):
    hub.status = status
    with pytest.raises(DownloadError, match=f"^{NAME}: {message}") as caught:
        fetch_repository(NAME)
    assert "\n" not in str(caught.value)


def test_a_revision_that_is_not_there_is_told(hub):
    with pytest.raises(DownloadError, match="no such revision on"):
        fetch_repository(NAME, revision="v2")


@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_config.json"])
def test_a_damaged_file_is_refused_and_fetched_again_next_time(hub, name):
    hub.spoilt[name] = FILES[name][::-1]
    with pytest.raises(DownloadError, match=rf"{NAME}: {name} is damaged: its hash is .*; it was deleted: try again"):
        fetch_repository(NAME)
    hub.spoilt.clear()
    assert (fetch_repository(NAME) / name).read_bytes() == FILES[name]


def test_a_truncated_file_is_refused(hub):
    hub.spoilt["open_clip_model.safetensors"] = b"weights"
    with pytest.raises(DownloadError, match=f"^{NAME}: .*cannot be reached, or broke off: .*"):
        fetch_repository(NAME)


@pytest.mark.parametrize("name", ["clip", "a/b/c", "../x/y", ""])
def test_what_is_no_repository_is_refused(hub, name):
    with pytest.raises(DownloadError, match="not a repository; expected owner/name"):
        fetch_repository(name)
    assert hub.asked == []


def test_a_repository_without_weights_is_refused(hub):
    hub.files = {"README.md": b"", "setup.py": b""}
    with pytest.raises(DownloadError, match=r"not there: a model: none of wordsight.json, open_clip_config.json"):
        fetch_repository(NAME)


def test_a_large_file_is_hashed_once(hub, monkeypatch):
    hashed = []
    monkeypatch.setattr(
        "wordsight.weights.hub.digests.sha256_file", lambda path: hashed.append(path) or sha256_file(path)
    )
    fetch_repository(NAME)
    assert len(hashed) == 1
    fetch_repository(NAME)
    assert len(hashed) == 1


def test_a_name_with_the_prefix_of_the_hub_is_a_repository(hub):
    assert names(resolve(f"hf-hub:{NAME}")) == WANTED
    assert names(resolve(f"hf-hub:{NAME}@{COMMIT}")) == WANTED
