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


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"color": "blue"}, r"^car: unknown key 'color'; did you mean 'colour'\?$"),
        ({"spare": {"size": 3}}, r"^car: unknown key 'size' in \[spare\]; did you mean 'size_px'\?$"),
        ({"wheels": [{"sise_px": 3}]}, r"unknown key 'sise_px' in \[wheels.*; did you mean 'size_px'\?$"),
        ({"zzzzzz": 1}, r"^car: unknown key 'zzzzzz'$"),
        ({"colour": 3}, r"^car: Expected 'str', got 'int' - at 'colour'$"),
    ],
)
def test_an_error_is_one_line_that_names_the_key_and_its_table(tree: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode(tree, Car, "car")


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
