import sys

import ftfy
import pytest
from tests.text.nasty import HARD, nasty_texts

from wordsight.text.cleaning import BETWEEN, is_plain, repair, words_of


def full_path(text: str) -> list[str]:
    return repair(text).lower().split()


def test_plain_text_is_left_alone_by_ftfy_for_every_character():
    for code in range(sys.maxunicode + 1):
        if is_plain(text := f"a{chr(code)}b"):
            assert ftfy.fix_text(text) == text


def test_fast_path_equals_full_path_on_random_texts():
    texts = [*HARD.values(), *nasty_texts(seed=1, count=5000)]
    plain = [is_plain(text) for text in texts]
    assert 500 < sum(plain) < len(texts) - 500
    for text in texts:
        assert words_of([text]) == full_path(text)


def test_words_of_many_texts_are_those_of_each():
    texts = [*HARD.values(), "", "", *nasty_texts(seed=2, count=300), "ΑΣ", "Σ", ""]
    expected = [word for text in texts for word in (*full_path(text), BETWEEN)][:-1]
    assert words_of(texts) == expected


def test_the_word_between_texts_cannot_be_forged():
    for text in ("\0", "a \0 b", "&#0;", "&amp;#0;", "&#x0;", "&amp;amp;#00;", "\\0", "\\x00"):
        assert BETWEEN not in words_of([text])


def test_lower_case_makes_and_removes_no_white_space():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        assert len(character.lower().split()) == len(character.split())


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 5000 + ";", "9" * 700])
def test_an_endless_entity_is_a_replacement_character(number: str):
    assert repair(f"a &#{number} b").split() == ["a", "\ufffd", "b"]
    assert repair(f"a &amp;#{number} &eacute;").split() == ["a", "\ufffd", "é"]


def test_lone_surrogates_become_replacement_characters():
    assert repair("a \ud800 \udfff") == "a \ufffd \ufffd"
