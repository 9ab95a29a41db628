import csv
import json
from pathlib import Path

import pytest
from tests.tiny_clip import png, tiny_clip, write_images

import wordsight as ws
from wordsight.cli import main


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with models of different kinds."""
    directory = tmp_path_factory.mktemp("models")
    tiny_clip().save(directory / "first" / "best")
    tiny_clip("residual", seed=1).save(directory / "second" / "best")
    return directory


@pytest.fixture
def workspace(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two runs, labelled images as in the example of `--help`, and captioned ones."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to(models, target_is_directory=True)
    for number in range(12):
        directory = tmp_path / "pets" / ("cat", "dog", "fish")[number % 3]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.png").write_bytes(png(number))
    for number, path in enumerate(write_images(tmp_path / "pairs", 12)):
        path.with_suffix(".txt").write_text(f"image number {number}")
    return tmp_path


def run(*arguments: str) -> int:
    return main(["evaluate", *arguments])


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_example_in_help_runs(workspace, capsys):
    assert run("--help") == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight evaluate runs" in line]
    assert main(example[1:]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("pets: 12 images with 3 classes, data ")
    assert lines[2] == "accuracy, chance 33.3 %"
    assert lines[3].startswith("  runs/first   ")
    assert lines[4].startswith("  runs/second  ")
    assert "p = " in lines[4]
    assert lines[-1].startswith("Differences from runs/first in points: paired bootstrap 95 %")
    assert lines[-1].endswith("p: exact McNemar test.")


def test_one_model_has_one_line_per_metric(workspace, capsys):
    assert run("runs/first", "pairs") == 0
    header, model, *lines, methods = capsys.readouterr().out.splitlines()
    assert header.startswith("pairs: 12 images with 12 captions, data ")
    assert model == "runs/first:"
    assert [line.split()[0] for line in lines] == [
        f"{direction}_recall@{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)
    ]
    assert all("%, chance " not in line and ", chance " in line and "p =" not in line for line in lines)
    assert methods == "[low, high]: Wilson 95 %; Wilson 95 % over images."


def test_two_equal_models_do_not_differ(workspace, capsys):
    assert run("runs/second", "runs/second", "pets", "--json") == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [(row["difference"], row["p_value"]) for row in scores] == [(None, None)] * 2 + [(0.0, 1.0)] * 2


def test_json_and_the_files_have_every_score_with_its_origin(workspace, capsys):
    options = ["runs/first", "runs/second", "pairs", "--split", "test", "--dataset", "mine"]
    assert run(*options, "--json", "--out", "scores.json") == 0
    result = json.loads(capsys.readouterr().out)
    assert json.loads(Path("scores.json").read_text()) == result
    assert result["contents"] == ["12 images with 12 captions"]
    expected = ws.evaluate(ws.load("runs/first"), "mine", data="pairs", split="test")
    row = result["scores"][0]
    assert (row["dataset"], row["split"], row["metric"]) == ("mine", "test", "image_to_text_recall@1")
    assert (row["weights_sha256"], row["data_sha256"]) == (expected.weights_sha256, expected.data_sha256)
    assert row["value"] == expected["image_to_text_recall@1"].value
    assert run(*options, "--out", "scores.csv") == 0
    with Path("scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in result["scores"]]
    assert [float(row["value"]) for row in rows] == [row["value"] for row in result["scores"]]


def test_unreadable_images_are_listed_and_counted(workspace, capsys):
    (workspace / "pets" / "cat" / "0.png").write_bytes(b"hello")
    assert run("runs/first", "pets") == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("unreadable: ")
    assert "; 1 unreadable image" in captured.out.splitlines()[0]
    assert run("runs/first", "pets", "--max-unreadable-share", "0.05") == 2
    line = error_line(capsys)
    assert "pets: 1 of 12 images cannot be read or have no text, more than 5.0%; the first: " in line
    assert line.endswith("repair or remove them, or raise --max-unreadable-share (max_unreadable_share)")


def test_further_unreadable_images_are_only_counted(workspace, capsys, monkeypatch):
    monkeypatch.setattr("wordsight.cli.evaluate_output.MAX_SHOWN_UNREADABLE", 1)
    for name in ("cat/0.png", "dog/1.png"):
        (workspace / "pets" / name).write_bytes(b"hello")
    assert run("runs/first", "pets", "--max-unreadable-share", "0.5") == 0
    assert capsys.readouterr().err.splitlines()[1:] == ["unreadable: 1 more; --json lists all"]


def test_a_table_with_texts_and_labels_is_evaluated_by_both_tasks(workspace, capsys):
    rows = "".join(f"pairs/{n:03d}.png,image number {n},{('cat', 'dog')[n % 2]}\n" for n in range(12))
    Path("table.csv").write_text(f"picture,words,kind\n{rows}")
    columns = ["--image-column", "picture", "--text-column", "words", "--label-column", "kind"]
    assert run("runs/first", "table.csv", *columns) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("table: 12 images with 12 captions and 12 images with 2 classes, data ")
    assert run("runs/first", "table.csv", *columns, "--task", "classification", "--templates", "a {}", "--json") == 0
    metrics = [row["metric"] for row in json.loads(capsys.readouterr().out)["scores"]]
    assert metrics == ["accuracy", "mean_per_class_accuracy"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/third", "pets"], "runs/third: no such model; "),
        (["runs/first", "runs/frist", "pets"], "runs/frist: no such model; "),
        (["runs/first", "runs/second"], "runs/second: a model, not data; the data comes last: wordsight evaluate"),
        (["runs/first", "openai/ViT-B-32"], "openai/ViT-B-32: a model, not data; "),
        (["pets", "runs/first"], "runs/first: a model, not data; "),
        (["pets", "pairs"], "pets: images or texts, not a model; models come first"),
        (["runs/first", "pest"], "pest: no such "),
        (["runs/first", "pets", "--task", "retrieval"], "pets: no images with captions, which retrieval needs; "),
        (["runs/first", "pets/cat"], "cat"),
        (["runs/first", "pets", "--task", "retreival"], "--task 'retreival': expected retrieval or classification"),
        (["runs/first", "pets", "--templates", "foto"], "templates 'foto': no such set"),
        (["runs/first", "pets", "--out", "scores.txt"], "--out scores.txt: expected a name that ends in .csv or .json"),
        (["runs/first", "pets", "--out", "old.csv"], "old.csv: exists already; name another file, or delete it"),
        (["runs/first", "pets", "--out", "old.csv/scores.csv"], "old.csv"),
        (["runs/first", "pets", "--label-column", "kind"], "pets: not a table"),
        (["runs/first"], "Missing argument"),
        (["runs/first", ""], "an argument is empty"),
        (["", "pets"], "an argument is empty"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(workspace, capsys, arguments, message):
    Path("old.csv").write_text("mine")
    assert run(*arguments) == 2
    assert message in error_line(capsys)
    assert Path("old.csv").read_text() == "mine"
    assert not Path("scores.csv").exists()


def test_a_single_class_is_an_error(workspace, capsys):
    for name in ("dog", "fish"):
        for path in (workspace / "pets" / name).iterdir():
            path.unlink()
    assert run("runs/first", "pets") == 2
    error_line(capsys)


@pytest.mark.filterwarnings("default")
def test_labels_that_occur_once_are_reported(workspace, capsys):
    (workspace / "pets" / "horse").mkdir()
    (workspace / "pets" / "horse" / "1.png").write_bytes(png(99))
    assert run("runs/first", "pets") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: pets: 1 of 4 labels occurs only once: 'horse'; if they are descriptions")
