"""One connection to a web server: what is a fault of the moment, and what is final.

The standard library is enough: what huggingface_hub speaks HTTP with has changed three times in the versions that we
work with.
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
_WORTH_ANOTHER_TRY = {408, 425, 429, 500, 502, 503, 504}
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_THERE = {404: "not on the server", 410: "no longer on the server"}
_REASONS = {**_NOT_THERE, 401: "not public", 403: "not public"}


class Patience(Config, frozen=True):
    """How long to bear with a server.

    Attributes:
        timeout_s: for a connection, and for every answer on it.
        tries: of a connection that brings nothing new; what does bring something costs none.
        pause_s: before the second try; doubled each time.
    """

    timeout_s: float = 30.0
    tries: int = 5
    pause_s: float = 0.5


class AgainError(Exception):
    """A fault of the moment; the message says which."""


class _NotThereError(DownloadError):
    """The server knows no such address."""


class OutOfRangeError(DownloadError):
    """The server has less than was had of it before."""


def ask(url: str, max_bytes: int = 0, patience: Patience | None = None) -> tuple[bytes, Message] | None:
    """The first bytes of what lies at an address, and its headers; None where nothing does.

    Raises:
        DownloadError: not to be had.
    """
    patience = patience or Patience()
    failures = 0
    while True:
        try:
            with opened(url, {}, patience.timeout_s) as answer:
                content, length = answer.read(max_bytes), answer.headers.get("Content-Length", "")
                if length.isdigit() and len(content) < min(int(length), max_bytes):
                    raise AgainError("the connection ended early")
                return content, answer.headers
        except _NotThereError:
            return None
        except AgainError as error:
            failures += 1
            if failures == patience.tries:
                raise DownloadError(f"{url}: {error}, {failures} times; check the address and the network") from error
        time.sleep(patience.pause_s * 2 ** (failures - 1))


@contextlib.contextmanager
def opened(url: str, headers: dict[str, str], timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """One connection, and what is read from it.

    Raises:
        AgainError: busy or broken.
        DownloadError: another try would not mend it.
    """
    headers = {"User-Agent": "wordsight", "Accept-Encoding": "identity", **headers}
    opener = urllib.request.build_opener(_Redirects)
    try:
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error) from error
    except _BROKEN_CONNECTION as error:
        raise AgainError(_words(error)) from error
    except ValueError as error:
        raise DownloadError(f"{url}: not an address: {error}") from error
    with answer:
        try:
            yield answer
        except _BROKEN_CONNECTION as error:
            raise AgainError(_words(error)) from error


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in _WORTH_ANOTHER_TRY:
        return AgainError(f"the server answers {error.code} {error.reason}")
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return OutOfRangeError(f"{url}: refused ({error.code})")
    if error.code in _REDIRECTS:
        return DownloadError(f"{url}: redirected in circles, or to where it is not encrypted; take another server")
    kind = _NotThereError if error.code in _NOT_THERE else DownloadError
    return kind(f"{url}: {_REASONS.get(error.code, 'refused')} ({error.code}); check the address, or the server")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """A few redirects, and none from an encrypted connection to one that is not."""

    max_redirections = _MAX_REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.HTTPError(newurl, code, "redirected to an open connection", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    return " ".join(str(getattr(reason, "strerror", None) or reason).split()) or type(error).__name__
