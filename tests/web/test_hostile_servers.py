"""Servers that lie, never end or never answer: a download ends in one line, in time, and leaves nothing behind."""

import base64
import contextlib
import email.utils
import hashlib
import itertools
import random
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.serving import serving_bytes

from wordsight.errors import DownloadError
from wordsight.locks import lock
from wordsight.web import Patience, StatusError, ask, fetch_file, parse_address, without_credentials
from wordsight.web.connection import MAX_REDIRECTS, MAX_RETRY_AFTER_S, MIN_BYTES_PER_S, Attempts, TransientError
from wordsight.web.limits import MAX_FRAMING_BYTES, MAX_HEADER_BYTES

Send = Callable[[bytes], None]

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
IMPATIENT = Patience(timeout_s=0.25, tries=2, pause_s=0.001, total_s=0.6)
MAX_S = 5.0
MAX_MEMORY_BYTES = 16_000_000
OK = b"HTTP/1.1 200 OK\r\n"


def response(*headers: str, body: bytes = CONTENT, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def sized(*headers: str, body: bytes = CONTENT, status: str = "200 OK") -> bytes:
    return response(f"Content-Length: {len(body)}", *headers, body=body, status=status)


def forever(send: Send, block: bytes, pause_s: float = 0.0) -> None:
    while True:
        send(block)
        time.sleep(pause_s)


def endless_body(request: bytes, send: Send) -> None:
    send(OK + b"\r\n")
    forever(send, bytes(1 << 16))


def endless_chunks(request: bytes, send: Send) -> None:
    send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    forever(send, b"1000\r\n" + bytes(0x1000) + b"\r\n")


def endless_chunk_extension(request: bytes, send: Send) -> None:
    send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    forever(send, b"1;" + b"x" * 60_000 + b"\r\n0\r\n")


def endless_trailers(request: bytes, send: Send) -> None:
    send(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(CONTENT) + CONTENT + b"\r\n0\r\n")
    forever(send, b"X-Trailer: " + b"x" * 1000 + b"\r\n")


def slow_trailers(request: bytes, send: Send) -> None:
    send(OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(CONTENT) + CONTENT + b"\r\n0\r\n")
    forever(send, b"X: x\r\n", 0.1)


def endless_headers(request: bytes, send: Send) -> None:
    send(OK)
    forever(send, b"X-Header: x\r\n")


def endless_header_line(request: bytes, send: Send) -> None:
    send(OK + b"X-Header: ")
    forever(send, b"x" * 1000)


def endless_folded_header(request: bytes, send: Send) -> None:
    send(OK + b"X-Header: x\r\n")
    forever(send, b" " + b"x" * 60_000 + b"\r\n")


def endless_interim_responses(request: bytes, send: Send) -> None:
    forever(send, b"HTTP/1.1 100 Continue\r\n\r\n")


def header_line_by_line(request: bytes, send: Send) -> None:
    send(OK)
    forever(send, b"X-Header: x\r\n", 0.1)


def status_byte_by_byte(request: bytes, send: Send) -> None:
    for byte in itertools.cycle(b"HTTP/1.1 200 "):
        send(bytes([byte]))
        time.sleep(0.1)


def body_byte_by_byte(request: bytes, send: Send) -> None:
    send(OK + b"Content-Length: %d\r\n\r\n" % len(CONTENT))
    forever(send, b"x", 0.1)


def one_byte_per_connection(request: bytes, send: Send) -> None:
    start = int(request.partition(b"bytes=")[2].partition(b"-")[0] or 0)
    total = len(CONTENT)
    span = f"Content-Range: bytes {start}-{total - 1}/{total}"
    headers = (f"Content-Length: {total - start}", 'ETag: "x"', *([span] if start else []))
    send(response(*headers, body=CONTENT[start : start + 1], status="206 Partial Content" if start else "200 OK"))


def silent(request: bytes, send: Send) -> None:
    time.sleep(3)


def garbage(request: bytes, send: Send) -> None:
    send(bytes(range(256)) * 100)


ENDLESS = [
    endless_body,
    endless_chunks,
    endless_chunk_extension,
    endless_trailers,
    slow_trailers,
    endless_headers,
    endless_header_line,
    endless_folded_header,
    endless_interim_responses,
    header_line_by_line,
    status_byte_by_byte,
    body_byte_by_byte,
    one_byte_per_connection,
    silent,
    garbage,
]


@pytest.fixture
def watched() -> Iterator[None]:
    """Fail a test that takes too long or too much memory."""
    tracemalloc.start()
    begin_s = time.monotonic()
    yield
    assert time.monotonic() - begin_s < MAX_S
    assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY_BYTES
    tracemalloc.stop()


def failure(url: str, directory: Path, **options: object) -> str:
    """The message of a download that fails and leaves nothing but a lock or a valid beginning of the file."""
    with pytest.raises(DownloadError) as caught:
        fetch_file(url, directory / "model.pt", **{"patience": IMPATIENT, **options})
    message = str(caught.value)
    assert message.isprintable()
    assert not (directory / "model.pt").exists()
    partial = directory / ".model.pt.partial"
    assert not partial.exists() or partial.stat().st_size <= len(CONTENT)
    return message


@pytest.mark.parametrize("respond", ENDLESS, ids=lambda respond: respond.__name__)
@pytest.mark.parametrize("known", ["size", "hash", "nothing"])
def test_a_server_without_end_is_given_up(respond, known, tmp_path, watched):
    options = {"size": {"size_bytes": len(CONTENT)}, "hash": {"sha256": "0" * 64, "max_bytes": len(CONTENT)}}
    with serving_bytes(respond) as address:
        failure(f"{address}/m.pt", tmp_path, **options.get(known, {"max_bytes": len(CONTENT)}))


@pytest.mark.parametrize("respond", ENDLESS, ids=lambda respond: respond.__name__)
def test_a_question_to_a_server_without_end_is_given_up(respond, watched):
    with serving_bytes(respond) as address, contextlib.suppress(DownloadError):
        assert len(ask(f"{address}/m.json", len(CONTENT), IMPATIENT)[0]) <= len(CONTENT)


def test_a_body_longer_than_the_known_size_is_not_written(tmp_path):
    with serving_bytes(endless_body) as address:
        message = failure(f"{address}/m.pt", tmp_path, size_bytes=100)
    assert "more than the expected 100 bytes" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.pt.lock"]


def test_the_known_size_bounds_a_body_although_the_limit_is_higher(tmp_path):
    sent = []

    def respond(request: bytes, send: Send) -> None:
        send(OK + b"\r\n")
        for _ in range(10_000):
            send(bytes(10_000))
            sent.append(10_000)

    with serving_bytes(respond) as address:
        failure(f"{address}/m.pt", tmp_path, size_bytes=100_000, max_bytes=1 << 40)
    assert sum(sent) < 50_000_000  # what fits into the buffers of the sockets


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (sized("Content-Encoding: gzip"), "sends a compressed file"),
        (sized("Content-Encoding: br"), "sends a compressed file"),
        (response("Transfer-Encoding: gzip, chunked"), "sends a compressed file"),
        (sized(f"Content-Range: bytes 0-9/{len(CONTENT)}", body=CONTENT[:10], status="206 x"), "was not requested"),
        (sized("Content-Range: bytes 0-\xb2/\xb3", status="206 x"), "was not requested"),
        (sized(status="206 x"), "was not requested"),
        (sized(status="204 No Content", body=b""), r"refused \(204\)"),
        (sized(status="304 Not Modified", body=b""), r"refused \(304\)"),
        (sized(status="999 \x1b[31mred\x9b\x07"), r"refused \(999\)"),
        (sized(status="503 \x1b[31mred\x9b\x07" + "x" * 500), r"503 \\x1b\[31mred\\x9b\\x07x+ \(2 attempts"),
        (response(f"Content-Length: {'9' * 5000}", body=b""), "Content|size|SHA-256|received"),
        (response("Content-Length: \xb2", body=b"x"), "SHA-256|received"),
        (response("Content-Length: -1", body=b"x"), "SHA-256|received"),
        (response("Content-Length: 10", "Content-Length: 20", body=CONTENT[:10]), "expected|SHA-256"),
        (response("Transfer-Encoding: chunked", body=b"-5\r\nabc\r\n0\r\n\r\n"), "."),
        (response("Transfer-Encoding: chunked", body=b"ffffffffffffffffffff\r\nabc"), "."),
        (response("Transfer-Encoding: chunked", body=b"zz\r\n"), "."),
        (b"", "closed connection without response"),
        (b"\x00" * 100_000, "."),
        (b"HTTP/1.1 " + b"9" * 10_000 + b"\r\n\r\n", "."),
        (b"SSH-2.0-OpenSSH\r\n", "SSH-2.0"),
    ],
)
def test_a_false_answer_is_one_line(answer, message, tmp_path, watched):
    with serving_bytes(lambda request, send: send(answer)) as address:
        text = failure(f"{address}/m.pt", tmp_path, sha256="0" * 64, max_bytes=1 << 20)
    assert re.search(message, text)
    assert len(text) < 400


def test_an_encoding_that_changes_nothing_is_accepted(tmp_path):
    with serving_bytes(lambda request, send: send(sized("Content-Encoding: identity"))) as address:
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", SHA256)
    assert (tmp_path / "m.pt").read_bytes() == CONTENT


# --- resuming ---


def cut(at: int, later: Callable[[int], bytes]) -> Callable[[bytes, Send], None]:
    """A server that sends the beginning of the file, and to requests for the rest what `later` returns."""

    def respond(request: bytes, send: Send) -> None:
        start = int(request.partition(b"bytes=")[2].partition(b"-")[0] or 0)
        if start:
            send(later(start))
        else:
            send(response(f"Content-Length: {len(CONTENT)}", 'ETag: "x"', body=CONTENT[:at]))

    return respond


def part(start: int, end: int, total: int, body: bytes) -> bytes:
    return sized(f"Content-Range: bytes {start}-{end}/{total}", body=body, status="206 Partial Content")


@pytest.mark.parametrize(
    "later",
    [
        lambda start: part(start + 1, len(CONTENT) - 1, len(CONTENT), CONTENT[start + 1 :]),
        lambda start: part(start - 1, len(CONTENT) - 1, len(CONTENT), CONTENT[start - 1 :]),
        lambda start: part(start, len(CONTENT) - 1, len(CONTENT) + 5, CONTENT[start:]),
        lambda start: part(start, len(CONTENT) + 4, len(CONTENT) + 5, CONTENT[start:] + b"12345"),
        lambda start: part(start, start + 9, len(CONTENT), CONTENT[start : start + 10]),
        lambda start: part(start, len(CONTENT) - 1, len(CONTENT), CONTENT[start:] + b"more"),
        lambda start: part(len(CONTENT) - 1, start, len(CONTENT), CONTENT[start:]),
        lambda start: sized(status="416 Range Not Satisfiable", body=b""),
    ],
)
def test_a_false_range_is_never_appended(later, tmp_path, watched):
    with serving_bytes(cut(1000, later)) as address, contextlib.suppress(DownloadError):
        fetch_file(f"{address}/m.pt", tmp_path / "model.pt", patience=IMPATIENT)
    partial = tmp_path / ".model.pt.partial"
    assert not (tmp_path / "model.pt").exists()
    assert not partial.exists() or CONTENT.startswith(partial.read_bytes())


def test_the_whole_file_instead_of_its_rest_starts_again(tmp_path):
    with serving_bytes(cut(1000, lambda start: sized('ETag: "x"'))) as address:
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", patience=IMPATIENT)
    assert (tmp_path / "m.pt").read_bytes() == CONTENT


def test_a_refused_range_starts_again(tmp_path):
    counter = itertools.count()

    def respond(request: bytes, send: Send) -> None:
        if b"Range:" in request:
            send(sized(status="416 Range Not Satisfiable", body=b""))
        else:
            stop = 1000 if next(counter) == 0 else len(CONTENT)
            send(response(f"Content-Length: {len(CONTENT)}", 'ETag: "x"', body=CONTENT[:stop]))

    with serving_bytes(respond) as address:
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", SHA256, patience=Patience(tries=3, pause_s=0.001))
    assert (tmp_path / "m.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("tag", ['"a\r\n b"', '"\xe9"', '"' + "x" * 5000 + '"', "x", 'W/"x"'])
def test_an_etag_that_cannot_be_sent_back_is_not_used(tag, tmp_path):
    requests = []

    def respond(request: bytes, send: Send) -> None:
        requests.append(request)
        stop = 1000 if len(requests) == 1 else len(CONTENT)
        send(response(f"Content-Length: {len(CONTENT)}", f"ETag: {tag}", body=CONTENT[:stop]))

    with serving_bytes(respond) as address:
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", SHA256, patience=IMPATIENT)
    assert (tmp_path / "m.pt").read_bytes() == CONTENT
    assert b"If-Range" not in requests[1]


def test_a_partial_file_longer_than_the_known_size_is_removed(tmp_path):
    with serving_bytes(cut(1000, lambda start: b"")) as address:
        failure(f"{address}/m.pt", tmp_path)
    assert (tmp_path / ".model.pt.partial").stat().st_size == 1000
    with (tmp_path / ".model.pt.partial").open("ab") as file:
        file.write(bytes(len(CONTENT)))
    with serving_bytes(lambda request, send: send(sized())) as address:
        info = tmp_path / ".model.pt.partial.json"
        info.write_text(f'{{"url":"{address}/m.pt","validator":"\\"x\\"","total_bytes":null}}')
        fetch_file(f"{address}/m.pt", tmp_path / "model.pt", SHA256, len(CONTENT), IMPATIENT)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.pt.lock", "model.pt"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "model.pt").write_bytes(CONTENT)
    (tmp_path / ".model.pt.partial.json").write_text("{}")
    (tmp_path / "..model.pt.partial.json.k3.partial").write_text("{")
    (tmp_path / ".other.pt.partial").write_text("of another download")
    fetch_file("http://127.0.0.1:1/m.pt", tmp_path / "model.pt", SHA256)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".model.pt.lock", ".other.pt.partial", "model.pt"]


# --- retries ---


def busy_then_ready(*headers: str) -> Callable[[bytes, Send], None]:
    counter = itertools.count()

    def respond(request: bytes, send: Send) -> None:
        send(sized(*headers, status="503 Busy") if next(counter) == 0 else sized())

    return respond


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_server_says_when_to_try_again(form, tmp_path):
    value = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    begin_s = time.monotonic()
    with serving_bytes(busy_then_ready(f"Retry-After: {value}")) as address:
        patience = Patience(tries=2, pause_s=0.001)
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", SHA256, patience=patience)
    assert 0.9 <= time.monotonic() - begin_s < MAX_S


@pytest.mark.parametrize("value", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT", "999999999"])
def test_a_long_pause_that_the_server_demands_ends_the_download(value, tmp_path, watched):
    with serving_bytes(busy_then_ready(f"Retry-After: {value}")) as address:
        message = failure(f"{address}/m.pt", tmp_path, patience=Patience(total_s=1e9))
    assert "503 Busy, which asks to wait" in message
    assert "(1 attempts" in message
    assert MAX_RETRY_AFTER_S < 3600


@pytest.mark.parametrize("value", ["-5", "soon", "\xb2", "9" * 100, "Wed, 99 Foo 2099", "Mon, 1 Jan 1990 0:0:0 GMT"])
def test_a_senseless_retry_after_is_ignored(value, tmp_path, watched):
    with serving_bytes(busy_then_ready(f"Retry-After: {value}")) as address:
        fetch_file(f"{address}/m.pt", tmp_path / "m.pt", SHA256, patience=IMPATIENT)


def test_pauses_differ_between_clients(monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(20):
        attempts = Attempts(Patience(tries=3, pause_s=1))
        attempts.pause(parse_address("http://a.org"), TransientError("busy"))
        attempts.pause(parse_address("http://a.org"), TransientError("busy"))
    assert len(set(pauses)) > 30
    assert all(1 <= pause <= 1.5 for pause in pauses[::2])
    assert all(2 <= pause <= 3 for pause in pauses[1::2])


def test_received_bytes_extend_the_time_in_proportion():
    attempts = Attempts(Patience(total_s=10))
    before = attempts.seconds_left()
    attempts.count(5 * MIN_BYTES_PER_S)
    assert attempts.seconds_left() - before == pytest.approx(5, abs=0.5)


def test_limits_are_what_they_are_said_to_be(watched):
    """Just below the limit on headers a response is accepted; just above it is not."""
    lines = [f"X-{n}: {'x' * 2600}" for n in range(99)]
    assert MAX_HEADER_BYTES - 6000 < sum(map(len, lines)) < MAX_HEADER_BYTES - 1000
    with serving_bytes(lambda request, send: send(response(*lines))) as address:
        assert ask(address, 5, IMPATIENT)[0] == CONTENT[:5]
    lines = [f"X-{n}: {'x' * 2800}" for n in range(99)]
    with (
        serving_bytes(lambda request, send: send(response(*lines))) as address,
        pytest.raises(DownloadError, match="more than a response may have"),
    ):
        ask(address, 5, IMPATIENT)
    assert MAX_FRAMING_BYTES == 1 << 20


def test_the_time_while_another_process_downloads_does_not_count(tmp_path):
    path = tmp_path / "m.pt"
    with serving_bytes(lambda request, send: send(sized())) as address, ThreadPoolExecutor(1) as pool:
        with lock(tmp_path / ".m.pt.lock"):
            waiting = pool.submit(fetch_file, f"{address}/m.pt", path, SHA256, patience=Patience(total_s=0.3))
            time.sleep(0.6)
        assert waiting.result() == path


# --- redirects ---


def redirecting(location: str, requests: list[bytes] | None = None) -> Callable[[bytes, Send], None]:
    def respond(request: bytes, send: Send) -> None:
        if requests is not None:
            requests.append(request)
        if b"/final HTTP" in request:
            send(sized())
        else:
            send(sized(f"Location: {location}", status="302 Moved", body=b""))

    return respond


@pytest.mark.parametrize(
    "location",
    [
        "ftp://127.0.0.1/m.pt",
        "file:///etc/passwd",
        "data:text/plain,hello",
        "gopher://127.0.0.1/",
        "http://[127/",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
        "//",
        "http://",
        "http://a b/",
        "/\x1b[31m",
        "http://ex\xe4mple.org:x/",
        "x" * 10_000,
        "http://user@:80/",
    ],
)
def test_a_redirect_to_anything_but_a_web_server_is_refused(location, tmp_path, watched):
    with serving_bytes(redirecting(location)) as address:
        failure(f"{address}/m.pt", tmp_path)


def test_at_most_five_redirects_are_followed(tmp_path):
    requests: list[bytes] = []

    def respond(request: bytes, send: Send) -> None:
        requests.append(request)
        number = int(request.split(b" ")[1][1:])
        send(sized(f"Location: /{number - 1}", status="302 Moved", body=b"") if number else sized())

    with serving_bytes(respond) as address:
        fetch_file(f"{address}/5", tmp_path / "m.pt", SHA256)
        requests.clear()
        assert "more than 5 times" in failure(f"{address}/6", tmp_path)
    assert len(requests) == MAX_REDIRECTS + 1


def test_credentials_are_not_sent_to_another_server(tmp_path):
    first, second = [], []
    with serving_bytes(redirecting("/", second)) as other:
        with serving_bytes(redirecting(f"{other}/final", first)) as address:
            fetch_file(parse_address(f"{address}/m.pt", token="hf_secret"), tmp_path / "m.pt", SHA256)
        with serving_bytes(redirecting(f"{other}/final", first)) as address:
            fetch_file(address.replace("//", "//user:pa%20ss@") + "/m.pt", tmp_path / "n.pt", SHA256)
    assert b"Authorization: Bearer hf_secret\r\n" in first[0]
    assert b"Authorization: Basic " + base64.b64encode(b"user:pa ss") in first[1]
    assert len(second) == 2
    assert not any(b"uthorization" in request for request in second)


def test_credentials_are_kept_on_the_same_server(tmp_path):
    requests: list[bytes] = []
    with serving_bytes(redirecting("/final", requests)) as address:
        fetch_file(parse_address(f"{address}/m.pt", token="hf_secret"), tmp_path / "m.pt", SHA256)
    assert [b"Authorization: Bearer hf_secret\r\n" in request for request in requests] == [True, True]


@pytest.mark.parametrize("target", ["http://127.0.0.1:{port}/final", "http://10.0.0.1/", "http://[::1]:{port}/final"])
def test_a_public_server_cannot_redirect_into_the_private_network(target, tmp_path, monkeypatch):
    requests: list[bytes] = []
    with serving_bytes(redirecting("/", requests)) as private:
        location = target.format(port=private.rpartition(":")[2])
        with serving_bytes(redirecting(location)) as proxy:
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.setenv("no_proxy", "127.0.0.1,::1")
            message = failure("http://93.184.215.14/m.pt", tmp_path)
    assert "redirected into a private network" in message
    assert requests == []


# --- credentials in messages and files ---


@pytest.mark.parametrize(
    "url",
    [
        "{}/m.pt?X-Amz-Signature=secret&X-Amz-Credential=secret",
        "{at}/m.pt",
        "{at}/m.pt?token=secret#secret",
        "{at}:port/m.pt",
        "{at} /m.pt",
        "ftp://user:secret@127.0.0.1/m.pt",
        "s3://key:secret@bucket/m.pt",
        "http://user:se/secret@127.0.0.1:99999/m.pt",
        "http://user:secret@[127/",
        "user:secret@host",
        "http://user:secret@\x1b[31m/",
        "http://user:secret@" + "x" * 9000,
    ],
)
def test_credentials_are_in_no_message_and_no_file(url, tmp_path):
    with serving_bytes(lambda request, send: send(sized('ETag: "x"')[:-10])) as address:
        url = url.format(address, at=address.replace("//", "//user:secret@"))
        message = failure(url, tmp_path)
        assert "secret" not in message
        with pytest.raises(DownloadError) as caught:
            ask(url, 10_240, IMPATIENT)
        assert "secret" not in str(caught.value)
    assert not any(b"secret" in path.read_bytes() for path in tmp_path.iterdir())
    assert "secret" not in repr(parse_address("http://u:secret@a.org/?secret", token="secret"))


def test_a_download_with_a_query_is_resumed(tmp_path):
    ranges = []

    def respond(request: bytes, send: Send) -> None:
        ranges.append(b"Range: bytes=1000-" in request)
        rest = part(1000, len(CONTENT) - 1, len(CONTENT), CONTENT[1000:])
        send(rest if ranges[-1] else response(f"Content-Length: {len(CONTENT)}", 'ETag: "x"', body=CONTENT[:1000]))

    with serving_bytes(respond) as address:
        fetch_file(f"{address}/m.pt?token=x", tmp_path / "m.pt", SHA256, patience=IMPATIENT)
    assert ranges == [False, True]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.ORG/A?q=1#f", "http://example.org/A?q=1"),
        ("https://user:pw@example.org:8443/a@b", "https://example.org:8443/a@b"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),  # RFC 3492, section 7.1
        ("http://[2001:DB8:0:0::1]:80/", "http://[2001:db8::1]:80/"),  # RFC 5952
        ("http://example.org", "http://example.org/"),
        ("http://example.org/%20%zz", "http://example.org/%20%zz"),
    ],
)
def test_an_address_is_sent_in_ascii_and_without_credentials(url, expected):
    assert parse_address(url).url == expected


NOT_ADDRESSES = ["", "a.org", "http://", "http:///x", "file:///etc/passwd", "http://a\r\nb/", "http://a/\x00"]
NOT_ADDRESSES += ["http://a/ b", "http://a\\b", "http://[::1", "http://a:b/", "http://a:-1/", "http://a!/", "//a.org/x"]
NOT_ADDRESSES += ["http://[v1.x]/", "http://a/\u202e", f"http://{'ü' * 100}/", "javascript:alert(1)", "http://%31/"]


@pytest.mark.parametrize("url", NOT_ADDRESSES)
def test_anything_but_a_web_address_is_refused(url):
    with pytest.raises(DownloadError, match=r"not a (valid URL|web address)"):
        parse_address(url)


def test_text_without_credentials():
    assert without_credentials("https://u:p@a.org/x?t=s#f") == "https://a.org/x"
    assert without_credentials("u:p@a.org") == "a.org"
    assert without_credentials("openai/RN50") == "openai/RN50"
    assert str(parse_address("https://a.org/x@y?t=s")) == "https://a.org/x@y"


# --- proxies ---


def test_a_proxy_receives_its_password_and_the_target_does_not_see_it(tmp_path, monkeypatch):
    requests: list[bytes] = []
    with serving_bytes(redirecting("/final", requests)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.replace("//", "//me:secret@"))
        monkeypatch.delenv("no_proxy", raising=False)
        fetch_file("http://192.0.2.1/m.pt", tmp_path / "m.pt", SHA256)
    assert requests[0].startswith(b"GET http://192.0.2.1/m.pt HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"me:secret") in requests[0].replace(
        b"authori", b"Authori"
    )


@pytest.mark.parametrize("proxy", ["socks5://me:secret@127.0.0.1:1", "http://me:secret@127.0.0.1:1", "me:secret@:x"])
def test_a_proxy_that_does_not_work_is_one_line_without_its_password(proxy, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.delenv("no_proxy", raising=False)
    assert "secret" not in failure("http://192.0.2.1/m.pt", tmp_path)


def test_a_tunnel_without_end_is_given_up(tmp_path, monkeypatch, watched):
    with serving_bytes(header_line_by_line) as proxy:
        monkeypatch.setenv("https_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        failure("https://192.0.2.1/m.pt", tmp_path)


def test_a_server_that_never_finishes_the_handshake_is_given_up(tmp_path, watched):
    with serving_bytes(silent) as address:
        failure(f"{address.replace('http', 'https')}/m.pt", tmp_path)


def test_the_status_of_a_refusal_is_available():
    answer = sized("X-Error-Code: Gated\x1bRepo", status="403 No")
    with serving_bytes(lambda request, send: send(answer)) as address, pytest.raises(StatusError) as caught:
        ask(address)
    assert (caught.value.status, caught.value.error_code) == (403, "Gated\\x1bRepo")


# --- mutations ---


def mutated(chance: random.Random, content: bytes) -> bytes:
    """Change, repeat, remove or insert a few bytes, mostly in the headers."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(min(len(changed), 400) or 1)
        size = chance.choice((1, 1, 4, 30))
        operation = chance.randrange(4)
        if operation == 0:
            changed[at : at + size] = chance.randbytes(size)
        elif operation == 1:
            del changed[at : at + size]
        elif operation == 2:
            changed[at:at] = changed[at : at + size] * chance.choice((1, 2, 100))
        else:
            changed[at:at] = chance.choice((b"\r\n", b"\x00", b"\x1b[2J", b"9" * 20, b"-1", b":", b" ", b"\xff"))
    return bytes(changed)


CORPUS = [
    sized('ETag: "x"', "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Content-Type: application/octet-stream"),
    response(
        "Transfer-Encoding: chunked", 'ETag: "x"', body=b"%x\r\n" % len(CONTENT) + CONTENT + b"\r\n0\r\nX: y\r\n\r\n"
    ),
    sized("Location: /x/y?z", status="302 Found", body=b""),
    sized("Retry-After: 1", status="429 Too Many Requests", body=b""),
    b"HTTP/1.1 100 Continue\r\n\r\n" + sized(),
]


@pytest.mark.parametrize(
    "seeds", [range(40), pytest.param(range(1000, 2000), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_mutated_responses_are_the_file_or_one_line(seeds, tmp_path):
    patience = Patience(timeout_s=0.2, tries=2, pause_s=0.001, total_s=0.4)
    current = b""
    with serving_bytes(lambda request, send: send(current)) as address:
        for seed in seeds:
            chance = random.Random(seed)
            current = mutated(chance, chance.choice(CORPUS))
            path = tmp_path / f"{seed}.pt"
            begin_s = time.monotonic()
            message = ""
            try:
                fetch_file(f"{address}/m.pt", path, SHA256, patience=patience, max_bytes=1 << 20)
            except DownloadError as error:
                message = str(error)
            assert message.isprintable(), seed
            assert path.exists() == (not message), seed
            assert message or path.read_bytes() == CONTENT, seed
            assert time.monotonic() - begin_s < MAX_S, seed
