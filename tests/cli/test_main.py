import os
import subprocess
import sys

import pytest
import typer

import wordsight
from wordsight import cli
from wordsight.cli import main
from wordsight.cli.terminal import printable, progress_of
from wordsight.errors import DataError


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "build_app", lambda: app)


def test_without_a_verb_there_is_help(capsys):
    assert main([]) == 0
    assert "Usage: wordsight [OPTIONS] COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wordsight {wordsight.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clasify"], "error: no command 'clasify'; did you mean 'classify'?; see wordsight --help"),
        (["xyz"], "error: no command 'xyz'; see wordsight --help"),
        (["--verison"], "error: No such option: --verison"),
        (["classify", "a.jpg", "--lables", "a"], "error: No such option: --lables"),
        (["classify"], "error: Missing argument"),
        (["classify", "a.jpg", "--labels", "a", "--model", "m", "--top", "0"], "error: Invalid value for '--top'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_users_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys):
    failing_with(monkeypatch, DataError("a\nb"))
    assert main([]) == 2
    assert capsys.readouterr().err == "error: a b\n"


def test_our_mistake_is_a_traceback_and_exit_code_1(monkeypatch, capsys):
    failing_with(monkeypatch, ZeroDivisionError("oh"))
    assert main([]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("error: this is a defect of wordsight; please report it with the lines above\n")


def test_an_interruption_is_exit_code_130(monkeypatch, capsys):
    failing_with(monkeypatch, KeyboardInterrupt())
    assert main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_an_exit_code_of_a_verb_passes(monkeypatch):
    failing_with(monkeypatch, typer.Exit(3))
    assert main([]) == 3


def test_a_reader_that_leaves_early_is_no_defect():
    code = "import sys; from wordsight import cli; sys.exit(cli.main(['--help']))"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_module_runs_as_the_command():
    done = subprocess.run([sys.executable, "-m", "wordsight", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no command 'nonsense'")


def test_names_are_shown_without_steering_the_terminal():
    assert printable("a\nb\x1b[31m\udce9é") == "a\\nb\\x1b[31m\\udce9é"


def test_progress_has_rate_and_time_left(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("wordsight.cli.terminal.time.monotonic", lambda: next(now))
    with progress_of(100, "images") as progress:
        progress(10)
        progress(40)
    assert capsys.readouterr().err == "40 of 100 images, 2.0 images/s, 30 s left\n"


def test_threads_wait_without_spinning_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"})
    (tmp_path / "photo.jpg").write_bytes(b"")
    for policy in ("PASSIVE", "ACTIVE"):
        assert main(["demo", "--out", str(tmp_path)]) == 2
        assert os.environ["OMP_WAIT_POLICY"] == policy
        os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
