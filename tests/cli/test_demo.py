"""The tour, through the real code: three steps instead of hundreds."""

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
from wordsight.demo.evaluation import KINDS, Evaluation, evaluate, kind_of, watcher
from wordsight.demo.report import EXAMPLE, in_words
from wordsight.demo.state import State, read_state
from wordsight.demo.tour import file_name
from wordsight.errors import MissingExtraError
from wordsight.evaluate.tasks import selection_score
from wordsight.training import load_recipe
from wordsight.zeroshot import read_labels


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


@pytest.fixture(scope="module")
def sides(pairs: list[EmojiPair]) -> tuple[list[EmojiPair], list[EmojiPair]]:
    return split(pairs)


@pytest.fixture(scope="module")
def exam(place: Path, sides: tuple[list[EmojiPair], list[EmojiPair]]) -> Evaluation:
    return evaluate(ws.load(place / "demo" / "run"), sides[1])


def test_no_concept_is_in_both_shards(place):
    both = [open_shards(place / "demo" / "shards" / name) for name in ("train", "held-out")]
    train, held_out = ({concept_of(side.sample(n).key) for n in range(len(side))} for side in both)
    assert len(train) > 1000
    assert len(held_out) > 200
    assert not train & held_out


def test_the_page_says_what_it_is_about_and_whose_the_images_are(place, sides):
    html = (place / "demo" / "report.html").read_text("utf-8")
    images, concepts = len(sides[1]), len({pair.concept for pair in sides[1]})
    assert f"{images} drawings of {concepts} things" in html
    assert f"{len(sides[0]):,} drawings" in html
    for words in ("Five best", "Five worst", "Images against names", "guessing", "chance 3.4 %", "95 %"):
        assert words in html
    assert "OpenMoji" in html
    assert "CC BY-SA 4.0" in html
    assert not re.search(r"<script|<link|src=\"(?!data:)", html)


def test_the_second_call_shows_what_is_there(inside, capsys, monkeypatch):
    before = (inside / "demo" / "report.html").stat().st_mtime_ns
    monkeypatch.setattr("wordsight.demo.tour.take_tour", None)  # would fail if it were called
    assert main(["demo", "--steps", "3"]) == 0
    assert "On 296 images of 262 things that it has never seen" in capsys.readouterr().out
    assert (inside / "demo" / "report.html").stat().st_mtime_ns == before


def test_what_is_finished_is_not_done_again(inside, pairs, monkeypatch):
    monkeypatch.setattr("wordsight.demo.tour.collect", lambda: pairs)
    page = inside / "demo" / "report.html"
    kept = [
        inside / "demo" / name
        for name in ("run/best/model.safetensors", "shards/train/000000.tar", f"images/{EXAMPLE}")
    ]
    before, times = page.read_text("utf-8"), [path.stat().st_mtime_ns for path in kept]
    page.unlink()
    assert main(["demo", "--steps", "3"]) == 0
    assert page.read_text("utf-8") == before
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_ctrl_c_saves_and_the_same_command_goes_on(place, pairs, tmp_path, monkeypatch, capsys):
    def interrupt(encoder: ws.DualEncoder, steps: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return {}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wordsight.demo.tour.collect", lambda: pairs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordsight.demo.tour.watcher", lambda held_out: interrupt)
        assert main(["demo", "--steps", "3"]) == 130
    assert "stopped after step 1; everything is saved" in capsys.readouterr().err
    assert main(["demo", "--steps", "3"]) == 0
    states = [json.loads((directory / "demo" / "demo.json").read_bytes()) for directory in (place, tmp_path)]
    assert states[0]["summary"]["figures"] == states[1]["summary"]["figures"]
    assert states[0]["summary"]["weights"] == states[1]["summary"]["weights"]


def test_the_commands_of_the_summary_run(inside, capsys):
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
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith("demo/images/")]
    assert len(answers) == 1 + 296
    assert answers[0].startswith(f"demo/images/{EXAMPLE}\t")


def test_the_json_is_one_line_with_figures_and_chance(inside, capsys):
    assert main(["demo", "--steps", "3", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    summary = json.loads(line)
    assert (summary["steps"], summary["held_out"]) == (3, {"images": 296, "concepts": 262})
    assert len(summary["figures"]) == 7
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in summary["figures"])
    assert summary["figures"][0]["chance"] == pytest.approx(1 / 296)
    assert Path(summary["report"]).exists()


def test_another_number_of_steps_is_refused(inside, capsys):
    assert main(["demo", "--steps", "4"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: demo: holds a tour of 3 steps; go on with --steps 3, or choose another --out"
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("photo.jpg", b"", "x: holds 'photo.jpg', which is not of a tour; choose an empty directory"),
        ("demo.json", b"[1]", "x/demo.json: not of a tour; choose an empty directory"),
        ("demo.json", b"\xff", "x/demo.json: not of a tour"),
        ("demo.json", b'{"recipe": {}, "format": "wordsight-demo-2"}', "x/demo.json: not of a tour"),
        ("demo.json", b'{"recipe": {"schedule": 3}}', "x: holds a tour with other settings (accumulation,"),
    ],
)
def test_a_foreign_directory_is_refused(tmp_path, monkeypatch, capsys, file, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / file).write_bytes(content)
    assert main(["demo", "--out", "x"]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "x").iterdir()] == [file]


def test_a_file_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    assert main(["demo", "--out", "x"]) == 2
    assert capsys.readouterr().err == "error: x: cannot be used: Not a directory; choose another directory with --out\n"


def test_a_missing_extra_is_known_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr("wordsight.demo.tour.find_spec", lambda name: None)
    from wordsight.demo.tour import take_tour

    with pytest.raises(MissingExtraError, match=r"the tour's report needs optional packages: .*wordsight\[report\]"):
        take_tour(tmp_path / "x", load_recipe("demo"), [])
    assert not (tmp_path / "x").exists()


def test_a_new_directory_is_a_new_tour(tmp_path):
    recipe = load_recipe("demo")
    state = read_state(tmp_path / "absent", recipe)
    assert state == State(recipe=state.recipe)
    assert state.recipe["schedule"]["steps"] == recipe.schedule.steps
    assert not (tmp_path / "absent").exists()


def test_every_kind_has_its_words_and_images(place, sides):
    for side in sides:
        found = {kind_of(pair) for pair in side}
        assert found == {None, *(names[0] for names in KINDS)}
    assert read_labels(str(place / "demo" / "kinds.json")) == list(KINDS)
    kinds = {pair.name: kind_of(pair) for side in sides for pair in side}
    assert (kinds["guide dog"], kinds["french fries"], kinds["alarm clock"]) == ("animal", "food or drink", "clock")
    assert kinds["guitar"] is None


def test_the_images_are_files_of_their_own(place, sides):
    names = {file_name(pair) for pair in sides[1]}
    assert len(names) == len(sides[1])
    assert names == {path.name for path in (place / "demo" / "images").iterdir()}
    assert EXAMPLE in names


def test_best_and_worst_are_by_rank(exam):
    ranks = exam.rank
    assert set(ranks[exam.best]) <= set(sorted(ranks)[:5])
    assert ranks[exam.worst[0]] == max(ranks)
    chosen = exam.one_of_each_kind(10)
    assert len({kind_of(exam.pairs[number]) for number in chosen}) == len(chosen) == 10


def test_an_exam_agrees_with_a_count_by_hand(exam, place, sides):
    for figure, axis in ((exam.retrieval[0], 1), (exam.retrieval[3], 0)):
        best = exam.similarity.argmax(axis=axis)
        assert figure.value == pytest.approx(sum(n == m for n, m in enumerate(best)) / len(best), abs=1e-9)
    labels = ws.ZeroShotClassifier(ws.load(place / "demo" / "run"), KINDS, templates="drawings")
    asked = [pair for pair in sides[1] if kind_of(pair)]
    answers = labels.classify([pair.image for pair in asked])
    right = sum(answer.label == kind_of(pair) for answer, pair in zip(answers, asked, strict=True))
    assert exam.kinds.accuracy.value == pytest.approx(right / len(asked))
    assert exam.kinds.accuracy.n == len(asked) == sum(figure.n for figure in exam.kinds.by_kind)


def test_held_out_scores_do_not_choose_the_best_model(place, sides):
    scores = watcher(sides[1])(ws.load(place / "demo" / "run"), 3)
    assert scores["held-out/image_to_text_best_10.chance"] == pytest.approx(10 / 296)
    assert selection_score(scores) == 0


def test_the_summary_is_plain_lines(place, sides):
    state = read_state(place / "demo", load_recipe("demo", tuple(recipe_changes(place))))
    lines = in_words(state.summary, Path("demo"), [("wordsight recipes", "more")]).splitlines()
    assert lines[-1] == "  wordsight recipes"
    rows = [line for line in lines if " to " in line and line.startswith("  ")]
    assert len(rows) == 7
    assert len({len(row) for row in rows}) == 1


def recipe_changes(place: Path) -> list[str]:
    schedule = json.loads((place / "demo" / "demo.json").read_text())["recipe"]
    return [
        f"schedule.steps={schedule['schedule']['steps']}",
        f"schedule.warmup_steps={schedule['schedule']['warmup_steps']}",
        f"validation.every_steps={schedule['validation']['every_steps']}",
    ]
