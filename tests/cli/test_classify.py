import json
import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.tiny_clip import tiny_clip, write_images

from wordsight.cli import main
from wordsight.data import Sample, writing_shards
from wordsight.zeroshot import ZeroShotClassifier

LABELS = ["cat", "dog", "bird"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run and three photos, one of them broken, as in the example of `--help`."""
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 3)[1].write_bytes(b"hello")
    return tmp_path


def run(*options: str, labels: str = "cat,dog,bird", images: str = "photos") -> int:
    return main(["classify", images, "--labels", labels, "--model", "runs/first", *options])


def test_example_in_help_runs(workspace, capsys):
    assert main(["classify", "--help"]) == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight classify " in line][1:]
    assert main(example[1:]) == 0


def test_each_image_is_one_line_and_unreadable_ones_have_a_reason(workspace, capsys):
    assert run() == 0
    (first,) = ZeroShotClassifier(tiny_clip(), LABELS).classify([workspace / "photos" / "000.png"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == [f"photos/{number:03d}.png" for number in range(3)]
    assert lines[0][1:] == [f"{first.label} {first.probability:.4f}"]
    assert lines[1][1].startswith("error: photos/001.png: not an image")


def test_top_sets_the_number_of_labels(workspace, capsys):
    assert run("--top", "2", "--templates", "plain") == 0
    assert [len(line.split("\t")) for line in capsys.readouterr().out.splitlines()] == [3, 2, 3]
    assert run("--top", "9") == 0
    assert len(capsys.readouterr().out.splitlines()[0].split("\t")) == 4


def test_json_is_one_object_per_line(workspace, capsys):
    assert run("--json", "--top", "2") == 0
    first, unreadable, _ = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["image"] == "photos/000.png"
    assert first["ranking"][0] == {"label": first["label"], "probability": first["probability"]}
    assert len(first["ranking"]) == 2
    assert unreadable["image"] == "photos/001.png"
    assert "not an image" in unreadable["error"]


def test_tables_and_shards_are_classified_under_the_names_of_their_images(workspace, capsys):
    assert run("--json") == 0
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (workspace / "list.csv").write_text("path\nphotos/000.png\nphotos/001.png\nphotos/002.png\n")
    assert run("--json", images="list.csv") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    with writing_shards(workspace / "shards") as writer:
        for number in (0, 2):
            image = (workspace / "photos" / f"{number:03d}.png").read_bytes()
            writer.add(Sample(key=str(number), image=image, captions=("a photo",)))
        writer.finish()
    assert run("--json", images="shards") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["ranking"] for row in rows] == [expected[0]["ranking"], expected[2]["ranking"]]
    assert len({row["image"] for row in rows}) == 2
    assert all(".tar" in row["image"] for row in rows)


def test_images_of_a_table_can_be_explained(workspace):
    (workspace / "list.csv").write_text("path\nphotos/000.png\nphotos/002.png\n")
    assert run("--why", "why.html", images="list.csv") == 0
    page = (workspace / "why.html").read_text()
    assert page.count("data:image/png") == 2
    assert "photos/002.png" in page


def test_frames_of_a_video_are_classified(workspace, capsys):
    av = pytest.importorskip("av")
    with av.open("film.mp4", "w") as film:
        stream = film.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for brightness in (0, 60, 120, 180, 240, 255, 10, 20):
            frame = av.VideoFrame(64, 64, "gray")
            frame.planes[0].update(bytes([brightness]) * frame.planes[0].buffer_size)
            film.mux(stream.encode(frame.reformat(format="yuv420p")))
        film.mux(stream.encode())
    assert run(images="film.mp4") == 0
    names = [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["film.mp4#t=0.000", "film.mp4#t=1.000"]
    assert run("--frames-per-s", "2", images="film.mp4") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_why_writes_a_page_with_every_readable_image(workspace, capsys):
    assert run("--why", "why.html") == 0
    page = (workspace / "why.html").read_text()
    assert page.count("data:image/png") == 2
    assert "2 images, 3 labels, classified by runs/first." in page
    assert "covering them lowers its probability" in page


@pytest.mark.parametrize("why", ["photos/000.png/why.html", "photos"])
def test_unwritable_page_is_reported_before_any_work(workspace, capsys, why):
    assert run("--why", why, labels="cat,dog") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert "cannot be written" in line or "photos: is a directory; name a file in it" in line


def test_missing_report_packages_are_reported_before_any_work(workspace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("--why", "why.html") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pip install 'wordsight[report]'" in captured.err


def test_long_table_is_printed_in_parts(workspace, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("wordsight.cli.classify_output._ROWS_IN_TABLE", 2)
    assert run() == 0
    printed = capsys.readouterr().out
    assert printed.count("┏") == 2
    assert printed.count("photos/00") == 3 + 1  # the reason repeats the name of the image


def test_page_shows_a_limited_number_of_images(workspace, monkeypatch):
    monkeypatch.setattr("wordsight.cli.explain_page.MAX_IMAGES", 1)
    assert run("--why", "why.html") == 0
    page = (workspace / "why.html").read_text()
    assert page.count("data:image/png") == 1
    assert "Only the first 1 of 2 images are shown." in page


def test_terminal_shows_a_table(workspace, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    (workspace / "photos" / "002.png").rename(workspace / "photos" / "[red]x.png")
    assert run("--top", "2") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("┏━")
    assert "photos/[red]x.png" in printed
    assert "not an image" in printed


def test_multi_label_ranks_all_labels_in_json(workspace, capsys):
    assert run("--multi-label", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (expected,) = ZeroShotClassifier(tiny_clip(), LABELS, multi_label=True).classify([workspace / "photos" / "000.png"])
    assert rows[0]["ranking"] == [{"label": a, "probability": pytest.approx(b)} for a, b in expected.ranking]
    assert run("--multi-label") == 0
    assert "\tno label above 0.5; the best is " in capsys.readouterr().out


def test_none_of_these_is_printed_with_the_reason(workspace, capsys):
    assert run("--none-of-these", "--json") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["label"] == "none of these"
    assert row["labels"] == []
    assert "general words" in row["reason"]
    assert run("--none-of-these", "--why", "why.html") == 0
    assert "none of these 0." in capsys.readouterr().out


def test_hierarchy_prints_the_path_of_the_label(workspace, capsys):
    (workspace / "kinds.txt").write_text("animal\n  cat\n  dog\nthing\n  car\n")
    assert run(labels="kinds.txt") == 0
    assert re.match(r"photos/000.png\t(animal|thing)( > \w+)? 0\.\d{4}\n", capsys.readouterr().out)
    assert run("--json", labels="kinds.txt") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["path"][-1] == row["label"]


def test_labelled_images_calibrate_the_classifier(workspace, capsys):
    for label in LABELS:
        write_images(workspace / "labelled" / label, 8)
    assert run("--calibrate", "labelled", "--json") == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert row["labels"]
    assert len(row["ranking"]) == len(row["labels"])
    (workspace / "labelled" / "cat" / "torn.png").write_bytes(b"no image")
    assert run("--calibrate", "labelled", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[0]) == row
    assert re.fullmatch(r"not used for calibration: cat/torn.png: .*\ncalibrated on 24 images: temperature .*\n", err)
    write_images(workspace / "labelled" / "horse", 1)
    assert run("--calibrate", "labelled") == 2
    assert "'horse': not one of the labels" in capsys.readouterr().err
    assert run("--calibrate", "photos") == 2
    *unused, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("not used for calibration: ") for line in unused)
    assert error.startswith("error: ")


def test_temperature_from_the_labels_is_reported(workspace, capsys):
    assert run("--temperature", "labels", "--json") == 0
    out, err = capsys.readouterr()
    classifier = ZeroShotClassifier(tiny_clip(), LABELS, temperature="labels")
    assert f"temperature {classifier.calibration.temperature:.2f}: " in err
    (expected,) = classifier.classify([workspace / "photos" / "000.png"])
    assert json.loads(out.splitlines()[0])["probability"] == pytest.approx(expected.probability)
    assert run("--temperature", "labels", "--quiet") == 0
    assert capsys.readouterr().err == ""
    assert run("--temperature", "labels", "--calibrate", "photos") == 2
    assert "--temperature labels and --calibrate both set the temperature; choose one" in capsys.readouterr().err
    assert run("--temperature", "label") == 2
    assert "temperature 'label': expected model or labels; did you mean 'labels'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "photos/001.png", "--labels", "a,b", "--model", "runs/first"], "none of 1 image could be"),
        (["classify", "runs", "--labels", "a,b", "--model", "runs/first"], "runs: no images in this directory"),
        (["classify", "photos", "--labels", "", "--model", "runs/first"], "--labels: no labels; give at least one"),
        (["classify", "photos", "--labels", "a,,b", "--model", "runs/first"], "--labels: label 1: expected a name"),
        (
            ["classify", "photos", "--labels", "a", "--model", "runs/first", "--templates", "{} and {}"],
            "2 slots for the label; write {} exactly once",
        ),
        (
            ["classify", "photos", "--labels", "a,b", "--model", "runs/blind"],
            "the architecture has 4 layers, but the file has only",
        ),
        (["classify", "photos", "--labels", "a,a", "--model", "runs/first"], "--labels: labels given more than once"),
        (["classify", "photos", "--labels", "no.txt", "--model", "runs/first"], "no.txt: cannot be read as labels"),
        (
            ["classify", "photos", "--labels", "a,b", "--model", "runs/frist"],
            "or of a training run; did you mean 'first'?",
        ),
        (
            ["classify", "photos", "--labels", "a", "--model", "runs/first", "--templates", "foto"],
            "did you mean 'photo'",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(workspace, capsys, arguments, message):
    tiny_clip().save(workspace / "runs" / "blind")  # a model without a text tower
    (weights,) = (workspace / "runs" / "blind").glob("*.safetensors")
    save_file({name: tensor for name, tensor in load_file(weights).items() if name.startswith("visual.")}, weights)
    without_hash(weights.with_name("wordsight.json"))
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_a_single_label_is_said_to_have_probability_one(workspace, capsys):
    assert run(labels="cat") == 0
    assert "with a single label, 'cat', the probability is always 1" in capsys.readouterr().err
    for options in (("--multi-label",), ("--none-of-these",), ("--quiet",)):
        assert run(*options, labels="cat") == 0
        assert "single label" not in capsys.readouterr().err


@pytest.mark.filterwarnings("always:.* longer than the model's context")
def test_truncated_labels_are_one_line_and_equal_ones_an_error(workspace, capsys):
    long = "very " * 12
    assert run(labels=f"{long}big cat,dog", images="photos/000.png") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 1 of 2 labels is longer than the model's context of 12 ids and truncated: 'very ")
    assert run(labels=f"{long}big cat,{long}big dog") == 2
    assert "are the same text after the model's context of 12 ids" in capsys.readouterr().err


def test_repeated_labels_need_an_option(workspace, capsys):
    (workspace / "index.json").write_text('{"134": ["n02012849", "crane"], "517": ["n03126707", "crane"]}')
    assert run(labels="index.json") == 2
    assert "labels given more than once: 'crane'; remove one, add a word" in capsys.readouterr().err
    assert run("--repeated-labels", "--json", labels="index.json", images="photos/000.png") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["label"] in ("crane [0]", "crane [1]")


def test_directories_with_underscores_calibrate_labels_with_either_spelling(workspace, capsys):
    for label in ("black_cat", "guide_dog"):
        write_images(workspace / "labelled" / label, 10)
    for labels in ("black_cat,guide_dog", "black cat,guide dog", "Black Cat,GUIDE_DOG"):
        assert run("--calibrate", "labelled", labels=labels) == 0
        assert "calibrated on 20 images: temperature " in capsys.readouterr().err
    assert run("--calibrate", "labelled", "--quiet", labels="black cat,guide dog") == 0
    assert capsys.readouterr().err == ""


def test_rows_stay_parseable_whatever_the_labels_contain(workspace, capsys):
    labels = ["a\tb", "c,d", '"e"', "f\x1b[31m", "g\x7fh", "i\u202ej", "k\\l", "\u00e9 0.5"]
    (workspace / "labels.json").write_text(json.dumps(labels))
    assert run("--top", "1000000000", labels="labels.json", images="photos/000.png") == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.rstrip("\n").isprintable() or out.replace("\t", "").rstrip("\n").isprintable()
    _, *cells = out.rstrip("\n").split("\t")
    assert {cell.rpartition(" ")[0] for cell in cells} == {
        "a b", "c,d", '"e"', "f\\x1b[31m", "g\\x7fh", "i\\u202ej", "k\\l", "\u00e9 0.5",
    }  # fmt: skip
    assert run("--top", "8", "--json", labels="labels.json", images="photos/000.png") == 0
    out = capsys.readouterr().out
    assert out.rstrip("\n").isascii()
    assert out.rstrip("\n").isprintable()
    assert {row["label"] for row in json.loads(out)["ranking"]} == {"a b", *labels[1:]}
    assert run("--why", "why.html", labels="labels.json", images="photos/000.png") == 0
    assert not {"\x1b", "\x7f", "\u202e"} & set((workspace / "why.html").read_text())


@pytest.mark.parametrize("top", ["0", "-1", "1e9", "x"])
def test_an_invalid_top_is_one_line(workspace, capsys, top):
    assert run("--top", top) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--top" in line


@pytest.mark.parametrize("num_images", [2, 4])
def test_a_table_whose_rows_fill_its_parts_has_no_empty_part(workspace, capsys, monkeypatch, num_images):
    write_images(workspace / "many", num_images)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("wordsight.cli.classify_output._ROWS_IN_TABLE", 2)
    assert run(images="many") == 0
    printed = capsys.readouterr().out
    assert printed.count("┏") == num_images // 2


def test_a_rejected_image_is_explained_with_the_reason(workspace):
    assert run("--none-of-these", "--why", "why.html") == 0
    assert "none of these 0." in (workspace / "why.html").read_text()


def without_hash(card):
    """Remove the hash of the weights from a card, so that changed weights are read."""
    card.write_text(json.dumps(json.loads(card.read_text()) | {"weights_sha256": ""}))


def test_a_damaged_logit_scale_is_one_line(workspace, capsys):
    (weights,) = (workspace / "runs" / "first" / "best").glob("*.safetensors")
    tensors = load_file(weights)
    save_file(tensors | {"logit_scale": tensors["logit_scale"] * float("nan")}, weights)
    without_hash(weights.with_name("wordsight.json"))
    assert run() == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "logit_scale is nan: the weights are damaged" in captured.err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("labels/mine.csv", "error: labels/mine.csv: cannot be read as labels: No such file"),
        ("classes.yaml", "error: classes.yaml: cannot be read as labels: No such file"),
        ("photos", "error: photos: cannot be read as labels: a directory"),
        ("photos/000.png", "error: photos/000.png: cannot be read as labels: not UTF-8"),
        ("/dev/zero", "error: /dev/zero: cannot be read as labels: not a regular file"),
        ("n02084071,n02121620", "error: --labels: 'n02084071' is a WordNet id"),
    ],
)
def test_labels_that_are_no_names_are_one_line(workspace, capsys, labels, message):
    assert run(labels=labels) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith(message)


def test_unusable_calibration_images_are_named_once_with_the_reason(workspace, capsys):
    for label in ("cat", "dog"):
        write_images(workspace / "labelled" / label, 10)
    (workspace / "labelled" / "cat" / "torn.png").write_bytes(b"no image")
    (workspace / "labelled" / "dog" / "gone.png").symlink_to("nowhere.png")
    assert run("--calibrate", "labelled", labels="cat,dog") == 0
    torn, gone, summary = capsys.readouterr().err.splitlines()
    assert torn.startswith("not used for calibration: cat/torn.png: not an image")
    assert gone == "not used for calibration: dog/gone.png: a broken link"
    assert summary.startswith("calibrated on 20 images: ")
    assert run("--calibrate", "labelled", labels="cat,bird") == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: labelled: 'dog': not one of the labels"
