"""TOML to structs and back, and the errors that name the offending key."""

from pathlib import Path

import pytest

from wordsight.config import Config, decode, differing_keys, load_toml, plain, set_key, to_toml
from wordsight.errors import ConfigError


class Wheel(Config, frozen=True):
    size_px: int = 3
    name: str | None = None


class Car(Config, frozen=True):
    wheels: tuple[Wheel, ...] = ()
    spare: Wheel | None = None
    colour: str = "red"


class Steam(Config, frozen=True, tag_field="kind", tag="steam"):
    width: int
    boilers: int


class Diesel(Config, frozen=True, tag_field="kind", tag="diesel"):
    widths: tuple[int, ...]
    litres: float = 2.0


class Train(Config, frozen=True):
    synonyms = {"vmax": "limits.speed_kmh", "coaches": "the number of coaches is not a property of the engine"}  # noqa: RUF012

    engine: Steam | Diesel
    limits: "Limits"
    number: int = 1


class Limits(Config, frozen=True):
    speed_kmh: int
    width: int = 3


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"color": "blue"}, r"^car: unknown key 'color'; did you mean 'colour'\?$"),
        ({"spare": {"size": 3}}, r"^car: unknown key 'size' in \[spare\]; did you mean 'size_px'\?$"),
        (
            {"wheels": [{"sise_px": 3}]},
            r"^car: unknown key 'sise_px' in \[\[wheels\]\] number 1; did you mean 'size_px'\?$",
        ),
        ({"zzzzzz": 1}, r"^car: unknown key 'zzzzzz'$"),
        ({"colour": 3}, r"^car: Expected 'str', got 'int' - at 'colour'$"),
    ],
)
def test_an_error_is_one_line_that_names_the_key_and_its_table(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(tree, Car, "car")


def error_of(tree: dict[str, object]) -> str:
    with pytest.raises(ConfigError) as caught:
        decode(tree, Train, "train")
    return str(caught.value)


def test_all_unknown_and_missing_keys_are_reported_at_once() -> None:
    assert error_of({"engine": {"kind": "steam", "widht": 1}, "nr": 2}) == (
        "train: 4 keys are wrong: unknown key 'nr' (did you mean 'number'?); unknown key 'widht' in [engine] (did you "
        "mean 'width'?); missing key 'boilers' in [engine]; missing key 'speed_kmh' in [limits]"
    )
    many = {f"x{number}": 1 for number in range(1000)}
    assert error_of(many).startswith("train: 1,002 keys are wrong: unknown key 'x0'; ")
    assert error_of(many).endswith("'x9'; and 992 more")


def test_an_unknown_or_missing_kind_is_reported_with_the_known_ones() -> None:
    limits = {"limits": {"speed_kmh": 1}}
    expected = "train: kind 'steem' in [engine]: expected one of steam, diesel; did you mean 'steam'?"
    assert error_of({"engine": {"kind": "steem"}} | limits) == expected
    assert error_of({"engine": {}} | limits) == "train: missing key 'kind' in [engine], one of steam, diesel"
    assert error_of({"engine": {"kind": 3}, "x": 1} | limits) == (
        "train: 2 keys are wrong: unknown key 'x'; kind '3' in [engine]: expected one of steam, diesel"
    )


@pytest.mark.parametrize(
    ("tree", "advice"),
    [
        ({"limits": {"speed_kmh": 1, "number": 2}}, "it belongs at the top of the file, before the first [table]"),
        ({"speed_kmh": 1, "limits": {"speed_kmh": 1}}, "did you mean 'limits.speed_kmh'?"),
        ({"vmax": 1, "limits": {"speed_kmh": 1}}, "did you mean 'limits.speed_kmh'?"),
        ({"limits": {"vmax": 1}}, "did you mean 'speed_kmh'?"),
        ({"coaches": 8, "limits": {"speed_kmh": 1}}, "the number of coaches is not a property of the engine"),
        # `width` is a key of the other kind of engine, and of [limits]; the word itself is not suggested
        (
            {"engine": {"kind": "diesel", "widths": [1], "width": 1}, "limits": {"speed_kmh": 1}},
            "did you mean 'widths'?",
        ),
    ],
)
def test_the_advice_names_the_table_and_is_never_the_word_itself(tree: dict[str, object], advice: str) -> None:
    message = error_of({"engine": {"kind": "diesel", "widths": [1]}} | tree)
    assert message.count("unknown key") == 1
    assert message.endswith(f"; {advice}")


def test_a_struct_survives_a_round_trip_through_toml(tmp_path: Path) -> None:
    car = Car(wheels=(Wheel(), Wheel(size_px=4, name="ß")), spare=None)
    (tmp_path / "car.toml").write_text(to_toml(car), encoding="utf-8")
    assert load_toml(tmp_path / "car.toml", Car) == car


def test_set_key_accepts_toml_values_and_bare_words_and_does_not_modify_its_argument() -> None:
    tree = {"a": {"b": 1}}
    assert set_key(tree, "a.b=2.5") == {"a": {"b": 2.5}}
    assert set_key(tree, "a.c=[1, 2]") == {"a": {"b": 1, "c": [1, 2]}}
    assert set_key(tree, "d.e.f=text = text") == {"a": {"b": 1}, "d": {"e": {"f": "text = text"}}}
    assert tree == {"a": {"b": 1}}
    with pytest.raises(ConfigError, match="'b' is a value, not a table"):
        set_key(tree, "a.b.c=1")


def test_set_key_addresses_entries_of_lists() -> None:
    tree = {"wheels": [{"size_px": 1}, {"size_px": 2}]}
    assert set_key(tree, "wheels.1.size_px=5") == {"wheels": [{"size_px": 1}, {"size_px": 5}]}
    assert tree["wheels"][1] == {"size_px": 2}
    for number in ("2", "-1", "a", "\N{SUPERSCRIPT TWO}", "9" * 5000):
        with pytest.raises(ConfigError, match=r"'wheels' has entries 0 to 1, not "):
            set_key(tree, f"wheels.{number}.size_px=5")


def test_differing_keys_include_their_tables() -> None:
    one, other = plain(Car(spare=Wheel())), plain(Car(spare=Wheel(size_px=4), colour="blue"))
    assert differing_keys(one, other) == ["colour", "spare.size_px"]
    assert differing_keys(one, one) == []


@pytest.mark.parametrize(
    "content",
    [
        b"a = " + b"[" * 100_000,
        b"a = " + b"{b = " * 100_000,
        b"a = " + b"9" * 10_000,
        b"a = \xff",
        b"a = 1\na = 2",
        b"colour = '" + b"x" * (1 << 20) + b"'",
        b"." * 1000,
    ],
)
def test_hostile_toml_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "car.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"car\.toml: ") as caught:
        load_toml(tmp_path / "car.toml", Car)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_recipe_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "car.toml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"car\.toml: cannot be read: not a regular file"):
        load_toml(tmp_path / "car.toml", Car)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "car.toml").write_bytes(b"\xef\xbb\xbfcolour = 'blue'\r\n")
    assert load_toml(tmp_path / "car.toml", Car) == Car(colour="blue")


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 10_000])
def test_a_hostile_value_of_set_is_a_string(text: str) -> None:
    assert set_key({}, f"colour={text}") == {"colour": text}
