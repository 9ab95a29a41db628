"""`ZeroShotClassifier`, its labels and its templates."""

import json

import numpy as np
import pytest
from tests.tiny_clip import png, random_image, tiny_clip

from wordsight.errors import ConfigError, DataError, ImageError, WordsightError
from wordsight.image import ImageRef
from wordsight.zeroshot import TEMPLATES, Prediction, ZeroShotClassifier, explain, read_labels, resolve_templates


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)


def test_weights_are_the_normalised_means_of_unit_embeddings():
    clip = tiny_clip()
    names = ["dog", ("cat", "kitty", "tom"), "small bird"]
    classifier = ZeroShotClassifier(clip, names, templates=["a photo of a {}.", "{}"])
    texts = [
        ["a photo of a dog.", "dog"],
        ["a photo of a cat.", "cat", "a photo of a kitty.", "kitty", "a photo of a tom.", "tom"],
        ["a photo of a small bird.", "small bird"],
    ]
    expected = np.stack([unit(np.mean([clip.embed_texts([text])[0] for text in row], axis=0)) for row in texts])
    np.testing.assert_allclose(classifier.weights, expected, atol=1e-6)
    assert classifier.weights.dtype == np.float32
    assert classifier.names == ("dog", "cat", "small bird")
    assert classifier.templates == ("a photo of a {}.", "{}")


@pytest.mark.filterwarnings("ignore:.* longer than the model's context")
def test_weights_do_not_depend_on_the_batches_of_texts():
    clip = tiny_clip()
    names = [f"thing {number}" for number in range(700)]
    weights = ZeroShotClassifier(clip, names, templates=TEMPLATES["photos"]).weights
    for number in (0, 292, 293, 699):
        single = ZeroShotClassifier(clip, names[number : number + 1], templates="photos").weights
        np.testing.assert_allclose(weights[number], single[0], atol=1e-5)


def test_probabilities_are_the_softmax_of_scaled_cosine_similarities():
    clip = tiny_clip()
    classifier = ZeroShotClassifier(clip, ["dog", "cat", "bird"])
    images = [random_image(seed) for seed in range(5)]
    cosines = clip.embed_images(images) @ classifier.weights.T
    powers = np.exp(clip.scale * cosines.astype(np.float64))
    expected = powers / powers.sum(axis=1, keepdims=True)
    for prediction, row in zip(classifier.classify(images), expected, strict=True):
        best = int(row.argmax())
        assert prediction.label == classifier.names[best]
        assert prediction.probability == pytest.approx(row[best], abs=1e-5)
        assert [label for label, _ in prediction.ranking] == [classifier.names[index] for index in np.argsort(-row)]
        assert sum(probability for _, probability in prediction.ranking) == pytest.approx(1)


def test_a_prediction_is_frozen_and_carries_its_image():
    classifier = ZeroShotClassifier(tiny_clip(), ["only"])
    (prediction,) = classifier.classify(png(0))
    assert prediction == Prediction(png(0), "only", 1.0, (("only", 1.0),), ("only",))
    assert prediction.image == png(0)
    with pytest.raises(AttributeError):
        prediction.label = "other"
    with pytest.raises(ValueError, match="read-only"):
        classifier.weights[0] = 0


def test_labels_of_equal_probability_keep_their_order():
    classifier = ZeroShotClassifier(tiny_clip(), ["b", "a", "c"], templates="x{}")
    classifier.weights = np.zeros_like(classifier.weights)  # equal rows are not enough: BLAS may round them differently
    (prediction,) = classifier.classify([png(0)])
    assert [label for label, _ in prediction.ranking] == ["b", "a", "c"]


def test_images_are_consumed_lazily():
    consumed = []

    def images():
        for number in range(1000):
            consumed.append(number)
            yield random_image(number)

    next(ZeroShotClassifier(tiny_clip(), ["a", "b"]).classify(images()))
    assert len(consumed) < 200


def test_an_unreadable_image_is_an_error_or_reported():
    classifier = ZeroShotClassifier(tiny_clip(), ["a", "b"])
    with pytest.raises(ImageError, match=r"missing.jpg: no such file"):
        list(classifier.classify([png(0), "missing.jpg"]))
    unreadable = []
    predictions = list(
        classifier.classify([png(0), "missing.jpg", png(1)], lambda image, reason: unreadable.append((image, reason)))
    )
    assert [prediction.image for prediction in predictions] == [png(0), png(1)]
    assert [(image, reason.partition(";")[0]) for image, reason in unreadable] == [
        ("missing.jpg", "missing.jpg: no such file")
    ]


def test_an_image_ref_is_one_image_and_is_returned_with_its_prediction():
    classifier = ZeroShotClassifier(tiny_clip(), ["a", "b"])
    (expected,) = classifier.classify(png(0))
    ref = ImageRef("cat.png", lambda: png(0))
    predictions = [*classifier.classify(ref), *classifier.classify([ref, png(1)])]
    assert [prediction.image for prediction in predictions] == [ref, ref, png(1)]
    assert predictions[0] == predictions[1] == expected
    assert np.array_equal(explain(classifier, ref).pixels, explain(classifier, png(0)).pixels)


def test_an_unreadable_image_ref_is_reported_by_its_name():
    classifier = ZeroShotClassifier(tiny_clip(), ["a", "b"])
    unreadable = []
    ref = ImageRef("cat.png", lambda: b"no image")
    assert not list(classifier.classify([ref], lambda *arguments: unreadable.append(arguments)))
    ((image, reason),) = unreadable
    assert image == ref
    assert reason.startswith("cat.png: ")
    with pytest.raises(ImageError, match=r"^cat.png: "):
        explain(classifier, ref)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no labels; give at least one"),
        (["a", " "], "label 1: expected a name, found ' '"),
        (["a", 5], "label 1: expected a name, found 5"),
        (["a", ()], "label 1: no name"),
        ("cat", r"expected a list of names, as in \['cat', 'dog'\]"),
        (["cat", "dog", "Cat ", "dog"], "labels given more than once: 'Cat', 'cat', 'dog'"),
    ],
)
def test_invalid_labels_are_rejected(names, message):
    with pytest.raises(ConfigError, match=message):
        ZeroShotClassifier(tiny_clip(), names)


def test_a_repeated_synonym_counts_once():
    clip = tiny_clip()
    twice, once = (ZeroShotClassifier(clip, [names]).weights for names in (("cat", "kitty", "Cat"), ("cat", "kitty")))
    assert np.array_equal(twice, once)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("foto", "templates 'foto': no such set; expected .*; did you mean 'photo'"),
        ("", "templates '': no such set"),
        ([], "templates: none given"),
        (["a photo"], "template 'a photo': 0 slots for the label"),
        ("{} or {}", "template '{} or {}': 2 slots"),
        ([5], "template 5: 0 slots"),
    ],
)
def test_invalid_templates_are_rejected(templates, message):
    with pytest.raises(ConfigError, match=message):
        resolve_templates(templates)


def test_every_template_has_one_slot_and_texts_are_accepted():
    assert all(text.count("{}") == 1 for texts in TEMPLATES.values() for text in texts)
    assert TEMPLATES["plain"] == ("{}",)
    assert TEMPLATES["photo"] == ("a photo of a {}.",)
    assert resolve_templates("an x-ray of {}") == ("an x-ray of {}",)


def test_other_braces_in_names_and_templates_are_literal():
    classifier = ZeroShotClassifier(tiny_clip(), ["{0}", "{name}", "100 %"], templates="{x} {}")
    np.testing.assert_allclose(classifier.weights[0], tiny_clip().embed_texts(["{x} {0}"])[0], atol=1e-5)


def test_labels_are_read_from_a_comma_separated_list(tmp_path):
    assert read_labels("cat, small  dog") == [("cat",), ("small dog",)]
    assert read_labels(",".join(f"label {number}" for number in range(5000)))[-1] == ("label 4999",)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "\ufeffcat\r\n\r\nsmall dog, old\n", [("cat",), ("small dog, old",)]),
        ("labels", "cat\ndog", [("cat",), ("dog",)]),
        ("a.json", '["cat", ["dog", "hound"]]', [("cat",), ("dog", "hound")]),
        ("a.json", '{"n01": ["cat", "puss"], "n02": "dog"}', [("cat", "puss"), ("dog",)]),
    ],
)
def test_labels_are_read_from_a_file(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content.encode())
    assert read_labels(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b"\n \n"),
        ("a.txt", b"cat\ndog\ncat"),
        ("a.txt", b"\xff\xfe\x00"),
        ("a.json", b"["),
        ("a.json", b"[" * 200_000),
        ("a.json", b"[]"),
        ("a.json", b'"cat"'),
        ("a.json", b"[1, 2]"),
        ("a.json", b'[["cat", 1]]'),
        ("a.json", json.dumps([[]]).encode()),
        ("a.json", b'["\xed\xa0\x80"]'),
    ],
)
def test_a_malformed_labels_file_is_a_one_line_error_that_names_it(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WordsightError) as caught:
        read_labels(str(tmp_path / name))
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_missing_files_and_empty_labels_are_rejected(tmp_path):
    with pytest.raises(DataError, match=r"missing.txt: cannot be read as labels: No such file"):
        read_labels("missing.txt")
    for value in ("", " ", "a,,b", "a,b,a"):
        with pytest.raises(ConfigError, match=r"^--labels: "):
            read_labels(value)


def test_the_imagenet_templates_equal_open_clips() -> None:
    from tests.parity.peers import has_open_clip, open_clip

    if not has_open_clip():
        pytest.skip("needs open_clip")
    assert TEMPLATES["imagenet"] == tuple(template("{}") for template in open_clip().OPENAI_IMAGENET_TEMPLATES)


def test_every_dataset_has_as_many_templates_as_were_published() -> None:
    singles = [
        "birdsnap",
        "clevr",
        "flowers102",
        "food101",
        "memes",
        "kitti",
        "mnist",
        "pets",
        "voc2007",
        "pcam",
        "sst2",
    ]
    counts = dict.fromkeys(singles, 1) | {"aircraft": 2, "stl10": 2, "sun397": 2, "eurosat": 3, "gtsrb": 3}
    counts |= {"country211": 5, "emotions": 6, "textures": 8, "cars": 8, "cifar": 18, "resisc45": 18}
    counts |= {"kinetics700": 28, "caltech101": 34, "ucf101": 48}
    assert {name: len(texts) for name, texts in TEMPLATES.items() if name in counts} == counts
    assert all(len(set(TEMPLATES[name])) == count for name, count in counts.items())
    assert TEMPLATES["flowers102"] == ("a photo of a {}, a type of flower.",)
    assert TEMPLATES["mnist"] == ('a photo of the number: "{}".',)
    assert TEMPLATES["gtsrb"][0] == 'a zoomed in photo of a "{}" traffic sign.'
