"""The image pipeline: order, batches, unreadable images, and embeddings of earlier runs."""

import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import png, random_image, tiny_clip

from wordsight.data.inputs import count_image_files, find_image_files
from wordsight.encoder.pipeline import as_images, embed_each, read_ref
from wordsight.errors import ImageError
from wordsight.image import ImageRef, decode, resize_and_crop


def unreadable(reason: str) -> bytes:
    raise ImageError(reason)


def test_unreadable_images_neither_stop_nor_shift_the_others():
    clip = tiny_clip()
    sources = [png(0), b"hello", png(1), "missing.jpg", *(png(seed) for seed in range(2, 80))]
    results = list(embed_each(clip, iter(sources)))
    assert [result.source for result in results] == sources
    assert [number for number, result in enumerate(results) if result.embedding is None] == [1, 3]
    assert results[1].error.startswith("image 1: not an image")
    assert results[3].error.startswith("missing.jpg: no such file")
    embeddings = np.stack([result.embedding for result in results if result.embedding is not None])
    np.testing.assert_allclose(embeddings, clip.embed_images([png(seed) for seed in range(80)]), atol=1e-5)


def test_pixels_of_the_models_size_are_not_changed():
    preprocessing = tiny_clip().card.preprocessing
    pixels = resize_and_crop(random_image(0), preprocessing)
    assert np.array_equal(resize_and_crop(decode(pixels), preprocessing), pixels)


def test_all_images_may_be_unreadable():
    assert [result.embedding for result in embed_each(tiny_clip(), [b"", b"x"])] == [None, None]


def test_an_image_of_one_pixel_has_an_embedding():
    (result,) = embed_each(tiny_clip(), [np.full((1, 1, 3), 77, np.uint8)])
    uniform = tiny_clip().embed_images(np.full((16, 16, 3), 77, np.uint8))
    np.testing.assert_allclose(result.embedding[None], uniform, atol=1e-6)


def test_refs_have_the_embeddings_of_their_contents_and_errors_have_their_names():
    clip = tiny_clip()
    refs = [
        ImageRef("a", lambda: png(0)),
        ImageRef("b", lambda: b"hello"),
        ImageRef("c", lambda: unreadable("c: no permission")),
        ImageRef("film.mp4#t=0.000", lambda: random_image(1), "0123"),
    ]
    results = list(embed_each(clip, refs))
    assert [result.source for result in results] == refs
    assert results[1].error.startswith("b: not an image")
    assert results[2].error == "c: no permission"
    embeddings = np.stack([results[0].embedding, results[3].embedding])
    np.testing.assert_allclose(embeddings, clip.embed_images([png(0), png(1)]), atol=1e-6)
    assert [(result.sha256, result.is_new) for result in results] == [
        ("", True),
        ("", False),
        ("", False),
        ("0123", True),
    ]


def test_earlier_embeddings_are_found_by_hash_and_their_images_are_not_encoded():
    clip = tiny_clip()
    earlier = np.full(8, 8**-0.5, np.float32)
    known = {hashlib.sha256(png(0)).hexdigest(), "video"}
    refs = [
        ImageRef("a", lambda: png(0)),
        ImageRef("b", lambda: png(1)),
        ImageRef("c", lambda: b"hello"),
        ImageRef("film.mp4#t=0.000", lambda: unreadable("must not be read"), "video"),
    ]
    calls = []

    def find(name: str, sha256: str) -> np.ndarray | None:
        calls.append(name)
        return earlier if sha256 in known else None

    results = list(embed_each(clip, refs, find))
    assert [result.is_new for result in results] == [False, True, False, False]
    assert results[0].embedding is results[3].embedding is earlier
    assert [result.sha256 for result in results[:3]] == [hashlib.sha256(ref.read()).hexdigest() for ref in refs[:3]]
    assert results[2].error.startswith("c: not an image")
    assert set(calls) == {ref.name for ref in refs}


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


def test_reading_a_ref_returns_its_contents_unless_there_is_nothing_to_do():
    prepared, content = read_ref(ImageRef("a", lambda: b"bytes"))
    assert (prepared.sha256, prepared.error, content) == ("", "", b"bytes")
    prepared, content = read_ref(ImageRef("a", lambda: b"bytes"), lambda name, sha256: None)
    assert (prepared.sha256, content) == (hashlib.sha256(b"bytes").hexdigest(), b"bytes")
    prepared, content = read_ref(ImageRef("a", lambda: unreadable("a: gone")))
    assert (prepared.error, content) == ("a: gone", None)


@pytest.mark.parametrize("single", ["a.png", b"bytes", ImageRef("a", bytes), random_image(0), 5, None])
def test_a_single_image_or_anything_that_is_not_iterable_becomes_a_list_of_one(single):
    (image,) = as_images(single)
    assert image is single
