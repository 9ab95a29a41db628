import msgspec
import pytest
from tests.tiny_clip import tiny_card, tiny_config

from wordsight.config import decode, load_toml, plain, to_toml
from wordsight.errors import ConfigError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig
from wordsight.weights import Card, TokenizerConfig


@pytest.mark.parametrize("kind", ["vit", "residual"])
def test_a_card_is_read_back_from_json_and_toml(tmp_path, kind):
    card = tiny_card(kind, source="here", training={"steps": 3, "scores": {"R@10": [0.1, 0.05, 0.2]}})
    assert decode(msgspec.json.decode(msgspec.json.encode(card)), Card, "card") == card
    (tmp_path / "card.toml").write_text(to_toml(card))
    assert load_toml(tmp_path / "card.toml", Card) == card


def test_a_card_is_immutable():
    with pytest.raises(AttributeError):
        tiny_card().name = "other"


def test_contradictions_are_refused():
    with pytest.raises(ConfigError, match=r"tokenizer.context_length 77 contradicts model.text.context_length 12"):
        tiny_card(tokenizer=TokenizerConfig())
    with pytest.raises(ConfigError, match=r"preprocessing.size_px 32 contradicts model.image.image_size_px 16"):
        tiny_card(preprocessing=Preprocessing(size_px=32))
    model = plain(tiny_config())
    model["text"]["vocabulary_size"] = 1000
    with pytest.raises(ConfigError, match="vocabulary_size 1000: the clip tokenizer has 49408 ids"):
        tiny_card(model=decode(model, ModelConfig, "model"))


def test_a_contradiction_in_a_file_names_the_file():
    value = plain(tiny_card())
    value["preprocessing"]["size_px"] = 17
    with pytest.raises(ConfigError, match=r"^cards/x.toml: preprocessing.size_px 17 contradicts"):
        decode(value, Card, "cards/x.toml")


def test_the_nearest_key_is_suggested_for_an_unknown_one():
    value = plain(tiny_card())
    value["model"]["text"]["head"] = 2
    with pytest.raises(ConfigError, match=r"unknown key 'head' in \[model.text\]; did you mean 'heads'"):
        decode(value, Card, "x")
