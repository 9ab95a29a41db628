import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.search.test_duplicates import half, jpeg, photo
from tests.tiny_clip import tiny_clip

from wordsight.cli import main


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four photos, one of which has an exact copy and another two near-duplicates; and a broken file."""
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.jpg").write_bytes(jpeg(photo(number)))
    shutil.copy(photos / "1.jpg", photos / "copy.jpg")
    (photos / "small.jpg").write_bytes(jpeg(half(photo(2))))
    (photos / "worse.jpg").write_bytes(jpeg(photo(2), 40))
    (photos / "broken.jpg").write_bytes(b"hello")
    return tmp_path


def test_example_in_help_runs(workspace, capsys):
    assert main(["duplicates", "--help"]) == 0
    (example,) = re.findall(r"wordsight (duplicates photos/ .*)", capsys.readouterr().out)
    assert main(example.split()) == 0
    page = (workspace / "duplicates.html").read_text()
    assert page.count("data:image/jpeg") == 5
    assert "same bytes: photos/copy.jpg" in page


def test_lines_say_what_to_keep_and_nothing_is_deleted(workspace, capsys):
    before = sorted(workspace.rglob("*"))
    assert main(["duplicates", "photos"]) == 0
    captured = capsys.readouterr()
    lines = [line.split("\t") for line in captured.out.splitlines() if line]
    groups = {
        line[1]: [other[1] for other in lines[number + 1 :][: 2 if line[1] == "photos/2.jpg" else 1]]
        for number, line in enumerate(lines)
        if line[0] == "keep"
    }
    assert groups["photos/1.jpg"] == ["photos/copy.jpg"]
    assert sorted(groups["photos/2.jpg"]) == ["photos/small.jpg", "photos/worse.jpg"]
    assert len(groups) == 2
    assert (
        "7 images: 3 duplicates in 2 groups, 1 of them with the same bytes as the image to keep; nothing was deleted"
        in captured.err
    )
    assert "unreadable: photos/broken.jpg: not an image" in captured.err
    assert sorted(workspace.rglob("*")) == before


def test_json_has_everything(workspace, capsys):
    assert main(["duplicates", "photos", "--json", "--quiet"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    exact = next(group for group in result["groups"] if group["kind"] == "exact")
    assert (result["images"], result["threshold"], captured.err) == (7, 0.9, "")
    assert exact["keep"]["sha256"] == exact["duplicates"][0]["sha256"]
    assert (exact["keep"]["width"], exact["keep"]["height"]) == (320, 240)
    assert exact["duplicates"][0]["resemblance"] == 1
    assert result["unreadable"][0]["image"] == "photos/broken.jpg"


def test_exact_finds_the_same_bytes_only(workspace, capsys):
    assert main(["duplicates", "photos", "--exact", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [group["kind"] for group in result["groups"]] == ["exact"]
    assert result["threshold"] is None


def test_a_file_of_embeddings_names_the_images(workspace, capsys):
    tiny_clip().save(workspace / "model")
    for out in ("photos.parquet", "photos.npy"):
        assert main(["embed", "photos", "--out", out, "--model", "model", "--quiet"]) == 0
        capsys.readouterr()
        assert main(["duplicates", out, "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["groups"]) == 2


def test_a_threshold_of_one_needs_equal_details(workspace, capsys):
    assert main(["duplicates", "photos", "--threshold", "1", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["groups"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["empty"], "empty: "),
        (["missing"], "missing: "),
        (["missing.npy"], "missing.npy: no such file"),
        (["photos/broken.jpg"], "none of 1 image could be read; the first: photos/broken.jpg: not an image"),
        (["photos", "--threshold", "2"], "--threshold"),
        (["photos", "--page", "empty"], "empty: "),
        (["table.parquet"], "table.parquet: "),
    ],
)
def test_bad_input_is_one_line(workspace, capsys, arguments, message):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (workspace / "empty").mkdir()
    pq.write_table(pa.table({"title": ["a"]}), workspace / "table.parquet")
    assert main(["duplicates", *arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("unreadable")]
    assert len(errors) == 1
    assert message in errors[0]


def test_control_characters_in_names_do_not_reach_the_terminal(workspace, capsys):
    Image.new("RGB", (8, 8)).save(workspace / "photos" / "a\x1b[31m.png")
    shutil.copy(workspace / "photos" / "a\x1b[31m.png", workspace / "photos" / "b\x1b[31m.png")
    assert main(["duplicates", "photos", "--page", "page.html"]) == 0
    captured = capsys.readouterr()
    assert "\\x1b[31m.png" in captured.out
    assert "\x1b" not in captured.out + captured.err + (workspace / "page.html").read_text()
