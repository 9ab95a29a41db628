from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import png, random_image, tiny_clip, write_pictures

from wordsight.errors import DataError
from wordsight.image import decode, to_square
from wordsight.infer.pictures import embed_each, find_pictures


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_pictures_are_found_below_in_order_and_files_taken_as_given(tmp_path):
    touch(tmp_path, "b.JPG", "a/z.png", "a/notes.txt", "a.webp", ".hidden.jpg", ".git/x.jpg", "._b.jpg", "jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = list(find_pictures([tmp_path, tmp_path / "a" / "notes.txt", "missing.jpg"]))
    assert found == [*(tmp_path / name for name in ("a.webp", "b.JPG", "a/z.png", "a/notes.txt")), Path("missing.jpg")]


def test_a_folder_without_pictures_is_an_error(tmp_path):
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no pictures in this folder or below"):
        list(find_pictures([tmp_path]))


def test_finding_streams(tmp_path):
    write_pictures(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    found = find_pictures([tmp_path / "full", tmp_path / "empty"])
    assert next(found).name == "000.png"


def test_broken_pictures_do_not_stop_or_move_the_others():
    clip = tiny_clip()
    sources = [png(0), b"hello", png(1), "missing.jpg", *(png(seed) for seed in range(2, 80))]
    rows = list(embed_each(clip, iter(sources)))
    assert [row.source for row in rows] == sources
    assert [number for number, row in enumerate(rows) if row.vector is None] == [1, 3]
    assert "not a picture" in rows[1].error
    assert rows[3].error.startswith("missing.jpg: no such file")
    found = np.stack([row.vector for row in rows if row.vector is not None])
    np.testing.assert_allclose(found, clip.embed_images([png(seed) for seed in range(80)]), atol=1e-5)


def test_a_square_of_the_models_size_passes_unchanged():
    preprocessing = tiny_clip().card.preprocessing
    square = to_square(random_image(0), preprocessing)
    assert np.array_equal(to_square(decode(square), preprocessing), square)


def test_all_may_be_broken():
    assert [row.vector for row in embed_each(tiny_clip(), [b"", b"x"])] == [None, None]
