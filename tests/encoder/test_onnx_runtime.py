"""An exported model has the same embeddings as on torch, and runs without importing torch."""

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
pytestmark = pytest.mark.filterwarnings("ignore:.* longer than the model's context")

TEXTS = ["cat", "a small red house by the sea", "", "x" * 200, "cat", *(f"{n} dogs" for n in range(70))]


def export(clip: DualEncoder, directory: Path) -> DualEncoder:
    convert(Checkpoint(clip.model.state_dict(), clip.card, clip.files), directory, "onnx")
    return load(directory)


@pytest.fixture(scope="module")
def exported_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx") / "out"
    export(tiny_clip(), directory)
    return directory


@pytest.fixture(scope="module")
def pair(exported_directory: Path) -> tuple[DualEncoder, DualEncoder]:
    return tiny_clip(), load(exported_directory)


def test_embeddings_scale_and_fingerprint_are_those_of_the_torch_model(pair: tuple[DualEncoder, DualEncoder]) -> None:
    clip, onnx = pair
    images = [png(seed) for seed in range(70)]
    np.testing.assert_allclose(onnx.embed_images(images), clip.embed_images(images), atol=1e-5)
    np.testing.assert_allclose(onnx.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-5)
    assert (onnx.scale, onnx.bias) == (clip.scale, clip.bias)
    assert onnx.fingerprint == clip.fingerprint
    assert onnx.embed_texts([]).shape == (0, 8)


def test_an_embedding_does_not_depend_on_the_rest_of_its_batch(pair: tuple[DualEncoder, DualEncoder]) -> None:
    _, onnx = pair
    together = onnx.embed_texts(TEXTS)
    alone = np.concatenate([onnx.embed_texts([text]) for text in TEXTS])
    assert np.abs(together - alone).max() < 1e-5


def test_a_text_tower_that_is_not_causal_receives_the_whole_context(tmp_path: Path) -> None:
    checkpoint = checkpoint_of("siglip")
    clip = DualEncoder(checkpoint.build("siglip"), checkpoint.card, files=checkpoint.files)
    onnx = export(clip, tmp_path / "out")
    np.testing.assert_allclose(onnx.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(onnx.logits([[1.0] * 64], [[1.0] * 64]), clip.logits([[1.0] * 64], [[1.0] * 64]))
    assert onnx.bias < 0


def test_torch_is_not_imported(exported_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    code = (
        "import sys; from wordsight.cli import main\n"
        f"sys.argv = ['wordsight', 'classify', {str(tmp_path / 'a.png')!r}, '--labels', 'cat,dog', "
        f"'--model', {str(exported_directory)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "print('torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, has_torch = process.stdout.splitlines()
    assert has_torch == "False"
    assert lines[0].startswith(str(tmp_path / "a.png"))


def test_saving_an_exported_model_is_refused_with_advice(pair: tuple[DualEncoder, DualEncoder], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="runs on onnx, where its weights are not accessible; load the model"):
        pair[1].save(tmp_path / "again")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.onnx", None, r"image\.onnx: no such file; export the model again"),
        ("text.onnx", b"no graph", r"text\.onnx: damaged or replaced"),
        ("exported.json", b"{", r"exported\.json: not JSON"),
        ("exported.json", b'{"scale": 1, "bias": 0, "weight": "x"}', "did you mean 'weights'"),
    ],
)
def test_a_broken_directory_is_a_one_line_error(
    exported_directory: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    directory = shutil.copytree(exported_directory, tmp_path / "out")
    (directory / name).unlink() if content is None else (directory / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        load(directory).embed_texts(["cat"])
    assert "\n" not in str(error.value)


def test_a_device_other_than_the_cpu_is_refused(exported_directory: Path) -> None:
    with pytest.raises(ConfigError, match="runs only on 'cpu' here"):
        load(exported_directory, device="cuda")
