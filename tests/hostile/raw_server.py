"""A web server on loopback that answers `/NAME/...` with the raw bytes of the file `NAME/response` in a directory.

    python -m tests.hostile.raw_server DIRECTORY

It prints its port. The bytes are sent as they are, status line included, so that they need not be HTTP.
"""

import contextlib
import socketserver
import sys
from pathlib import Path


class RawHandler(socketserver.StreamRequestHandler):
    """Sends the bytes and closes the connection."""

    def handle(self) -> None:
        request = self.rfile.readline(4096).split()
        while self.rfile.readline(4096).strip():
            pass
        name = request[1].decode().split("/")[1] if len(request) > 1 else ""
        path = Path(sys.argv[1]) / name / "response"
        if name and path.is_file():
            self.wfile.write(path.read_bytes())

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # the client may have closed the connection
            super().finish()


class RawServer(socketserver.ThreadingTCPServer):
    """A server whose connections do not keep the process alive, and that does not print errors of connections."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    with RawServer(("127.0.0.1", 0), RawHandler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
