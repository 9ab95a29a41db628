import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import tiny_clip, write_images

import wordsight as ws
from wordsight.cli import main


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run, six photos and their embeddings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 6)
    assert main(["embed", "photos", "--out", "photos.parquet", "--model", "runs/first", "--quiet"]) == 0
    return tmp_path


def find(*arguments: str, source: str = "photos.parquet") -> int:
    return main(["find", *arguments, "--in", source, "--model", "runs/first"])


def ranking(query: np.ndarray) -> list[str]:
    """The photos by falling similarity to a query."""
    paths = [f"photos/{number:03d}.png" for number in range(6)]
    similarity = tiny_clip().embed_images(paths) @ query
    return [paths[number] for number in np.argsort(-similarity)]


def test_example_in_help_runs(workspace, capsys):
    assert main(["find", "--help"]) == 0
    example = re.search(r"wordsight (find \"(.*)\" .*)", capsys.readouterr().out.replace("wordsight find [", ""))
    assert example is not None
    words = example[1].replace(f'"{example[2]}"', "TEXT").split()
    capsys.readouterr()
    assert main([example[2] if word == "TEXT" else word for word in words]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_lines_have_the_similarity_and_the_name_best_first(workspace, capsys):
    capsys.readouterr()
    assert find("a dog", "--top", "3") == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    query = tiny_clip().embed_texts("a dog")[0]
    assert [name for _, name in lines] == ranking(query)[:3]
    assert float(lines[0][0]) == pytest.approx(float((tiny_clip().embed_images([lines[0][1]]) @ query)[0]), abs=1e-4)


def test_texts_and_images_are_combined_with_weights(workspace, capsys):
    capsys.readouterr()
    assert find("a dog", "snow", "--image", "photos/004.png", "--weights", "1,-0.5,2", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    clip = tiny_clip()
    dog, snow = clip.embed_texts(["a dog", "snow"])
    assert [each["image"] for each in result["results"]] == ranking(
        dog - 0.5 * snow + 2 * clip.embed_images("photos/004.png")[0]
    )
    assert result["query"][2] == {"image": "photos/004.png", "weight": 2.0}
    assert (result["embeddings"], result["fingerprint"]) == (6, clip.fingerprint.digest)


def test_a_directory_is_embedded_once_and_again_where_it_changed(workspace, capsys):
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert find("a dog", source="photos") == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].out == outputs[1].out
    assert "6 embeddings (6 new)" in outputs[0].err
    assert "6 embeddings (0 new)" in outputs[1].err
    (workspace / "photos" / "005.png").unlink()
    assert find("a dog", source="photos") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    assert not list((workspace / "photos").glob(".*"))


def test_several_sources_are_searched_together(workspace, capsys):
    write_images(workspace / "more", 8)
    capsys.readouterr()
    assert find("a dog", "--in", "more", "--top", "100") == 0
    assert len(capsys.readouterr().out.splitlines()) == 14


def test_interactive_answers_each_line_and_goes_on_after_a_bad_one(workspace, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"a dog\n\n{chr(0)}\nsnow\na dog\n"))
    capsys.readouterr()
    assert find("--interactive", "--top", "2", "--json") == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [answer["query"][0]["text"] for answer in answers]
    assert texts[0] == texts[-1] == "a dog"
    assert "snow" in texts
    assert answers[0] == answers[-1]


def test_a_page_and_copies_show_what_no_longer_exists(workspace, capsys):
    (workspace / "photos" / "002.png").unlink()
    assert find("a dog", "--page", "page.html", "--copy-to", "best") == 0
    assert sorted(path.name for path in (workspace / "best").iterdir()) == [f"{n:03d}.png" for n in (0, 1, 3, 4, 5)]
    page = (workspace / "page.html").read_text()
    assert page.count("data:image/jpeg") == 5
    assert page.count("no longer exists") == 1
    assert "1 image is not a file that exists" in capsys.readouterr().err


def test_images_are_found_next_to_a_file_that_was_moved_with_them(workspace, monkeypatch, capsys):
    shutil.move(workspace / "photos", workspace / "elsewhere" / "photos")
    shutil.move(workspace / "photos.parquet", workspace / "elsewhere")
    capsys.readouterr()
    assert find("a dog", "--json", "--top", "1", source="elsewhere/photos.parquet") == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["file"] == str(Path("elsewhere", result["image"]))


def test_the_file_decides_how_a_query_image_is_decoded(workspace, capsys):
    options = ["--policy", "published", "--decoding", "cropped", "--model", "runs/first", "--quiet"]
    assert main(["embed", "photos", "--out", "published.npy", *options]) == 0
    capsys.readouterr()
    assert find("--image", "photos/003.png", "--top", "1", source="published.npy") == 0
    assert capsys.readouterr().out == "1.0000\tphotos/003.png\n"
    assert find("a dog", "--policy", "viewer", source="published.npy") == 2
    error = capsys.readouterr().err
    assert "published" in error
    assert "viewer" in error


BAD_INPUTS = {
    "embeddings of another model": (
        ["a dog", "--model", "runs/other"],
        r"photos.parquet: holds embeddings of \w+: .*, but this model is \w+: ",
    ),
    "a file without embeddings": (["a dog", "--in", "table.parquet"], "table.parquet: not a file of embeddings"),
    "a file that is missing": (["a dog", "--in", "missing.npy"], "missing.npy: no such file; write it with"),
    "a directory without images": (["a dog", "--in", "empty"], "empty: "),
    "no query": ([], "an empty query; give a text"),
    "an empty query": ([""], "an empty text in the query"),
    "weights that are no numbers": (["a dog", "--weights", "much"], "--weights much: expected numbers"),
    "too many weights": (["a dog", "--weights", "1,2"], "2 weights for 1 part of the query"),
    "a query of zero": (["a dog", "a dog", "--weights", "1,-1"], "cancel each other out"),
    "an image that is missing": (["--image", "missing.jpg"], "missing.jpg: no such file"),
    "copies inside the source": (["a dog", "--copy-to", "photos/best"], "inside the input photos"),
    "a target that exists": (["a dog", "--copy-to", "taken"], r"taken/00\d.png: exists, and is not replaced"),
    "a dry run of nothing": (["a dog", "--dry-run"], "--dry-run needs --copy-to"),
    "interactive with a query": (["a dog", "--interactive"], "leave TEXT out"),
    "a page that is a directory": (["a dog", "--page", "photos"], "photos: "),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_line_and_nothing_is_written(workspace, capsys, arguments, message):
    import pyarrow as pa
    import pyarrow.parquet as pq

    tiny_clip(seed=1).save(workspace / "runs" / "other" / "best")
    pq.write_table(pa.table({"title": ["a"]}), workspace / "table.parquet")
    (workspace / "empty").mkdir()
    (workspace / "taken").mkdir()
    for number in range(6):
        (workspace / "taken" / f"{number:03d}.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file() and "cache" not in path.parts}
    capsys.readouterr()
    source = [] if "--in" in arguments else ["--in", "photos.parquet"]
    model = [] if "--model" in arguments else ["--model", "runs/first"]
    assert main(["find", *arguments, *source, *model]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err)
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err
    after = {path: path.read_bytes() for path in workspace.rglob("*") if path.is_file() and "cache" not in path.parts}
    assert after == before


def test_control_characters_in_names_do_not_reach_the_terminal(workspace, capsys):
    (workspace / "photos" / "000.png").rename(workspace / "photos" / "a\x1b[31m.png")
    capsys.readouterr()
    assert find("a dog", "--page", "page.html", source="photos") == 0
    captured = capsys.readouterr()
    assert "\\x1b[31m.png" in captured.out
    assert "\x1b" not in captured.out + captured.err + (workspace / "page.html").read_text()


def test_scores_are_those_of_the_library(workspace, capsys):
    clip = ws.load("runs/first")
    capsys.readouterr()
    assert find("snow", "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    similarity = clip.similarity(clip.embed_images([each["image"] for each in results]), clip.embed_texts("snow"))
    np.testing.assert_allclose([each["score"] for each in results], similarity[:, 0], atol=2e-6)
