"""Remote shards against a web server on loopback that can be busy, cut connections and ignore ranges."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving

from wordsight.data.remote import RemoteCache, RemoteSettings
from wordsight.data.sample import Sample
from wordsight.data.shard_reader import open_shards
from wordsight.data.shard_writer import writing_shards
from wordsight.errors import DownloadError
from wordsight.web import Patience

Images = Callable[..., bytes]


class Server(LoopbackServer):
    """Serves a directory; what it does wrong is set by the tests."""

    root: Path
    busy = 0
    busy_after_a_cut = 0
    cut_after: int | None = None
    cuts = 0
    knows_ranges = True
    asked: list[tuple[str, str]]


class Handler(QuietHandler):
    server: Server

    def respond(self) -> None:
        server = self.server
        server.asked.append((self.path, self.headers.get("Range", "")))
        path = server.root / self.path.lstrip("/").partition("?")[0]
        if not path.is_file():
            return self.send_error(404)
        if server.busy and path.suffix == ".tar":
            server.busy -= 1
            return self.send_error(503)
        content = path.read_bytes()
        start = int(self.headers["Range"][6:-1]) if "Range" in self.headers and server.knows_ranges else 0
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
    found = Server(("127.0.0.1", 0), Handler)
    found.root = tmp_path / "served"
    found.root.mkdir()
    found.asked = []
    with serving(found):
        yield found


@pytest.fixture
def cache(tmp_path: Path) -> RemoteCache:
    return RemoteCache(tmp_path / "cache", RemoteSettings(patience=Patience(tries=3, pause_s=0.001)))


@pytest.fixture
def served(server: Server, image: Images) -> str:
    """Three shards of three samples with a manifest; their address."""
    with writing_shards(server.root / "set", max_samples=3) as writer:
        for number in range(9):
            writer.add(Sample(key=f"k{number}", image=image(number), captions=(f"caption {number}",)))
        writer.finish()
    return f"{server.address}/set/{{000000..000002}}.tar"


def test_remote_samples_equal_local_ones_and_each_shard_comes_once(
    served: str, server: Server, cache: RemoteCache
) -> None:
    remote, local = open_shards(served, cache), open_shards(server.root / "set")
    assert [path for path, _ in server.asked] == ["/set/manifest.json"]  # lengths need no shard
    assert len(remote) == 9
    assert remote.fingerprint == local.fingerprint
    for number in (8, 0, 4, 1):
        found, expected = remote.sample(number), local.sample(number)
        assert (found.key, found.image, found.captions) == (expected.key, expected.image, expected.captions)
    assert found.shard.startswith("http://")
    assert sorted(path for path, _ in server.asked[1:]) == [f"/set/00000{number}.tar" for number in range(3)]
    open_shards(served, RemoteCache(cache.directory, cache.settings)).sample(0)
    assert len(server.asked) == 5  # the manifest again, no shard


def test_shards_without_a_manifest_are_read_too(served: str, server: Server, cache: RemoteCache) -> None:
    (server.root / "set" / "manifest.json").unlink()
    shards = open_shards(served + "?token=x", cache)
    assert [len(shards), shards.sample(5).key] == [9, "k5"]


def test_a_busy_server_is_asked_again_and_not_for_ever(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.busy = 2
    assert shards.sample(0).key == "k0"
    server.busy = 99
    with pytest.raises(DownloadError, match=r"000001\.tar: the server answers 503"):
        shards.sample(3)
    assert [path.suffix for path in cache.directory.glob(".*")] == [".lock", ".lock"]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_a_cut_connection_is_continued(served: str, server: Server, cache: RemoteCache, knows_ranges: bool) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after, server.knows_ranges = 2, 1500, knows_ranges
    assert shards.sample(0).key == "k0"
    ranges = [given for path, given in server.asked if path == "/set/000000.tar"]
    assert ranges == (["", "bytes=1500-", "bytes=3000-"] if knows_ranges else ["", "bytes=1500-", "bytes=1500-"])


def test_a_connection_that_is_always_cut_is_one_line(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after = 99, 0
    with pytest.raises(DownloadError, match=r"000000\.tar: the connection ended early \(3 attempts, at byte 0\)"):
        shards.sample(0)


def test_another_content_than_the_manifest_says_is_refused(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    path = server.root / "set" / "000000.tar"
    content = bytearray(path.read_bytes())
    content[600] ^= 1
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=r"received a file with SHA-256 \w+, expected \w+; the file was discarded"):
        shards.sample(0)
    assert [path.suffix for path in cache.directory.iterdir()] == [".lock"]


def test_missing_shards_and_servers_are_one_line(served: str, server: Server, cache: RemoteCache) -> None:
    with pytest.raises(DownloadError, match="not on the server"):
        open_shards(served.replace("{000000..000002}", "x"), cache)
    with pytest.raises(DownloadError, match="check the URL"):
        open_shards("http://127.0.0.1:9/set/000000.tar", cache)
    with pytest.raises(DownloadError, match="nonnumeric port"):
        open_shards("http://127.0.0.1:port/000000.tar", cache)
    with pytest.raises(DownloadError, match="not a valid URL"):
        open_shards("http://[127/000000.tar", cache)


def test_the_cache_keeps_its_bound_and_fetches_again_what_it_dropped(
    served: str, server: Server, tmp_path: Path
) -> None:
    size = (server.root / "set" / "000000.tar").stat().st_size
    cache = RemoteCache(tmp_path / "small", RemoteSettings(max_bytes=2 * size + 100))
    shards = open_shards(served, cache)
    for number in (0, 3, 6, 0, 8, 4):
        assert shards.sample(number).key == f"k{number}"
        assert len(list(cache.directory.glob("*.tar"))) <= 2
    assert len([path for path, _ in server.asked if path == "/set/000000.tar"]) == 2


def test_a_shard_above_the_bound_is_refused(served: str, tmp_path: Path) -> None:
    shards = open_shards(served, RemoteCache(tmp_path / "c", RemoteSettings(max_shard_bytes=100)))
    with pytest.raises(DownloadError, match=r"8,704 bytes, expected at most 100; check the URL"):
        shards.sample(0)


def test_a_shard_that_broke_off_is_continued_by_the_next_run(served: str, server: Server, cache: RemoteCache) -> None:
    shards = open_shards(served, cache)
    server.cuts, server.cut_after = 1, 1500
    server.busy_after_a_cut = 99
    with pytest.raises(DownloadError):
        shards.sample(0)
    server.busy = server.busy_after_a_cut = 0
    assert open_shards(served, RemoteCache(cache.directory, cache.settings)).sample(0).key == "k0"
    assert server.asked[-1] == ("/set/000000.tar", "bytes=1500-")


def test_where_the_hub_is_out_of_reach_shards_of_another_server_are_not(
    served: str, cache: RemoteCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert open_shards(served, cache).sample(4).key == "k4"


def test_remote_order_stays_within_a_window_of_shards(served: str, cache: RemoteCache, server: Server) -> None:
    assert open_shards(served, cache).window is not None
    assert open_shards(server.root / "set").window is None
