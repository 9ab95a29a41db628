"""The demo with the real code: three steps instead of hundreds."""

import json
import os
import re
import shlex
import signal
from pathlib import Path

import pytest
import typer.main

import wordsight as ws
from wordsight.cli import build_app, main
from wordsight.data import open_shards
from wordsight.data.openmoji import EmojiPair, concept_of, split
from wordsight.demo.evaluation import KINDS, Evaluation, evaluate, held_out_evaluator, kind_of
from wordsight.demo.report import EXAMPLE, summary_text
from wordsight.demo.state import DemoState, read_state, write_state
from wordsight.demo.tour import file_name
from wordsight.errors import ConfigError, MissingExtraError
from wordsight.metrics import Score
from wordsight.training import load_recipe
from wordsight.zeroshot import read_labels


@pytest.fixture
def in_demo_directory(demo_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(demo_directory)
    return demo_directory


@pytest.fixture(scope="module")
def parts(pairs: list[EmojiPair]) -> tuple[list[EmojiPair], list[EmojiPair]]:
    return split(pairs)


@pytest.fixture(scope="module")
def evaluation(demo_directory: Path, parts: tuple[list[EmojiPair], list[EmojiPair]]) -> Evaluation:
    return evaluate(ws.load(demo_directory / "demo" / "run"), parts[1])


def test_no_concept_is_in_both_parts(demo_directory):
    shard_sets = [open_shards(demo_directory / "demo" / "shards" / name) for name in ("train", "held-out")]
    train, held_out = ({concept_of(shards.sample(n).key) for n in range(len(shards))} for shards in shard_sets)
    assert len(train) > 1000
    assert len(held_out) > 200
    assert not train & held_out


def test_the_report_describes_the_data_and_attributes_the_images(demo_directory, parts):
    html = (demo_directory / "demo" / "report.html").read_text("utf-8")
    images, concepts = len(parts[1]), len({pair.concept for pair in parts[1]})
    assert f"{images} drawings of {concepts} concepts" in html
    assert f"{len(parts[0]):,} drawings" in html
    for text in ("Five best", "Five worst", "Similarity of images", "recall@10", "chance 3.4 %", "95 %"):
        assert text in html
    assert "OpenMoji" in html
    assert "CC BY-SA 4.0" in html
    assert not re.search(r"<script|<link|src=\"(?!data:)", html)


def test_a_second_call_prints_the_results_again(in_demo_directory, capsys, monkeypatch):
    before = (in_demo_directory / "demo" / "report.html").stat().st_mtime_ns
    monkeypatch.setattr("wordsight.demo.tour.run_tour", None)  # calling it would fail
    assert main(["demo", "--steps", "3"]) == 0
    assert "on 296 held-out images (262 concepts, none seen in training)" in capsys.readouterr().out
    assert (in_demo_directory / "demo" / "report.html").stat().st_mtime_ns == before


def test_finished_stages_are_not_repeated(in_demo_directory, pairs, monkeypatch):
    monkeypatch.setattr("wordsight.demo.tour.collect", lambda: pairs)
    page = in_demo_directory / "demo" / "report.html"
    kept = [
        in_demo_directory / "demo" / name
        for name in ("run/best/model.safetensors", "shards/train/000000.tar", f"images/{EXAMPLE}")
    ]
    before, times = page.read_text("utf-8"), [path.stat().st_mtime_ns for path in kept]
    page.unlink()
    assert main(["demo", "--steps", "3"]) == 0
    assert page.read_text("utf-8") == before
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_ctrl_c_saves_and_the_same_command_continues(demo_directory, pairs, tmp_path, monkeypatch, capsys):
    def interrupt(encoder: ws.DualEncoder, steps: int) -> list[Score]:
        os.kill(os.getpid(), signal.SIGINT)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wordsight.demo.tour.collect", lambda: pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordsight.demo.tour.held_out_evaluator", lambda held_out: interrupt)
        assert main(["demo", "--steps", "3"]) == 130
    assert "stopped after step 1; the checkpoint is saved" in capsys.readouterr().err
    assert main(["demo", "--steps", "3"]) == 0
    states = [json.loads((directory / "demo" / "demo.json").read_bytes()) for directory in (demo_directory, tmp_path)]
    assert states[0]["summary"]["scores"] == states[1]["summary"]["scores"]
    assert states[0]["summary"]["weights"] == states[1]["summary"]["weights"]


def test_the_suggested_commands_run(in_demo_directory, capsys):
    assert main(["demo", "--steps", "3"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    commands = [shlex.split(line.partition(" -m wordsight ")[2]) for line in lines if " -m wordsight " in line]
    assert [command[0] for command in commands] == ["classify", "classify", "embed", "demo", "recipes"]
    for command in commands:
        if command[0] != "demo":
            assert main(command) == 0, command
    (shorter,) = [command for command in commands if command[0] == "demo"]
    group = typer.main.get_command(build_app())
    parameters = group.commands["demo"].make_context("demo", shorter[1:]).params
    assert parameters == {"out": Path("demo-short"), "steps": 100, "as_json": False, "quiet": False}
    predictions = [line for line in capsys.readouterr().out.splitlines() if line.startswith("demo/images/")]
    assert len(predictions) == 1 + 296
    assert predictions[0].startswith(f"demo/images/{EXAMPLE}\t")


def test_json_is_one_line_with_typed_scores(in_demo_directory, capsys):
    assert main(["demo", "--steps", "3", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    summary = json.loads(line)
    assert (summary["steps"], summary["held_out"]) == (3, {"images": 296, "concepts": 262})
    assert len(summary["scores"]) == 7
    assert all(score["low"] <= score["value"] <= score["high"] for score in summary["scores"])
    assert summary["scores"][0]["chance"] == pytest.approx(1 / 296)
    assert [score["metric"] for score in summary["scores"]][::3] == [
        "image_to_text_recall@1",
        "text_to_image_recall@1",
        "accuracy",
    ]
    assert Path(summary["report"]).exists()


def test_another_number_of_steps_is_an_error(in_demo_directory, capsys):
    assert main(["demo", "--steps", "4"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: demo: contains a demo of 3 steps; continue it with --steps 3, or choose another --out"
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("photo.jpg", b"", "x: contains 'photo.jpg', which is not part of a demo; choose an empty directory"),
        ("demo.json", b"[1]", "x/demo.json: not the state of a demo of this version; choose an empty directory"),
        ("demo.json", b"\xff", "x/demo.json: not the state of a demo"),
        ("demo.json", b'{"recipe": {}, "format": "wordsight-demo-2"}', "x/demo.json: not the state of a demo"),
        ("demo.json", b'{"recipe": {"schedule": 3}}', "x/demo.json: not the state of a demo"),
    ],
)
def test_a_directory_that_contains_something_else_is_an_error(tmp_path, monkeypatch, capsys, file, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / file).write_bytes(content)
    assert main(["demo", "--out", "x"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "x").iterdir()] == [file]


def test_a_file_as_output_directory_is_an_error(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    assert main(["demo", "--out", "x"]) == 2
    assert capsys.readouterr().err == "error: x: not usable: Not a directory; choose another directory with --out\n"


def test_a_missing_extra_is_an_error_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("wordsight.demo.tour.find_spec", lambda name: None)
    from wordsight.demo.tour import run_tour

    with pytest.raises(MissingExtraError, match=r"the demo's report needs optional packages: .*wordsight\[report\]"):
        run_tour(tmp_path / "x", load_recipe("demo"), [])
    assert not (tmp_path / "x").exists()


def test_a_new_directory_has_a_new_state(tmp_path):
    recipe = load_recipe("demo")
    state = read_state(tmp_path / "absent", recipe)
    assert state == DemoState(recipe=recipe.without_about())
    assert not (tmp_path / "absent").exists()


def test_every_kind_has_names_and_images(demo_directory, parts):
    for part in parts:
        kinds = {kind_of(pair) for pair in part}
        assert kinds == {None, *(names[0] for names in KINDS)}
    assert read_labels(str(demo_directory / "demo" / "kinds.json")) == list(KINDS)
    kinds = {pair.name: kind_of(pair) for part in parts for pair in part}
    assert (kinds["guide dog"], kinds["french fries"], kinds["alarm clock"]) == ("animal", "food or drink", "clock")
    assert kinds["guitar"] is None


def test_the_held_out_images_are_written_as_files(demo_directory, parts):
    names = {file_name(pair) for pair in parts[1]}
    assert len(names) == len(parts[1])
    assert names == {path.name for path in (demo_directory / "demo" / "images").iterdir()}
    assert EXAMPLE in names


def test_best_and_worst_images_are_ordered_by_position(evaluation):
    positions = evaluation.position
    assert set(positions[evaluation.best]) <= set(sorted(positions)[:5])
    assert positions[evaluation.worst[0]] == max(positions)
    chosen = evaluation.one_of_each_kind(10)
    assert len({kind_of(evaluation.pairs[index]) for index in chosen}) == len(chosen) == 10


def test_the_scores_agree_with_a_plain_count(evaluation, demo_directory, parts):
    for score, axis in ((evaluation.retrieval[0], 1), (evaluation.retrieval[3], 0)):
        best = evaluation.similarity.argmax(axis=axis)
        assert score.value == pytest.approx(sum(n == m for n, m in enumerate(best)) / len(best), abs=1e-9)
    classifier = ws.ZeroShotClassifier(ws.load(demo_directory / "demo" / "run"), KINDS, templates="drawings")
    with_kind = [pair for pair in parts[1] if kind_of(pair)]
    predictions = classifier.classify([pair.image for pair in with_kind])
    correct = sum(one.label == kind_of(pair) for one, pair in zip(predictions, with_kind, strict=True))
    assert evaluation.kinds.accuracy.value == pytest.approx(correct / len(with_kind))
    assert evaluation.kinds.accuracy.n == len(with_kind) == sum(score.n for score in evaluation.kinds.by_kind)


def test_held_out_scores_do_not_select_the_best_model(demo_directory, parts):
    encoder = ws.load(demo_directory / "demo" / "run")
    to_names, to_images = held_out_evaluator(parts[1])(encoder, 3)
    assert (to_names.dataset, to_names.metric) == ("held-out", "image_to_text_recall@10")
    assert to_names.chance == to_images.chance == pytest.approx(10 / 296)
    assert load_recipe("demo").validation.selection_metric is None
    assert encoder.card.training["steps"] == 3  # the last model is the best, whatever its scores


def test_the_rows_of_the_summary_are_aligned(demo_directory, parts):
    state = read_state(demo_directory / "demo", load_recipe("demo", tuple(recipe_changes(demo_directory))))
    lines = summary_text(state.summary, Path("demo"), [("wordsight recipes", "more")]).splitlines()
    assert lines[-1] == "  wordsight recipes"
    rows = [line for line in lines if " to " in line and line.startswith("  ")]
    assert len(rows) == 7
    assert len({len(row) for row in rows}) == 1


def test_a_demo_with_other_settings_is_an_error(tmp_path):
    write_state(tmp_path, DemoState(recipe=load_recipe("demo", ("seed=1", "batch_size=64")).without_about()))
    with pytest.raises(ConfigError, match=r"contains a demo with other settings \(batch_size, seed\); choose another"):
        read_state(tmp_path, load_recipe("demo"))


def test_a_recipe_key_added_later_with_a_default_is_not_another_setting(tmp_path):
    recipe = load_recipe("demo")
    write_state(tmp_path, DemoState(recipe=recipe.without_about()))
    written = json.loads((tmp_path / "demo.json").read_bytes())
    del written["recipe"]["accumulation"], written["recipe"]["schedule"]["final_share"]
    (tmp_path / "demo.json").write_text(json.dumps(written))
    assert read_state(tmp_path, recipe) == DemoState(recipe=recipe.without_about())


def recipe_changes(demo_directory: Path) -> list[str]:
    recipe = json.loads((demo_directory / "demo" / "demo.json").read_text())["recipe"]
    return [
        f"schedule.steps={recipe['schedule']['steps']}",
        f"schedule.warmup_steps={recipe['schedule']['warmup_steps']}",
        f"validation.every_steps={recipe['validation']['every_steps']}",
    ]
