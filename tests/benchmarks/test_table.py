"""The table that every benchmark ends with."""

import json
from pathlib import Path

import pytest
from benchmarks.table import Row, finish, parser


def test_a_comparison_holds_if_the_ratio_reaches_the_target() -> None:
    assert Row.compare("rate (texts/s)", 30.0, 10.0, 3.0) == Row("rate (texts/s)", 30.0, 10.0, 3.0, 3.0, True)
    assert not Row.compare("rate (texts/s)", 29.0, 10.0, 3.0).holds
    assert Row.compare("rate (texts/s)", 1.0, 10.0).holds


def test_bounds_apply_to_our_value_and_not_to_the_ratio() -> None:
    assert Row.at_least("score", 0.3, 0.3, peer=0.9).holds
    assert not Row.at_least("score", 0.29, 0.3, peer=0.1).holds
    assert Row.at_most("difference", 0.3, 0.3, peer=0.1).holds
    assert not Row.at_most("difference", 0.31, 0.3).holds
    assert Row.measured("rate", 0.0).holds


@pytest.mark.parametrize(("ours", "code", "word"), [(2.0, 0, "yes"), (0.5, 1, "NO")])
def test_the_exit_code_says_whether_all_targets_are_met(
    ours: float, code: int, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row.compare("rate (texts/s)", ours, 1.0, 1.0), Row.measured("other", 12345.6)]
    with pytest.raises(SystemExit) as left:
        finish(rows, tmp_path / "rows.json")
    assert left.value.code == code
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "ours", "peer", "ratio", "target", "holds"]
    assert first.split()[-1] == word
    assert second.split() == ["other", "12,346", "-", "-", "-", "-"]
    assert [row["name"] for row in json.loads((tmp_path / "rows.json").read_text())] == ["rate (texts/s)", "other"]


def test_all_benchmarks_share_their_options() -> None:
    options = parser("title", needs_data=True).parse_args(["--quick", "--json", "out.json", "--data", "archives"])
    assert (options.quick, options.json, options.data) == (True, Path("out.json"), Path("archives"))
    assert not parser("title").parse_args([]).quick
