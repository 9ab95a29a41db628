"""`wordsight shards`: options, summary, JSON, interruption."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from wordsight.cli.shards import shards
from wordsight.data import layouts, open_shards
from wordsight.errors import DataError, OutputError, WordsightError


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four images, one of them broken, each with a text file next to it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "in"
    root.mkdir()
    for number in range(4):
        file = io.BytesIO()
        Image.new("RGB", (60, 40), (number * 60, 0, 0)).save(file, "PNG")
        (root / f"{number}.png").write_bytes(b"junk" if number == 3 else file.getvalue())
        (root / f"{number}.txt").write_text(f"caption {number}")
    return root


def run(*arguments: object) -> tuple[int, str, BaseException | None]:
    app = typer.Typer()
    app.command()(shards)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.exception


def test_directory_is_packed_and_summarised(directory: Path, tmp_path: Path) -> None:
    code, output, _ = run(directory, tmp_path / "out")
    assert code == 0
    assert output.splitlines()[0].startswith("texts next to the images: 3 samples in 1 shard, ")
    assert "1 skipped; reasons in" in output
    assert "3 (3.png): " in output
    assert len(open_shards(tmp_path / "out")) == 3


def test_options_select_and_resize_images(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_text("0\n")
    options = ["--size-px", 20, "--exclude", tmp_path / "keys.txt", "--max-samples", 1, "--json"]
    code, output, _ = run(directory, tmp_path / "out", *options)
    summary = json.loads(output)
    assert (code, summary["samples"], summary["shards"], summary["left_out"], summary["skipped"]) == (0, 2, 2, 1, 1)
    image = Image.open(io.BytesIO(open_shards(tmp_path / "out").sample(0).image))
    assert image.size == (30, 20)
    code, output, _ = run(directory, tmp_path / "only", "--only", tmp_path / "keys.txt", "--json")
    assert (code, json.loads(output)["samples"]) == (0, 1)


def test_columns_of_a_table_are_chosen_by_options(directory: Path, tmp_path: Path) -> None:
    (directory / "t.csv").write_text("p,x,y,l\n0.png,one,two,cat\n1.png,three,,dog\n")
    columns = ["--image-column", "p", "--text-column", "x", "--text-column", "y"]
    assert run(directory / "t.csv", tmp_path / "out", *columns)[0] == 0
    assert open_shards(tmp_path / "out").sample(0).captions == ("one", "two")
    (tmp_path / "names.json").write_text('{"cat": ["cat", "kitty"], "dog": "dog"}')
    columns = ["--image-column", "p", "--label-column", "l", "--names", tmp_path / "names.json"]
    assert run(directory / "t.csv", tmp_path / "labels", *columns)[0] == 0
    assert open_shards(tmp_path / "labels").sample(0).names == ("cat", "kitty")


def test_captions_and_labels_are_both_packed_and_the_summary_says_which_one_training_uses(
    directory: Path, tmp_path: Path
) -> None:
    (directory / "t.csv").write_text("p,title,kind\n0.png,one,cat\n1.png,two,dog\n2.png,,dog\n")
    code, output, _ = run(directory / "t.csv", tmp_path / "out", "--image-column", "p", "--label-column", "kind")
    assert code == 0
    assert output.splitlines()[0].startswith("csv table, columns p + title, kind: 3 samples in 1 shard, ")
    assert output.splitlines()[1].startswith("2 samples with captions and a label: training uses the captions, or ")
    sample = open_shards(tmp_path / "out").sample(0)
    assert (sample.captions, sample.names) == (("one",), ("cat",))


def test_image_root_is_the_directory_of_the_images(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,text\n0.png,one\n")
    code, _, error = run(tmp_path / "t.csv", tmp_path / "out")
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert "no path in column 'image' is a file: '0.png' (1 tried, in" in str(error)
    assert run(tmp_path / "t.csv", tmp_path / "out", "--image-root", directory)[0] == 0


def test_a_split_is_written_and_summarised(directory: Path, tmp_path: Path) -> None:
    code, output, _ = run(directory, tmp_path / "out", "--split", "0.5/0.5", "--seed", 1)
    assert code == 0
    train, val = output.splitlines()[1:3]
    assert train.startswith("train: ")
    assert val.startswith("val: ")
    assert f"1 skipped; reasons in {tmp_path / 'out' / 'train' / 'skipped.jsonl'}:" in output
    code, output, _ = run(directory, tmp_path / "out", "--split", "0.5/0.5", "--seed", 1, "--json")
    parts = json.loads(output)["parts"]
    assert [len(open_shards(tmp_path / "out" / part["name"])) for part in parts] == [p["samples"] for p in parts]


def test_options_of_a_split_that_make_no_sense_are_refused(directory: Path, tmp_path: Path) -> None:
    for options in (["--seed", 1], ["--split", "0.9/0.2"], ["--split", ""], ["--split", "0.001/0.999"]):
        code, _, error = run(directory, tmp_path / "out", *options)
        assert (code, isinstance(error, WordsightError), (tmp_path / "out").exists()) == (1, True, False)


def test_untrusted_names_reach_the_terminal_as_escapes(directory: Path, tmp_path: Path) -> None:
    (directory / "\x1b[31mred\n.png").write_bytes(b"junk")
    (directory / "\x1b[31mred\n.txt").write_text("x")
    code, output, _ = run(directory, tmp_path / "out")
    assert (code, "\x1b" in output, len(output.splitlines())) == (0, False, 4)
    assert "\\x1b[31mred\\n.png" in output
    (directory / "t.csv").write_text("file,a\x1b[2Jb\n0.png,x\n")
    code, output, _ = run(directory / "t.csv", tmp_path / "out", "--text-column", "a\x1b[2Jb")
    assert (code, "\x1b" in output) == (0, False)


def test_mistakes_raise_errors_of_the_package(directory: Path, tmp_path: Path) -> None:
    assert isinstance(run(tmp_path / "none", tmp_path / "out")[2], DataError)
    assert isinstance(run(directory, directory)[2], OutputError)
    assert isinstance(run(directory, tmp_path / "out", "--only", tmp_path / "none")[2], DataError)
    assert not (tmp_path / "out").exists()


def test_interrupted_packing_leaves_no_output(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(layouts, "texts_of_txt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        shards(directory, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_packing_does_not_load_torch(directory: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wordsight.cli.shards import shards\n"
        "assert 'wordsight.data' not in sys.modules and 'pyarrow' not in sys.modules\n"
        f"shards(Path({str(directory)!r}), Path({str(tmp_path / 'out')!r}))\n"
        "assert 'torch' not in sys.modules"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert "3 samples" in process.stdout
