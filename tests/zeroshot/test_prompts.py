"""Labels that are cut to the same text are refused, and truncated labels are one warning."""

import warnings

import numpy as np
import pytest
import torch
from tests.tiny_clip import png, tiny_clip

from wordsight.errors import ConfigError, TextError, WeightsError
from wordsight.text import TruncationCounts, clip_tokenizer
from wordsight.zeroshot import ZeroShotClassifier, resolve_templates

LONG = "very " * 10  # the context has 12 ids


def test_labels_that_become_the_same_text_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"big dog' and '.*big cat' are the same text after the model's context of 12"
    ):
        ZeroShotClassifier(tiny_clip(), [LONG + "big dog", LONG + "big cat"])
    # a synonym that differs early enough is enough to tell them apart
    with pytest.warns(UserWarning, match="2 of 2 labels are longer"):
        ZeroShotClassifier(tiny_clip(), [(LONG + "big dog", "dog"), LONG + "big cat"])


@pytest.mark.parametrize("other", ["ﬁsh", "fish<end_of_text>bone", "&#102;ish"])
def test_labels_that_the_tokenizer_cannot_tell_apart_are_an_error(other: str) -> None:
    with pytest.raises(ConfigError, match="are the same text for the model's tokenizer"):
        ZeroShotClassifier(tiny_clip(), ["fish", other], templates="plain")


def test_truncated_labels_are_one_warning_with_their_number() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ZeroShotClassifier(tiny_clip(), ["one " + LONG, "two " + LONG, "three"], templates=["{}", "a photo of a {}."])
    (warning,) = caught
    assert str(warning.message).startswith(
        "2 of 3 labels are longer than the model's context of 12 ids and truncated: 'one"
    )


def test_short_labels_are_embedded_without_warning_by_every_published_template() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ZeroShotClassifier(tiny_clip(), ["dog", "cat"])


def test_embed_texts_warns_once_with_the_number_of_truncated_texts_or_raises() -> None:
    clip = tiny_clip()
    texts = ["a dog", LONG + "dog", *["a cat"] * 700, LONG + "cat"]
    with pytest.warns(
        UserWarning, match=r"2 of 703 texts are longer than the model's context of 12 ids and truncated"
    ) as caught:
        embeddings = clip.embed_texts(texts)
    assert len(caught) == 1
    assert np.array_equal(embeddings[1], embeddings[-1]) or np.allclose(embeddings[1], embeddings[-1], atol=1e-6)
    with pytest.raises(TextError, match=r"^text 701, .*: 13 ids with begin and end, the context has 12"):
        clip.embed_texts([*texts[:1], *texts[2:]], truncate=False)
    assert clip.embed_texts(["a dog"], truncate=False).shape == (1, 8)
    with pytest.raises(TextError):
        clip.tokenize(LONG + "dog", truncate=False)


def test_texts_that_are_truncated_or_become_equal_are_counted() -> None:
    counts = TruncationCounts()
    counts.add(clip_tokenizer(12), ["a dog", LONG + "dog", LONG + "cat", LONG + "dog", "red " + LONG, LONG + "dog"])
    assert (counts.num_texts, counts.num_truncated, counts.num_equal) == (6, 5, 1)
    assert counts.first_truncated == LONG + "dog"


def test_a_logit_scale_that_is_not_finite_is_an_error_of_the_classifier() -> None:
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.logit_scale.fill_(float("nan"))
    with pytest.raises(WeightsError, match=r"tiny: its logit scale is nan, not a finite number"):
        ZeroShotClassifier(clip, ["dog", "cat"])
    with pytest.raises(WeightsError):
        clip.logits(clip.embed_images([png(0)]), clip.embed_texts(["dog"]))


@pytest.mark.parametrize(
    "template", ["{0.__class__}", "{:>99999999999}", "{0}", "%s", "a {name}", "{" + "}" * 3 + "{}"]
)
def test_a_template_is_never_a_format_string(template: str) -> None:
    with pytest.raises(ConfigError, match=r"slots for the label|2,000 characters"):
        resolve_templates([template])
    assert resolve_templates(["{0.__class__} {}"]) == ("{0.__class__} {}",)


def test_templates_are_bounded() -> None:
    with pytest.raises(ConfigError, match="more than 2,000 characters"):
        resolve_templates("x" * 3000 + "{}")
    with pytest.raises(ConfigError, match="more than 10,000"):
        resolve_templates("{}" for _ in range(10**9))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"templates 'photos.txt': no such set; .*; did you mean 'photos'\?$"):
        resolve_templates("photos.txt")
