"""Remote shards, read from a loopback server that can be busy, cut connections and ignore range requests."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving, serving_bytes

from wordsight.data.inputs import detect_input
from wordsight.data.remote import RemoteCache, RemoteSettings
from wordsight.data.sample import Sample
from wordsight.data.shard_reader import is_shards, open_shards
from wordsight.data.shard_writer import writing_shards
from wordsight.errors import DataError, DownloadError
from wordsight.web import Patience

Images = Callable[..., bytes]


class Server(LoopbackServer):
    """Serves a directory; tests set its faults.

    Attributes:
        requests: path and Range header of every request.
    """

    root: Path
    busy = 0
    busy_after_a_cut = 0
    cut_after: int | None = None
    cuts = 0
    supports_ranges = True
    requests: list[tuple[str, str]]


class Handler(QuietHandler):
    server: Server

    def respond(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range", "")))
        path = server.root / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            return self.send_error(404)
        if server.busy and path.suffix == ".tar":
            server.busy -= 1
            return self.send_error(503)
        content = path.read_bytes()
        start = int(self.headers["Range"][6:-1]) if "Range" in self.headers and server.supports_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        content = content[start:]
        if server.cuts and path.suffix == ".tar":
            server.cuts -= 1
            content = content[: server.cut_after]
            server.busy = server.busy_after_a_cut
        self.wfile.write(content)
        return None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    instance = Server(("127.0.0.1", 0), Handler)
    instance.root = tmp_path / "served"
    instance.root.mkdir()
    instance.requests = []
    with serving(instance):
        yield instance


@pytest.fixture
def cache(tmp_path: Path) -> RemoteCache:
    return RemoteCache(tmp_path / "cache", RemoteSettings(patience=Patience(tries=3, pause_s=0.001)))


@pytest.fixture
def served(server: Server, image: Images) -> str:
    """The address of three shards of three samples with a manifest."""
    with writing_shards(server.root / "set", max_samples=3) as writer:
        for number in range(9):
            writer.add(Sample(key=f"k{number}", image=image(number), captions=(f"caption {number}",)))
        writer.finish()
    return f"{server.address}/set/{{000000..000002}}.tar"


def test_remote_samples_equal_local_ones_and_each_shard_is_fetched_once(
    served: str, server: Server, cache: RemoteCache
) -> None:
    remote, local = open_shards(served, cache), open_shards(server.root / "set")
    assert [path for path, _ in server.requests] == ["/set/manifest.json"]  # the counts need no shard
    assert len(remote) == 9
    assert remote.fingerprint == local.fingerprint
    for number in (8, 0, 4, 1):
        sample, expected = remote.sample(number), local.sample(number)
        assert (sample.key, sample.image, sample.captions) == (expected.key, expected.image, expected.captions)
    assert sample.shard.startswith("http://")
    assert sorted(path for path, _ in server.requests[1:]) == [f"/set/00000{number}.tar" for number in range(3)]
    open_shards(served, RemoteCache(cache.directory, cache.settings)).sample(0)
    assert len(server.requests) == 5  # the manifest again, no shard


def test_shards_without_a_manifest_can_be_read(served: str, server: Server, cache: RemoteCache) -> None:
    (server.root / "set" / "manifest.json").unlink()
    shards = open_shards(served + "?token=x", cache)
    assert [len(shards), shards.sample(5).key] == [9, "k5"]


def test_a_busy_server_is_retried_but_not_forever(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.busy = 2
    assert shards.sample(0).key == "k0"
    server.busy = 99
    with pytest.raises(DownloadError, match=r"000001\.tar: the server answers 503"):
        shards.sample(3)
    assert [path.suffix for path in cache.directory.glob(".*")] == [".lock", ".lock"]


@pytest.mark.parametrize("supports_ranges", [True, False])
def test_an_interrupted_download_is_continued(
    served: str, server: Server, cache: RemoteCache, supports_ranges: bool
) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after, server.supports_ranges = 2, 1500, supports_ranges
    assert shards.sample(0).key == "k0"
    ranges = [header for path, header in server.requests if path == "/set/000000.tar"]
    assert ranges == (["", "bytes=1500-", "bytes=3000-"] if supports_ranges else ["", "bytes=1500-", "bytes=1500-"])


def test_a_connection_that_is_always_cut_is_a_one_line_error(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after = 99, 0
    with pytest.raises(DownloadError, match=r"000000\.tar: the connection ended early \(3 attempts, at byte 0\)"):
        shards.sample(0)


def test_content_that_differs_from_the_manifest_is_refused(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    path = server.root / "set" / "000000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"received a file with SHA-256 \w+, expected \w+; the file was discarded"):
        shards.sample(0)
    assert [path.suffix for path in cache.directory.iterdir()] == [".lock"]


def test_missing_shards_and_servers_are_one_line_errors(served: str, server: Server, cache: RemoteCache) -> None:
    with pytest.raises(DownloadError, match="not on the server"):
        open_shards(served.replace("{000000..000002}", "x"), cache)
    with pytest.raises(DownloadError, match="check the URL"):
        open_shards("http://127.0.0.1:9/set/000000.tar", cache)
    with pytest.raises(DownloadError, match="nonnumeric port"):
        open_shards("http://127.0.0.1:port/000000.tar", cache)
    with pytest.raises(DownloadError, match="not a valid URL"):
        open_shards("http://[127/000000.tar", cache)


def test_the_cache_stays_within_its_limit_and_fetches_deleted_copies_again(
    served: str, server: Server, tmp_path: Path
) -> None:
    size = (server.root / "set" / "000000.tar").stat().st_size
    cache = RemoteCache(tmp_path / "small", RemoteSettings(max_bytes=2 * size + 100))
    shards = open_shards(served, cache)
    for number in (0, 3, 6, 0, 8, 4):
        assert shards.sample(number).key == f"k{number}"
        assert len(list(cache.directory.glob("*.tar"))) <= 2
    assert len([path for path, _ in server.requests if path == "/set/000000.tar"]) == 2


def test_a_shard_above_the_limit_is_refused(served: str, tmp_path: Path) -> None:
    shards = open_shards(served, RemoteCache(tmp_path / "c", RemoteSettings(max_shard_bytes=100)))
    with pytest.raises(DownloadError, match=r"8,704 bytes, expected at most 100; check the URL"):
        shards.sample(0)


def test_the_next_run_continues_an_interrupted_download(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after = 1, 1500
    server.busy_after_a_cut = 99
    with pytest.raises(DownloadError):
        shards.sample(0)
    server.busy = server.busy_after_a_cut = 0
    assert open_shards(served, RemoteCache(cache.directory, cache.settings)).sample(0).key == "k0"
    assert server.requests[-1] == ("/set/000000.tar", "bytes=1500-")


def test_the_offline_switch_of_the_hub_does_not_affect_shards(
    served: str, cache: RemoteCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert open_shards(served, cache).sample(4).key == "k4"


def test_only_remote_shards_have_a_window(served: str, cache: RemoteCache, server: Server) -> None:
    assert open_shards(served, cache).window is not None
    assert open_shards(server.root / "set").window is None


# --- servers that lie, and addresses with credentials ---


def test_an_address_that_pathlib_has_shortened_is_remote(served: str, cache: RemoteCache) -> None:
    assert is_shards(Path(served))
    assert open_shards(Path(served), cache).sample(4).key == "k4"


@pytest.mark.parametrize(
    "path", ["s3://key:secret@bucket/x.tar", "file:///tmp/x.tar", "gs://b/x?token=secret", "hf://x"]
)
@pytest.mark.parametrize("as_path", [str, Path])
def test_another_scheme_is_refused_without_its_credentials(path: str, as_path: Callable[[str], str | Path]) -> None:
    for function in (is_shards, open_shards, detect_input):
        with pytest.raises(DataError, match="cannot be read, only https:// and http://") as caught:
            function(as_path(path))
        assert "secret" not in str(caught.value)


def test_a_file_address_is_shown_with_its_path() -> None:
    for path in ("file:///etc/passwd", "file:/etc/passwd"):
        with pytest.raises(DataError, match=r"^file:///etc/passwd: .* pass the path without file://"):
            is_shards(path)


def test_a_path_that_looks_like_an_address_is_a_path_if_it_exists(
    served: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set:").mkdir()
    shutil.copytree(server.root / "set", tmp_path / "set:" / "x")
    assert len(open_shards("set:/x")) == 9


def test_credentials_of_an_address_are_in_no_message_and_no_sample(
    served: str, server: Server, cache: RemoteCache, tmp_path: Path
) -> None:
    address = served.replace("//", "//user:secret@") + "?X-Amz-Signature=secret"
    assert open_shards(address, cache).sample(0).shard == f"{server.address}/set/000000.tar"
    assert not any("secret" in path.name or b"secret" in path.read_bytes() for path in cache.directory.iterdir())
    for bad in (address.replace("000002", "000009"), address.replace("/set/", "/none/"), f"{address}#\x1b"):
        with pytest.raises((DataError, DownloadError)) as caught:
            open_shards(bad, cache).sample(0)
        assert "secret" not in str(caught.value)
    server.busy = 99
    with pytest.raises(DownloadError) as caught:
        open_shards(address, RemoteCache(tmp_path / "new", cache.settings)).sample(0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"samples": 10**12},
        {"samples": -1},
        {"samples": 10**30},
        {"bytes": -1},
        {"sha256": ""},
        {"sha256": "a"},
        {"sha256": "../../x"},
        {"sha256": "A" * 64},
        {"samples": 10, "bytes": 10 * 1024 - 1},
    ],
)
def test_numbers_and_hashes_of_a_manifest_that_cannot_be_are_refused(
    served: str, server: Server, cache: RemoteCache, change: dict[str, object]
) -> None:
    path = server.root / "set" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shards"][1] |= change
    path.write_text(json.dumps(manifest))
    with pytest.raises(DownloadError, match=r"set/manifest.json: the shard '000001.tar' cannot have"):
        open_shards(served, cache)


def test_a_manifest_cannot_empty_the_cache(served: str, server: Server, cache: RemoteCache) -> None:
    open_shards(served, cache).sample(0)
    copies = list(cache.directory.glob("*.tar"))
    path = server.root / "set" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["shards"][1]["bytes"] = 1 << 60
    path.write_text(json.dumps(manifest))
    settings = RemoteSettings(max_bytes=1 << 20, max_shard_bytes=1 << 18, patience=cache.settings.patience)
    with pytest.raises(DownloadError, match="expected"):
        open_shards(served, RemoteCache(cache.directory, settings)).sample(3)
    assert [copy.exists() for copy in copies] == [True]


def test_a_manifest_without_end_is_refused(cache: RemoteCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordsight.data.remote.MAX_REMOTE_MANIFEST_BYTES", 100_000)

    def respond(request: bytes, send: Callable[[bytes], None]) -> None:
        send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            send(b"[" * 10_000)

    with serving_bytes(respond) as address, pytest.raises(DownloadError, match="more than 100,000 bytes"):
        open_shards(f"{address}/set/000000.tar", cache)


@pytest.mark.parametrize("content", [b"<html>", b"[" * 100_000, b'{"format": "wordsight-shards-1"}', b"\xff"])
def test_anything_but_our_manifest_is_no_manifest(
    served: str, server: Server, cache: RemoteCache, content: bytes
) -> None:
    (server.root / "set" / "manifest.json").write_bytes(content)
    assert open_shards(served, cache).sample(4).key == "k4"
