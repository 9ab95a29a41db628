import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import png, random_image, tiny_clip, write_images

from wordsight.data import inputs as module
from wordsight.data.inputs import count_image_files, find_image_files
from wordsight.encoder.pipeline import embed_each
from wordsight.errors import DataError
from wordsight.image import decode, resize_and_crop


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def test_images_are_found_below_in_order_and_files_taken_as_given(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/notes.txt", "a.webp", ".hidden.jpg", ".git/x.jpg", "._b.jpg", "jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = list(find_image_files([tmp_path, tmp_path / "a" / "notes.txt", "missing.jpg"]))
    assert found == [*(tmp_path / name for name in ("a.webp", "b.JPG", "a/z.png", "a/notes.txt")), Path("missing.jpg")]


def test_a_directory_without_images_is_an_error(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no images in this directory or below"):
        list(find_image_files([tmp_path]))


def test_finding_streams(tmp_path):
    write_images(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    found = find_image_files([tmp_path / "full", tmp_path / "empty"])
    assert next(found).name == "000.png"


def test_broken_images_do_not_stop_or_move_the_others():
    clip = tiny_clip()
    sources = [png(0), b"hello", png(1), "missing.jpg", *(png(seed) for seed in range(2, 80))]
    rows = list(embed_each(clip, iter(sources)))
    assert [row.source for row in rows] == sources
    assert [number for number, row in enumerate(rows) if row.embedding is None] == [1, 3]
    assert "not a image" in rows[1].error
    assert rows[3].error.startswith("missing.jpg: no such file")
    found = np.stack([row.embedding for row in rows if row.embedding is not None])
    np.testing.assert_allclose(found, clip.embed_images([png(seed) for seed in range(80)]), atol=1e-5)


def test_a_square_of_the_models_size_passes_unchanged():
    preprocessing = tiny_clip().card.preprocessing
    square = resize_and_crop(random_image(0), preprocessing)
    assert np.array_equal(resize_and_crop(decode(square), preprocessing), square)


def test_all_may_be_broken():
    assert [row.embedding for row in embed_each(tiny_clip(), [b"", b"x"])] == [None, None]


def test_names_come_in_order_although_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_NAMES_AT_ONCE", 4)
    names = [f"{number * 7 % 101:03d}.png" for number in range(101)]
    touch(tmp_path, *names, *(f"below/{number}.jpg" for number in range(8)), "z.txt", "below/deep/x.gif")
    expected = [*sorted(names), *(f"below/{number}.jpg" for number in range(8)), "below/deep/x.gif"]
    assert list(find_image_files([tmp_path])) == [tmp_path / name for name in expected]
    assert count_image_files([tmp_path, "missing.jpg"]) == len(expected) + 1


def test_a_directory_of_very_many_names_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_NAMES_AT_ONCE", 100)
    touch(tmp_path, *(f"{number}.png" for number in range(5000)))
    peaks = {}
    for way, work in [
        ("found", lambda: next(find_image_files([tmp_path]))),
        ("listed", lambda: list(tmp_path.iterdir())),
    ]:
        tracemalloc.start()
        work()
        peaks[way] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["found"] < peaks["listed"] / 5


def test_counting_refuses_what_finding_refuses(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no images in this directory or below"):
        count_image_files([tmp_path])


@pytest.fixture
def directory_of_nobody():
    """A directory for a user who is not allowed everything, who we are until the test ends."""
    with tempfile.TemporaryDirectory() as name:
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(name, 65534, 65534)
            os.seteuid(65534)
        yield Path(name)
        if is_root:
            os.seteuid(0)
        (Path(name) / "below").chmod(0o700)


def test_files_and_directories_without_permission_are_rows_with_reasons(directory_of_nobody):
    for name in ("a.png", "below/b.png", "c.png"):
        (directory_of_nobody / name).parent.mkdir(exist_ok=True)
        (directory_of_nobody / name).write_bytes(png(0))
    (directory_of_nobody / "a.png").chmod(0)
    (directory_of_nobody / "below").chmod(0)
    (directory_of_nobody / "loop.png").symlink_to("loop.png")
    assert count_image_files([directory_of_nobody]) == 4
    rows = list(embed_each(tiny_clip(), find_image_files([directory_of_nobody])))
    assert [row.source.name for row in rows] == ["a.png", "c.png", "loop.png", "below"]
    assert [row.embedding is None for row in rows] == [True, False, True, True]
    for row, reason in zip(rows, ["Permission denied", "", "symbolic links", "Permission denied"], strict=True):
        assert reason in row.error


def test_a_image_of_one_pixel_has_a_embedding(tmp_path):
    (row,) = embed_each(tiny_clip(), [np.full((1, 1, 3), 77, np.uint8)])
    whole = tiny_clip().embed_images(np.full((16, 16, 3), 77, np.uint8))
    np.testing.assert_allclose(row.embedding[None], whole, atol=1e-6)
