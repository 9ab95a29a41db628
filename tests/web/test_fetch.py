"""Downloads from a loopback web server that can be slow, drop connections, misbehave and lack support for ranges."""

import hashlib
import os
import random
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.serving import LoopbackServer, QuietHandler, serving

from wordsight.errors import DownloadError, OutputError
from wordsight.web import Patience, ask, fetch_file

CONTENT = random.Random(1).randbytes(300_000)  # random, so that misplaced bytes are noticed
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FAST_RETRIES = Patience(timeout_s=5, tries=3, pause_s=0.001)


class Server(LoopbackServer):
    """Serves one file at every path but a few; tests set how it misbehaves."""

    content = CONTENT
    tag = '"first"'
    cut_at: list[int]
    busy = 0
    supports_ranges = True
    sends_length = True
    sends_wrong_ranges = False
    redirect_target = "/model.pt"
    delay_s = 0.0
    stall_s = 0.0
    num_sent: int
    requests: list[tuple[str, str, str]]


class Handler(QuietHandler):
    server: Server

    def respond(self) -> None:
        server = self.server
        server.requests.append((self.path, self.headers.get("Range", ""), self.headers.get("If-Range", "")))
        if self.path == "/missing.pt":
            return self.send_error(404)
        if self.path.startswith(("/loop", "/moved")):
            self.send_response(302)
            self.send_header("Location", self.server.redirect_target if self.path.startswith("/moved") else "/loop2")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if server.busy:
            server.busy -= 1
            return self.send_error(503)
        start = self.start()
        if start and server.sends_wrong_ranges:
            return self.send_wrong_range()
        if start >= len(server.content):
            return self.send_error(416)
        return self.answer(start)

    def send_wrong_range(self) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 7-{len(self.server.content) - 1}/{len(self.server.content)}")
        self.end_headers()
        self.send(self.server.content[7:])

    def start(self) -> int:
        requested = int(self.headers["Range"][6:-1]) if "Range" in self.headers and self.server.supports_ranges else 0
        return requested if self.headers.get("If-Range", self.server.tag) == self.server.tag else 0

    def answer(self, start: int) -> None:
        server = self.server
        total = len(server.content)
        time.sleep(server.delay_s)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.sends_length:
            self.send_header("Content-Length", str(total - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        stop = server.cut_at.pop(0) if server.cut_at else total
        self.send(server.content[start:stop])
        time.sleep(server.stall_s)

    def send(self, content: bytes) -> None:
        self.server.num_sent += len(content)  # before the client can see it
        try:
            self.wfile.write(content)
        except OSError:  # the client closed the connection
            self.server.num_sent -= len(content)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server(("127.0.0.1", 0), Handler)) as started:
        started.cut_at, started.requests, started.num_sent = [], [], 0
        yield started


def visible(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def hidden(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name.startswith("."))


def test_a_file_is_downloaded_completely_and_only_once(server, tmp_path):
    progress: list[tuple[int, int | None]] = []
    path = tmp_path / "nested" / "model.pt"
    for _ in range(2):
        returned = fetch_file(
            f"{server.address}/model.pt",
            path,
            SHA256,
            len(CONTENT),
            FAST_RETRIES,
            lambda received, total: progress.append((received, total)),
        )
        assert returned == path
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 1
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert hidden(path.parent) == [".model.pt.lock"]


def test_a_dropped_connection_is_resumed_and_no_byte_is_sent_twice(server, tmp_path):
    server.cut_at = [100_000, 100_000, 250_000]
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert [request[1] for request in server.requests] == ["", "bytes=100000-", "bytes=100000-", "bytes=250000-"]
    assert server.num_sent == len(CONTENT)


def test_a_later_call_resumes_where_an_earlier_one_failed(server, tmp_path):
    server.cut_at = [120_000, 120_000, 120_000]
    with pytest.raises(
        DownloadError, match=r"the connection ended early \(3 attempts, at byte 120000\); check the network"
    ):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert visible(tmp_path) == []
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.requests[-1] == ("/model.pt", "bytes=120000-", '"first"')
    assert server.num_sent == len(CONTENT)


def test_a_file_that_changed_between_two_attempts_is_downloaded_again(server, tmp_path):
    server.cut_at = [120_000, 120_000, 120_000]
    with pytest.raises(DownloadError):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    server.content, server.tag = CONTENT[::-1], '"second"'
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT[::-1]


def test_a_changed_file_without_a_tag_is_detected_by_its_hash_and_downloaded_again(server, tmp_path):
    server.tag = ""
    server.content = CONTENT[::-1]
    server.cut_at = [120_000, 120_000, 120_000]
    with pytest.raises(DownloadError):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    server.content = CONTENT
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert [request[1] for request in server.requests[-2:]] == ["bytes=120000-", ""]


def test_without_tag_or_hash_a_download_is_not_resumed(server, tmp_path):
    server.tag = ""
    server.cut_at = [120_000]
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert [request[1] for request in server.requests] == ["", ""]


def test_a_file_that_became_shorter_is_downloaded_again(server, tmp_path):
    server.tag = ""
    server.cut_at = [120_000, 120_000, 120_000]
    with pytest.raises(DownloadError):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    server.content = CONTENT[:1000]
    digest = hashlib.sha256(CONTENT[:1000]).hexdigest()
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", digest, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT[:1000]


def test_a_range_that_was_not_requested_is_not_used(server, tmp_path):
    server.cut_at = [120_000]
    server.sends_wrong_ranges = True
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_a_complete_partial_file_is_renamed_without_another_request(server, tmp_path):
    server.cut_at = [120_000, 120_000, 120_000]
    with pytest.raises(DownloadError):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    (tmp_path / ".model.pt.partial").write_bytes(CONTENT)  # as if interrupted just before the rename
    server.requests.clear()
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.requests == []


def test_a_redirect_from_https_to_http_is_rejected(server, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost", "-days", "2"]
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    server.redirect_target = f"{server.address}/model.pt"
    secure = Server(("127.0.0.1", 0), Handler)
    secure.requests, secure.redirect_target = [], server.redirect_target
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    with serving(secure), pytest.raises(DownloadError, match="or from https to http"):
        fetch_file(f"https://127.0.0.1:{secure.server_port}/moved", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert [request[0] for request in secure.requests] == ["/moved"]
    assert server.requests == []


def test_without_range_support_a_download_starts_again(server, tmp_path):
    server.supports_ranges = False
    server.cut_at = [100_000]
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.num_sent == 100_000 + len(CONTENT)


def test_without_a_length_truncation_is_detected_by_the_hash(server, tmp_path):
    server.sends_length = False
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    server.cut_at = [1000]
    with pytest.raises(DownloadError, match="received a file with SHA-256"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "other.pt", SHA256, patience=FAST_RETRIES)
    assert visible(tmp_path) == ["model.pt"]


def test_a_file_with_a_wrong_hash_is_discarded(server, tmp_path):
    expected = f"received a file with SHA-256 {SHA256}, expected {'0' * 64}; the file was discarded"
    with pytest.raises(DownloadError, match=expected):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", "0" * 64, patience=FAST_RETRIES)
    assert visible(tmp_path) == []
    assert hidden(tmp_path) == [".model.pt.lock"]


def test_the_first_digits_of_a_hash_are_enough(server, tmp_path):
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256[:8], patience=FAST_RETRIES)
    with pytest.raises(DownloadError, match="expected 00000000"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "other.pt", "00000000", patience=FAST_RETRIES)


def test_a_wrong_size_is_rejected_before_the_download(server, tmp_path):
    with pytest.raises(DownloadError, match=f"the file on the server has {len(CONTENT):,} bytes, expected 7"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", size_bytes=7, patience=FAST_RETRIES)
    assert visible(tmp_path) == []


def test_a_request_to_a_busy_server_is_retried(server, tmp_path):
    server.busy = 2
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    server.busy = 3
    with pytest.raises(DownloadError, match=r"the server answers 503 Service Unavailable \(3 attempts"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "other.pt", SHA256, patience=FAST_RETRIES)


@pytest.mark.parametrize(
    ("path", "message"), [("missing.pt", r"not on the server \(404\)"), ("loop", "redirected in a loop")]
)
def test_final_failures_are_not_retried(server, tmp_path, path, message):
    with pytest.raises(DownloadError, match=message):
        fetch_file(f"{server.address}/{path}", tmp_path / "model.pt", patience=FAST_RETRIES)
    assert len(server.requests) <= 6
    assert visible(tmp_path) == []


def test_a_redirect_preserves_the_range(server, tmp_path):
    server.cut_at = [100_000]
    fetch_file(f"{server.address}/moved.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert server.requests[-1] == ("/model.pt", "bytes=100000-", '"first"')
    assert server.num_sent == len(CONTENT)


def test_a_stalled_server_times_out(server, tmp_path):
    server.cut_at, server.stall_s = [100_000], 0.6
    begin = time.monotonic()
    patience = Patience(timeout_s=0.1, tries=1, pause_s=0)
    with pytest.raises(DownloadError, match=r"timed out \(1 attempts, at byte 100000\)"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", patience=patience)
    assert time.monotonic() - begin < 0.5


def test_a_refused_connection_is_reported(server, tmp_path):
    with pytest.raises(DownloadError, match=r"Connection refused \(3 attempts"):
        fetch_file("http://127.0.0.1:1/model.pt", tmp_path / "model.pt", patience=FAST_RETRIES)


def test_ask_returns_the_first_bytes_and_the_headers_or_none(server):
    content, headers = ask(f"{server.address}/moved.pt", 10, FAST_RETRIES)
    assert content == CONTENT[:10]
    assert (headers["Content-Length"], headers["ETag"]) == ("300000", '"first"')
    assert ask(f"{server.address}/missing.pt", 10, FAST_RETRIES) is None
    server.busy = 2
    assert ask(f"{server.address}/model.pt", patience=FAST_RETRIES)[0] == b""
    server.cut_at = [5]
    assert ask(f"{server.address}/model.pt", 10, FAST_RETRIES)[0] == CONTENT[:10]
    server.busy = 3
    with pytest.raises(DownloadError, match=r"answers 503 Service Unavailable \(3 attempts\); check the URL"):
        ask(f"{server.address}/model.pt", patience=FAST_RETRIES)
    with pytest.raises(DownloadError, match=r"Connection refused \(3 attempts\)"):
        ask("http://127.0.0.1:1/model.pt", patience=FAST_RETRIES)


FETCH = """
import sys
from pathlib import Path
from wordsight.web import Patience, fetch_file
url, path, sha256 = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
fetch_file(url, Path(path), sha256, patience=Patience(pause_s=0.001))
print(sorted(name for name in ("torch", "huggingface_hub") if name in sys.modules))
"""


def start_process(url: str, path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, url, str(path), SHA256]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_one_downloads_and_both_get_the_file(server, tmp_path):
    server.delay_s = 0.3  # the first process still holds the lock when the second one starts
    both = [start_process(f"{server.address}/model.pt", tmp_path / "model.pt") for _ in range(2)]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (0, "[]\n"), err
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_an_interrupted_process_leaves_no_incomplete_file(server, tmp_path):
    server.cut_at, server.stall_s = [100_000], 30
    process = start_process(f"{server.address}/model.pt", tmp_path / "model.pt")
    process.stdin.write("go\n")
    process.stdin.flush()
    partial = tmp_path / ".model.pt.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size == 100_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert visible(tmp_path) == []
    server.stall_s = 0.0
    fetch_file(f"{server.address}/model.pt", tmp_path / "model.pt", SHA256, patience=FAST_RETRIES)
    assert server.requests[-1][1] == "bytes=100000-"
    assert server.num_sent == len(CONTENT)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 kB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_insufficient_disk_space_is_detected_before_the_download(server, small_disk):
    with pytest.raises(OutputError, match=r"300,000 bytes needed, .* available; free some space"):
        fetch_file(f"{server.address}/model.pt", small_disk / "model.pt", patience=FAST_RETRIES)
    assert visible(small_disk) == []


def test_a_disk_that_fills_up_leaves_no_incomplete_file(server, small_disk):
    server.sends_length = False
    with pytest.raises(OutputError, match="No space left on device; choose another output path or free some space"):
        fetch_file(f"{server.address}/model.pt", small_disk / "model.pt", patience=FAST_RETRIES)
    assert visible(small_disk) == []


def test_a_destination_below_a_file_is_rejected(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        fetch_file(f"{server.address}/model.pt", tmp_path / "file" / "model.pt", patience=FAST_RETRIES)
