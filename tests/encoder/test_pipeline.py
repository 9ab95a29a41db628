import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import png, random_image, tiny_clip

from wordsight.data.inputs import count_image_files, find_image_files
from wordsight.encoder.pipeline import embed_each
from wordsight.image import decode, resize_and_crop


def test_broken_images_do_not_stop_or_move_the_others():
    clip = tiny_clip()
    sources = [png(0), b"hello", png(1), "missing.jpg", *(png(seed) for seed in range(2, 80))]
    rows = list(embed_each(clip, iter(sources)))
    assert [row.source for row in rows] == sources
    assert [number for number, row in enumerate(rows) if row.embedding is None] == [1, 3]
    assert "not an image" in rows[1].error
    assert rows[3].error.startswith("missing.jpg: no such file")
    found = np.stack([row.embedding for row in rows if row.embedding is not None])
    np.testing.assert_allclose(found, clip.embed_images([png(seed) for seed in range(80)]), atol=1e-5)


def test_a_square_of_the_models_size_passes_unchanged():
    preprocessing = tiny_clip().card.preprocessing
    square = resize_and_crop(random_image(0), preprocessing)
    assert np.array_equal(resize_and_crop(decode(square), preprocessing), square)


def test_all_may_be_broken():
    assert [row.embedding for row in embed_each(tiny_clip(), [b"", b"x"])] == [None, None]


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
