"""The nine published architectures are compared with open_clip's classes: names, shapes and embeddings.

Every parameter and buffer is random, so that no gain of 1 or bias of 0 hides a mistake.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor, nn

from tests.parity.peers import has_open_clip, open_clip
from wordsight.loss import softmax_loss
from wordsight.model import CLIP, PUBLISHED, ModelConfig, ModifiedResNetConfig, VisionTransformerConfig, build_empty
from wordsight.weights.formats.openai import METADATA, read_openai

pytestmark = pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")

TOLERANCE = 1e-5
HALF_TOLERANCE = 2e-3
FULL_SIZE = [pytest.param(name, marks=[] if name in ("RN50", "ViT-B-32") else pytest.mark.slow) for name in PUBLISHED]


def peer_of(config: ModelConfig) -> Any:
    """open_clip's class for the same architecture."""
    image: dict[str, Any] = {"image_size": config.image.image_size_px, "width": config.image.width}
    image["layers"] = config.image.layers
    if isinstance(config.image, VisionTransformerConfig):
        image |= {"patch_size": config.image.patch_size_px, "head_width": config.image.width // config.image.heads}
    text = {
        "context_length": config.text.context_length,
        "vocab_size": config.text.vocabulary_size,
        "width": config.text.width,
        "heads": config.text.heads,
        "layers": config.text.layers,
    }
    with torch.device("meta"):
        peer = open_clip().CLIP(config.embed_dim, image, text, quick_gelu=config.text.activation == "quick_gelu")
    peer.to_empty(device="cpu")
    peer.attn_mask.copy_(torch.full_like(peer.attn_mask, float("-inf")).triu(1))
    return peer


def random_weights(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Values for every parameter and buffer that preserve the magnitude of activations through the layers."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, tensor in model.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else None
        if noise is None:
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + noise.abs()
        elif name == "logit_scale":
            weights[name] = 3 + noise / 10
        elif tensor.ndim == 1 and name.endswith("weight"):
            weights[name] = 1 + noise / 5
        elif tensor.ndim == 1 or "positional" in name:
            weights[name] = noise / 5
        else:
            rows_in = tensor.shape[0] if name.endswith(("proj", "text_projection")) else tensor[0].numel()
            weights[name] = noise * rows_in**-0.5
    return weights


def pair(config: ModelConfig, seed: int = 0) -> tuple[CLIP, Any]:
    """wordsight's model and open_clip's with the same weights, in evaluation mode."""
    ours, peer = build_empty(config), peer_of(config)
    weights = random_weights(ours, seed)
    peer.load_state_dict(weights, strict=True)
    ours.load_state_dict(weights, strict=True, assign=True)
    return ours.eval(), peer.eval()


def reduced(config: ModelConfig) -> ModelConfig:
    """The architecture with all layers, at an eighth of the width; ResNets get images of 64 pixels."""
    text = msgspec.structs.replace(config.text, width=config.text.width // 8, vocabulary_size=600)
    image = config.image
    if isinstance(image, ModifiedResNetConfig):
        image = msgspec.structs.replace(image, width=image.width // 4, image_size_px=64)
    elif isinstance(image, VisionTransformerConfig):
        image = msgspec.structs.replace(image, width=image.width // 8)
    return msgspec.structs.replace(config, image=image, text=text, embed_dim=config.embed_dim // 8)


def with_activation(config: ModelConfig, activation: str) -> ModelConfig:
    """The same architecture with another activation in both towers."""
    image, text = (msgspec.structs.replace(tower, activation=activation) for tower in (config.image, config.text))
    return msgspec.structs.replace(config, image=image, text=text)


def inputs(config: ModelConfig, lengths: tuple[int, ...] = (5, 77, 2)) -> tuple[Tensor, Tensor]:
    """Random pixels, and token ids of texts with these lengths including begin and end."""
    generator = torch.Generator().manual_seed(1)
    last = config.text.vocabulary_size - 1
    size = config.image.image_size_px
    ids = torch.zeros(len(lengths), config.text.context_length, dtype=torch.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(1, last - 1, (length,), generator=generator)
        row[0], row[length - 1] = last - 1, last
    return torch.randn(len(lengths), 3, size, size, generator=generator), ids


@torch.no_grad()
def max_difference(ours: CLIP, peer: Any, config: ModelConfig) -> float:
    """The largest difference of a component of the unit-length embeddings of either tower."""
    pixels, ids = inputs(config)
    images, texts, scale = ours(pixels, ids)
    peer_images, peer_texts, peer_scale = peer(pixels, ids)
    torch.testing.assert_close(scale, peer_scale)
    return max((images - peer_images).abs().max().item(), (texts - peer_texts).abs().max().item())


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_and_shapes_are_those_of_the_published_configuration(name: str) -> None:
    library = open_clip()
    published = json.loads((Path(library.__file__).parent / "model_configs" / f"{name}.json").read_text())
    published.pop("quick_gelu", None)
    with torch.device("meta"):
        peer = library.CLIP(published["embed_dim"], published["vision_cfg"], published["text_cfg"], quick_gelu=True)
    ours = {key: value.shape for key, value in build_empty(PUBLISHED[name]).state_dict().items()}
    assert ours == {key: value.shape for key, value in peer.state_dict().items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_embeddings_of_every_architecture_equal_open_clips(name: str) -> None:
    config = reduced(PUBLISHED[name])
    assert max_difference(*pair(config), config) < TOLERANCE


@pytest.mark.parametrize("name", FULL_SIZE)
def test_embeddings_at_full_size_equal_open_clips(name: str, tmp_path: Path) -> None:
    """The weights are read from a file in OpenAI's format, whose architecture follows from the shapes."""
    config, file = PUBLISHED[name], tmp_path / "model.pt"
    _, peer = pair(config)
    numbers = (config.image.image_size_px, config.text.context_length, config.text.vocabulary_size)
    torch.save(dict(peer.state_dict()) | dict(zip(METADATA, map(torch.tensor, numbers), strict=True)), file)
    checkpoint = read_openai(file)
    assert checkpoint.card.model == config
    assert max_difference(checkpoint.build(name).eval(), peer, config) < TOLERANCE


def test_embeddings_equal_open_clips_in_half_precision(tmp_path: Path) -> None:
    config = reduced(PUBLISHED["ViT-B-32"])
    ours, peer = pair(config)
    halves = {name: tensor.half().float() for name, tensor in ours.state_dict().items()}
    ours.load_state_dict(halves)
    pixels, ids = inputs(config)
    with torch.no_grad():
        theirs = peer.half()(pixels.half(), ids)[:2]
        differences = [(a - b.float()).abs().max().item() for a, b in zip(ours(pixels, ids)[:2], theirs, strict=True)]
    assert min(differences) > 0
    assert max(differences) < HALF_TOLERANCE


def test_negative_control_another_activation_changes_embeddings() -> None:
    config = reduced(PUBLISHED["ViT-B-32"])
    ours, peer = pair(config)
    other = build_empty(with_activation(config, "gelu"))
    other.load_state_dict(ours.state_dict(), assign=True)
    assert max_difference(other.eval(), peer, config) > 10 * TOLERANCE


def test_embeddings_with_gelu_equal_open_clips() -> None:
    config = with_activation(reduced(PUBLISHED["ViT-B-32"]), "gelu")
    assert max_difference(*pair(config), config) < TOLERANCE


@pytest.mark.parametrize("tower", ["visual.transformer", "transformer"])
def test_negative_control_two_swapped_layers_change_embeddings(tower: str) -> None:
    config = reduced(PUBLISHED["ViT-B-32"])
    ours, peer = pair(config)
    weights = ours.state_dict()
    one, other = f"{tower}.resblocks.10.", f"{tower}.resblocks.11."
    swap = {name: name.replace(one, other) if one in name else name.replace(other, one) for name in weights}
    ours.load_state_dict({name: weights[swap[name]].clone() for name in weights})
    assert max_difference(ours, peer, config) > 10 * TOLERANCE


@pytest.mark.parametrize(
    ("architecture", "bias"),
    [
        ("ViT-B-32", "visual.transformer.resblocks.11.mlp.c_fc.bias"),
        ("ViT-B-32", "transformer.resblocks.11.attn.out_proj.bias"),
        ("ViT-B-32", "visual.ln_pre.bias"),
        ("RN50", "visual.attnpool.v_proj.bias"),
        ("RN50", "visual.layer4.2.bn3.running_mean"),
    ],
)
def test_negative_control_one_zeroed_tensor_changes_embeddings(architecture: str, bias: str) -> None:
    config = reduced(PUBLISHED[architecture])
    ours, peer = pair(config)
    ours.load_state_dict(ours.state_dict() | {bias: torch.zeros_like(ours.state_dict()[bias])})
    assert max_difference(ours, peer, config) > 10 * TOLERANCE


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50"])
def test_loss_and_gradients_equal_open_clips(name: str) -> None:
    config = reduced(PUBLISHED[name])
    ours, peer = pair(config)
    ours.train(), peer.train()
    pixels, ids = inputs(config, (5, 77, 2, 9, 14, 5, 31, 6))
    loss, peer_loss = softmax_loss(*ours(pixels, ids)), open_clip().ClipLoss()(*peer(pixels, ids))
    loss.backward(), peer_loss.backward()
    torch.testing.assert_close(loss, peer_loss)
    theirs = dict(peer.named_parameters())
    for key, parameter in ours.named_parameters():
        size = theirs[key].grad.abs().max().item()
        torch.testing.assert_close(parameter.grad, theirs[key].grad, rtol=1e-3, atol=1e-4 * size + 1e-7, msg=key)
    for key, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, dict(peer.named_buffers())[key], msg=key)
