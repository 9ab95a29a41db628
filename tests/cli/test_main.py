import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from tests.tiny_clip import write_images

import wordsight
from wordsight import cli
from wordsight.cli import main
from wordsight.cli.terminal import (
    human_bytes,
    print_json,
    print_lines,
    show_byte_progress,
    show_progress,
    silence_notes,
)
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


def test_a_bug_is_one_line_that_names_a_file_with_the_traceback_and_exit_code_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing_with(monkeypatch, ZeroDivisionError("o\x1bh"))
    assert main([]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    start, _, path = line.partition(" with the traceback in ")
    assert start == "error: this is a bug in wordsight: ZeroDivisionError: o\\x1bh; please report it"
    saved = Path(path).read_text()
    assert saved.startswith("Traceback")
    assert saved.splitlines()[-1] == "ZeroDivisionError: o\\x1bh"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FileNotFoundError(2, "No such file or directory", "a\x1bb.png"),
            "error: a\\x1bb.png: No such file or directory",
        ),
        (OSError(28, "No space left on device"), "error: reading or writing failed: No space left on device"),
        (MemoryError(), "error: not enough memory; use a smaller batch, image size or model"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "error: not enough memory (Default"),
        (RecursionError("maximum recursion depth exceeded"), "error: an input is nested too deeply to be read"),
        (
            UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
            "error: a text or file name has an enc",
        ),
        (ImportError("no libfoo.so", name="torch"), "error: torch cannot be imported: no libfoo.so; install it again"),
        (zlib.error("Error -3"), "error: an input cannot be read: error: Error -3; if it is intact"),
        (EOFError("Ran out of input"), "error: an input cannot be read: EOFError: Ran out of input; if it is intact"),
    ],
)
def test_errors_with_an_external_cause_are_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, error, line):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    failing_with(monkeypatch, error)
    assert main([]) == 2
    (printed,) = capsys.readouterr().err.strip().splitlines()
    assert printed.startswith(line)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 3), (None, 0), (141, 141)])
def test_the_code_of_a_system_exit_is_kept(monkeypatch, capsys, code, expected):
    failing_with(monkeypatch, SystemExit(code))
    assert main([]) == expected
    assert capsys.readouterr().err == ""


def test_a_system_exit_with_a_text_prints_it(monkeypatch, capsys):
    failing_with(monkeypatch, SystemExit("enough\x1b[31m"))
    assert main([]) == 1
    assert capsys.readouterr().err == "error: enough\\x1b[31m\n"


def test_warnings_are_one_line_without_source(monkeypatch, capsys):
    app = typer.Typer()

    @app.command()
    def warn() -> None:
        warnings.warn("3 texts\nwere \x1bcut", stacklevel=1)

    monkeypatch.setattr(cli, "build_app", lambda needed: app)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main([]) == 0
    assert capsys.readouterr().err == "warning: 3 texts were \\x1bcut\n"


def run_shell(script: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in which `wordsight` is the command."""
    command = f'wordsight() {{ "{sys.executable}" -m wordsight "$@"; }}; {script}'
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("script", "code", "error"),
    [
        ("wordsight recipes > /dev/full", 2, "No space left on device"),
        ("wordsight recipes >&-", 0, ""),
        ("wordsight recipes 2>&-", 0, ""),
        ("wordsight nonsense >&- 2>&-", 2, ""),
        ("wordsight nonsense 2> /dev/full", 2, ""),
        ("wordsight nonsense < /dev/null > /dev/full", 2, "error: unknown command 'nonsense'"),
        ("wordsight recipes demo | head -n 1 > /dev/null; exit ${PIPESTATUS[0]}", 0, ""),
        ("wordsight recipes | true; exit ${PIPESTATUS[0]}", 141, ""),
        ("wordsight nonsense 2>&1 | true; exit ${PIPESTATUS[0]}", 2, ""),
    ],
)
def test_closed_and_full_outputs_have_documented_exit_codes(script, code, error):
    process = run_shell(script)
    assert process.returncode in ((code, 0) if code == 141 else (code,)), process.stderr  # the pipe may still be open
    assert error in process.stderr
    assert process.stderr.count("\n") <= 1
    assert "Traceback" not in process.stderr
    assert "Exception ignored" not in process.stderr


def test_output_of_a_library_is_not_written_into_a_file_that_got_the_number_of_a_closed_stream(tmp_path):
    code = (
        "import os, sys; from wordsight import cli; cli.main(['--version']); "
        f"file = open({str(tmp_path / 'data')!r}, 'wb'); os.write(1, b'noise'); os.write(2, b'noise')"
    )
    assert subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" >&- 2>&-'], check=False).returncode == 0
    assert (tmp_path / "data").read_bytes() == b""


@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1", "xx_YY"])
def test_any_locale_prints_names_that_it_cannot_encode(tmp_path, locale):
    name = os.fsencode(tmp_path) + b"/\xff\xc3\xa9\x1b.toml"
    environment = os.environ | {"LC_ALL": locale, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    arguments = [sys.executable, "-m", "wordsight", "train", name, "--data", "d", "--out", "o"]
    process = subprocess.run(arguments, capture_output=True, check=False, env=environment)
    assert process.returncode == 2
    assert process.stderr.startswith(b"error: ")
    assert process.stderr.isascii()
    assert process.stderr.count(b"\n") == 1
    assert b"\x1b" not in process.stderr


@pytest.mark.parametrize("delay_s", [0.02, 0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_is_exit_code_130_without_a_traceback(tmp_path, delay_s, number):
    """The shell of an interactive user also delivers signals while modules are being imported."""
    marker = tmp_path / "started"
    touch = f"import pathlib; pathlib.Path({str(marker)!r}).touch()"
    code = f"from wordsight.__main__ import main; {touch}; raise SystemExit(main())"
    arguments = [sys.executable, "-c", code, "info"]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not marker.exists():
        time.sleep(0.002)
    time.sleep(delay_s)
    process.send_signal(number)
    _, printed = process.communicate()
    ended_before_the_handler = -number if number == signal.SIGTERM else None
    assert process.returncode in (130, 0, ended_before_the_handler), printed
    assert "Traceback" not in printed


def test_json_is_ascii_and_valid_whatever_it_contains(capsys):
    value = {"path": "a\udcff\x1b\x7f\x9b\u202eé\n", "nan": float("nan"), "list": (1, Path("x"))}
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.rstrip("\n").isprintable()
    assert json.loads(printed) == {"path": "a\\udcff\x1b\x7f\x9b\u202eé\n", "nan": None, "list": [1, "x"]}
    assert msgspec.json.decode(printed) == json.loads(printed)


def test_lines_are_escaped(capsys):
    print_lines("a\x1b[31m\nb", "é\udcff")
    assert capsys.readouterr().out == "a\\x1b[31m\\nb\né\\udcff\n"


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
    images = write_images(tmp_path / "products", 20)
    rows = [f"products/{path.name},{'ab'[number % 2]}" for number, path in enumerate(images)]
    (tmp_path / "products.csv").write_text("\n".join(["photo,category", *rows]))
    assert main([command, "--help"]) == 0
    _, examples = capsys.readouterr().out.split("Example:\n")
    assert examples.strip()
    for line in examples.strip().splitlines():
        program, *arguments = line.split()
        assert program == "wordsight"
        assert main(arguments) == 0, line


def test_progress_shows_rate_and_remaining_time(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
    with show_progress(100, "images") as progress:
        progress(10)
        progress(40)
    assert capsys.readouterr().err == "40 of 100 images, 2.0 images/s, 30 s left\n"


def test_progress_without_a_total_shows_only_the_rate(monkeypatch, capsys):
    now = iter([0.0, 20.0])
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
    with show_progress(None, "images") as progress:
        progress(40)
    assert capsys.readouterr().err == "40 images, 2.0 images/s\n"


def test_progress_of_a_resumed_download_counts_what_is_missing(monkeypatch, capsys):
    now = iter([0.0, 5.0, 20.0])
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
    with show_byte_progress() as progress:
        progress(50_000_000, 150_000_000)
        progress(90_000_000, 150_000_000)
    assert capsys.readouterr().err == "downloading: 40 of 100 MB, 2.0 MB/s, 30 s left\n"


def test_quiet_progress_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    now = iter(range(0, 1000, 100))
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
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
