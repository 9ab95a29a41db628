import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wordsight.data import open_shards
from wordsight.errors import DataError
from wordsight.evaluation import Classification, Retrieval, dataset_name
from wordsight.image import Preprocessing


class FakeEncoder:
    """Embeds every image and text as the same unit vector."""

    def embed_images(self, images: list[np.ndarray]) -> np.ndarray:
        return np.tile(np.array([[1, 0]], dtype=np.float32), (len(images), 1))

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return np.tile(np.array([[1, 0]], dtype=np.float32), (len(texts), 1))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three captioned images, one of which is not an image."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    contents = {"a.png": buffer.getvalue(), "b.png": b"not an image", "c.png": buffer.getvalue()}
    directory = tmp_path / "pairs"
    directory.mkdir()
    with tarfile.open(directory / "000000.tar", "w") as tar:
        for name, content in contents.items():
            for member, data in ((name, content), (f"{name[0]}.txt", b"a red square")):
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return directory


def test_unreadable_images_are_counted_in_every_score(shards: Path) -> None:
    scores = Retrieval(open_shards(shards), "pairs", Preprocessing(size_px=8))(FakeEncoder(), 1)
    assert len(scores) == 6
    assert {(score.n, score.unreadable) for score in scores} == {(2, 1)}


def test_captioned_images_are_not_a_set_of_labelled_images(shards: Path) -> None:
    evaluator = Classification(open_shards(shards), "pairs", ["{}"], Preprocessing(size_px=8))
    with pytest.raises(DataError, match=r"pairs: no images with labels, as validation\.labels requires"):
        evaluator(FakeEncoder(), 1)


@pytest.mark.parametrize("path", ["data/flickr8k-val", "data/flickr8k-val/", "flickr8k-val.tar"])
def test_a_dataset_is_named_after_the_last_component_of_its_path(path: str) -> None:
    assert dataset_name(path) == "flickr8k-val"


def test_the_working_directory_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pets" / "cats").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "pets")
    assert [dataset_name(path) for path in (".", "./", "cats/..", Path(), "..")] == [*["pets"] * 4, tmp_path.name]
