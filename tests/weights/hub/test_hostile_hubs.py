"""Hubs and mirrors that lie: a download ends in one line, and nothing outside the cache is written, read or removed."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving

from wordsight.cli import main
from wordsight.errors import ConfigError, OutputError, WordsightError
from wordsight.weights.hub.listing import MAX_LISTING_BYTES, select_endpoint
from wordsight.weights.hub.repository import MAX_DESCRIPTION_BYTES, MAX_FILES, MAX_WEIGHTS_BYTES, fetch_repository

NAME = "someone/tiny-clip"
COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "f" * 40
CONFIG, WEIGHTS = b'{"model_cfg": {}}', b"weights" * 1000
FILES = {"open_clip_config.json": CONFIG, "open_clip_model.safetensors": WEIGHTS}
MAX_S = 10.0


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(name: str, content: bytes) -> dict[str, Any]:
    """A file as the hub describes it with `blobs=true`."""
    described: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
    if name.endswith((".bin", ".safetensors")):
        sha256 = hashlib.sha256(content).hexdigest()
        described["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
    return described


class Hub(LoopbackServer):
    """One repository, with the answers of the API and the contents of files that tests replace."""

    commit: str = COMMIT
    entries: list[dict[str, Any]]
    files: dict[str, bytes]
    answer: bytes | None = None
    file_headers: dict[str, str]
    file_status = 200
    requests: list[tuple[str, str]]
    block_bytes = 1 << 20
    pause_s = 0.0


class Handler(QuietHandler):
    server: Hub

    def respond(self) -> None:
        hub = self.server
        hub.requests.append((self.path, self.headers.get("Authorization", "")))
        if self.path.startswith("/api/"):
            described = {"sha": hub.commit, "siblings": hub.entries}
            return self.send(200, json.dumps(described).encode() if hub.answer is None else hub.answer, {})
        name = self.path.rpartition("/")[2]
        return self.send(hub.file_status, hub.files.get(name, b"?"), hub.file_headers)

    def send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        start = int(self.headers["Range"][6:-1]) if status == 200 and "Range" in self.headers else 0
        self.send_response(206 if start else status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        for name, value in {"Content-Length": str(len(content) - start), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for offset in range(start, len(content), self.server.block_bytes):
                self.wfile.write(content[offset : offset + self.server.block_bytes])
                time.sleep(self.server.pause_s)
        except OSError:  # the client closed the connection
            pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    server.files = dict(FILES)
    server.entries = [entry(name, content) for name, content in FILES.items()]
    server.file_headers, server.requests = {}, []
    for name in ("HF_HUB_OFFLINE", "WORDSIGHT_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "work" / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "work" / "home"))
    with serving(server):
        yield server


@pytest.fixture
def victims(tmp_path: Path) -> Iterator[Path]:
    """Files outside the cache; nothing may be added, changed or removed."""
    directory = tmp_path / "victims"
    (directory / "site-packages").mkdir(parents=True)
    (directory / ("d" * 40)).write_text("my only copy")
    (directory / ("d" * 64)).write_text("my only copy")

    def state() -> list[tuple[str, int]]:
        paths = (path for path in tmp_path.rglob("*") if "work" not in path.relative_to(tmp_path).parts)
        return sorted((str(path), path.lstat().st_mtime_ns) for path in paths)

    before = state()
    yield directory
    assert state() == before


def refusal(function: Callable[[], object]) -> str:
    begin_s = time.monotonic()
    with pytest.raises(WordsightError) as caught:
        function()
    assert time.monotonic() - begin_s < MAX_S
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


PATHS = ["../../../../victims/evil", "{victims}/evil.pth", "{victims}/" + "d" * 40, "..", ".", "", "a/b", "\x1b[31m"]
PATHS += ["C:\\evil", "..\\evil", "0" * 39, "0" * 41, "0" * 40 + "\n", "A" * 40, "\u0660" * 40, "x" * 1000, "%2e%2e%2f"]


@pytest.mark.parametrize("path", PATHS)
def test_a_commit_that_is_not_a_hash_is_refused(hub, victims, path):
    hub.commit = path.format(victims=victims)
    assert "expected 40 digits of hexadecimal" in refusal(lambda: fetch_repository(NAME))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["blobId", "sha256"])
def test_a_hash_that_is_not_one_is_refused(hub, victims, path, key):
    target = hub.entries[0] if key == "blobId" else hub.entries[1]["lfs"]
    target[key] = path.format(victims=victims)
    assert "expected 40 or 64 digits of hexadecimal" in refusal(lambda: fetch_repository(NAME))


@pytest.mark.parametrize("path", PATHS)
def test_headers_of_a_file_name_nothing(hub, victims, path):
    path = path.format(victims=victims).replace("\n", "").encode("ascii", "replace").decode()
    hub.file_headers = {"ETag": f'"{path}"', "X-Linked-Etag": f'"{path}"', "X-Repo-Commit": path, "X-Linked-Size": path}
    hub.file_headers["Content-Disposition"] = f'attachment; filename="{path}"'
    directory = fetch_repository(NAME)
    assert directory.name == COMMIT
    assert names(directory) == sorted(FILES)


NAMES = ["../open_clip_model.safetensors", "..", "/etc/passwd.json", "a\\..\\b.json", "C:evil.json", ".hidden.json"]
NAMES += ["a/../../b.json", "\x1b[31m.json", "a\nb.json", "a\x00.json", "x" * 300 + ".json", "..json", "\u202egpj.json"]
NAMES += ["-rf.json", "a b.json", "~.json", "\u00e9.json", "a..b.json", "CON:.json"]


@pytest.mark.parametrize("name", NAMES)
def test_unusual_file_names_are_never_requested(hub, victims, name):
    hub.entries.append({**entry("a.json", b"{}"), "rfilename": name})
    directory = fetch_repository(NAME)
    assert names(directory) == sorted(FILES)
    assert len(hub.requests) == 1 + len(FILES)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "is not that of a hub"),
        (b"", "is not that of a hub"),
        (b"[" * 100_000 + b"]" * 100_000, "is not that of a hub"),
        (b'{"sha": "' + b"a" * 40 + b'", "siblings": ' + b"[" * 100_000, "is not that of a hub"),
        (b'{"sha": {}, "siblings": []}', "is not that of a hub"),
        (b'{"sha": "' + b"a" * 40 + b'", "siblings": null}', "is not that of a hub"),
        (b'{"sha": "' + b"a" * 40 + b'", "siblings": [{"rfilename": 5}]}', "is not that of a hub"),
        (b'{"sha": "' + b"a" * 40 + b'", "siblings": [{"rfilename": "config.json", "size": 1e400}]}', "that of a hub"),
        (b'{"sha": "\xff\xfe"}', "is not that of a hub"),
        (b'{"sha": "' + b"a" * 40 + b'", "siblings": []}', "has none of"),
        (b" " * (MAX_LISTING_BYTES + 1), "it has more than 8,388,608 bytes"),
        (b'{"error": "\\u001b[31m"}', "is not that of a hub"),
    ],
)
def test_an_answer_that_is_not_a_listing_is_one_line(hub, answer, message):
    hub.answer = answer
    assert message in refusal(lambda: fetch_repository(NAME))


@pytest.mark.parametrize("size", [-1, None, "5", 2.5, 10**30, True])
def test_a_size_that_is_not_one_is_refused(hub, size):
    hub.entries[0]["size"] = size
    refusal(lambda: fetch_repository(NAME))


def test_sizes_beyond_the_limits_are_refused_before_anything_is_downloaded(hub):
    hub.entries[0]["size"] = MAX_DESCRIPTION_BYTES + 1
    assert "open_clip_config.json has 67,108,865 bytes" in refusal(lambda: fetch_repository(NAME))
    hub.entries[0]["size"] = len(CONFIG)
    hub.entries[1]["lfs"]["size"] = MAX_WEIGHTS_BYTES + 1
    assert "open_clip_model.safetensors has 68,719,476,737 bytes" in refusal(lambda: fetch_repository(NAME))
    hub.entries[1]["lfs"]["size"] = len(WEIGHTS)
    hub.entries += [entry(f"{number}.json", b"{}") for number in range(MAX_FILES)]
    assert "1,002 files, expected at most 1,000" in refusal(lambda: fetch_repository(NAME))
    assert not any("/resolve/" in path for path, _ in hub.requests)


def test_another_commit_than_the_one_that_was_requested_is_refused(hub):
    assert f"expected {OLDER}" in refusal(lambda: fetch_repository(NAME, revision=OLDER))


def test_the_stated_size_bounds_a_file(hub, tmp_path):
    hub.files["open_clip_model.safetensors"] = WEIGHTS + b"more"
    assert "7,004 bytes, expected 7,000" in refusal(lambda: fetch_repository(NAME))
    assert not any("safetensors" in path.name for path in tmp_path.rglob("*"))


REPOSITORIES = ["..", "../..", "a/..", "../a", ".a/b", "a/.b", "a--b/c", "a/b/c", "a", "", "a/b\n", "\u00e9/b", "a/b c"]
REPOSITORIES += ["-a/b", "a\\b/c", "a/" + "b" * 200, "a/b?x=1", "a/b#x", "a/%2e%2e", "a/b..c"]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_a_repository_name_that_could_be_another_path_is_refused(hub, name):
    assert "not a repository; expected owner/name" in refusal(lambda: fetch_repository(name))
    assert hub.requests == []


@pytest.mark.parametrize("revision", ["..", "a/../b", "/etc", "-x", "a b", "a\n", "\x1b", "a?b", "a#b", "x" * 300])
def test_a_revision_that_could_be_another_path_is_refused(hub, revision):
    assert "not a revision" in refusal(lambda: fetch_repository(NAME, revision=revision))
    assert hub.requests == []


def test_a_revision_with_a_slash_is_one_segment_of_the_path(hub):
    fetch_repository(NAME, revision="refs/pr/1")
    assert hub.requests[0][0] == f"/api/models/{NAME}/revision/refs%2Fpr%2F1?blobs=true"


# --- access tokens ---


def test_the_token_is_sent_to_the_endpoint_only(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    other = Hub(("127.0.0.1", 0), Handler)
    other.files, other.requests, other.file_headers = dict(FILES), [], {}
    with serving(other):
        hub.file_status, hub.file_headers = 302, {"Location": f"{other.address}/open_clip_config.json"}
        refusal(lambda: fetch_repository(NAME))
    assert {authorization for _, authorization in hub.requests} == {"Bearer hf_secret"}
    assert [authorization for _, authorization in other.requests] == ["", ""]


def test_the_token_is_not_sent_to_another_mirror(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    fetch_repository(NAME, mirror=hub.address)
    assert {authorization for _, authorization in hub.requests} == {""}


def test_the_token_of_hf_auth_login_is_used(hub, monkeypatch, tmp_path):
    (tmp_path / "work" / "home").mkdir(parents=True)
    (tmp_path / "work" / "home" / "token").write_text("hf_stored\n")
    fetch_repository(NAME)
    assert {authorization for _, authorization in hub.requests} == {"Bearer hf_stored"}


@pytest.mark.parametrize("token", ["hf_se cret", "hf_secret\r\nX: y", "hf_s\u00e9cret", "hf_secret\x00"[:-1] + "\x7f"])
def test_a_token_that_cannot_be_sent_is_refused_without_being_shown(hub, monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ConfigError, match="HF_TOKEN: not an access token") as caught:
        fetch_repository(NAME)
    assert "cret" not in str(caught.value)


def test_no_representation_of_a_server_has_its_token(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    endpoint = select_endpoint(None)
    assert endpoint.address("/x").authorization == "Bearer hf_secret"
    assert "secret" not in f"{endpoint} {endpoint!r} {endpoint.address('/x')} {endpoint.address('/x')!r}"


MIRRORS = [
    "http://user:secret@127.0.0.1:1",
    "user:secret@host",
    "ftp://user:secret@host",
    "http://user:secret@host:port",
]
MIRRORS += ["http://user:secret@host/\x1b[31m", "http://127.0.0.1:1/?token=secret", "http://user:secret@[::1"]


@pytest.mark.parametrize("is_offline", [False, True])
@pytest.mark.parametrize("mirror", MIRRORS)
@pytest.mark.parametrize("model", ["openai/RN50", "datacomp/ViT-B-16", f"hf-hub:{NAME}"])
def test_the_password_of_a_mirror_is_never_printed(hub, capsys, mirror, model, is_offline, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if is_offline:
        monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert main(["models", model, "--fetch", "--mirror", mirror]) == 2
    out, err = capsys.readouterr()
    assert "secret" not in out + err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_the_password_of_a_mirror_is_sent_to_it(hub):
    fetch_repository(NAME, mirror=hub.address.replace("//", "//user:secret@"))
    assert {authorization for _, authorization in hub.requests} == {"Basic dXNlcjpzZWNyZXQ="}  # user:secret in Base64


@pytest.mark.parametrize("status", [401, 403])
def test_files_of_a_gated_repository_say_what_to_do(hub, status):
    hub.file_status, hub.file_headers = status, {"X-Error-Code": "GatedRepo"}
    assert "the repository is gated: accept its terms" in refusal(lambda: fetch_repository(NAME))


# --- the cache ---


def test_files_are_shared_between_revisions(hub):
    hub.commit = OLDER
    older = fetch_repository(NAME)
    hub.commit, hub.entries[0], hub.files["open_clip_config.json"] = (
        COMMIT,
        entry("open_clip_config.json", b"{}"),
        b"{}",
    )
    hub.requests.clear()
    newer = fetch_repository(NAME)
    assert [path.rpartition("/")[2] for path, _ in hub.requests[1:]] == ["open_clip_config.json"]
    assert [(path / "open_clip_config.json").read_bytes() for path in (older, newer)] == [CONFIG, b"{}"]
    assert (newer / "open_clip_model.safetensors").read_bytes() == WEIGHTS


def test_a_mirror_cannot_replace_a_file_of_the_hub(hub):
    """The same commit and names with other contents, from a mirror, are replaced when the hub is asked."""
    original = list(hub.entries)
    hub.entries = [entry(name, content[::-1]) for name, content in FILES.items()]
    hub.files = {name: content[::-1] for name, content in FILES.items()}
    fetch_repository(NAME)
    hub.entries, hub.files = original, dict(FILES)
    assert (fetch_repository(NAME) / "open_clip_model.safetensors").read_bytes() == WEIGHTS


def test_a_damaged_file_in_the_cache_is_replaced_online_and_refused_offline(hub, monkeypatch):
    path = fetch_repository(NAME) / "open_clip_model.safetensors"
    path.write_bytes(WEIGHTS[::-1])
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert "is damaged: its size or hash has changed" in refusal(lambda: fetch_repository(NAME))
    monkeypatch.delenv("WORDSIGHT_OFFLINE")
    fetch_repository(NAME)
    assert path.read_bytes() == WEIGHTS


def test_a_link_in_the_cache_is_replaced_and_its_target_is_kept(hub, victims):
    path = fetch_repository(NAME) / "open_clip_config.json"
    path.unlink()
    target = victims / ("d" * 40)
    path.symlink_to(target)
    fetch_repository(NAME)
    assert not path.is_symlink()
    assert path.read_bytes() == CONFIG


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 10_000, b'{"commits": {"../../x": {}}}', b"\xff" * 100])
def test_a_damaged_index_is_written_again(hub, monkeypatch, content):
    directory = fetch_repository(NAME)
    (directory.parent / "index.json").write_bytes(content)
    assert fetch_repository(NAME) == directory
    monkeypatch.setenv("WORDSIGHT_OFFLINE", "1")
    assert fetch_repository(NAME) == directory


def test_a_read_only_cache_is_used(hub, monkeypatch):
    directory = fetch_repository(NAME)
    monkeypatch.setattr("wordsight.weights.hub.snapshots.write_atomic", lambda path, content: fail(path))
    assert fetch_repository(NAME, revision="v1") == directory


def fail(path: Path) -> None:
    raise OutputError(f"{path}: cannot be written")


def library_cache(home: Path, blobs: dict[str, bytes], commit: str = COMMIT, links: bool = True) -> Path:
    """A repository in the layout of Hugging Face's libraries; the names of `blobs` are those in the snapshot."""
    root = home / "hub" / f"models--{NAME.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(commit)
    for name, content in blobs.items():
        digest = hashlib.sha256(content).hexdigest() if "safetensors" in name else git_hash(content)
        if links:
            (root / "blobs" / digest).write_bytes(content)
            (snapshot / name).symlink_to(f"../../blobs/{digest}")
        else:
            (snapshot / name).write_bytes(content)
    return root


@pytest.mark.parametrize("links", [True, False])
def test_what_the_library_has_downloaded_is_not_downloaded_again(hub, tmp_path, links):
    root = library_cache(tmp_path / "work" / "home", FILES, links=links)
    before = sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*"))
    directory = fetch_repository(NAME)
    assert {name: (directory / name).read_bytes() for name in FILES} == FILES
    assert len(hub.requests) == 1
    assert sorted((path, path.lstat().st_mtime_ns) for path in root.rglob("*")) == before


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("revision", [None, COMMIT])
def test_the_library_s_cache_is_used_offline(hub, tmp_path, monkeypatch, links, revision):
    root = library_cache(tmp_path / "work" / "home", FILES, links=links)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    directory = fetch_repository(NAME, revision=revision)
    assert directory == root / "snapshots" / COMMIT
    assert hub.requests == []
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert "not in the cache" in refusal(lambda: fetch_repository(NAME, revision=revision))


def test_a_damaged_blob_of_the_library_is_not_used_and_not_removed(hub, tmp_path, monkeypatch):
    root = library_cache(tmp_path / "work" / "home", FILES)
    blob = root / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()
    blob.write_bytes(WEIGHTS[::-1])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "is damaged" in refusal(lambda: fetch_repository(NAME))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert (fetch_repository(NAME) / "open_clip_model.safetensors").read_bytes() == WEIGHTS
    assert blob.read_bytes() == WEIGHTS[::-1]


@pytest.mark.parametrize("target", ["file", "hash", "name", "loop", "outside"])
def test_a_link_out_of_the_library_s_cache_is_not_followed(hub, tmp_path, victims, monkeypatch, target):
    """An earlier version let a mirror name blobs, so such links may exist."""
    root = library_cache(tmp_path / "work" / "home", {"open_clip_config.json": CONFIG})
    link = root / "snapshots" / COMMIT / "open_clip_model.safetensors"
    (root / "blobs" / "evil").write_bytes(WEIGHTS)
    outside = tmp_path / "work" / hashlib.sha256(WEIGHTS).hexdigest()
    outside.write_bytes(WEIGHTS)
    links = {"file": "/etc/passwd", "hash": victims / ("d" * 64), "name": "../../blobs/evil", "outside": outside}
    link.symlink_to(links.get(target, link))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = refusal(lambda: fetch_repository(NAME))
    assert ("not named after its hash" if target == "name" else "has none of open_clip_model.safetensors") in message
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert (fetch_repository(NAME) / "open_clip_model.safetensors").read_bytes() == WEIGHTS
    assert (outside.read_bytes(), link.is_symlink()) == (WEIGHTS, True)


@pytest.mark.parametrize("reference", ["../../../victims", "a" * 1000, "\x00", ""])
def test_a_damaged_reference_of_the_library_is_ignored(hub, tmp_path, monkeypatch, reference):
    root = library_cache(tmp_path / "work" / "home", FILES)
    (root / "refs" / "main").write_text(reference)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not in the cache" in refusal(lambda: fetch_repository(NAME))


def test_a_full_disk_is_one_line(hub, tmp_path, monkeypatch):
    directory = tmp_path / "work" / "small"
    directory.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        monkeypatch.setenv("WORDSIGHT_CACHE", str(directory))
        content = bytes(100_000)
        hub.entries[1] = entry("open_clip_model.safetensors", content)
        hub.files["open_clip_model.safetensors"] = content
        assert "100,000 bytes needed" in refusal(lambda: fetch_repository(NAME))
    finally:
        subprocess.run(["umount", str(directory)], check=True)


FETCH = "import sys; from wordsight.weights.hub.repository import fetch_repository; print('ready', flush=True); "
FETCH += "fetch_repository(sys.argv[1], ['*.json', '*.safetensors'])"  # with patterns, torch is not imported


@pytest.mark.parametrize("num_kills", [3, pytest.param(40, marks=pytest.mark.slow)])
def test_a_killed_download_leaves_nothing_that_the_next_one_does_not_remove(hub, tmp_path, num_kills):
    chance = random.Random(num_kills)
    hub.block_bytes, hub.pause_s = 500, 0.005  # 0.1 s for both files
    cache = tmp_path / "work" / "cache"
    repositories = cache / "weights" / "hub"
    for _ in range(num_kills):
        command = [sys.executable, "-c", FETCH, NAME]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if chance.random() < 0.3:
            fetch_repository(NAME)
            assert [
                path for path in repositories.rglob("*") if "partial" in path.name or path.name == "downloads"
            ] == []
            shutil.rmtree(cache)
    directory = fetch_repository(NAME)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == FILES
    assert [path for path in repositories.rglob("*") if "partial" in path.name or path.name == "downloads"] == []


def test_several_threads_download_each_file_once(hub):
    hub.block_bytes, hub.pause_s = 500, 0.01
    with ThreadPoolExecutor(4) as pool:
        directories = list(pool.map(fetch_repository, [NAME] * 4))
    assert len(set(directories)) == 1
    assert len([path for path, _ in hub.requests if "/resolve/" in path]) == len(FILES)


def test_several_files_are_one_progress(hub):
    shown = []
    fetch_repository(NAME, progress=lambda done, total: shown.append((done, total)))
    total = len(CONFIG) + len(WEIGHTS)
    assert shown[-1] == (total, total)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)


def test_no_library_of_the_hub_is_needed_to_download(hub):
    code = "import sys; from wordsight.weights.hub.repository import fetch_repository; "
    code += (
        f"fetch_repository({NAME!r}); print([name for name in ('huggingface_hub', 'requests') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


HOSTILE_VALUES = [None, "", -1, 0, 1.5, 10**30, True, [], {}, "../x", "\x1b[31m", "a" * 40, "a" * 64, "x" * 100_000]


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in plain data."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], other)
    return copy


def test_every_value_of_a_listing_can_be_false(hub, victims):
    listing = {"sha": COMMIT, "siblings": [entry(name, content) for name, content in FILES.items()]}
    num_refused = 0
    for path in paths_in(listing):
        for value in HOSTILE_VALUES:
            hub.answer = json.dumps(replaced(listing, path, value)).encode()
            message = ""
            try:
                directory = fetch_repository(NAME)
            except WordsightError as error:
                message = str(error)
                num_refused += 1
            assert "\n" not in message, (path, value)
            assert len(message) < 1000, (path, value)
            assert message or {name: (directory / name).read_bytes() for name in FILES} == FILES, (path, value)
    assert num_refused > 50
