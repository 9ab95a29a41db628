"""What the README shows runs as it stands, in a directory in which the demo was taken."""

import re
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from wordsight.cli import main

README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_shell_lines_run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    commands = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    assert {command[1] for command in commands} >= {"classify", "embed"}
    for program, *arguments in commands:
        assert program == "wordsight"
        assert main(arguments) == 0, capsys.readouterr().err


def test_the_python_lines_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (block,) = blocks("python")
    names: dict[str, object] = {}
    exec(block, names)
    assert names["images"].shape == (1, 128)  # type: ignore[attr-defined]
    assert names["texts"].shape == (2, 128)  # type: ignore[attr-defined]
    assert names["ids"].shape == (1, 77)  # type: ignore[attr-defined]


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
