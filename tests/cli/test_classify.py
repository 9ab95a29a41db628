import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny_clip import tiny_clip, write_images

from wordsight.cli import main
from wordsight.zeroshot import ZeroShotClassifier


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run and photographs, one of them broken, as the example of `--help` has it."""
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 3)[1].write_bytes(b"hello")
    return tmp_path


def run(*more: str, labels: str = "cat,dog,bird") -> int:
    return main(["classify", "photos", "--labels", labels, "--model", "runs/first", *more])


def test_the_example_of_the_help_runs(place, capsys):
    assert main(["classify", "--help"]) == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight classify " in line][1:]
    assert main(example[1:]) == 0


def test_a_image_is_a_line_and_a_broken_one_has_its_reason(place, capsys):
    assert run() == 0
    (first, *_) = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "bird"]).classify([place / "photos" / "000.png"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [f"photos/{number:03d}.png" for number in range(3)]
    assert lines[0][1:] == [f"{first.label} {first.probability:.4f}"]
    assert lines[1][1].startswith("error: photos/001.png: not an image")


def test_more_labels_are_shown_when_asked_for(place, capsys):
    assert run("--top", "2", "--templates", "plain") == 0
    assert [len(line.split("\t")) for line in capsys.readouterr().out.splitlines()] == [3, 2, 3]
    assert run("--top", "9") == 0
    assert len(capsys.readouterr().out.splitlines()[0].split("\t")) == 4


def test_json_is_an_object_a_line(place, capsys):
    assert run("--json", "--top", "2") == 0
    first, broken, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["image"] == "photos/000.png"
    assert first["ranking"][0] == {"label": first["label"], "probability": first["probability"]}
    assert len(first["ranking"]) == 2
    assert broken["image"] == "photos/001.png"
    assert "not an image" in broken["error"]


def test_why_writes_a_page_of_all_that_was_labelled(place, capsys):
    assert run("--why", "why.html") == 0
    page = (place / "why.html").read_text()
    assert page.count("data:image/png") == 2
    assert "2 images, 3 labels, by runs/first." in page


@pytest.mark.parametrize("why", ["photos/000.png/why.html", "photos"])
def test_a_page_that_cannot_be_written_is_told_before_any_work(place, capsys, why):
    assert run("--why", why, labels="cat,dog") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert "cannot be written" in line or "photos: is a directory; name a file in it" in line


def test_a_page_without_its_packages_is_told_before_any_work(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("--why", "why.html") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "pip install 'wordsight[report]'" in shown.err


def test_a_table_of_very_many_images_comes_in_parts(place, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("wordsight.cli.classify_lines._ROWS_IN_TABLE", 2)
    assert run() == 0
    shown = capsys.readouterr().out
    assert shown.count("┏") == 2
    assert shown.count("photos/00") == 3 + 1  # a reason names its image again


def test_the_page_of_many_images_is_bounded(place, monkeypatch):
    monkeypatch.setattr("wordsight.cli.classify_report.MAX_IMAGES", 1)
    assert run("--why", "why.html") == 0
    page = (place / "why.html").read_text()
    assert page.count("data:image/png") == 1
    assert "The first 1 are shown; 1 more were labelled." in page


def test_a_terminal_gets_a_table(place, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    (place / "photos" / "002.png").rename(place / "photos" / "[red]x.png")
    assert run("--top", "2") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("┏━")
    assert "photos/[red]x.png" in shown
    assert "not an image" in shown


def test_each_label_by_itself_and_all_of_them_in_json(place, capsys):
    assert run("--multi-label", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "bird"], multi_label=True).classify(
        [place / "photos" / "000.png"]
    )
    assert rows[0]["ranking"] == [{"label": a, "probability": pytest.approx(b)} for a, b in next(expected).ranking]
    assert run("--multi-label") == 0
    assert "no label is sure enough" in capsys.readouterr().out


def test_none_of_these_comes_with_its_reason(place, capsys):
    assert run("--none-of-these", "--json") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["label"] == "none of these"
    assert row["labels"] == []
    assert "times as well as general words" in row["reason"]
    assert run("--none-of-these", "--why", "why.html") == 0
    assert "none of these 0." in capsys.readouterr().out


def test_a_tree_shows_the_path(place, capsys):
    (place / "kinds.txt").write_text("animal\n  cat\n  dog\nthing\n  car\n")
    assert run(labels="kinds.txt") == 0
    assert re.match(r"photos/000.png\t(animal|thing)( > \w+)? 0\.\d{4}\n", capsys.readouterr().out)
    assert run("--json", labels="kinds.txt") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["path"][-1] == row["label"]


def test_labelled_images_calibrate(place, capsys):
    for label in ("cat", "dog", "bird"):
        write_images(place / "known" / label, 8)
    assert run("--calibrate", "known", "--json") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["labels"]
    assert len(row["ranking"]) == len(row["labels"])
    (place / "known" / "cat" / "torn.png").write_bytes(b"no image")
    assert run("--calibrate", "known", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[0]) == row
    assert re.fullmatch(r"calibrating without cat/torn.png: .*\n", err)
    write_images(place / "known" / "horse", 1)
    assert run("--calibrate", "known") == 2
    assert "'horse': not one of the labels" in capsys.readouterr().err
    assert run("--calibrate", "photos") == 2
    *told, line = capsys.readouterr().err.splitlines()
    assert all(one.startswith("calibrating without ") for one in told)
    assert line.startswith("error: ")


def test_the_labels_alone_give_a_temperature_that_is_told(place, capsys):
    assert run("--temperature", "labels", "--json") == 0
    out, err = capsys.readouterr()
    labels = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "bird"], temperature="labels")
    assert f"temperature {labels.calibration.temperature:.2f}: " in err
    (expected,) = labels.classify([place / "photos" / "000.png"])
    assert json.loads(out.splitlines()[0])["probability"] == pytest.approx(expected.probability)
    assert run("--temperature", "labels", "--calibrate", "photos") == 2
    assert "the labelled images of --calibrate give the temperature; choose one" in capsys.readouterr().err
    assert run("--temperature", "label") == 2
    assert "temperature 'label': expected model or labels; did you mean 'labels'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "photos/001.png", "--labels", "a,b", "--model", "runs/first"], "none of 1 images could be"),
        (["classify", "runs", "--labels", "a,b", "--model", "runs/first"], "runs: no images in this directory"),
        (["classify", "photos", "--labels", "", "--model", "runs/first"], "--labels: no labels; give at least one"),
        (["classify", "photos", "--labels", "a,,b", "--model", "runs/first"], "--labels: label 1: expected a name"),
        (
            ["classify", "photos", "--labels", "a", "--model", "runs/first", "--templates", "{} and {}"],
            "2 slots for the label; write {} exactly once",
        ),
        (["classify", "photos", "--labels", "a,b", "--model", "runs/blind"], "tensors cannot be the card's 4 layers"),
        (["classify", "photos", "--labels", "a,a", "--model", "runs/first"], "--labels: labels given more than once"),
        (["classify", "photos", "--labels", "no.txt", "--model", "runs/first"], "no.txt: cannot be read as labels"),
        (["classify", "photos", "--labels", "a,b", "--model", "runs/frist"], "no such model; did you mean 'first'?"),
        (
            ["classify", "photos", "--labels", "a", "--model", "runs/first", "--templates", "foto"],
            "did you mean 'photo'",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(place, capsys, arguments, message):
    tiny_clip().save(place / "runs" / "blind")  # a model without a text tower
    (weights,) = (place / "runs" / "blind").glob("*.safetensors")
    save_file({name: tensor for name, tensor in load_file(weights).items() if name.startswith("visual.")}, weights)
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
