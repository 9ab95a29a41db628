import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 3)[1].write_bytes(b"hello")
    return tmp_path


def run(out: str, *more: str) -> int:
    return main(["embed", "photos", "--out", out, "--model", "runs/first", *more])


def test_the_example_of_the_help_runs(place, capsys):
    assert main(["embed", "--help"]) == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight embed " in line][1:]
    assert main(example[1:]) == 0
    assert pq.read_table("photos.parquet").num_rows == 3


def test_what_was_done_and_left_out_is_told(place, capsys):
    assert run("out.npy") == 0
    shown = capsys.readouterr()
    assert shown.out == f"out.npy: 2 embeddings, 2 of them new, 1 broken images; {tiny_clip().fingerprint}\n"
    assert shown.err.startswith("left out: photos/001.png: not an image")
    assert np.load("out.npy").shape == (2, 8)


def test_json_is_one_object(place, capsys):
    assert run("out.parquet", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["out"], answer["embeddings"], answer["computed"]) == ("out.parquet", 2, 2)
    assert answer["fingerprint"] == tiny_clip().fingerprint.digest
    assert [broken["path"] for broken in answer["broken"]] == ["photos/001.png"]


def test_an_interrupted_run_ends_with_130_and_the_next_goes_on(place, capsys):
    write_images(place / "photos", 5000)
    command = [sys.executable, "-m", "wordsight", "embed", "photos", "--out", "out.npy", "--model", "runs/first"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(place.glob(".out.npy.parts/*.parquet")):  # the first 2,048
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted"
    assert not (place / "out.npy").exists()
    assert run("out.npy", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["embeddings"] == 5000
    assert answer["computed"] <= 5000 - 2048


def test_very_many_broken_images_are_counted(place, capsys, monkeypatch):
    monkeypatch.setattr("wordsight.embed.job.MAX_LISTED_UNREADABLE", 1)
    (place / "photos" / "000.png").write_bytes(b"")
    assert run("out.npy") == 0
    shown = capsys.readouterr()
    assert "2 broken images" in shown.out
    assert shown.err.splitlines()[-1] == "left out: 1 more, listed in the file"


def test_mistakes_are_one_line_and_exit_code_2(place, capsys):
    (place / "file").write_text("")
    (place / "photos.npy").mkdir()
    for out, message in (
        ("out.csv", "ends in .parquet or .npy"),
        ("file/out.npy", "cannot be written"),
        ("photos.npy", "photos.npy: is a directory; name a file in it"),
    ):
        assert run(out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
