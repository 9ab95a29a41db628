"""Web servers on loopback for tests, each in its own thread."""

import contextlib
import http.server
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar


class LoopbackServer(http.server.ThreadingHTTPServer):
    """A server whose open connections do not keep the process alive."""

    daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class QuietHandler(http.server.BaseHTTPRequestHandler):
    """A handler that does not log requests, and responds to GET and HEAD in `respond`."""

    def respond(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def log_message(self, *_: object) -> None:
        pass


S = TypeVar("S", bound=LoopbackServer)


@contextlib.contextmanager
def serving(server: S) -> Iterator[S]:
    """Run the server until the block ends."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


Respond = Callable[[bytes, Callable[[bytes], None]], None]
"""Called with a request and a function that sends bytes, which raises OSError when the client has gone."""


@contextlib.contextmanager
def serving_bytes(respond: Respond) -> Iterator[str]:
    """Run a server that sends arbitrary bytes, as no library for servers would; yield its address."""

    class Handler(socketserver.BaseRequestHandler):
        request: socket.socket

        def handle(self) -> None:
            request = b""
            while b"\r\n\r\n" not in request and (block := self.request.recv(1 << 16)):
                request += block
            with contextlib.suppress(OSError):
                respond(request, self.request.sendall)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
