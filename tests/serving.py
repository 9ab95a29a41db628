"""Web servers on loopback for tests, each in its own thread."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
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
