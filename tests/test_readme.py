"""The code blocks of the README run as printed, in a directory in which the demo has run; its links resolve."""

import re
from pathlib import Path

import pytest

from tests.code_blocks import blocks_of, commands_of, run_blocks
from tests.conftest import ROOT

README = ROOT / "README.md"


def test_the_code_blocks_run(demo_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_directory)
    names = run_blocks(README)
    assert names["images"].shape == (1, 128)
    assert names["texts"].shape == (2, 128)
    assert names["ids"].shape == (1, 77)


def test_the_commands_show_the_main_uses() -> None:
    commands = [command for block in blocks_of(README) if block.language == "bash" for command in commands_of(block)]
    assert {command.split()[1] for command in commands} >= {"classify", "embed"}


def test_the_links_resolve() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README.read_text("utf-8")):
        assert (ROOT / target).exists(), target
