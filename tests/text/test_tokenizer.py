"""The published CLIP tokenizer."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from tests.text.nasty import HARD

from wordsight.errors import ConfigError, TextError
from wordsight.text import Tokenizer, clip_tokenizer, tokenize
from wordsight.text.cleaning import split_words

# Published: OpenAI's notebook "Interacting with CLIP" (hello world!), and the model cards' "a photo of a cat".
HELLO = [49406, 3306, 1002, 256, 49407]
CAT = [49406, 320, 1125, 539, 320, 2368, 49407]


def row(ids: list[int], length: int = 77) -> list[int]:
    return ids + [0] * (length - len(ids))


def test_ids_equal_the_published_ones():
    ids = tokenize(["Hello World!", "a photo of a cat"])
    assert ids.dtype == np.int32
    assert ids.shape == (2, 77)
    assert ids.tolist() == [row(HELLO), row(CAT)]


def test_vocabulary_is_the_published_one():
    tokenizer = clip_tokenizer()
    assert (tokenizer.context_length, tokenizer.vocabulary_size) == (77, 49_408)
    assert (tokenizer.begin_id, tokenizer.end_id) == (49_406, 49_407)


def test_one_string_is_one_row():
    assert tokenize("hello world!").tolist() == [row(HELLO)]
    assert tokenize(np.array(["hello world!", "a photo of a cat"])).tolist() == [row(HELLO), row(CAT)]


def test_no_texts_give_no_rows_and_an_empty_text_an_empty_row():
    assert tokenize([]).shape == (0, 77)
    assert tokenize(["", "  "]).tolist() == [row([49406, 49407])] * 2


def test_encode_adds_no_special_tokens():
    assert clip_tokenizer().encode("a photo of a cat") == CAT[1:-1]
    assert clip_tokenizer().encode("") == []


def test_a_text_that_is_too_long_is_truncated_and_ends_with_end_of_text():
    assert tokenize("hello world!", context_length=4).tolist() == [[49406, 3306, 1002, 49407]]
    assert tokenize("hello world!", context_length=5).tolist() == [HELLO]
    assert tokenize("hello world!", context_length=2).tolist() == [[49406, 49407]]
    ids = tokenize(HARD["10,000 words"])
    assert ids[0, -1] == 49407
    assert (ids[0, :-1] != 49407).all()


def test_a_text_that_is_too_long_raises_without_truncation():
    assert tokenize(["hello world!"], context_length=5, truncate=False).tolist() == [HELLO]
    with pytest.raises(TextError, match=r"^text 1, 'hello world!': 5 ids with begin and end, the context has 4; .*$"):
        tokenize(["hello", "hello world!"], context_length=4, truncate=False)
    with pytest.raises(TextError, match="10004 ids") as raised:
        tokenize("cat " * 10_002, truncate=False)
    assert len(str(raised.value)) < 200
    with pytest.raises(TextError) as raised:
        tokenize("a\ncat\ud800 " * 100, truncate=False)
    assert "\n" not in str(raised.value)
    str(raised.value).encode()


@pytest.mark.parametrize("texts", [None, 3, b"a cat", 2.5, [None], ["a", 3], ["a", float("nan")], [b"a cat"], [["a"]]])
def test_anything_but_strings_is_a_one_line_error(texts: object):
    with pytest.raises(TextError, match=r"^(text \d: )?expected a string[^\n]*found \w+$"):
        tokenize(texts)  # type: ignore[arg-type]


def test_the_error_names_the_row_that_is_not_a_string():
    with pytest.raises(TextError, match="text 2: expected a string, found NoneType"):
        tokenize(["a", "b", None])  # type: ignore[list-item]
    with pytest.raises(TextError, match="found list"):
        clip_tokenizer().encode(["a"])  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 0, -77, 32.0, "77", None])
def test_an_invalid_context_length_is_rejected(length: object):
    with pytest.raises(ConfigError, match="context_length: expected an integer of at least 2"):
        Tokenizer(length)  # type: ignore[arg-type]


def test_context_lengths_share_one_encoder():
    assert clip_tokenizer(32).encoder is clip_tokenizer(77).encoder
    assert clip_tokenizer(32) is clip_tokenizer(32)
    assert clip_tokenizer(32)(["a photo of a cat"]).tolist() == [row(CAT, 32)]


def test_rows_do_not_depend_on_their_neighbours():
    texts = [*HARD.values(), *reversed(HARD.values())]
    together = tokenize(texts * 4)
    assert np.array_equal(together, np.concatenate([tokenize(text) for text in texts] * 4))


def test_the_result_is_a_new_array():
    ids = tokenize("a cat")
    ids[:] = 0
    assert tokenize("a cat")[0, 0] == 49406


def test_decode_returns_the_cleaned_text():
    tokenizer = clip_tokenizer()
    for text in ("a photo of a cat", "café 猫 😀 naïve", "ὀδυσσεύς", "hello world"):
        assert tokenizer.decode(tokenizer.encode(text)).split() == text.split()
    assert tokenizer.decode(HELLO) == "<start_of_text>hello world ! <end_of_text>"
    assert tokenizer.decode(np.array(CAT)) == "<start_of_text>a photo of a cat <end_of_text>"
    assert tokenizer.decode([]) == ""


@pytest.mark.parametrize("name", HARD)
def test_decode_preserves_everything_but_white_space(name: str):
    tokenizer = clip_tokenizer()
    decoded = tokenizer.decode(tokenizer.encode(HARD[name]))
    assert "".join(decoded.split()) == "".join(split_words([HARD[name]]))


@pytest.mark.parametrize("ids", [[49408], [-1], [1 << 40], ["a"], [1.5], [[1, 2]], [None]])
def test_decode_rejects_invalid_ids(ids: list[object]):
    with pytest.raises(TextError, match=r"^(id -?\d+: not in the vocabulary|expected ids, found \S+)[^\n]*$"):
        clip_tokenizer().decode(ids)  # type: ignore[arg-type]


def test_a_pickled_tokenizer_does_not_include_its_cache():
    tokenizer = clip_tokenizer(32)
    tokenizer(list(HARD.values()))
    content = pickle.dumps(tokenizer)
    assert len(content) < 300_000
    copy = pickle.loads(content)
    assert copy.context_length == 32
    assert np.array_equal(copy(list(HARD.values())), tokenizer(list(HARD.values())))


def test_import_and_clean_text_load_neither_torch_nor_ftfy():
    program = (
        "import sys, wordsight.text; wordsight.text.tokenize(['A photo of a cat.']);"
        "print([name for name in ('torch', 'ftfy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
