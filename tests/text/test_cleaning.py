"""The fast path of text cleaning equals the full path."""

import sys

import ftfy
import pytest
from tests.text.nasty import HARD, nasty_texts

from wordsight.text.cleaning import TEXT_SEPARATOR, is_plain, repair, split_words


def full_path(text: str) -> list[str]:
    return repair(text).lower().split()


def test_ftfy_leaves_every_plain_character_unchanged():
    for code in range(sys.maxunicode + 1):
        if is_plain(text := f"a{chr(code)}b"):
            assert ftfy.fix_text(text) == text


def test_fast_path_equals_full_path_on_random_texts():
    texts = [*HARD.values(), *nasty_texts(seed=1, count=5000)]
    plain = [is_plain(text) for text in texts]
    assert 500 < sum(plain) < len(texts) - 500
    for text in texts:
        assert split_words([text]) == full_path(text)


def test_splitting_many_texts_equals_splitting_each():
    texts = [*HARD.values(), "", "", *nasty_texts(seed=2, count=300), "ΑΣ", "Σ", ""]
    expected = [word for text in texts for word in (*full_path(text), TEXT_SEPARATOR)][:-1]
    assert split_words(texts) == expected


def test_no_text_can_contain_the_separator():
    for text in ("\0", "a \0 b", "&#0;", "&amp;#0;", "&#x0;", "&amp;amp;#00;", "\\0", "\\x00"):
        assert TEXT_SEPARATOR not in split_words([text])


def test_lower_casing_neither_adds_nor_removes_white_space():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        assert len(character.lower().split()) == len(character.split())


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 5000 + ";", "9" * 700])
def test_a_very_long_numeric_entity_becomes_a_replacement_character(number: str):
    assert repair(f"a &#{number} b").split() == ["a", "\ufffd", "b"]
    assert repair(f"a &amp;#{number} &eacute;").split() == ["a", "\ufffd", "é"]


def test_lone_surrogates_become_replacement_characters():
    assert repair("a \ud800 \udfff") == "a \ufffd \ufffd"
