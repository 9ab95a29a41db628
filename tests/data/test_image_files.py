"""Image files are listed below directories: in order, by suffix, and in bounded memory."""

import os
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from tests.tiny_clip import png, tiny_clip, write_images

from wordsight.data import inputs as module
from wordsight.data.inputs import count_image_files, find_image_files
from wordsight.encoder.pipeline import embed_each
from wordsight.errors import DataError


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def test_images_are_listed_below_directories_in_order_and_files_as_given(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/notes.txt", "a.webp", ".hidden.jpg", ".git/x.jpg", "._b.jpg", "jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    paths = list(find_image_files([tmp_path, tmp_path / "a" / "notes.txt", "missing.jpg"]))
    assert paths == [*(tmp_path / name for name in ("a.webp", "b.JPG", "a/z.png", "a/notes.txt")), Path("missing.jpg")]


def test_a_directory_without_images_is_an_error(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no images in this directory or below"):
        list(find_image_files([tmp_path]))


def test_paths_are_streamed(tmp_path):
    write_images(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    paths = find_image_files([tmp_path / "full", tmp_path / "empty"])
    assert next(paths).name == "000.png"


def test_names_are_sorted_although_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_NAMES_AT_ONCE", 4)
    names = [f"{number * 7 % 101:03d}.png" for number in range(101)]
    touch(tmp_path, *names, *(f"below/{number}.jpg" for number in range(8)), "z.txt", "below/deep/x.gif")
    expected = [*sorted(names), *(f"below/{number}.jpg" for number in range(8)), "below/deep/x.gif"]
    assert list(find_image_files([tmp_path])) == [tmp_path / name for name in expected]
    assert count_image_files([tmp_path, "missing.jpg"]) == len(expected) + 1


def test_the_names_of_a_large_directory_are_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_NAMES_AT_ONCE", 100)
    touch(tmp_path, *(f"{number}.png" for number in range(5000)))
    peaks = {}
    for way, work in [
        ("streamed", lambda: next(find_image_files([tmp_path]))),
        ("listed", lambda: list(tmp_path.iterdir())),
    ]:
        tracemalloc.start()
        work()
        peaks[way] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["streamed"] < peaks["listed"] / 5


def test_counting_refuses_what_listing_refuses(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no images in this directory or below"):
        count_image_files([tmp_path])


@pytest.fixture
def unprivileged_directory():
    """A directory of a user without special permissions; the test runs as that user."""
    with tempfile.TemporaryDirectory() as name:
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        yield Path(name)
        if is_root:
            os.seteuid(0)
        (Path(name) / "below").chmod(0o700)


def test_files_and_directories_without_permission_have_results_with_reasons(unprivileged_directory):
    for name in ("a.png", "below/b.png", "c.png"):
        (unprivileged_directory / name).parent.mkdir(exist_ok=True)
        (unprivileged_directory / name).write_bytes(png(0))
    (unprivileged_directory / "a.png").chmod(0)
    (unprivileged_directory / "below").chmod(0)
    (unprivileged_directory / "loop.png").symlink_to("loop.png")
    assert count_image_files([unprivileged_directory]) == 4
    results = list(embed_each(tiny_clip(), find_image_files([unprivileged_directory])))
    assert [result.source.name for result in results] == ["a.png", "c.png", "loop.png", "below"]
    assert [result.embedding is None for result in results] == [True, False, True, True]
    reasons = ["Permission denied", "", "symbolic links", "Permission denied"]
    for result, reason in zip(results, reasons, strict=True):
        assert reason in result.error
