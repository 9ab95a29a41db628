"""The cards of published weights: each is complete and agrees with open_clip's tables; a broken one is refused."""

import importlib
import json
import re
import sys
import types
from pathlib import Path

import msgspec
import pytest

from wordsight.cache import cache_directory
from wordsight.config import decode, to_toml
from wordsight.errors import ConfigError, DownloadError, WeightsError
from wordsight.model import PUBLISHED, build_empty
from wordsight.weights.hub import download
from wordsight.weights.hub.catalogue import (
    CARDS_DIRECTORY,
    PublishedCard,
    card_of_sha256,
    is_published,
    published_card,
    published_cards,
    read_cards,
)
from wordsight.weights.hub.download import cached_file, card_of_file, mirrored, resolve

CARDS = published_cards()
GOOD = CARDS["laion/ViT-B-16-laion400m_e32"]


@pytest.fixture(scope="module")
def peer() -> types.ModuleType:
    """open_clip's table of published weights, without the rest of open_clip, which requires torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("needs open_clip")
    package = types.ModuleType("open_clip_tables")
    package.__path__ = list(spec.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "open_clip_tables", package)
        yield importlib.import_module("open_clip_tables.pretrained")
        for name in [name for name in sys.modules if name.startswith("open_clip_tables.")]:
            patch.delitem(sys.modules, name)


def test_the_catalogue_has_the_nine_openai_models_and_the_other_families():
    official = {card.name.removeprefix("openai/") for card in CARDS.values() if card.family == "OpenAI"}
    assert official == set(PUBLISHED)
    assert {card.family for card in CARDS.values()} == {
        *("OpenAI", "LAION", "open_clip", "MetaCLIP", "DataComp", "DFN", "SigLIP", "SigLIP 2"),
    }
    assert len(CARDS) == len(list(CARDS_DIRECTORY.iterdir())) == 66


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.format != "hugging_face"])
def test_a_card_agrees_with_open_clips_tables(peer, name):
    card = CARDS[name]
    model, tag = card.aliases[0].split("/")
    entry = peer.get_pretrained_cfg(model, tag)
    if card.address:
        assert card.address == entry["url"]
    else:
        assert card.repository == entry["hf_hub"].rstrip("/")
    configs = Path(peer.__file__).parent / "model_configs"
    architecture = json.loads((configs / f"{model}.json").read_text())
    assert card.resolution_px == architecture["vision_cfg"]["image_size"]
    assert card.embed_dim == architecture["embed_dim"]
    assert card.context_length == architecture["text_cfg"]["context_length"]
    assert card.preprocessing.mean == tuple(entry["mean"])
    assert card.preprocessing.std == tuple(entry["std"])
    assert card.preprocessing.resize == entry["resize_mode"]
    assert card.preprocessing.interpolation == entry["interpolation"]
    if card.tokenizer == "clip":
        assert (card.activation == "quick_gelu") == entry.get("quick_gelu", False)
        assert architecture["text_cfg"]["vocab_size"] == 49408
    else:
        assert architecture["text_cfg"]["vocab_size"] == {"siglip": 32000, "siglip2": 256000}[card.tokenizer] or (
            card.name == "siglip/ViT-B-16-i18n-256"
        )


@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.address])
def test_the_hash_is_the_one_in_the_address(name):
    card = CARDS[name]
    *_, directory, file = card.address.split("/")
    digest = directory if card.family == "OpenAI" else Path(file).stem.rpartition("-")[2]
    assert card.sha256 == digest
    assert len(digest) == (64 if card.family == "OpenAI" else 8)
    assert card_of_sha256(digest.ljust(64, "0").upper()) is card


def test_parameter_counts_are_those_of_the_architecture():
    for card in CARDS.values():
        if (model := card.model()) is not None:
            count = sum(parameter.numel() for parameter in build_empty(model).parameters())
            assert count / 1e6 == pytest.approx(card.million_parameters, abs=0.006), card.name


def test_the_activation_of_a_card_applies_to_both_towers():
    model = GOOD.model()
    assert (model.image.activation, model.text.activation) == ("gelu", "gelu")
    model = published_card("ViT-B-32/laion400m_e32").model()
    assert (model.image.activation, model.text.activation) == ("quick_gelu", "quick_gelu")
    assert published_card("openai/RN50").model() == PUBLISHED["RN50"]
    assert published_card("siglip/ViT-B-16-224").model() is None


def test_scores_have_sources_and_plausible_values():
    for card in CARDS.values():
        for score in card.scores:
            assert score.source
            assert 30 < score.value < 90, card.name
        values = [score.value for score in card.scores]
        assert max(values, default=0) - min(values, default=0) < 0.5, card.name
    assert published_card("openai/ViT-L-14-336").scores[0].value == 76.2


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("openai/ViT-B-32", "openai/ViT-B-32"),
        ("ViT-B/32", "openai/ViT-B-32"),
        ("ViT-L/14@336px", "openai/ViT-L-14-336"),
        ("RN50", "openai/RN50"),
        ("ViT-B-32/openai", "openai/ViT-B-32"),
        ("ViT-B-32-quickgelu/openai", "openai/ViT-B-32"),
        ("vit-b-32/laion2b_s34b_b79k", "laion/ViT-B-32-laion2b_s34b_b79k"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion/ViT-B-32-laion2b_s34b_b79k"),
        ("ViT-B-16-SigLIP2-512/webli", "siglip2/ViT-B-16-512"),
    ],
)
def test_common_names_are_accepted(typed, name):
    assert published_card(typed).name == name
    assert is_published(typed)


def test_the_nearest_name_is_suggested_for_a_misspelt_one():
    message = "no published weights 'openai/ViT-B-31'; `wordsight models` lists them; did you mean 'openai/ViT-B-32'?"
    with pytest.raises(WeightsError, match=re.escape(message)):
        published_card("openai/ViT-B-31")
    assert not is_published("openai/ViT-B-31")


def write(directory: Path, card: PublishedCard, text: str = "") -> Path:
    path = directory / f"{card.name.replace('/', '-')}.toml"
    path.write_text(text or to_toml(card))
    return path


def test_a_written_card_is_read_back(tmp_path):
    write(tmp_path, GOOD)
    assert read_cards(tmp_path) == {GOOD.name: GOOD}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architecture": "ViT-B-61"}, "; did you mean 'ViT-B-16'?"),
        ({"architecture": "ViT-B-32", "embed_dim": 513}, "the preset's embed_dim 512 contradicts embed_dim 513"),
        ({"architecture": "RN50x4"}, "the preset's image_size_px 288 contradicts resolution_px 224"),
        ({"context_length": 64}, "the preset's context_length 77 contradicts context_length 64"),
        ({"resolution_px": 256}, "preprocessing.size_px 224 contradicts resolution_px 256; make them equal"),
        ({"activation": "relu"}, "Invalid enum value 'relu'"),
        ({"activation": None}, "a single file needs architecture, activation and preprocessing in its card"),
        ({"address": ""}, "expected either an address or a repository"),
        ({"repository": "a/b"}, "expected either an address or a repository"),
        ({"address": "http://example.org/x.pt"}, "does not start with https://"),
        ({"address": "", "repository": "a/b/c"}, "repository 'a/b/c' is not owner/name"),
        ({"address": "", "repository": "a/b"}, "sha256 and size_bytes belong to an address"),
        ({"sha256": "00EFA78F"}, "is not 8 to 64 digits of lower-case hexadecimal"),
        ({"sha256": "00efa7"}, "is not 8 to 64 digits of lower-case hexadecimal"),
        ({"scores": [{"metric": "x", "value": 101, "source": "y"}]}, "Expected `float` <= 100"),
        ({"scores": [{"metric": "x", "value": 50}]}, "missing key"),
        ({"million_parameters": -1}, "Expected `float` > 0"),
        ({"format": "onnx"}, "Invalid enum value 'onnx'"),
        ({"licens": "MIT"}, "unknown key 'licens'; did you mean 'licence'?"),
    ],
)
def test_a_broken_card_is_refused_with_its_file(tmp_path, changed, message):
    tree = msgspec.to_builtins(GOOD) | changed
    text = to_toml({key: value for key, value in tree.items() if value is not None})
    path = write(tmp_path, GOOD, text)
    with pytest.raises(ConfigError) as caught:
        read_cards(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message.replace("`", "'") in str(caught.value)


def test_a_file_named_differently_and_a_duplicate_name_are_refused(tmp_path):
    (tmp_path / "other.toml").write_text(to_toml(GOOD))
    with pytest.raises(ConfigError, match=r"other.toml: the card 'laion/ViT-B-16-laion400m_e32' must be in laion-ViT"):
        read_cards(tmp_path)
    (tmp_path / "other.toml").unlink()
    write(tmp_path, GOOD)
    write(tmp_path, msgspec.structs.replace(GOOD, name="laion/x"))
    with pytest.raises(
        ConfigError, match=r"laion-x.toml: the name 'ViT-B-16/laion400m_e32' is already used by laion-ViT-B-16"
    ):
        read_cards(tmp_path)


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "WORDSIGHT_OFFLINE"])
def test_a_name_is_resolved_to_the_cached_file_even_offline(tmp_path, monkeypatch, name):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    path = cached_file(GOOD)
    assert path == tmp_path / "weights" / "laion-ViT-B-16-laion400m_e32" / "vit_b_16-laion400m_e32-55e67d44.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    assert resolve("ViT-B-16/laion400m_e32") == path
    monkeypatch.setenv(name, "1")
    assert resolve("ViT-B-16/laion400m_e32") == path
    with pytest.raises(
        DownloadError, match=r"RN50.pt: not in the cache, and offline mode is on .*: download https://openaipublic"
    ):
        resolve("RN50")


def test_a_file_is_recognised_by_its_hash_which_is_computed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    looked_up = []
    monkeypatch.setattr(download, "card_of_sha256", lambda digest: looked_up.append(digest))
    path = tmp_path / "model.pt"
    path.write_bytes(b"abc")
    assert card_of_file(path) is None
    with monkeypatch.context() as patch:
        patch.setattr("wordsight.cache.sha256_file", lambda path: pytest.fail(f"{path} is hashed again"))
        card_of_file(path)
    path.write_bytes(b"abd")
    card_of_file(path)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # first example of FIPS 180-4
    assert looked_up[:2] == [abc, abc]
    assert looked_up[2] != abc
    with pytest.raises(WeightsError, match=r"none.pt: cannot be read: No such file"):
        card_of_file(tmp_path / "none.pt")


def test_a_mirror_replaces_the_server():
    url = "https://example.org/clip/models/RN50.pt?x=1"
    assert mirrored(url, "http://127.0.0.1:8000") == "http://127.0.0.1:8000/clip/models/RN50.pt?x=1"
    assert mirrored(url, "https://a.org/deep/") == "https://a.org/deep/clip/models/RN50.pt?x=1"
    with pytest.raises(ConfigError, match=r"mirror 'a\.org' is not a web address"):
        mirrored(url, "a.org")


def test_the_cache_directory_follows_the_environment_at_each_call(monkeypatch, tmp_path):
    monkeypatch.delenv("WORDSIGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory("weights") == tmp_path / ".cache" / "wordsight" / "weights"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_directory("weights") == tmp_path / "caches" / "wordsight" / "weights"
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "own"))
    assert cache_directory("weights") == tmp_path / "own" / "weights"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../evil"},
        {"name": "a/.."},
        {"name": "a/b\n"},
        {"name": "a/b/c"},
        {"address": "https://a.org/../.."},
        {"address": "https://a.org/x\\..\\y.pt"},
        {"address": "https://a.org/"},
        {"address": "https://user:secret@a.org/x.pt"},
        {"address": "https://a.org/.bashrc"},
        {"address": "https://a.org/x.pt?a=b/c"},
        {"address": "", "repository": "../.."},
        {"address": "", "repository": "a/..", "sha256": "", "size_bytes": None},
    ],
)
def test_names_and_addresses_of_a_card_cannot_be_other_paths(change):
    card = msgspec.to_builtins(published_card("openai/RN50"))
    with pytest.raises(ConfigError, match=r"is not (publisher/name|owner/name|the URL of a file)"):
        decode({**card, **change}, PublishedCard, "card")
