"""Label hierarchies: parsing, and predictions compared with hand-computed sums."""

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


def parse(directory: Path, text: str) -> LabelHierarchy | list[tuple[str, ...]]:
    (directory / "kinds.txt").write_text(text)
    return read_labels(str(directory / "kinds.txt"))


@pytest.mark.parametrize("indent", ["    ", "  ", "\t"])
def test_indented_lines_make_a_hierarchy(tmp_path: Path, indent: str) -> None:
    hierarchy = parse(tmp_path, TEXT.replace("    ", indent).replace("small" + " " * 3, "small   "))
    assert hierarchy == LabelHierarchy(("Chihuahua", "small terrier", "cat", "car"), PATHS)


def test_lines_with_equal_indentation_make_a_list(tmp_path: Path) -> None:
    assert parse(tmp_path, "  dog\n  cat\n") == [("dog",), ("cat",)]


@pytest.mark.parametrize(
    ("probabilities", "path", "probability"),
    [
        ([0.6, 0.1, 0.1, 0.2], PATHS[0], 0.6),
        ([0.3, 0.3, 0.2, 0.2], ("animal", "dog"), 0.6),
        ([0.2, 0.2, 0.35, 0.25], ("animal",), 0.75),
        ([0.1, 0.1, 0.1, 0.7], PATHS[3], 0.7),
        ([0.25, 0.25, 0.0, 0.5], ("animal",), 0.5),  # no node exceeds 0.5: the first top-level node
    ],
)
def test_the_deepest_node_above_one_half_is_predicted(probabilities, path, probability) -> None:
    hierarchy = LabelHierarchy(tuple(path[-1] for path in PATHS), PATHS)
    assert hierarchy.deepest_node(np.array(probabilities)) == (path, pytest.approx(probability))


def test_a_hierarchical_classifier_uses_the_weights_of_its_leaves(tmp_path: Path) -> None:
    clip, images = tiny_clip(), [random_image(seed) for seed in range(5)]
    flat = ZeroShotClassifier(clip, ["Chihuahua", "small terrier", "cat", "car"])
    hierarchical = ZeroShotClassifier(clip, parse(tmp_path, TEXT))
    assert np.array_equal(hierarchical.weights, flat.weights)
    for prediction, leaf in zip(hierarchical.classify(images), flat.classify(images), strict=True):
        assert prediction.ranking == leaf.ranking
        assert prediction.label == prediction.path[-1]
        depth = len(prediction.path)
        leaves = [name for name, path in zip(flat.names, PATHS, strict=True) if path[:depth] == prediction.path]
        assert prediction.probability == pytest.approx(sum(dict(leaf.ranking)[name] for name in leaves))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("animal\n\tdog\n    cat\n", "both tabs and spaces; use one or the other"),
        ("animal\n    dog\n    Animal\n", "line 3: 'Animal' is already the name on line 1"),
        ("animal\n    dog\nthing\n    dog\n", "line 4: 'dog' is already the name on line 2"),
        ("animal\n    dog\n            pug\n", "line 3: 'pug' is indented by 12 more"),
        (
            "animal\n    dog\n      pug\n",
            "line 3: 'pug' is indented by 6 more than the first line; expected a multiple",
        ),
        ("  animal\ndog\n", "line 2: 'dog' is indented by -2 more"),
        ("", "no labels"),
    ],
)
def test_a_malformed_hierarchy_is_a_one_line_error_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "kinds.txt: "))
    assert "\n" not in str(caught.value)


def test_a_hierarchy_cannot_be_combined_with_multi_label_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multi-label mode cannot be combined with a hierarchy"):
        ZeroShotClassifier(tiny_clip(), parse(tmp_path, TEXT), multi_label=True)
