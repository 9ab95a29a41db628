"""Model configurations: TOML round trips, contradictions, and the published presets."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wordsight.config import decode, load_toml, to_toml
from wordsight.errors import ConfigError
from wordsight.model import (
    PRESETS,
    PUBLISHED,
    ModelConfig,
    ModifiedResNetConfig,
    ResidualConfig,
    TextConfig,
    VisionTransformerConfig,
    build_empty,
    preset,
)

# millions, from open_clip's docs/model_profile.csv; ViT-B/32 also as printed in OpenAI's notebook
NUM_PARAMETERS = {
    "RN50": 102.01,
    "RN101": 119.69,
    "RN50x4": 178.3,
    "RN50x16": 290.98,
    "RN50x64": 623.26,
    "ViT-B-32": 151.28,
    "ViT-B-16": 149.62,
    "ViT-L-14": 427.62,
    "ViT-L-14-336": 427.94,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_a_toml_round_trip(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(to_toml(PRESETS[name]))
    assert load_toml(tmp_path / "model.toml", ModelConfig) == PRESETS[name]


def test_toml_contains_the_kind_of_tower() -> None:
    kinds = {name: PRESETS[name].image.__struct_config__.tag for name in ("ViT-B-32", "RN50", "residual-small")}
    assert kinds == {"ViT-B-32": "vit", "RN50": "modified_resnet", "residual-small": "residual"}
    assert 'kind = "vit"' in to_toml(PRESETS["ViT-B-32"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(name: str) -> None:
    millions = sum(parameter.numel() for parameter in build_empty(PUBLISHED[name]).parameters()) / 1e6
    assert round(millions, 2) == NUM_PARAMETERS[name]


def test_an_unknown_preset_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no model preset 'ViT-B32'; known: RN50, .*; did you mean 'ViT-B-32'\?$"):
        preset("ViT-B32")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: VisionTransformerConfig(
                image_size_px=100, patch_size_px=16, width=64, layers=2, heads=2, stem="conv"
            ),
            "image_size_px 100 is not a multiple of patch_size_px 16",
        ),
        (
            lambda: VisionTransformerConfig(image_size_px=15, patch_size_px=16, width=64, layers=2, heads=2),
            "patch_size_px 16 is larger than image_size_px 15",
        ),
        (
            lambda: ResidualConfig(image_size_px=10**6, widths=(8,), blocks=(1,)),
            "image_size_px is 1000000; at most 2048 is supported",
        ),
        (
            lambda: VisionTransformerConfig(image_size_px=96, patch_size_px=16, width=64, layers=2, heads=3),
            "width 64 is not a multiple of heads 3",
        ),
        (
            lambda: VisionTransformerConfig(
                image_size_px=96, patch_size_px=12, width=64, layers=2, heads=2, stem="conv"
            ),
            "patch_size_px 12 is not a power of two",
        ),
        (
            lambda: VisionTransformerConfig(
                image_size_px=96, patch_size_px=16, width=36, layers=2, heads=2, stem="conv"
            ),
            "width 36 is not a multiple of 8",
        ),
        (lambda: ModifiedResNetConfig(image_size_px=100, layers=(1, 1, 1, 1), width=16), "multiple of 32"),
        (lambda: ModifiedResNetConfig(image_size_px=64, layers=(1, 1, 1, 1), width=15), "width 15 is odd"),
        (lambda: ModifiedResNetConfig(image_size_px=64, layers=(1, 0, 1, 1), width=16), "layers is 0"),
        (lambda: ResidualConfig(image_size_px=64, widths=(16, 32), blocks=(1,)), "2 widths and 1 blocks"),
        (lambda: ResidualConfig(image_size_px=64, widths=(), blocks=()), "0 widths and 0 blocks"),
        (lambda: TextConfig(width=64, heads=0, layers=2), "heads is 0; it must be at least 1"),
        (lambda: TextConfig(width=64, heads=5, layers=2), "width 64 is not a multiple of heads 5"),
    ],
)
def test_a_contradiction_is_an_error_of_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dims": 64}, r"model.toml: unknown key 'embed_dims'; did you mean 'embed_dim'\?"),
        ({"text": {"width": 64, "heads": 4, "layers": 2, "activation": "relu"}}, "model.toml: .*relu"),
        ({"text": {"width": 32, "heads": 4, "layers": 2, "projection": "none"}}, "model.toml: .*32 is not 64"),
        ({"text": {"width": 64, "heads": 5, "layers": 2}}, "model.toml: .*width 64 is not a multiple of heads 5"),
        ({"text": {"width": -4, "heads": 1, "layers": 2}}, "model.toml: .*text.width"),
        ({"image": {"kind": "vti"}}, "model.toml: .*vti"),
    ],
)
def test_an_invalid_file_is_an_error_that_names_the_key(change: dict[str, Any], message: str) -> None:
    good = {
        "embed_dim": 64,
        "image": {"kind": "residual", "image_size_px": 32, "widths": [16], "blocks": [1]},
        "text": {"width": 64, "heads": 2, "layers": 2},
    }
    assert decode(good, ModelConfig, "model.toml").text.activation == "quick_gelu"
    with pytest.raises(ConfigError, match=message):
        decode(good | change, ModelConfig, "model.toml")


def test_configurations_and_presets_do_not_load_torch() -> None:
    code = "import sys, wordsight.model as m; m.preset('RN50'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
