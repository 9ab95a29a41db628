"""Labels on the command line: a path that is not a file never becomes a label, and every name identifies one label."""

import os
from pathlib import Path

import pytest
from tests.tiny_clip import random_image, tiny_clip

from wordsight.errors import ConfigError, WordsightError
from wordsight.zeroshot import LabelHierarchy, ZeroShotClassifier, read_labels
from wordsight.zeroshot.labels import MAX_HIERARCHY_DEPTH


@pytest.mark.parametrize(
    "value",
    [
        "labels/mine.csv", "classes.yaml", "labels/mine", "./labels", "a.TXT", "photo.jpg", "/nowhere/labels", "a\\b",
        "labels.parquet", "one.txt,two.txt", "/data/a,b", "cat,dog.txt", "coco.names",
    ],
)  # fmt: skip
def test_a_value_that_looks_like_a_path_is_never_a_label(value: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WordsightError, match=r"cannot be read as labels"):
        read_labels(value)


def test_the_nearest_file_is_suggested_and_directories_and_devices_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    (tmp_path / "kinds").mkdir()
    os.mkfifo("pipe")
    for value, message in [
        ("lables.txt", "No such file or directory; did you mean 'labels.txt'?"),
        ("kinds", "a directory; expected a file with one name per line"),
        ("pipe", "not a regular file"),
        ("/dev/zero", "not a regular file"),
    ]:
        with pytest.raises(WordsightError) as caught:
            read_labels(value)
        assert str(caught.value).startswith(f"{value}: cannot be read as labels: {message}")


def test_names_with_commas_are_quoted_and_slashes_are_allowed_between_commas() -> None:
    assert read_labels('"salt, pepper", dog') == [("salt, pepper",), ("dog",)]
    assert read_labels('AC/DC concert,12" record,St. Bernard') == [
        ("AC/DC concert",),
        ('12" record',),
        ("St. Bernard",),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('["cat", "dog"]', "looks like JSON"),
        ("cat\ndog", "has several lines"),
        ('"cat,dog', "check the quotation marks"),
        ("cat,dog,", "label 2: expected a name, found ''"),
        ("n02084071,n02121620", "'n02084071' is a WordNet id"),
        ("cat,\udcff", "is not valid Unicode"),
        ("cat,\u200b", "label 1: expected a name"),
        ("cat,Cat", "labels given more than once"),
        ("caf\u00e9,cafe\u0301", "labels given more than once"),
        ("cat dog,cat  dog", "labels given more than once"),
        ("cat," + "x" * 5000, "5,000 characters, more than 2,000"),
    ],
)
def test_lists_that_are_no_lists_of_names_are_refused(value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^--labels: ") as caught:
        read_labels(value)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_comments_are_no_labels_of_a_hierarchy_and_its_depth_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "kinds.txt"
    path.write_text("# kinds\nanimal\n  # four legs\n  dog\n  cat\n")
    assert read_labels(str(path)) == LabelHierarchy(("dog", "cat"), (("animal", "dog"), ("animal", "cat")))
    path.write_text("\n".join(" " * depth + f"kind {depth}" for depth in range(500)))
    with pytest.raises(ConfigError, match=f"line {MAX_HIERARCHY_DEPTH + 1}: more than {MAX_HIERARCHY_DEPTH} levels"):
        read_labels(str(path))


def test_repeated_names_are_separate_classes_if_the_caller_says_so(tmp_path: Path) -> None:
    path = tmp_path / "synset_words.txt"
    path.write_text("n02012849 crane\nn03126707 crane\nn01440764 tench, Tinca tinca\n")
    with pytest.raises(ConfigError, match=r"more than once: 'crane'; .*--repeated-labels"):
        read_labels(str(path))
    labels = read_labels(str(path), repeated_labels=True)
    with pytest.raises(ConfigError, match="more than once"):
        ZeroShotClassifier(tiny_clip(), labels)
    classifier = ZeroShotClassifier(tiny_clip(), labels, repeated_labels=True)
    assert classifier.names == ("crane [0]", "crane [1]", "tench")
    (prediction,) = classifier.classify([random_image(0)])
    probabilities = dict(prediction.ranking)
    assert len(probabilities) == 3
    assert probabilities["crane [0]"] == pytest.approx(probabilities["crane [1]"])
    assert classifier.index_of("Crane [1]") == 1
    with pytest.raises(ConfigError, match="'crane': the name of several labels"):
        classifier.index_of("crane")


def test_a_label_is_identified_by_any_spelling_of_its_names() -> None:
    classifier = ZeroShotClassifier(tiny_clip(), ["black_cat", ("guide dog", "dog"), ("hound", "dog")])
    assert [classifier.index_of(name) for name in ("black cat", "Black_Cat", "guide_dog", "hound")] == [0, 0, 1, 2]
    with pytest.raises(ConfigError, match="'dog': the name of several labels"):
        classifier.index_of("dog")
    with pytest.raises(ConfigError, match=r"'hund': not one of the labels; did you mean 'hound'\?$"):
        classifier.index_of("hund")
