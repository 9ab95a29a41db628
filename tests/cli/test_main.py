import os
import subprocess
import sys

import pytest
import typer
from tests.tiny_clip import write_images

import wordsight
from wordsight import cli
from wordsight.cli import main
from wordsight.cli.terminal import human_bytes, show_byte_progress, show_progress, silence_notes
from wordsight.errors import DataError, printable


def failing_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "build_app", lambda needed: app)


def test_help_is_shown_without_a_command(capsys):
    assert main([]) == 0
    assert "Usage: wordsight [OPTIONS] COMMAND" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wordsight {wordsight.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clasify"], "error: unknown command 'clasify'; did you mean 'classify'?"),
        (["xyz"], "error: unknown command 'xyz'; 'wordsight --help' lists them"),
        (["--verison"], "error: No such option: --verison"),
        (["classify", "a.jpg", "--lables", "a"], "error: No such option: --lables"),
        (["classify"], "error: Missing argument"),
        (["classify", "a.jpg", "--labels", "a", "--model", "m", "--top", "0"], "error: Invalid value for '--top'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_user_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    failing_with(monkeypatch, DataError("a\nb"))
    assert main([]) == 2
    assert capsys.readouterr().err == "error: a b\n"


def test_defect_is_a_traceback_and_exit_code_1(monkeypatch, capsys):
    failing_with(monkeypatch, ZeroDivisionError("oh"))
    assert main([]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.endswith("error: this is a bug in wordsight; please report it with the lines above\n")


def test_interruption_is_exit_code_130(monkeypatch, capsys):
    failing_with(monkeypatch, KeyboardInterrupt())
    assert main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_exit_code_of_a_command_is_returned(monkeypatch):
    failing_with(monkeypatch, typer.Exit(3))
    assert main([]) == 3


def test_closed_pipe_is_exit_code_141_without_a_message():
    code = "import sys; from wordsight import cli; sys.exit(cli.main(['--help']))"
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


def test_module_runs_as_the_command():
    process = subprocess.run(
        [sys.executable, "-m", "wordsight", "nonsense"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: unknown command 'nonsense'")


def test_control_characters_are_printed_as_escapes():
    assert printable("a\nb\x1b[31m\udce9é") == "a\\nb\\x1b[31m\\udce9é"


@pytest.mark.parametrize("command", ["models", "recipes", "shards", "info", "cache"])
def test_examples_in_help_run(command, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    for path in write_images(tmp_path / "photos", 2):
        path.with_suffix(".txt").write_text("a photo")
    assert main([command, "--help"]) == 0
    _, examples = capsys.readouterr().out.split("Example:\n")
    assert examples.strip()
    for line in examples.strip().splitlines():
        program, *arguments = line.split()
        assert program == "wordsight"
        assert main(arguments) == 0, line


def test_progress_shows_rate_and_remaining_time(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("wordsight.cli.terminal.time.monotonic", lambda: next(now))
    with show_progress(100, "images") as progress:
        progress(10)
        progress(40)
    assert capsys.readouterr().err == "40 of 100 images, 2.0 images/s, 30 s left\n"


def test_progress_without_a_total_shows_only_the_rate(monkeypatch, capsys):
    now = iter([0.0, 20.0])
    monkeypatch.setattr("wordsight.cli.terminal.time.monotonic", lambda: next(now))
    with show_progress(None, "images") as progress:
        progress(40)
    assert capsys.readouterr().err == "40 images, 2.0 images/s\n"


def test_progress_of_a_resumed_download_counts_what_is_missing(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("wordsight.cli.terminal.time.monotonic", lambda: next(now))
    with show_byte_progress() as progress:
        progress(50_000_000, 150_000_000)
        progress(90_000_000, 150_000_000)
    assert capsys.readouterr().err == "40 of 100 MB, 2.0 MB/s, 30 s left\n"


def test_quiet_progress_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    now = iter(range(0, 1000, 100))
    monkeypatch.setattr("wordsight.cli.terminal.time.monotonic", lambda: next(now))
    with show_progress(100, "images", quiet=True) as progress, show_byte_progress(quiet=True) as byte_progress:
        progress(40)
        byte_progress(10, 1000)
    with silence_notes(quiet=True):
        print("a note", file=sys.stderr)
    assert capsys.readouterr().err == ""


def test_sizes_are_printed_in_decimal_units():
    assert [human_bytes(size) for size in (0, 999, 1000, 2_550_000, 3_900_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "2.5 MB",
        "3.9 GB",
    ]


def test_openmp_threads_wait_passively_unless_the_user_chose_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"})
    (tmp_path / "photo.jpg").write_bytes(b"")
    for policy in ("PASSIVE", "ACTIVE"):
        assert main(["demo", "--out", str(tmp_path)]) == 2
        assert os.environ["OMP_WAIT_POLICY"] == policy
        os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
