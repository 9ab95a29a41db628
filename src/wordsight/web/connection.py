"""One connection to a web server: which failures are transient and worth a retry, and which are final.

This uses the standard library. huggingface_hub has changed its HTTP client several times in the versions that wordsight
supports, so it is not a stable alternative.
"""

import contextlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from typing import IO, Any

from wordsight.config import Config
from wordsight.errors import DownloadError

_MAX_REDIRECTS = 5
_BROKEN_CONNECTION = (OSError, http.client.HTTPException)
_RETRYABLE_STATUS = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_FOUND_REASONS = {404: "not on the server", 410: "no longer on the server"}
_REASONS = {**_NOT_FOUND_REASONS, 401: "access denied", 403: "access denied"}


class Patience(Config, frozen=True):
    """When to give up on a server that is slow or fails.

    Attributes:
        timeout_s: seconds to wait for a connection and for each read from it.
        tries: consecutive attempts without progress after which a download fails; an attempt that receives at least
            one byte resets the count.
        pause_s: seconds to wait before the second attempt; doubled before each further one.
    """

    timeout_s: float = 30.0
    tries: int = 5
    pause_s: float = 0.5


class TransientError(Exception):
    """A failure that a retry may resolve, such as a timeout or a busy server."""


class _NotFoundError(DownloadError):
    """There is nothing at this URL."""


class OutOfRangeError(DownloadError):
    """The requested range starts after the end of the file on the server."""


def ask(url: str, max_bytes: int = 0, patience: Patience | None = None) -> tuple[bytes, Message] | None:
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
    patience = patience or Patience()
    failures = 0
    while True:
        try:
            with open_url(url, {}, patience.timeout_s) as response:
                content, length = response.read(max_bytes), response.headers.get("Content-Length", "")
                if length.isdigit() and len(content) < min(int(length), max_bytes):
                    raise TransientError("the connection ended early")
                return content, response.headers
        except _NotFoundError:
            return None
        except TransientError as error:
            failures += 1
            if failures == patience.tries:
                raise DownloadError(f"{url}: {error} ({failures} attempts); check the URL and the network") from error
        time.sleep(patience.pause_s * 2 ** (failures - 1))


@contextlib.contextmanager
def open_url(url: str, headers: dict[str, str], timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """Open a connection and yield the response.

    Args:
        url: the URL.
        headers: additional request headers.
        timeout_s: seconds to wait for the connection and for each read from it.

    Raises:
        TransientError: the server is busy, or the connection failed, also while the block reads from it.
        DownloadError: the failure is final.
    """
    headers = {"User-Agent": "wordsight", "Accept-Encoding": "identity", **headers}
    opener = urllib.request.build_opener(_Redirects)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise _error_of_status(url, error) from error
    except _BROKEN_CONNECTION as error:
        raise TransientError(_reason(error)) from error
    except ValueError as error:
        raise DownloadError(f"{url}: not a valid URL: {error}") from error
    with response:
        try:
            yield response
        except _BROKEN_CONNECTION as error:
            raise TransientError(_reason(error)) from error


def _error_of_status(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in _RETRYABLE_STATUS:
        return TransientError(f"the server answers {error.code} {error.reason}")
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return OutOfRangeError(f"{url}: range not available ({error.code})")
    if error.code in _REDIRECTS:
        return DownloadError(f"{url}: redirected in a loop or from https to http; use another server")
    error_class = _NotFoundError if error.code in _NOT_FOUND_REASONS else DownloadError
    return error_class(
        f"{url}: {_REASONS.get(error.code, 'refused')} ({error.code}); check the URL or use another server"
    )


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow at most 5 redirects, and none from https to another scheme."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "redirected to an unencrypted connection", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
