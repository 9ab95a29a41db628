"""`--from`: the image size and preprocessing of the start model can be changed, and the loss follows the model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wordsight as ws
from tests.tiny_clip import random_image, tiny_clip
from tests.weights.models import sentencepiece_model
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError
from wordsight.model import SigLIPConfig, TextConfig, build, preset, resize_image_tower
from wordsight.model.config import ModelConfig
from wordsight.training import load_recipe, train
from wordsight.training.start import change_start


def test_the_positional_embedding_is_interpolated_as_in_open_clip() -> None:
    from tests.parity import peers

    if not peers.has_open_clip():
        pytest.skip("needs open_clip")
    open_clip = peers.open_clip()
    clip = tiny_clip()
    tensors = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    for size_px in (8, 24, 40):
        ours, config = resize_image_tower(tensors, clip.card.model, size_px)
        theirs = dict(tensors)
        visual = type("Visual", (), {"grid_size": (size_px // 8, size_px // 8)})
        open_clip.model.resize_pos_embed(theirs, type("Model", (), {"visual": visual}))
        assert config.image.image_size_px == size_px
        assert ours["visual.positional_embedding"].shape == (1 + (size_px // 8) ** 2, 16)
        assert torch.equal(ours["visual.positional_embedding"], theirs["visual.positional_embedding"])


@pytest.mark.parametrize("kind", ["siglip", "modified_resnet"])
def test_other_towers_are_resized_too(kind: str) -> None:
    text = TextConfig(width=16, heads=2, layers=1, vocabulary_size=100)
    image = SigLIPConfig(image_size_px=32, patch_size_px=8, width=64, layers=1, heads=2)
    config = ModelConfig(image=image, text=text, embed_dim=64) if kind == "siglip" else preset("RN50")
    if kind != "siglip":
        small = {"kind": kind, "image_size_px": 64, "layers": [1, 1, 1, 1], "width": 8}
        import msgspec

        config = msgspec.convert({"image": small, "text": msgspec.to_builtins(text), "embed_dim": 16}, ModelConfig)
    model = build(config, torch.Generator().manual_seed(0)).eval()
    size_px = config.image.image_size_px * 2
    tensors, larger = resize_image_tower(model.state_dict(), config, size_px)
    resized = build(larger, torch.Generator().manual_seed(1)).eval()
    resized.load_state_dict(tensors)
    with torch.no_grad():
        assert resized.encode_image(torch.zeros(1, 3, size_px, size_px)).isfinite().all()


def test_changes_of_the_start_model_are_applied_or_refused() -> None:
    clip = tiny_clip()
    changed, rest = change_start(clip, ("model.image.image_size_px=24", "seed=3", "preprocessing.resize='squash'"))
    assert rest == ("seed=3",)
    assert (changed.card.model.image.image_size_px, changed.card.preprocessing.size_px) == (24, 24)
    assert changed.card.preprocessing.resize == "squash"
    assert clip.card.model.image.image_size_px == 16
    for change in ("model.embed_dim=4", "model.text.layers=3", "model='ViT-B-32'", "model.image.kind='residual'"):
        with pytest.raises(ConfigError, match=r"^--set ") as caught:
            change_start(clip, (change,))
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="contradicts"):
        change_start(clip, ("preprocessing.size_px=24",))
    with pytest.raises(ConfigError, match="did you mean 'image_size_px'"):
        change_start(clip, ("model.image.image_size=24",))
    same, rest = change_start(clip, ("schedule.steps=3",))
    assert same is clip


def test_a_resized_model_embeds_similarly() -> None:
    clip = tiny_clip()
    images = [random_image(seed, 48, 48) for seed in range(4)]
    same, _ = change_start(clip, ("model.image.image_size_px=16",))
    np.testing.assert_array_equal(same.embed_images(images), clip.embed_images(images))
    larger, _ = change_start(clip, ("model.image.image_size_px=32",))
    assert (np.sum(larger.embed_images(images) * clip.embed_images(images), axis=1) > 0.5).all()


def test_the_command_line_changes_the_image_size_of_the_start_model(world: Path, tmp_path: Path) -> None:
    from wordsight.cli import main

    tiny_clip().save(tmp_path / "tiny")
    changes = (
        "schedule.steps=2",
        "schedule.warmup_steps=1",
        "batch_size=8",
        "validation={}",
        "model.image.image_size_px=32",
    )
    options = [part for change in changes for part in ("--set", change)]
    out = tmp_path / "run"
    arguments = ["train", str(world / "recipe.toml"), "--data", str(world), "--out", str(out), *options]
    assert main([*arguments, "--from", str(tmp_path / "tiny")]) == 0
    assert load_recipe(out / "recipe.toml").architecture.image.image_size_px == 32
    assert ws.load(out).card.preprocessing.size_px == 32
    assert main([*arguments, "--from", str(tmp_path / "tiny"), "--resume"]) == 0


def test_a_model_with_a_bias_is_trained_with_the_sigmoid_loss(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = sentencepiece_model()
    assert checkpoint.card.model.logit_bias
    DualEncoder(checkpoint.build("made here"), checkpoint.card, files=checkpoint.files).save(tmp_path / "siglip")
    before = ws.load(tmp_path / "siglip").bias
    few = (
        "schedule.steps=2",
        "schedule.warmup_steps=0",
        "batch_size=8",
        "loss.caption_token_weight=0",
        "validation={}",
    )
    train(load_recipe(world / "recipe.toml", few), world, tmp_path / "sigmoid", start=tmp_path / "siglip")
    assert "loss: sigmoid, because the model has a logit bias" in capsys.readouterr().err
    assert ws.load(tmp_path / "sigmoid").bias != before
    row = loss_row(tmp_path / "sigmoid")
    softmax = load_recipe(world / "recipe.toml", (*few, "loss.kind='softmax'"))
    train(softmax, world, tmp_path / "softmax", start=tmp_path / "siglip")
    assert "the logit bias of the model is not trained" in capsys.readouterr().err
    assert ws.load(tmp_path / "softmax").bias == before
    assert loss_row(tmp_path / "softmax")["loss"] != row["loss"]


def loss_row(run: Path) -> dict[str, Any]:
    """The first row of a log that is not a validation."""
    return next(row for line in (run / "metrics.jsonl").read_text().splitlines() if "loss" in (row := json.loads(line)))
