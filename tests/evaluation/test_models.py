"""`evaluate` on real files: the same numbers as in training, for any model, on the same images."""

import io
import json
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tiny_clip import png, tiny_card, tiny_clip

import wordsight as ws
from wordsight.cli import main
from wordsight.data import open_shards
from wordsight.data.inputs import iter_labelled
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, DataError, TextError
from wordsight.evaluation import Classification, EvaluationOptions, NamedModel, Retrieval, evaluate_models
from wordsight.evaluation.validation_set import ValidationSet
from wordsight.image import ImageRef, Preprocessing

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ColourModel:
    """An object of a user: embeds the mean colour of an image, and the colours that a text names."""

    def __init__(self) -> None:
        self.seen: list[object] = []

    def embed_images(self, images: list[Image.Image]) -> np.ndarray:
        self.seen += images
        return np.array([np.asarray(image).mean((0, 1)) for image in images])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.array([sum((np.array(COLOURS[c]) for c in COLOURS if c in text), np.ones(3)) for text in texts])


def coloured(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), COLOURS[colour]).save(buffer, "PNG")
    return buffer.getvalue()


def ref(name: str, content: bytes, captions: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> ImageRef:
    return ImageRef(name, partial(bytes, content), captions=captions, names=names)


@pytest.fixture
def captioned(tmp_path: Path) -> Path:
    """Ten images with two captions each."""
    directory = tmp_path / "pairs"
    directory.mkdir()
    rows = []
    for number in range(10):
        (directory / f"{number}.png").write_bytes(png(number))
        rows.append({"file": f"{number}.png", "captions": [f"image number {number}", f"picture {number}"]})
    (directory / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return directory


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Twelve images in three directories."""
    for number in range(12):
        directory = tmp_path / "pets" / ("cat", "dog", "fish")[number % 3]
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}.png").write_bytes(png(number))
    return tmp_path / "pets"


def test_scores_are_those_of_validation_in_training(captioned: Path, labelled: Path, tmp_path: Path) -> None:
    clip, preprocessing = tiny_clip(), Preprocessing(size_px=16)
    for source, kind in ((captioned, "captions"), (labelled, "labels")):
        assert main(["shards", str(source), str(tmp_path / kind)]) == 0
    retrieval = Retrieval(open_shards(tmp_path / "captions"), "pairs", preprocessing)(clip, 0)
    assert list(ws.evaluate(clip, "pairs", data=captioned)) == retrieval
    accuracy = Classification(open_shards(tmp_path / "labels"), "pets", ["a photo of a {}."], preprocessing)(clip, 0)
    assert [ws.evaluate(clip, data=labelled)["accuracy"]] == accuracy


def test_the_hash_of_the_data_depends_on_contents_only(captioned: Path, tmp_path: Path) -> None:
    assert main(["shards", str(captioned), str(tmp_path / "shards")]) == 0
    first, packed = (ws.evaluate(tiny_clip(), data=path) for path in (captioned, tmp_path / "shards"))
    assert first.data_sha256 == packed.data_sha256
    assert len(first.data_sha256) == 64
    in_training = ValidationSet(open_shards(tmp_path / "shards"), Preprocessing(size_px=8))
    assert in_training.data_sha256 == first.data_sha256
    lines = (captioned / "captions.jsonl").read_text().replace("picture 3", "picture three")
    (captioned / "captions.jsonl").write_text(lines)
    assert ws.evaluate(tiny_clip(), data=captioned).data_sha256 != first.data_sha256


def test_every_score_states_its_origin(captioned: Path) -> None:
    clip = tiny_clip()
    scores = ws.evaluate(clip, "pairs", data=captioned, split="test")
    assert (scores.model, scores.dataset, scores.split) == ("tiny", "pairs", "test")
    assert (scores.weights_sha256, scores.fingerprint) == (clip.fingerprint.weights, clip.fingerprint.digest)
    assert len(scores) == 6
    assert str(scores).splitlines()[0].startswith("pairs, image_to_text_recall@1: ")
    with pytest.raises(ConfigError, match=r"not one of the scores.*did you mean 'text_to_image_recall@5'"):
        scores["text_to_image_recal@5"]


def test_any_object_with_two_methods_can_be_evaluated() -> None:
    """A model that sees colours is always right, except about an image that is labelled wrongly."""
    model = ColourModel()
    images = [ref(c, coloured(c), (f"something {c}",), (c,)) for c in COLOURS]
    images += [ref("wrong", coloured("red"), names=("blue",)), ref("broken", b"", names=("blue",))]
    with pytest.warns(UserWarning, match="images: 2 of 3 labels occur only once: 'green', 'red'; if"):
        scores = ws.evaluate(model, data=iter(images), templates="a {} thing", max_unreadable_share=0.2)
    assert (scores.model, scores.weights_sha256) == ("ColourModel", "")
    assert all(isinstance(image, Image.Image) and image.mode == "RGB" for image in model.seen)
    assert scores["image_to_text_recall@1"].value == scores["text_to_image_recall@1"].value == 1
    assert scores["image_to_text_recall@1"].unreadable == 0
    assert scores["accuracy"].value == 3 / 4
    assert scores["accuracy"].unreadable == 1
    assert scores["mean_per_class_accuracy"].value == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert [name for name, _ in scores.unreadable] == ["broken"]


@pytest.mark.parametrize("result", [np.zeros(3), np.zeros((2, 3)), np.full((3, 3), np.nan)])
def test_an_object_that_returns_no_embeddings_is_an_error(result: np.ndarray) -> None:
    model = ColourModel()
    model.embed_images = lambda images: result  # type: ignore[method-assign]
    with pytest.raises(DataError, match="embed_images returned"):
        ws.evaluate(model, data=[ref(c, coloured(c), (c,)) for c in COLOURS])


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_an_image_that_one_model_cannot_read_is_left_out_for_all(order: tuple[int, int]) -> None:
    """One model squashes images to squares; for the other one, which crops them, a line of pixels is too narrow."""
    buffer = io.BytesIO()
    Image.new("L", (300_000, 1)).save(buffer, "PNG")
    images = [ref(str(number), png(number), (f"image {number}",)) for number in range(12)]
    images.insert(5, ref("narrow", buffer.getvalue(), ("a line",)))
    squash = DualEncoder(tiny_clip().model, tiny_card(preprocessing=Preprocessing(size_px=16, resize="squash")))
    models = [NamedModel("squash", lambda: squash), NamedModel("crop", lambda: tiny_clip("residual"))]
    result = evaluate_models([models[index] for index in order], images.copy, EvaluationOptions("lines"))
    alone = ws.evaluate(squash, "lines", data=[image for image in images if image.name != "narrow"])
    for scores in result.models:
        assert {(score.n, score.unreadable) for score in scores} == {(12, 1)}
        assert [name for name, _ in scores.unreadable] == ["narrow"]
        assert scores.data_sha256 == alone.data_sha256
    squashed = next(scores for scores in result.models if scores.model == "squash")
    assert [score.value for score in squashed] == [score.value for score in alone]


def test_memory_holds_one_model_at_a_time(captioned: Path) -> None:
    loaded: list[weakref.ref[DualEncoder]] = []

    def load(seed: int) -> DualEncoder:
        assert all(reference() is None for reference in loaded)
        clip = tiny_clip(seed=seed)
        loaded.append(weakref.ref(clip))
        return clip

    models = [NamedModel(str(seed), partial(load, seed)) for seed in range(3)]
    result = evaluate_models(models, partial(iter_labelled, captioned), EvaluationOptions("pairs"))
    assert len(loaded) == len(result.models) == 3
    assert [{each.baseline for each in comparisons} for comparisons in result.comparisons] == [{"0"}, {"0"}]


def test_rows_compare_with_the_first_model(captioned: Path) -> None:
    models = [NamedModel(name, partial(tiny_clip, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))]
    rows = evaluate_models(models, partial(iter_labelled, captioned), EvaluationOptions("pairs")).rows()
    assert [row["model"] for row in rows] == ["a"] * 6 + ["b"] * 6 + ["c"] * 6
    assert {row["difference"] for row in rows[:6]} == {None}
    assert {(row["difference"], row["difference_low"], row["p_value"]) for row in rows[6:12]} == {(0.0, 0.0, 1.0)}
    for first, third in zip(rows[:6], rows[12:], strict=True):
        assert third["difference"] == pytest.approx(third["value"] - first["value"])
        assert third["difference_low"] <= third["difference"] <= third["difference_high"]
    needed = {"weights_sha256", "data_sha256", "split", "n", "chance", "low", "high", "method", "unreadable", "test"}
    assert needed <= rows[0].keys()


def test_data_that_changes_during_the_evaluation_is_an_error(captioned: Path) -> None:
    def load() -> DualEncoder:
        (captioned / "0.png").write_bytes(png(99))
        return tiny_clip()

    models = [NamedModel("a", tiny_clip), NamedModel("b", load)]
    with pytest.raises(DataError, match="pairs: the data changed while it was evaluated"):
        evaluate_models(models, partial(iter_labelled, captioned), EvaluationOptions("pairs"))


def test_an_error_about_a_text_names_the_model() -> None:
    class Monolingual(ColourModel):
        def embed_texts(self, texts: list[str]) -> np.ndarray:
            raise TextError("a text of another language")

    models = [NamedModel("first", ColourModel), NamedModel("second", Monolingual)]
    images = [ref(c, coloured(c), (c,)) for c in COLOURS]
    with pytest.raises(TextError, match="second: a text of another language"):
        evaluate_models(models, images.copy, EvaluationOptions("colours"))


def test_labels_that_a_model_cannot_tell_apart_are_an_error_that_names_the_model() -> None:
    """The context of the model has 12 ids."""
    long = "a very long name of a class that has more words than the context "
    images = [ref(str(number), png(number), (), (f"{long} {number % 2}",)) for number in range(4)]
    with pytest.raises(ConfigError, match=r"^tiny: labels '.*' are the same text after the model's context"):
        ws.evaluate(tiny_clip(), data=images)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([ref("a", b"")], {}, "data: 1 image without captions or labels; retrieval needs"),
        ([ref("a", b"", ("a",))], {"task": "classification"}, "no images with labels, which classification needs"),
        ([ref("a", b"", (), ("a",))], {"task": "retrieval"}, "no images with captions, which retrieval needs"),
        ([ref("a", b"", (), ("cat",))] * 3, {}, "data: every label is 'cat'"),
        ([ref("a", b"", ("a",))], {}, "1 of 1 images cannot be read"),
        ([ref("a", b"", ("a",))], {"max_unreadable_share": 1.0}, "1 of 1 images cannot be read"),
        ([ref(str(n), png(n) if n else b"", ("a",)) for n in range(5)], {}, "1 of 5 images cannot be read or have no"),
    ],
)
def test_unusable_data_is_an_error(images: list[ImageRef], options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ws.evaluate(tiny_clip(), "data", data=images, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "retreival"}, "task 'retreival': expected retrieval or classification; did you mean 'retrieval'"),
        ({"templates": "foto"}, "templates 'foto': no such set"),
        ({"max_unreadable_share": 1.5}, "expected 0 to 1"),
    ],
)
def test_invalid_options_are_errors(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ws.evaluate(tiny_clip(), data=[], **options)
