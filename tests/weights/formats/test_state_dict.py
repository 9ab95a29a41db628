from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.parity.peers import has_open_clip, open_clip
from tests.weights.archives import CONTEXT, EMBED, PATCH, SIZE, VIT, VOCABULARY, WIDTH, TinyClip, halve_as_published
from torch import Tensor, nn

from wordsight.errors import WeightsError
from wordsight.model import PUBLISHED, build_empty
from wordsight.weights.formats.state_dict import architecture_named, architectures, read_checkpoint, read_state_dict

PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."]
WEIGHTS = {name: tensor.clone() for name, tensor in TinyClip(seed=1).state_dict().items()}
OTHER = {name: tensor + 1 for name, tensor in WEIGHTS.items()}


@pytest.fixture(autouse=True)
def _register_a_tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PUBLISHED, "tiny", VIT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "epoch_3.pt"


def prefixed(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_contains(path: Path, expected: dict[str, Tensor], averaged: bool | None = None) -> None:
    loaded = read_checkpoint(path, "tiny", averaged).tensors
    assert loaded.keys() == expected.keys()
    assert all(
        torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


def refusal(path: Path, architecture: str | None = "tiny", averaged: bool | None = None) -> str:
    with pytest.raises(WeightsError) as refused:
        read_checkpoint(path, architecture, averaged)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_weights_of_a_training_checkpoint_are_read(path, prefix):
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    others = {
        "epoch": 3,
        "name": "run",
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 3},
        "scheduler": schedule.state_dict(),
        "rng": torch.get_rng_state(),
    }
    torch.save(others | {"state_dict": prefixed(WEIGHTS, prefix)}, path)
    assert_contains(path, WEIGHTS)


@pytest.mark.parametrize("key", ["state_dict", "model", "module"])
def test_weights_are_read_from_any_of_several_keys(path, key):
    torch.save({key: WEIGHTS}, path)
    assert_contains(path, WEIGHTS)
    torch.save({"model": {"state_dict": WEIGHTS}}, path)
    assert_contains(path, WEIGHTS)


def test_a_bare_state_dict_is_read(path, tmp_path):
    torch.save(WEIGHTS, path)
    assert_contains(path, WEIGHTS)
    save_file(prefixed(WEIGHTS, "module."), tmp_path / "x.safetensors")
    assert_contains(tmp_path / "x.safetensors", WEIGHTS)


def test_the_precision_of_the_file_is_kept_unless_it_mixes_two(path):
    torch.save({name: tensor.half() for name, tensor in WEIGHTS.items()}, path)
    assert {tensor.dtype for tensor in read_checkpoint(path, "tiny", None).tensors.values()} == {torch.float16}
    torch.save(halve_as_published(TinyClip(seed=1)).state_dict(), path)
    loaded = read_checkpoint(path, "tiny", None).tensors
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert torch.equal(loaded["visual.proj"], WEIGHTS["visual.proj"].half().float())


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema", "ema"])
def test_plain_or_averaged_weights_are_selected(path, key):
    torch.save({"state_dict": WEIGHTS, key: prefixed(OTHER, "module.")}, path)
    assert_contains(path, WEIGHTS, averaged=False)
    assert_contains(path, OTHER, averaged=True)
    assert "has both plain and averaged weights; choose with --averaged or --plain" in refusal(path)


def test_missing_weights_are_not_replaced_by_others(path):
    torch.save({"state_dict": WEIGHTS}, path)
    assert "has no averaged weights, only plain ones" in refusal(path, averaged=True)
    torch.save({"state_dict_ema": WEIGHTS}, path)
    assert "has no plain weights, only averaged ones" in refusal(path, averaged=False)
    assert_contains(path, WEIGHTS)


def test_averaged_models_of_torch_are_recognised(path):
    module = nn.Module()
    module.logit_scale = nn.Parameter(torch.tensor(2.0))
    averaged = torch.optim.swa_utils.AveragedModel(module).state_dict()
    assert set(averaged) == {"n_averaged", "module.logit_scale"}
    torch.save(prefixed(WEIGHTS, "module.") | {"n_averaged": averaged["n_averaged"]}, path)
    assert_contains(path, WEIGHTS, averaged=True)
    assert "has no plain weights" in refusal(path, averaged=False)


@pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")
@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_models_of_open_clip_are_read(path, kind):
    image = {"image_size": SIZE, "width": WIDTH, "layers": 2, "patch_size": PATCH, "head_width": 64}
    text = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": WIDTH, "heads": 1, "layers": 2}
    peer = getattr(open_clip(), kind)(EMBED, image, text)
    torch.save({"state_dict": prefixed(peer.state_dict(), "module."), "epoch": 1}, path)
    loaded = read_checkpoint(path, "tiny", None)
    model = build_empty(loaded.card.model)
    model.load_state_dict(loaded.tensors, assign=True)
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[49406, 5, 49407] + [0] * 9, [49406, 7, 8, 9, 49407] + [0] * 7])
    peer.eval()
    with torch.no_grad():
        assert (model.encode_image(pixels) - peer.encode_image(pixels)).abs().max() < 1e-5
        assert (model.encode_text(ids) - peer.encode_text(ids)).abs().max() < 1e-5
    assert (loaded.card.model.image.activation, loaded.card.model.text.activation) == ("gelu", "gelu")


def test_without_an_architecture_the_choices_are_listed(path):
    torch.save(WEIGHTS, path)
    message = "the activation does not follow from weights alone; the file looks like tiny: pass --as tiny (GELU) or "
    assert message + "--as tiny-quickgelu (QuickGELU)" in refusal(path, None)
    torch.save({"weight": torch.zeros(1)}, path)
    assert "name the architecture with --as, one of residual-tiny, " in refusal(path, None)


def test_a_wrong_architecture_is_refused_with_the_likely_one(path):
    torch.save(WEIGHTS, path)
    message = refusal(path, "ViT-B-32")
    assert "not ViT-B-32: missing transformer.resblocks.10." in message
    assert "the file looks like tiny: pass --as tiny (GELU)" in message


def test_missing_and_unexpected_tensors_are_listed(path):
    torch.save({f"old_{name}": tensor for name, tensor in WEIGHTS.items()}, path)
    message = refusal(path)
    assert f"missing {', '.join(sorted(WEIGHTS)[:5])}, ... ({len(WEIGHTS)} in all)" in message
    assert f"unexpected old_{sorted(WEIGHTS)[0]}, " in message
    torch.save(WEIGHTS | {"logit_scale": torch.zeros(3)}, path)
    assert "logit_scale is (3,), tiny has ()" in refusal(path)


def test_an_image_tower_without_a_text_tower_is_refused(path):
    torch.save({name: tensor for name, tensor in WEIGHTS.items() if name.startswith("visual.")}, path)
    for architecture in ("tiny", None):
        assert "an image tower without a text tower" in refusal(path, architecture)


def test_a_logit_scale_with_an_axis_is_read_as_a_scalar(path):
    torch.save(WEIGHTS | {"logit_scale": WEIGHTS["logit_scale"].reshape(1)}, path)
    assert_contains(path, WEIGHTS)


def test_names_that_coincide_are_refused(path):
    torch.save({"module.ln_final.bias": torch.zeros(1), "ln_final.bias": torch.zeros(1)}, path)
    assert "two tensors are named ln_final.bias" in refusal(path)
    torch.save({"text.ln_final.bias": torch.zeros(1), "ln_final.bias": torch.zeros(1)}, path)
    assert "two tensors are named ln_final.bias" in refusal(path)


def test_files_without_weights_are_refused(path):
    for content in ({}, [], {"state_dict": {}}, {"epoch": 3}, torch.zeros(3)):
        torch.save(content, path)
        assert "contains no state dict" in refusal(path)
    assert "no such file" in refusal(path.with_name("none.pt"))


def test_files_of_torch_before_1_6_are_refused_with_the_way_to_convert_them(path):
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    assert "written by torch before 1.6" in refusal(path)


def test_a_state_dict_keeps_the_names_of_its_file(path):
    content: dict[str, Any] = {"model": {"module.text_model.x": torch.ones(2), "module.text.y": torch.zeros(1)}}
    torch.save(content, path)
    assert set(read_state_dict(path).tensors) == {"text_model.x", "text.y"}


def test_names_of_architectures_are_those_of_open_clip():
    def activations(name: str) -> tuple[str, ...]:
        config = architecture_named(name)
        return (getattr(config.image, "activation", ""), config.text.activation)

    assert activations("ViT-B-32") == ("gelu", "gelu")
    assert activations("ViT-B-32-quickgelu") == activations("openai/ViT-B-32") == ("quick_gelu", "quick_gelu")
    assert activations("RN50") == ("", "gelu")
    assert architecture_named("RN50-quickgelu") == PUBLISHED["RN50"]
    with pytest.raises(WeightsError, match=r"unknown architecture 'ViT-B-23'; .*; did you mean 'ViT-B-32'"):
        architecture_named("ViT-B-23")


@pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")
def test_activations_are_those_in_the_configurations_of_open_clip():
    for name, config in architectures().items():
        theirs = open_clip().get_model_config(name) if not name.startswith("openai/") and name != "tiny" else None
        if theirs is not None:
            assert (config.text.activation == "quick_gelu") == theirs.get("quick_gelu", False), name
            assert config.embed_dim == theirs["embed_dim"]
            assert config.image.image_size_px == theirs["vision_cfg"]["image_size"]
