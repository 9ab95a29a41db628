"""Duplicates: planted copies of photograph-like images, the rule of groups, and what must not be grouped."""

import io

import numpy as np
import pytest
from PIL import Image

from wordsight.errors import DataError
from wordsight.image import PERCEPTUAL_PX, ImageRef, perceptual_thumbnail
from wordsight.search import find_duplicates, scan_images
from wordsight.search.resemblance import Candidates, Resemblance


def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """A smooth random image with detail at every scale, as photographs have."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48):
        noise = generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        enlarged = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(enlarged, float) / cells**0.7
    return Image.fromarray((255 * pixels / pixels.max()).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def crop(image: Image.Image, left: float, top: float, side: float = 0.9) -> Image.Image:
    x, y = round(left * image.width), round(top * image.height)
    return image.crop((x, y, x + round(side * image.width), y + round(side * image.height)))


def scan(**files: bytes):
    return scan_images(ImageRef(name, lambda content=content: content) for name, content in files.items())


def names(groups) -> list[list[str]]:
    return [[group.kept.image.name, *(each.facts.image.name for each in group.duplicates)] for group in groups]


@pytest.mark.parametrize(
    "copy",
    [
        lambda image: jpeg(image, 50),
        lambda image: jpeg(half(image)),
        lambda image: jpeg(crop(image, 0, 0)),
        lambda image: jpeg(crop(image, 0.1, 0.03)),
        lambda image: jpeg(crop(image, 0.02, 0.04, 0.95)),
        lambda image: jpeg(half(crop(image, 0.05, 0.05)), 60),
        lambda image: jpeg(Image.eval(image, lambda level: int(0.8 * level + 20))),
    ],
    ids=["quality", "half", "corner", "side", "small crop", "all", "contrast"],
)
def test_copies_are_found_among_other_images(copy):
    originals = {f"original{seed}": jpeg(photo(seed)) for seed in range(12)}
    groups = find_duplicates(scan(**originals, copy=copy(photo(5))))
    assert names(groups) == [["original5", "copy"]]
    assert groups[0].kind == "near"
    assert 0.9 <= groups[0].duplicates[0].resemblance <= 1


def test_the_crop_may_be_the_larger_file():
    enlarged = crop(photo(1), 0.1, 0.1).resize((640, 480), Image.Resampling.BICUBIC)
    groups = find_duplicates(scan(a=jpeg(photo(1)), b=jpeg(photo(2)), c=jpeg(enlarged)))
    assert names(groups) == [["c", "a"]]


def test_the_image_to_keep_has_the_most_pixels_then_the_largest_file_then_the_first_name():
    best = jpeg(photo(0), 95)
    files = {"b": best, "a": best, "lower": jpeg(photo(0), 60), "small": jpeg(half(photo(0)), 100)}
    (group,) = find_duplicates(scan(**files))
    assert group.kept.image.name == "a"
    assert (group.duplicates[0].facts.image.name, group.duplicates[0].is_exact) == ("b", True)
    assert {each.facts.image.name for each in group.duplicates} == {"b", "lower", "small"}
    assert (group.kept.width, group.kept.height, group.kept.num_bytes) == (320, 240, len(best))
    assert group.num_bytes == len(best) + len(files["lower"]) + len(files["small"])


def test_files_with_the_same_bytes_are_an_exact_group_and_other_copies_are_not():
    content = jpeg(photo(0))
    files = {"a": content, "b": content, "c": jpeg(photo(0), 50)}
    (group,) = find_duplicates(scan(**files), threshold=2)
    assert (names([group]), group.kind, group.duplicates[0].resemblance) == ([["a", "b"]], "exact", 1)


def test_no_image_is_grouped_only_because_it_resembles_a_member():
    """Shifted windows of one scene: the first resembles the second, and the second the third, but not the first."""
    scene = photo(3, 600, 400)
    windows = [scene.crop((x, 0, x + 400 - number, 400 - number)) for number, x in enumerate((36, 0, 72))]
    scanned = scan(**{f"w{number}": jpeg(window) for number, window in enumerate(windows)})
    pixels = scanned.pixels([facts.sha256 for facts in scanned.facts])
    assert measured(pixels, 1, 2) < 0.9
    for group in find_duplicates(scanned):
        for duplicate in group.duplicates:
            pair = [
                [facts.image.name for facts in scanned.facts].index(facts.image.name)
                for facts in (group.kept, duplicate.facts)
            ]
            assert max(measured(pixels, *pair), measured(pixels, *pair[::-1])) >= 0.9


def measured(pixels: np.ndarray, first: int, second: int) -> float:
    pairs = [Candidates(np.array([first]), np.array([second]), np.array([region])) for region in range(10)]
    return max(float(Resemblance(pixels).measure(pair)[0]) for pair in pairs)


def test_other_colours_other_contents_and_uniform_images_are_not_duplicates():
    red = np.asarray(photo(0))[..., [0, 2, 1]]
    files = {
        "photo": jpeg(photo(0)),
        "colours": jpeg(Image.fromarray(red)),
        "mirror": jpeg(photo(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
        "black": jpeg(Image.new("RGB", (64, 64))),
        "white": jpeg(Image.new("RGB", (80, 64), "white")),
        "grey": jpeg(Image.new("RGB", (80, 80), "grey")),
    }
    assert find_duplicates(scan(**files)) == []


def test_many_copies_of_one_image_are_not_all_compared_with_each_other(monkeypatch):
    copies = {
        f"copy{number:03d}": jpeg(photo(0).resize((100 + number % 20, 100 + number // 20))) for number in range(100)
    }
    num_measured = []
    original = Resemblance.measure
    monkeypatch.setattr(
        Resemblance, "measure", lambda self, pairs: num_measured.append(len(pairs.first)) or original(self, pairs)
    )
    (group,) = find_duplicates(scan(**copies))
    assert len(group.duplicates) == 99
    assert sum(num_measured) < 1000  # of 9,900 ordered pairs


def test_resemblance_does_not_depend_on_the_other_pairs():
    pixels = np.stack([perceptual_thumbnail(jpeg(photo(seed))).pixels for seed in range(6)])
    assert pixels.shape == (6, PERCEPTUAL_PX, PERCEPTUAL_PX, 3)
    pairs = Candidates(np.arange(5), np.arange(1, 6), np.zeros(5, np.int64))
    together = Resemblance(pixels).measure(pairs)
    alone = [float(Resemblance(pixels).measure(Candidates(*(c[n : n + 1] for c in pairs)))[0]) for n in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_unreadable_images_are_listed_and_an_image_given_twice_counts_once():
    images = [
        ImageRef(name, lambda content=content: content)
        for name, content in (("a", jpeg(photo(0))), ("a", jpeg(photo(0))), ("b", b"hello"))
    ]
    scanned = scan_images(images)
    assert [facts.image.name for facts in scanned.facts] == ["a"]
    assert [name for name, reason in scanned.unreadable] == ["b"]
    assert "not an image" in scanned.unreadable[0][1]
    with pytest.raises(DataError, match="none of 1 image could be read; the first: b: not an image"):
        scan_images(images[2:])


def test_the_size_of_a_jpeg_is_that_of_the_file():
    assert perceptual_thumbnail(jpeg(photo(0, 1000, 700)))[1:] == (1000, 700)
    assert perceptual_thumbnail(np.asarray(photo(0)))[1:] == (320, 240)
