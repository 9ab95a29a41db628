"""Limits on the time and the bytes of a response, enforced on its socket.

http.client limits the time of each read and the length of each header line, but not the time of a whole request or the
bytes of all headers, interim responses, chunk sizes and trailers. A server that sends one byte per second, or trailers
without end, would keep it busy for ever. `_TimedReader` is below http.client, so that nothing is read without limits.
"""

import functools
import http.client
import io
import time
import urllib.request
from collections.abc import Callable
from typing import Any

MAX_HEADER_BYTES = 1 << 18
"""Status line and headers of one response, including interim responses; curl accepts 300 KB."""
MAX_FRAMING_BYTES = 1 << 20
"""Bytes that a body may have on the wire beyond twice its own size: chunk sizes and trailers (RFC 9112, section 7)."""


class ResponseLimits:
    """Time and bytes that one response may still take.

    Args:
        timeout_s: seconds for all headers together, and for each read from the body.
        total_seconds_left: called for the seconds that the whole download may still take.
    """

    def __init__(self, timeout_s: float, total_seconds_left: Callable[[], float]) -> None:
        self._timeout_s, self._total_seconds_left = timeout_s, total_seconds_left
        self._headers_end_s: float | None = time.monotonic() + timeout_s
        self.bytes_left = MAX_HEADER_BYTES

    def start_body(self, max_bytes: int) -> None:
        """End the limits for headers and begin those for a body."""
        self._headers_end_s = None
        self.bytes_left = 2 * max_bytes + MAX_FRAMING_BYTES

    def seconds_left(self) -> float:
        """Seconds until the next read has to be finished."""
        own_s = self._timeout_s if self._headers_end_s is None else self._headers_end_s - time.monotonic()
        return min(own_s, self._total_seconds_left())


class _TimedReader(io.RawIOBase):
    """Reads from a socket within the limits."""

    def __init__(self, raw: Any, sock: Any, limits: ResponseLimits) -> None:
        self._raw, self._socket, self._limits = raw, sock, limits

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        timeout_s = self._limits.seconds_left()
        if timeout_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(timeout_s)
        size = self._raw.readinto(buffer)
        self._limits.bytes_left -= size or 0
        if self._limits.bytes_left < 0:
            raise http.client.HTTPException("the server sends more than a response may have")
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """A response that is read through a `_TimedReader`."""

    def __init__(self, sock: Any, *arguments: Any, limits: ResponseLimits, **options: Any) -> None:
        super().__init__(sock, *arguments, **options)
        self.fp = io.BufferedReader(_TimedReader(self.fp.detach(), sock, limits))


class _TimedHandler(urllib.request.AbstractHTTPHandler):
    """Opens connections whose responses are `_TimedResponse`s."""

    limits: ResponseLimits

    def do_open(self, http_class: Callable[..., Any], req: urllib.request.Request, **options: Any) -> Any:
        def connect(host: str, **settings: Any) -> Any:
            connection = http_class(host, **settings)
            connection.response_class = functools.partial(_TimedResponse, limits=self.limits)
            return connection

        return super().do_open(connect, req, **options)


class HTTPHandler(_TimedHandler, urllib.request.HTTPHandler):
    """Opens http connections within limits."""

    def __init__(self, limits: ResponseLimits) -> None:
        super().__init__()
        self.limits = limits


class HTTPSHandler(_TimedHandler, urllib.request.HTTPSHandler):
    """Opens https connections within limits."""

    def __init__(self, limits: ResponseLimits) -> None:
        super().__init__()
        self.limits = limits
