"""A training step on an accelerator is that of the CPU, and a run on it can be loaded and resumed."""

import copy
import io
import json
import tarfile
from pathlib import Path

import pytest
import torch
from tests.golden.make import captions, image_file
from tests.weights.models import MODELS, checkpoint_of
from torch import Tensor, nn

import wordsight as ws
from wordsight.loss import softmax_loss
from wordsight.model import CLIP
from wordsight.training import load_recipe
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import OptimizerConfig

pytestmark = pytest.mark.gpu

LOSS_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-3  # relative to the largest component of the same parameter's gradient
# of all gradients together; bfloat16 has 7 bits of mantissa, and on a CPU the ResNet reaches 0.946
BFLOAT16_COSINE = 0.9

RECIPE = """\
batch_size = 8
ema_decay = 0.9
checkpoint_every_steps = 2
[about]
title = "gpu"
[model]
embed_dim = 16
[model.image]
kind = "vit"
image_size_px = 16
patch_size_px = 8
width = 16
layers = 2
heads = 2
[model.text]
width = 16
heads = 2
layers = 1
context_length = 16
[schedule]
steps = 4
warmup_steps = 1
[optimizer]
learning_rate = 1e-3
[loss]
caption_token_weight = 0.5
[[sources]]
shards = "pairs"
"""


@pytest.fixture(autouse=True)
def _full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute convolutions in float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def random_batch(model: CLIP) -> tuple[Tensor, Tensor]:
    """16 random images and texts that end at different positions."""
    generator = torch.Generator().manual_seed(0)
    image, text = model.config.image, model.config.text
    pixels = torch.randn(16, 3, image.image_size_px, image.image_size_px, generator=generator)
    ids = torch.randint(1, text.vocabulary_size - 1, (16, text.context_length), generator=generator)
    if text.pool == "end":
        for row, end in enumerate(range(3, 19)):
            position = min(end, text.context_length - 1)
            ids[row, position] = text.vocabulary_size - 1
            ids[row, position + 1 :] = 0
    return pixels, ids


def gradients(
    model: CLIP, batch: tuple[Tensor, Tensor], dtype: torch.dtype | None = None
) -> tuple[float, dict[str, Tensor]]:
    """The loss of a batch, and the gradients of all parameters, moved to the CPU."""
    device = next(model.parameters()).device
    pixels, ids = (tensor.to(device) for tensor in batch)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        image_NE, text_NE = model.encode_image(pixels), model.encode_text(ids)
    unit_image_NE, unit_text_NE = (nn.functional.normalize(tensor.float(), dim=1) for tensor in (image_NE, text_NE))
    loss = softmax_loss(unit_image_NE, unit_text_NE, model.scale)
    loss.backward()
    named = {name: parameter.grad.cpu() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return loss.item(), named


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_equal_those_of_the_cpu(name: str, device: torch.device) -> None:
    model = checkpoint_of(name).build(name).requires_grad_(True).train()
    other = copy.deepcopy(model).to(device)
    batch = random_batch(model)
    expected_loss, expected = gradients(model, batch)
    loss, ours = gradients(other, batch)
    assert loss == pytest.approx(expected_loss, abs=LOSS_TOLERANCE)
    assert ours.keys() == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for key, gradient in expected.items():
        # a gradient that is nearly zero, such as that of a bias before a normalisation, is all rounding error
        bound = GRADIENT_TOLERANCE * max(gradient.abs().max().item(), 1e-3 * largest)
        assert (ours[key] - gradient).abs().max().item() <= bound, key


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_bfloat16_gradients_point_in_the_direction_of_float32(name: str, device: torch.device) -> None:
    model = checkpoint_of(name).build(name).requires_grad_(True).train()
    batch = random_batch(model)
    _, expected = gradients(copy.deepcopy(model), batch)
    _, ours = gradients(model.to(device), batch, torch.bfloat16)
    one, other = (torch.cat([named[key].flatten() for key in expected]) for named in (ours, expected))
    assert nn.functional.cosine_similarity(one, other, dim=0).item() > BFLOAT16_COSINE


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_an_optimiser_step_equals_that_of_the_cpu(matrices: str, device: torch.device) -> None:
    results = []
    for where in (torch.device("cpu"), device):
        model = checkpoint_of("vit").build("vit").requires_grad_(True).train().to(where)
        optimizer = build_optimizer(model, OptimizerConfig(learning_rate=1e-3, matrices=matrices))
        gradients(model, random_batch(model))
        optimizer.step()
        results.append({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    expected, ours = results
    for name, tensor in expected.items():
        # AdamW's first step is about the learning rate times the sign of the gradient, whatever its size
        differing = ((ours[name] - tensor).abs() > 1e-4).float().mean().item()
        assert differing < 0.01, name


def write_pairs(directory: Path) -> None:
    directory.mkdir(parents=True)
    with tarfile.open(directory / "000000.tar", "w") as archive:
        for number in range(16):
            texts = json.dumps({"captions": captions(number)}).encode()
            for suffix, content in (("png", image_file(number)), ("json", texts)):
                member = tarfile.TarInfo(f"{number:03d}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_a_run_on_the_device_loads_and_resumes(precision: str, device: torch.device, tmp_path: Path) -> None:
    write_pairs(tmp_path / "data" / "pairs")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.toml", (f"precision={precision}",))
    run = ws.train(recipe, data=[tmp_path / "data"], out=tmp_path / "run")
    assert run.steps == 4
    assert ws.train(recipe, data=[tmp_path / "data"], out=tmp_path / "run", resume=True).steps == 4
    embeddings = ws.load(tmp_path / "run", device=device).embed_texts(["a red square"])
    expected = ws.load(tmp_path / "run", device="cpu").embed_texts(["a red square"])
    assert abs(embeddings - expected).max() < 1e-5
