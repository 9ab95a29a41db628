"""The exception hierarchy of `wordsight.errors`."""

import inspect
import pickle
import re
from pathlib import Path

import pytest

import wordsight
from wordsight import errors
from wordsight.errors import MissingExtraError, WordsightError, counted, hide_credentials, nearest

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


def test_every_class_is_reachable_from_the_public_module():
    assert wordsight.errors is errors
    assert {error.__name__ for error in CLASSES} == {
        "ConfigError",
        "DataError",
        "DownloadError",
        "ImageError",
        "MissingExtraError",
        "OutputError",
        "TextError",
        "TrainingError",
        "WeightsError",
        "WordsightError",
    }


@pytest.mark.parametrize("error", CLASSES)
def test_every_class_is_a_documented_wordsight_error(error: type[Exception]):
    assert issubclass(error, WordsightError)
    assert error.__module__ == "wordsight.errors"
    assert len((error.__doc__ or "").split()) >= 5
    assert error is WordsightError or error.__bases__ == (WordsightError,)
    assert f" {error.__name__} " in f" {' '.join((errors.__doc__ or '').split())} "


def test_a_missing_extra_names_the_command_that_installs_it():
    assert str(MissingExtraError("the report", "report")) == (
        "the report needs optional packages: pip install 'wordsight[report]'"
    )


@pytest.mark.parametrize(
    ("word", "hint"),
    [("foto", "; did you mean 'photo'?"), ("imagnet", "; did you mean 'imagenet'?"), ("zzz", ""), ("", "")],
)
def test_nearest_suggests_a_similar_candidate(word: str, hint: str):
    assert nearest(word, ["photo", "imagenet"]) == hint


def test_the_nearest_name_is_the_end_of_every_message():
    source = Path(errors.__file__).parent
    for path in source.rglob("*.py"):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))  # parts of one string literal
        assert not re.findall(r"nearest\([^{}]*\)\}[^\"]", text), path
    assert nearest("x" * 10_000_000, ["photo"]) == ""


def test_a_count_agrees_with_its_noun():
    assert [counted(number, "image") for number in (0, 1, 2, 1200)] == [
        "0 images",
        "1 image",
        "2 images",
        "1,200 images",
    ]
    assert counted(2, "class", "classes") == "2 classes"


def test_errors_cross_process_boundaries():
    error = pickle.loads(pickle.dumps(errors.DataError("a.tar: row 3: no caption")))
    assert isinstance(error, errors.DataError)
    assert str(error) == "a.tar: row 3: no caption"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:secret@a.org/x: no such model", "https://a.org/x: no such model"),
        ("s3:/key:secret@bucket/x: no such file", "s3:/bucket/x: no such file"),
        ("'http://a.org/x?a=1&X-Amz-Signature=secret&b=2'", "'http://a.org/x?a=1&X-Amz-Signature=...&b=2'"),
        ("https://a.org/x?token=secret: bad", "https://a.org/x?token=... bad"),
        ("a@b.org: C:/x@z a/b@c hf-hub:a/b@main", "a@b.org: C:/x@z a/b@c hf-hub:a/b@main"),
    ],
)
def test_a_message_has_no_credentials_of_addresses(text, expected):
    assert hide_credentials(text) == expected
