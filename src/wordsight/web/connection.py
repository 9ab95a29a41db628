"""One connection to a web server: its limits, and which of its failures are transient and worth a retry.

This uses the standard library. Redirects are followed here, because urllib would also follow them to ftp, and with the
credentials of the first server.
"""

import contextlib
import datetime
import email.utils
import http.client
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message

from wordsight.config import Config
from wordsight.errors import DownloadError, printable
from wordsight.web.address import Address, parse_address
from wordsight.web.limits import HTTPHandler, HTTPSHandler, ResponseLimits

MAX_REDIRECTS = 5
"""Hubs and object stores need 2; RFC 2616 (section 10.3) recommended 5 at most."""
MIN_BYTES_PER_S = 10_000
"""Average rate below which a body is given up; a modem has 7,000, the slowest mobile connections about 15,000."""
MAX_RETRY_AFTER_S = 30
"""Longest pause that a server may demand; above it the download fails at once with the server's demand."""

_BLOCK_BYTES = 1 << 16
_MAX_REASON_CHARS = 100
_BROKEN_CONNECTION = (OSError, http.client.HTTPException)
_RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_FOUND_REASONS = {404: "not on the server", 410: "no longer on the server"}
_REASONS = {**_NOT_FOUND_REASONS, 401: "access denied", 403: "access denied"}


class Patience(Config, frozen=True):
    """When to give up on a server that is slow or fails.

    Attributes:
        timeout_s: seconds to wait for a connection, for all headers of a response, and for each read from its body.
        tries: consecutive attempts without progress after which a download fails; an attempt that receives at least
            one byte resets the count.
        pause_s: seconds to wait before the second attempt; doubled before each further one. Up to half of it is added
            at random, so that many clients do not return at the same moment. The pauses of five attempts take 6 to 9 s.
        total_s: seconds that all attempts and pauses may take together, plus the time that the received bytes take at
            `MIN_BYTES_PER_S`.
    """

    timeout_s: float = 15.0
    tries: int = 5
    pause_s: float = 0.4
    total_s: float = 60.0


class TransientError(Exception):
    """A failure that a retry may resolve, such as a timeout or a busy server.

    Attributes:
        retry_after_s: seconds that the server asks to wait.
    """

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StatusError(DownloadError):
    """The server refuses a request, or fails.

    Attributes:
        status: the status code (RFC 9110, section 15).
        error_code: the header X-Error-Code of a hub; empty if there is none.
    """

    def __init__(self, message: str, status: int = 0, error_code: str = "") -> None:
        super().__init__(message)
        self.status, self.error_code = status, error_code

    @property
    def is_not_found(self) -> bool:
        """Whether there is nothing at this URL."""
        return self.status in _NOT_FOUND_REASONS


class _BusyError(TransientError):
    """A status that a retry may resolve."""

    def __init__(self, message: str, retry_after_s: float, status: int) -> None:
        super().__init__(message, retry_after_s)
        self.status = status


class Attempts:
    """The attempts of one download: their number, pauses and total time."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self._start_s = time.monotonic()
        self._failures = 0
        self._num_received = 0

    def count(self, num_bytes: int) -> None:
        """Add bytes of the body that were received."""
        self._num_received += num_bytes

    def seconds_left(self) -> float:
        """Seconds until the download fails, unless further bytes are received."""
        total_s = self.patience.total_s + self._num_received / MIN_BYTES_PER_S
        return self._start_s + total_s - time.monotonic()

    def pause(
        self, address: Address, error: TransientError, note: str = "", advice: str = "", has_progress: bool = False
    ) -> None:
        """Wait before the next attempt.

        Args:
            address: what is downloaded.
            error: why the attempt failed.
            note: appended to the number of attempts in the error.
            advice: what to do; the end of the error.
            has_progress: whether the attempt received bytes that the next one need not receive again.

        Raises:
            DownloadError: this was the last attempt, or the pause would exceed the total time.
        """
        self._failures = 1 if has_progress else self._failures + 1
        pause_s = self.patience.pause_s * 2 ** (self._failures - 1) * random.uniform(1, 1.5)
        pause_s = max(pause_s, error.retry_after_s)
        asked = f", which asks to wait {error.retry_after_s:,.0f} s" if error.retry_after_s else ""
        is_too_long = pause_s > self.seconds_left() or error.retry_after_s > MAX_RETRY_AFTER_S
        if self._failures >= self.patience.tries or is_too_long:
            message = f"{address}: {error}{asked} ({self._failures} attempts{note}); {advice}"
            if isinstance(error, _BusyError):
                raise StatusError(message, error.status) from error
            raise DownloadError(message) from error
        time.sleep(pause_s)


def ask(url: str | Address, max_bytes: int = 0, patience: Patience | None = None) -> tuple[bytes, Message] | None:
    """Download the first bytes at a URL, with retries.

    Args:
        url: the URL.
        max_bytes: how many bytes to read; 0 reads only the headers.
        patience: timeouts and retries.

    Returns:
        The bytes and the headers of the response, or None if there is nothing at this URL.

    Raises:
        DownloadError: the server cannot be reached or refuses the request.
    """
    try:
        return read_url(url, max_bytes, patience)
    except StatusError as error:
        if error.is_not_found:
            return None
        raise


def read_url(url: str | Address, max_bytes: int, patience: Patience | None = None) -> tuple[bytes, Message]:
    """Download the first bytes at a URL; arguments and retries as for `ask`.

    Raises:
        StatusError: there is nothing at this URL, or the server refuses the request.
        DownloadError: the server cannot be reached.
    """
    address = parse_address(url)
    attempts = Attempts(patience or Patience())
    while True:
        try:
            with open_url(address, {}, attempts, max_bytes) as response:
                return _read(response, max_bytes, attempts), response.headers
        except TransientError as error:
            attempts.pause(address, error, advice="check the URL and the network")


def _read(response: http.client.HTTPResponse, max_bytes: int, attempts: Attempts) -> bytes:
    content = bytearray()
    while len(content) < max_bytes and (block := response.read1(min(_BLOCK_BYTES, max_bytes - len(content)))):
        content += block
        attempts.count(len(block))
    length = content_length(response)
    if length is not None and len(content) < min(length, max_bytes):
        raise TransientError("the connection ended early")
    return bytes(content)


def content_length(response: http.client.HTTPResponse) -> int | None:
    """Return the size of the body that a response states; None if it does not, or not as a number."""
    length = response.headers.get("Content-Length", "")
    return int(length) if re.fullmatch("[0-9]{1,18}", length) else None


@contextlib.contextmanager
def open_url(
    address: Address, headers: dict[str, str], attempts: Attempts, max_bytes: int
) -> Iterator[http.client.HTTPResponse]:
    """Open a connection, follow redirects, and yield the response, whose status is 200 or 206.

    Args:
        address: the address.
        headers: additional request headers.
        attempts: limits the time.
        max_bytes: the largest body that will be read; the connection breaks when the server sends far more.

    Raises:
        TransientError: the server is busy, or the connection failed, also while the block reads from it.
        DownloadError: the failure is final.
    """
    target = address
    for _ in range(MAX_REDIRECTS + 1):
        limits = ResponseLimits(attempts.patience.timeout_s, attempts.seconds_left)
        response = _request(target, headers, limits)
        with response:
            if response.status not in _REDIRECTS:
                _check_response(address, response)
                limits.start_body(max_bytes)
                try:
                    yield response
                except _BROKEN_CONNECTION as error:
                    raise TransientError(_reason(error)) from error
                return
            target = target.redirected(response.headers.get("Location", ""))
    raise DownloadError(f"{address}: redirected in a loop, or more than {MAX_REDIRECTS} times; use another server")


def _request(address: Address, headers: dict[str, str], limits: ResponseLimits) -> http.client.HTTPResponse:
    headers = {"User-Agent": "wordsight", "Accept-Encoding": "identity", **headers}
    if address.authorization:
        headers["Authorization"] = address.authorization
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), HTTPHandler(limits), HTTPSHandler(limits)):
        opener.add_handler(handler)
    timeout_s = limits.seconds_left()
    if timeout_s <= 0:
        raise TransientError("timed out")
    try:
        response = opener.open(urllib.request.Request(address.url, headers=headers), timeout=timeout_s)
    except _BROKEN_CONNECTION as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"{address}: its certificate is not valid: {_reason(reason)}") from error
        raise TransientError(_reason(error)) from error
    except ValueError:  # which may quote the password of a proxy
        raise DownloadError(f"{address}: the request cannot be sent; check the proxy in the environment") from None
    if response is None:  # no handler for the scheme of the proxy
        raise DownloadError(f"{address}: the proxy in the environment is not an http proxy; set another one")
    return response


def _check_response(address: Address, response: http.client.HTTPResponse) -> None:
    """Refuse a response without the file, or with an encoded one."""
    status, headers = response.status, response.headers
    if status in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        encodings = {"Content-Encoding": ("", "identity"), "Transfer-Encoding": ("", "identity", "chunked")}
        for name, accepted in encodings.items():
            if headers.get(name, "").strip().lower() not in accepted:
                raise DownloadError(f"{address}: the server sends a compressed file, which was not requested")
        return
    reason = printable(response.reason)[:_MAX_REASON_CHARS]
    if status in _RETRYABLE_STATUS:
        raise _BusyError(f"the server answers {status} {reason}", _retry_after_s(headers), status)
    raise StatusError(
        f"{address}: {_REASONS.get(status, 'refused')} ({status}); check the URL or use another server",
        status,
        printable(headers.get("X-Error-Code", ""))[:_MAX_REASON_CHARS],
    )


def _retry_after_s(headers: Message) -> float:
    """Return the value of Retry-After, which is in seconds or a date (RFC 9110, section 10.2.3)."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", value):
        return float(value)
    try:
        date = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.UTC)
    return max(0.0, (date - datetime.datetime.now(datetime.UTC)).total_seconds())


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    text = " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
    return printable(text)[:_MAX_REASON_CHARS]
