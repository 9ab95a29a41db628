"""Shell completion: the calls that the scripts of `--show-completion` make, and their exit codes."""

import os
import subprocess
import sys

import pytest

from wordsight.cli import COMMANDS, main


def complete_in_bash(line: str) -> tuple[int, list[str], str]:
    """Exit code, completions of the last word, and standard error."""
    words = line.split(" ")
    variables = {
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_WORDSIGHT_COMPLETE": "complete_bash",
    }
    process = subprocess.run(
        [sys.executable, "-m", "wordsight"],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return process.returncode, process.stdout.split(), process.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("wordsight ", list(COMMANDS)),
        ("wordsight em", ["embed"]),
        ("wordsight embed --ru", ["--runtime"]),
        ("wordsight embed --runtime o", ["onnx"]),
        ("wordsight classify photos --policy ", ["viewer", "published"]),
        ("wordsight cache --clear w", ["weights"]),
        ("wordsight convert mine out --to open", ["openai", "open_clip"]),
        ("wordsight models openai/RN50x", ["openai/RN50x16", "openai/RN50x4", "openai/RN50x64"]),
        ("wordsight train fl", ["flickr8k"]),
        ("wordsight nonsense ", list(COMMANDS)),  # must not print the error for an unknown command
    ],
)
def test_bash_completes_commands_options_and_values(line, expected):
    code, completions, errors = complete_in_bash(line)
    assert (code, sorted(completions), errors) == (0, sorted(expected), "")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"_WORDSIGHT_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "wordsight emb"}, '"embed"'),
        (
            {
                "_WORDSIGHT_COMPLETE": "complete_fish",
                "_TYPER_COMPLETE_ARGS": "wordsight emb",
                "_TYPER_COMPLETE_FISH_ACTION": "get-args",
            },
            "embed\t",
        ),
    ],
)
def test_zsh_and_fish_complete_commands_with_their_help(monkeypatch, capsys, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert expected in printed
    assert "Write embeddings" in printed
    assert "classify" not in printed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_show_completion_prints_a_script_for_each_shell(monkeypatch, capsys, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert main(["--show-completion", shell]) == 0
    captured = capsys.readouterr()
    assert f"_WORDSIGHT_COMPLETE=complete_{shell}" in captured.out
    assert captured.err == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_completion_writes_a_script_below_home(monkeypatch, capsys, tmp_path, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", shell]) == 0
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and "complete_" in path.read_text()]
    assert len(scripts) == 1
    assert str(scripts[0]) in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_unwritable_home_is_one_line_and_exit_code_2(monkeypatch, capsys, tmp_path, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    assert main(["--install-completion", shell]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: shell completion cannot be installed: ")
    assert captured.err.count("\n") == 1


def test_invalid_completion_request_is_exit_code_1(monkeypatch, capsys):
    monkeypatch.setenv("_WORDSIGHT_COMPLETE", "complete_nosuchshell")
    assert main([]) == 1
    assert "not supported" in capsys.readouterr().err


def test_completion_does_not_load_torch_or_numpy():
    code = "import sys\nfrom wordsight.cli import main\nmain([])\n"
    code += "print([name for name in ('torch', 'numpy') if name in sys.modules])"
    variables = {"COMP_WORDS": "wordsight ", "COMP_CWORD": "1", "_WORDSIGHT_COMPLETE": "complete_bash"}
    process = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    assert process.stdout.splitlines()[-1] == "[]"
