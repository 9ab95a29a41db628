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
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run and three photos, one of them broken, as in the example of `--help`."""
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 3)[1].write_bytes(b"hello")
    return tmp_path


def run(out: str, *options: str) -> int:
    return main(["embed", "photos", "--out", out, "--model", "runs/first", *options])


def test_example_in_help_runs(workspace, capsys):
    assert main(["embed", "--help"]) == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight embed " in line][1:]
    assert main(example[1:]) == 0
    assert pq.read_table("photos.parquet").num_rows == 2
    assert len(Path("photos.unreadable.jsonl").read_text().splitlines()) == 1


def test_summary_counts_embeddings_and_lists_unreadable_images(workspace, capsys):
    assert run("out.npy") == 0
    captured = capsys.readouterr()
    listed = "1 unreadable image (listed in out.npy.json)"
    assert captured.out == f"out.npy: 2 embeddings (2 new), {listed}; {tiny_clip().fingerprint}\n"
    assert captured.err.startswith("unreadable: photos/001.png: not an image")
    assert np.load("out.npy").shape == (2, 8)


def test_json_is_one_object(workspace, capsys):
    assert run("out.parquet", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["out"], result["embeddings"], result["computed"]) == ("out.parquet", 2, 2)
    assert result["fingerprint"] == tiny_clip().fingerprint.digest
    assert result["num_unreadable"] == 1
    assert [image["image"] for image in result["unreadable"]] == ["photos/001.png"]
    assert result["unreadable_file"] == "out.unreadable.jsonl"


def test_a_summary_without_unreadable_images_names_no_list(workspace, capsys):
    (workspace / "photos" / "001.png").unlink()
    assert run("out.parquet") == 0
    assert capsys.readouterr().out == (
        f"out.parquet: 2 embeddings (2 new), 0 unreadable images; {tiny_clip().fingerprint}\n"
    )
    assert run("out.parquet", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unreadable_file"] is None


PRODUCTS = """\
sku,photo,title,category,price,text
17,000.png,a cup,kitchen,3.50,one
18,001.png,a fork,kitchen,4,two
19,002.png,a lamp,light,12.99,three
"""


def test_columns_of_a_table_are_carried_along(workspace, capsys):
    (workspace / "products.csv").write_text(PRODUCTS)
    table = ["embed", "products.csv", "--model", "runs/first", "--image-root", "photos", "--image-column", "photo"]
    assert main([*table, "--text-column", "title", "--label-column", "category", "--out", "out.parquet"]) == 0
    assert "2 embeddings (2 new), 1 unreadable image (listed in out.unreadable.jsonl)" in capsys.readouterr().out
    rows = pq.read_table("out.parquet").drop(["sha256", "embedding"]).to_pylist()
    assert rows[0] == {
        "path": "000.png",
        "captions": ["a cup"],
        "label": "kitchen",
        "sku": "17",
        "title": "a cup",
        "category": "kitchen",
        "price": "3.50",
        "text": "one",
    }
    assert len(rows) == 2
    (line,) = map(json.loads, Path("out.unreadable.jsonl").read_text().splitlines())
    assert (line["path"], line["columns"]["sku"]) == ("001.png", "18")
    assert main([*table, "--text-column", "text", "--out", "kept.parquet", "--keep-unreadable"]) == 0
    kept = pq.read_table("kept.parquet").to_pylist()
    assert [row["captions"] for row in kept] == [["one"], ["two"], ["three"]]
    assert kept[1]["embedding"] is None
    assert "001.png: not an image" in kept[1]["error"]


def test_table_options_that_do_not_fit_are_refused_before_the_model_is_loaded(workspace, capsys):
    (workspace / "products.csv").write_text(PRODUCTS)
    (workspace / "out.unreadable.jsonl").write_text("mine")
    embed = ["embed", "products.csv", "--model", "no-such-model", "--out", "out.npy"]
    for arguments, message in (
        ([*embed, "--image-column", "foto"], "no column 'foto'"),
        ([*embed, "--keep-unreadable"], "out.npy: a NumPy file has no rows without embeddings"),
        ([*embed[:-1], "out.parquet"], "out.unreadable.jsonl: not a list of unreadable images"),
    ):
        assert main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert (workspace / "out.unreadable.jsonl").read_text() == "mine"
    assert {path.name for path in workspace.iterdir()} == {"runs", "photos", "products.csv", "out.unreadable.jsonl"}


def test_interrupted_run_exits_with_130_and_the_next_run_continues(workspace, capsys):
    write_images(workspace / "photos", 5000)
    command = [sys.executable, "-m", "wordsight", "embed", "photos", "--out", "out.npy", "--model", "runs/first"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not list(workspace.glob(".out.npy.parts/*.parquet")):  # the first 2,048 embeddings
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read().splitlines()[-1] == "interrupted"
    assert not (workspace / "out.npy").exists()
    assert run("out.npy", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["embeddings"] == 5000
    assert result["computed"] <= 5000 - 2048


def test_further_unreadable_images_are_only_counted(workspace, capsys, monkeypatch):
    monkeypatch.setattr("wordsight.embed.job.MAX_LISTED_UNREADABLE", 1)
    (workspace / "photos" / "000.png").write_bytes(b"")
    assert run("out.npy") == 0
    captured = capsys.readouterr()
    assert "2 unreadable images" in captured.out
    assert captured.err.splitlines()[-1].startswith("unreadable: 1 more, listed in out.")


def test_mistakes_are_one_line_and_exit_code_2(workspace, capsys):
    (workspace / "file").write_text("")
    (workspace / "photos.npy").mkdir()
    for out, message in (
        ("out.csv", ".parquet or .npy"),
        ("file/out.npy", "cannot be written"),
        ("photos.npy", "photos.npy: is a directory; name a file in it"),
    ):
        assert run(out) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
