"""Trees of labels: written by people, answered as deep as is sure, by hand-computed sums."""

from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import random_image, tiny_clip

from wordsight.errors import ConfigError
from wordsight.zeroshot import LabelHierarchy, ZeroShotClassifier, read_labels

TEXT = """animal
    dog
        Chihuahua
        small   terrier

    cat
vehicle
    car
"""
PATHS = (("animal", "dog", "Chihuahua"), ("animal", "dog", "small terrier"), ("animal", "cat"), ("vehicle", "car"))


def tree_of(place: Path, text: str) -> LabelHierarchy | list[tuple[str, ...]]:
    (place / "kinds.txt").write_text(text)
    return read_labels(str(place / "kinds.txt"))


@pytest.mark.parametrize("indent", ["    ", "  ", "\t"])
def test_indented_lines_are_a_tree(tmp_path: Path, indent: str) -> None:
    tree = tree_of(tmp_path, TEXT.replace("    ", indent).replace("small" + " " * 3, "small   "))
    assert tree == LabelHierarchy(("Chihuahua", "small terrier", "cat", "car"), PATHS)


def test_lines_indented_alike_are_a_list(tmp_path: Path) -> None:
    assert tree_of(tmp_path, "  dog\n  cat\n") == [("dog",), ("cat",)]


@pytest.mark.parametrize(
    ("probabilities", "path", "probability"),
    [
        ([0.6, 0.1, 0.1, 0.2], PATHS[0], 0.6),
        ([0.3, 0.3, 0.2, 0.2], ("animal", "dog"), 0.6),
        ([0.2, 0.2, 0.35, 0.25], ("animal",), 0.75),
        ([0.1, 0.1, 0.1, 0.7], PATHS[3], 0.7),
        ([0.25, 0.25, 0.0, 0.5], ("animal",), 0.5),  # no node passes a half: the first of the top
    ],
)
def test_the_deepest_node_that_passes_a_half_is_named(probabilities, path, probability) -> None:
    tree = LabelHierarchy(tuple(path[-1] for path in PATHS), PATHS)
    found = tree.answer(np.array(probabilities))
    assert found == (path, pytest.approx(probability))


def test_a_classifier_of_a_tree_asks_about_its_leaves(tmp_path: Path) -> None:
    clip, images = tiny_clip(), [random_image(seed) for seed in range(5)]
    flat = ZeroShotClassifier(clip, ["Chihuahua", "small terrier", "cat", "car"])
    tree = ZeroShotClassifier(clip, tree_of(tmp_path, TEXT))
    assert np.array_equal(tree.weights, flat.weights)
    for answer, leaf in zip(tree.classify(images), flat.classify(images), strict=True):
        assert answer.ranking == leaf.ranking
        assert answer.label == answer.path[-1]
        below = [name for name, path in zip(flat.names, PATHS, strict=True) if path[: len(answer.path)] == answer.path]
        assert answer.probability == pytest.approx(sum(dict(leaf.ranking)[name] for name in below))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("animal\n\tdog\n    cat\n", "tabs and blanks; use the one or the other"),
        ("animal\n    dog\n    Animal\n", "line 3: 'Animal' was named on line 1"),
        ("animal\n    dog\nthing\n    dog\n", "line 4: 'dog' was named on line 2"),
        ("animal\n    dog\n            pug\n", "line 3: 'pug' is indented by 12 more"),
        (
            "animal\n    dog\n      pug\n",
            "line 3: 'pug' is indented by 6 more than the first line; expected a multiple",
        ),
        ("  animal\ndog\n", "line 2: 'dog' is indented by -2 more"),
        ("", "no labels"),
    ],
)
def test_bad_trees_are_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        tree_of(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "kinds.txt: "))
    assert "\n" not in str(refused.value)


def test_a_tree_has_no_multi_label_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multi-label mode has no use for a tree"):
        ZeroShotClassifier(tiny_clip(), tree_of(tmp_path, TEXT), multi_label=True)
