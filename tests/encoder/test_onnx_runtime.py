"""A model that was exported answers as it did on torch, and torch stays away."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import png, tiny_clip
from tests.weights.models import checkpoint_of

from wordsight.encoder import DualEncoder, load
from wordsight.errors import ConfigError, WeightsError
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert

pytest.importorskip("onnxscript")

TEXTS = ["cat", "a small red house by the sea", "", "x" * 200, "cat", *(f"{n} dogs" for n in range(70))]


def exported(clip: DualEncoder, directory: Path) -> DualEncoder:
    convert(Checkpoint(clip.model.state_dict(), clip.card, clip.files), directory, "onnx")
    return load(directory)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx") / "out"
    exported(tiny_clip(), directory)
    return directory


@pytest.fixture(scope="module")
def pair(whole: Path) -> tuple[DualEncoder, DualEncoder]:
    return tiny_clip(), load(whole)


def test_embeddings_scale_and_fingerprint_are_those_of_the_model(pair: tuple[DualEncoder, DualEncoder]) -> None:
    clip, onnx = pair
    images = [png(seed) for seed in range(70)]
    np.testing.assert_allclose(onnx.embed_images(images), clip.embed_images(images), atol=1e-5)
    np.testing.assert_allclose(onnx.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-5)
    assert (onnx.scale, onnx.bias) == (clip.scale, clip.bias)
    assert onnx.fingerprint == clip.fingerprint
    assert onnx.embed_texts([]).shape == (0, 8)


def test_a_embedding_does_not_depend_on_its_neighbours(pair: tuple[DualEncoder, DualEncoder]) -> None:
    _, onnx = pair
    together = onnx.embed_texts(TEXTS)
    alone = np.concatenate([onnx.embed_texts([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_a_tower_that_reads_its_whole_context_is_given_it(tmp_path: Path) -> None:
    found = checkpoint_of("siglip")
    clip = DualEncoder(found.build("siglip"), found.card, files=found.files)
    onnx = exported(clip, tmp_path / "out")
    np.testing.assert_allclose(onnx.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(onnx.logits([[1.0] * 64], [[1.0] * 64]), clip.logits([[1.0] * 64], [[1.0] * 64]))
    assert onnx.bias < 0


def test_torch_is_not_imported(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    code = (
        "import sys; from wordsight.cli import main\n"
        f"sys.argv = ['wordsight', 'classify', {str(tmp_path / 'a.png')!r}, '--labels', 'cat,dog', "
        f"'--model', {str(whole)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, has_torch = answer.stdout.splitlines()
    assert has_torch == "False"
    assert lines[0].startswith(str(tmp_path / "a.png"))


def test_what_needs_the_weights_is_refused_with_what_to_do(
    pair: tuple[DualEncoder, DualEncoder], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="runs on onnx, where its weights cannot be read; load the model"):
        pair[1].save(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.onnx", None, r"image\.onnx: no such file; export the model again"),
        ("text.onnx", b"no graph", r"text\.onnx: ONNX Runtime cannot open it: .*; export it again"),
        ("exported.json", b"{", r"exported\.json: not JSON"),
        ("exported.json", b'{"scale": 1, "bias": 0, "weight": "x"}', "did you mean 'weights'"),
    ],
)
def test_a_broken_directory_is_one_line(
    whole: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    directory = shutil.copytree(whole, tmp_path / "out")
    (directory / name).unlink() if content is None else (directory / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as broken:
        load(directory).embed_texts(["cat"])
    assert "\n" not in str(broken.value)


def test_another_device_is_refused(whole: Path) -> None:
    with pytest.raises(ConfigError, match="runs here on 'cpu' alone"):
        load(whole, device="cuda")
