"""Tagging, files, pages, accuracy and sorting with `wordsight classify`, on real files and a random model."""

import csv
import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.cli import main
from wordsight.data import Sample, writing_shards
from wordsight.zeroshot import ZeroShotClassifier

LABELS = ["cat", "dog", "bird"]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run and five photos, one of them broken, and a table of them with other columns."""
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 5)[1].write_bytes(b"hello")
    rows = [f"photos/{number:03d}.png,{LABELS[number % 3]},{number}.5,a title; {number}" for number in range(5)]
    Path("products.csv").write_text("\n".join(["file,kind,price,title", *rows]))
    return tmp_path


def run(*options: str, images: str = "photos", labels: str = "cat,dog,bird") -> int:
    return main(["classify", images, "--labels", labels, "--model", "runs/first", *options])


def predictions(**options):
    classifier = ZeroShotClassifier(tiny_clip(), LABELS, **options)
    images = [Path("photos") / f"{number:03d}.png" for number in (0, 2, 3, 4)]
    return {str(prediction.image): prediction for prediction in classifier.classify(images)}


def rows_of(path: str) -> list[dict]:
    if path.endswith(".csv"):
        with Path(path).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.endswith(".jsonl"):
        return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    return pq.read_table(path).to_pylist()


# --- tags ---


def middle_threshold() -> float:
    """A threshold that half of the images exceed."""
    best = sorted(prediction.probability for prediction in predictions().values())
    return (best[1] + best[2]) / 2


def test_a_threshold_selects_all_labels_above_it(workspace, capsys):
    assert run("--threshold", "0.2", "--json") == 0
    rows = {row["image"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    for name, prediction in predictions().items():
        assert rows[name]["labels"] == [label for label, probability in prediction.ranking if probability > 0.2]


def test_images_without_a_tag_are_counted_with_two_ways_out(workspace, capsys):
    threshold = middle_threshold()
    assert run("--threshold", f"{threshold:.6f}") == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == f"2 of 4 images have a label above {threshold:g}, 1.0 each; 2 have none"
    assert err.splitlines()[1].endswith("--top 1 gives every image its best label")
    assert len(re.findall(r"\tno label above .*; the best is (?:cat|dog|bird) 0\.\d{4}\n", out)) == 2
    suggested = re.match(r"--threshold (\S+) gives 4 images a label", err.splitlines()[1])
    assert suggested
    assert run("--threshold", suggested[1]) == 0
    assert "4 images: all have a label above" in capsys.readouterr().err


def test_top_gives_every_image_labels_and_marks_those_below_the_threshold(workspace, capsys):
    threshold = f"{middle_threshold():.6f}"
    assert run("--threshold", threshold, "--top", "2", "--out", "tags.jsonl") == 0
    out, _ = capsys.readouterr()
    assert "2 got their best labels although these are not" in out
    rows = [row for row in rows_of("tags.jsonl") if not row["error"]]
    assert [len(row["labels"]) for row in rows] == [2, 2, 2, 2]
    assert run("--threshold", threshold, "--top", "1") == 0
    assert capsys.readouterr().out.count("(not above ") == 2
    assert run("--multi-label", "--top", "3", "--out", "tags.jsonl") == 0
    assert {len(row["labels"]) for row in rows_of("tags.jsonl") if not row["error"]} == {3}


def test_a_run_without_a_threshold_gives_each_image_one_label_and_says_nothing(workspace, capsys):
    assert run("--top", "2") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("threshold", ["0", "1", "-0.5", "2", "nan", "inf"])
def test_a_threshold_outside_of_0_to_1_is_one_line(workspace, capsys, threshold):
    assert run(f"--threshold={threshold}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: --threshold {threshold}: expected a probability above 0 and below 1"


def test_a_threshold_and_a_hierarchy_are_one_line(workspace, capsys):
    Path("kinds.txt").write_text("animal\n  cat\n  dog\nthing\n  car\n")
    assert run("--threshold", "0.3", labels="kinds.txt") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--threshold cannot be combined with a hierarchy" in line


# --- files ---


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_has_one_row_per_image_and_the_other_columns_of_the_table(workspace, capsys, suffix):
    out = f"predictions.{suffix}"
    assert run("--out", out, "--label-column", "kind", "--top", "2", images="products.csv") == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == f"{out}: 5 images, 1 unreadable"
    assert captured.err.startswith("unreadable: photos/001.png: not an image")
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [f"photos/{number:03d}.png" for number in range(5)]
    assert [row["title"] for row in rows] == [f"a title; {number}" for number in range(5)]
    assert [row["price"] for row in rows] == [f"{number}.5" for number in range(5)]
    assert [row["kind"] for row in rows] == [LABELS[number % 3] for number in range(5)]
    assert [row["true_label"] for row in rows] == [LABELS[number % 3] for number in range(5)]
    for row, prediction in zip([rows[0], *rows[2:]], predictions().values(), strict=True):
        assert row["label"] == prediction.label
        assert float(row["probability"]) == pytest.approx(prediction.probability, rel=1e-5)
        assert not row["error"]
    assert "not an image" in rows[1]["error"]
    assert not rows[1]["label"]
    first = next(iter(predictions().values())).ranking[:2]
    if suffix == "csv":
        assert rows[0]["labels"] == first[0][0]
        assert rows[0]["ranking"] == "; ".join(f"{label} {probability:.4f}" for label, probability in first)
    else:
        assert rows[0]["labels"] == [first[0][0]]
        assert [item["label"] for item in rows[0]["ranking"]] == [label for label, _ in first]


def test_numbers_of_a_table_stay_numbers_and_equal_names_are_renamed(workspace):
    lines = [
        {"file": "photos/000.png", "label": "cat", "price": 1, "sizes": ["s", "m"], "input_label": True},
        {"file": "photos/002.png", "label": "dog", "price": 2.5, "more": {"a": 1}},
    ]
    Path("products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert run("--out", "out.parquet", images="products.jsonl") == 0
    first, second = rows_of("out.parquet")
    assert (first["price"], second["price"]) == (1.0, 2.5)
    assert first["sizes"] == '["s","m"]'
    assert first["input_label"] is True
    assert first["input_input_label"] == "cat"
    assert second["true_label"] == "dog"


def test_a_file_replaces_its_own_kind_and_nothing_else(workspace, capsys):
    for suffix in ("csv", "jsonl", "parquet"):
        out = Path(f"out.{suffix}")
        assert run("--out", str(out)) == 0
        assert run("--out", str(out)) == 0
        out.write_bytes(b"mine")
        capsys.readouterr()
        assert run("--out", str(out)) == 2
        assert (
            capsys.readouterr().err == f"error: {out}: exists and is not a file of predictions; choose another path\n"
        )
        assert out.read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--out", "out.txt"],
            "out.txt: unsupported type of file; expected a name that ends in .csv, .jsonl, .parquet",
        ),
        (["--out", "products.csv"], "products.csv: is also an input or another output"),
        (["--out", "photos"], "photos: is a directory"),
        (["--page", "x.html", "--why", "x.html"], "x.html: is also an input or another output"),
        (["--label-column", "knid"], "did you mean 'kind'"),
        (["--page", "photos"], "photos: is a directory"),
        (["--copy-to", "a", "--move-to", "b"], "--copy-to and --move-to both"),
        (["--image-root", "nowhere"], "nowhere"),
    ],
)
def test_bad_outputs_and_columns_are_one_line_and_nothing_is_written(workspace, capsys, options, message):
    before = sorted(workspace.rglob("*"))
    table = Path("products.csv").read_bytes()
    assert run(*options, images="products.csv") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line
    assert sorted(workspace.rglob("*")) == before
    assert Path("products.csv").read_bytes() == table


def test_labels_that_csv_cannot_separate_are_refused(workspace, capsys):
    Path("labels.txt").write_text("a;b\nc\n")
    assert run("--out", "out.csv", labels="labels.txt") == 2
    assert "label 'a;b' contains ';'" in capsys.readouterr().err
    assert run("--out", "out.jsonl", labels="labels.txt") == 0


def test_nothing_is_written_if_no_image_can_be_read(workspace, capsys):
    assert run("--out", "out.csv", "--page", "x.html", images="photos/001.png") == 2
    assert "none of 1 image could be read" in capsys.readouterr().err
    assert not Path("out.csv").exists()
    assert not Path("x.html").exists()


# --- accuracy ---


def test_accuracy_of_a_table_is_counted_by_hand(workspace, capsys):
    """The true labels are chosen so that two of four are the predicted ones."""
    predicted = [prediction.label for prediction in predictions().values()]
    wrong = [next(label for label in LABELS if label != each) for each in predicted]
    true = [predicted[0], wrong[1], predicted[2], wrong[3]]
    lines = ["file,label", *(f"photos/{n:03d}.png,{label}" for n, label in zip((0, 2, 3, 4), true, strict=True))]
    Path("true.csv").write_text("\n".join([*lines, f"photos/001.png,{true[0]}", "photos/000.png,zebra"]))
    assert run("--json", images="true.csv") == 0
    *_, result = map(json.loads, capsys.readouterr().out.splitlines())
    (score,) = result["scores"]
    assert (score["value"], score["n"], score["unreadable"], score["metric"]) == (0.5, 4, 1, "accuracy")
    assert (score["low"], score["high"]) == pytest.approx((0.1500, 0.8500), abs=1e-4)  # Wilson, 2 of 4
    assert score["chance"] == pytest.approx(1 / 3)
    assert sum(each["n"] for each in result["classes"]) == 4
    assert sum(each["predicted"] for each in result["classes"]) == 4
    wrong_pairs = {(true[1], predicted[1]), (true[3], predicted[3])}
    assert {(each["true_label"], each["label"]) for each in result["confusions"]} == wrong_pairs
    assert result["unknown_labels"] == {"zebra": 1}
    assert run("--page", "x.html", images="true.csv") == 0
    out = capsys.readouterr().out
    assert "true.csv, accuracy: 50.0 % [15.0, 85.0] of 4 (1 unreadable), chance 33.3 % (Wilson 95 %)" in out
    assert "not counted: 1 image with a label that is none of --labels, such as 'zebra'" in out
    assert "most frequent confusions: " in out
    page = Path("x.html").read_text()
    assert "50.0 %" in page
    assert page.count('data-mark="right"') == page.count('data-mark="wrong"') == 2


def test_directories_and_shards_with_labels_have_the_same_accuracy(workspace, capsys):
    for label in LABELS:
        write_images(workspace / "labelled" / label, 3)
    assert run("--json", images="labelled") == 0
    *rows, result = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(rows) == result["scores"][0]["n"] == 9
    assert all(row["true_label"] == Path(row["image"]).parent.name for row in rows)
    assert main(["shards", "labelled", "shards", "--quiet"]) == 0
    capsys.readouterr()
    assert run("--json", images=str(workspace / "shards")) == 0
    *_, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert other["classes"] == result["classes"]
    (workspace / "labelled" / "holidays").mkdir()
    write_images(workspace / "labelled" / "holidays", 1)
    assert run("--json", images="labelled") == 0
    assert "true_label" not in capsys.readouterr().out


def test_categories_that_are_no_labels_are_stated_only_if_their_column_is_named(workspace, capsys):
    Path("shop.csv").write_text("file,category\nphotos/000.png,Shoes\nphotos/002.png,Bags\n")
    assert run("--out", "out.csv", images="shop.csv") == 0
    assert capsys.readouterr().out == "out.csv: 2 images, 0 unreadable\n"
    assert [row["category"] for row in rows_of("out.csv")] == ["Shoes", "Bags"]
    assert run("--out", "out.csv", "--label-column", "category", images="shop.csv") == 0
    assert "not counted: 2 images with a label that is none of --labels, such as 'Shoes'" in capsys.readouterr().out


def test_images_without_labels_have_no_accuracy(workspace, capsys):
    with writing_shards(workspace / "shards") as writer:
        image = (workspace / "photos" / "000.png").read_bytes()
        writer.add(Sample(key="0", image=image, captions=("a photo",)))
        writer.finish()
    for images in ("photos", str(workspace / "shards")):
        assert run("--json", images=images) == 0
        assert "scores" not in capsys.readouterr().out


# --- pages ---


def test_a_page_shows_labels_columns_and_unreadable_images(workspace, capsys):
    assert run("--page", "x.html", "--label-column", "kind", images="products.csv") == 0
    page = Path("x.html").read_text()
    assert page.count('class="card"') == page.count("data:image/jpeg") == 4
    assert "a title; 4" in page
    assert "price at least" in page  # numbers, although CSV has only texts
    assert "Unreadable images" in page
    assert "photos/001.png: not an image" in page
    assert "Only the first" not in page


def test_a_page_says_that_it_cuts_images_off(workspace):
    assert run("--page", "x.html", "--page-limit", "3") == 0
    page = Path("x.html").read_text()
    assert page.count('class="card"') == 3
    assert "Only the first 3 of 4 images are shown. --page-limit N shows more." in page


def test_a_page_says_how_many_images_have_no_tag(workspace):
    assert run("--page", "x.html", "--multi-label") == 0
    page = Path("x.html").read_text()
    assert "0 of 4 images have a label above 0.5; 4 have none" in page
    assert "best: " in page


def test_missing_report_packages_are_reported_before_any_work(workspace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert run("--page", "x.html") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pip install 'wordsight[report]'" in captured.err


# --- sorting ---


def test_images_are_copied_into_a_directory_per_label(workspace, capsys):
    assert run("--copy-to", "sorted") == 0
    assert "copied 4 files to sorted" in capsys.readouterr().err
    expected = {f"sorted/{prediction.label}/{Path(name).name}" for name, prediction in predictions().items()}
    assert {path.as_posix() for path in Path("sorted").rglob("*.png")} == expected
    assert len(list(Path("photos").iterdir())) == 5


def test_images_of_a_table_are_moved_only_with_yes(workspace, capsys):
    Path("lists").mkdir()
    Path("products.csv").rename("lists/products.csv")
    options = ("--move-to", "sorted", "--image-root", str(workspace))
    assert run(*options, images="lists/products.csv") == 0
    out, err = capsys.readouterr()
    assert out.count("\tsorted/") == 4
    assert "nothing was moved" in err
    assert len(list(Path("photos").iterdir())) == 5
    assert run(*options, "--json", images="lists/products.csv") == 0
    *_, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert last["target"].startswith("sorted/")
    assert run(*options, "--yes", images="lists/products.csv") == 0
    assert [path.name for path in Path("photos").iterdir()] == ["001.png"]
    assert "1 image without a label stays in place" in capsys.readouterr().err


def test_images_without_a_tag_stay_and_hierarchies_become_nested_directories(workspace, capsys):
    assert run("--multi-label", "--copy-to", "sorted") == 0
    assert not Path("sorted").exists()
    assert "5 images without a label stay in place" in capsys.readouterr().err
    Path("kinds.txt").write_text("animal\n  cat\n  dog\nthing\n  car\n")
    assert run("--copy-to", "sorted", labels="kinds.txt") == 0
    assert {path.parts[1] for path in Path("sorted").rglob("*.png")} <= {"animal", "thing"}


@pytest.mark.parametrize(
    ("options", "images", "labels", "message"),
    [
        (["--copy-to", "photos/sorted"], "photos", "a,b", "--copy-to photos/sorted: inside the input photos"),
        (["--copy-to", "new"], "shards", "a,b", "only image files can be copied or moved, not images in shards"),
        (["--copy-to", "new"], "photos", "a/b,a:b", "labels 'a/b' and 'a:b': their images would be in the same"),
        (["--copy-to", "runs"], "photos", "first", "runs/first/000.png: exists, and is not replaced"),
        (["--yes"], "photos", "a,b", "--yes needs --copy-to or --move-to"),
    ],
)
def test_what_cannot_be_sorted_is_one_line_and_nothing_changes(workspace, capsys, options, images, labels, message):
    with writing_shards(workspace / "shards") as writer:
        image = (workspace / "photos" / "000.png").read_bytes()
        writer.add(Sample(key="0", image=image, captions=("a photo",)))
        writer.finish()
    Path("runs/first/000.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()}
    assert run(*options, "--quiet", images=images, labels=labels) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]
    assert {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file()} == before
