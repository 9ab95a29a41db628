import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from tests.weights.archives import (
    CONTEXT,
    EMBED,
    SIZE,
    VIT,
    WIDTH,
    Node,
    TinyClip,
    add_metadata,
    fill,
    halve_as_published,
    rewrite,
    write_script,
)
from torch import nn

from wordsight.errors import WeightsError
from wordsight.image.preprocess import CLIP_MEAN, CLIP_STD
from wordsight.model import ModelConfig, ModifiedResNetConfig, build_empty
from wordsight.weights.containers.torch_archive import read_archive
from wordsight.weights.formats.openai import METADATA, is_openai, read_openai

# TorchScript warns that it is deprecated, and that tracing does not keep branches
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

EXAMPLE = (torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, CONTEXT, dtype=torch.int64))
RESNET = ModelConfig(
    image=ModifiedResNetConfig(image_size_px=64, layers=(1, 2, 1, 1), width=2), text=VIT.text, embed_dim=EMBED
)


def resnet() -> Node:
    model = build_empty(RESNET).to_empty(device="cpu")
    fill(model, 5)
    counts = {name: torch.tensor(7) for name in model.state_dict() if name.endswith("num_batches_tracked")}
    return Node({name: tensor.clone() for name, tensor in (model.state_dict() | counts).items()})


def expected_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if name not in METADATA}


def check(path: Path, module: nn.Module, config: ModelConfig) -> None:
    """The file contains exactly the module's tensors, which are read as float32, and its card is as published."""
    checkpoint = read_openai(path)
    expected = expected_of(module)
    assert checkpoint.tensors.keys() == expected.keys() == build_empty(config).state_dict().keys()
    for name, tensor in expected.items():
        assert checkpoint.tensors[name].dtype == (torch.float32 if tensor.is_floating_point() else torch.int64)
        assert torch.equal(checkpoint.tensors[name], tensor.to(checkpoint.tensors[name].dtype)), name
    assert checkpoint.card.model == config
    assert (checkpoint.card.preprocessing.mean, checkpoint.card.preprocessing.std) == (CLIP_MEAN, CLIP_STD)
    assert checkpoint.card.preprocessing.resize == "shortest"
    assert checkpoint.card.tokenizer.context_length == CONTEXT


@pytest.mark.parametrize("root", [None, "another name"])
@pytest.mark.parametrize("precision", ["float32", "half", "mixed"])
@pytest.mark.parametrize("method", ["traced", "scripted"])
def test_a_module_is_read_with_equal_values(tmp_path, method, precision, root):
    module: nn.Module = TinyClip()
    if precision != "float32":
        module = halve_as_published(module) if precision == "mixed" else module.half()
    example = EXAMPLE
    if method == "traced" and precision != "float32":  # tracing runs the model, which fails with mixed precisions
        module, example = Node(module.state_dict()), EXAMPLE[:1]
    module = add_metadata(module)
    path = write_script(tmp_path / "tiny.pt", module, example if method == "traced" else None)
    if root:
        rewrite(path, root)
    assert is_openai(read_archive(path).value)
    check(path, module, VIT)


@pytest.mark.parametrize("method", ["traced", "scripted"])
def test_a_resnet_is_read_with_its_statistics(tmp_path, method):
    module = add_metadata(resnet(), 64)
    path = write_script(tmp_path / "tiny.pt", module, EXAMPLE[:1] if method == "traced" else None)
    check(path, module, RESNET)


def test_the_model_of_an_archive_computes_the_same_as_its_code(tmp_path):
    module = TinyClip(seed=3)
    checkpoint = read_openai(write_script(tmp_path / "tiny.pt", module, EXAMPLE))
    model = build_empty(checkpoint.card.model)
    model.load_state_dict(checkpoint.tensors, assign=True)
    pixels = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[49406, 5, 49407] + [0] * 9, [49406, 7, 8, 9, 49407] + [0] * 7, [49406, 49407] + [0] * 10])
    script = torch.jit.load(tmp_path / "tiny.pt")
    with torch.no_grad():
        for ours, theirs in zip((model.encode_image(pixels), model.encode_text(ids)), script(pixels, ids), strict=True):
            ours, theirs = nn.functional.normalize(ours), nn.functional.normalize(theirs)
            assert (ours - theirs).abs().max() < 1e-5
            assert (ours - theirs.flip(0)).abs().max() > 1e-2


def test_a_half_precision_archive_computes_the_same_as_its_module(tmp_path):
    module = TinyClip(seed=3).half()
    checkpoint = read_openai(write_script(tmp_path / "tiny.pt", add_metadata(Node(module.state_dict())), None))
    model = build_empty(checkpoint.card.model)
    model.load_state_dict(checkpoint.tensors, assign=True)
    pixels = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)).half()
    ids = torch.tensor([[49406, 5, 49407] + [0] * 9, [49406, 7, 8, 9, 49407] + [0] * 7, [49406, 49407] + [0] * 10])
    with torch.no_grad():
        ours = model.encode_image(pixels.float()), model.encode_text(ids)
        for one, other in zip(ours, module(pixels, ids), strict=True):
            one, other = nn.functional.normalize(one), nn.functional.normalize(other.float())
            assert 0 < (one - other).abs().max() < 2e-3


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.parametrize("is_half", [True, False])
def test_a_flat_state_dict_is_read_too(tmp_path, is_half, has_metadata):
    module = TinyClip()
    module = halve_as_published(module) if is_half else module
    module = add_metadata(module) if has_metadata else module
    torch.save(module.state_dict(), tmp_path / "tiny.pt")
    assert is_openai(read_archive(tmp_path / "tiny.pt").value) == has_metadata
    check(tmp_path / "tiny.pt", module, VIT)


def test_metadata_that_contradicts_the_tensors_is_refused(tmp_path):
    torch.save(add_metadata(TinyClip(), 17).state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(WeightsError, match="input_resolution is 17, but its tensors imply 16"):
        read_openai(tmp_path / "tiny.pt")


def test_a_mask_that_is_not_causal_is_refused(tmp_path):
    module = TinyClip()
    for block in module.transformer.resblocks:
        block.attn_mask = torch.zeros(CONTEXT, CONTEXT)
    with pytest.raises(WeightsError, match=r"transformer.resblocks.0.attn_mask is not the causal mask"):
        read_openai(write_script(tmp_path / "tiny.pt", module, None))


@pytest.mark.parametrize("example", [EXAMPLE, None], ids=["traced", "scripted"])
def test_a_module_with_another_activation_in_its_code_is_refused(tmp_path, example):
    module = TinyClip()
    for block in (*module.visual.transformer.resblocks, *module.transformer.resblocks):
        block.mlp.gelu = nn.GELU()
    with pytest.raises(WeightsError, match="its code computes GELU, but OpenAI's models have QuickGELU"):
        read_openai(write_script(tmp_path / "tiny.pt", module, example))


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(tmp_path):
    tensors = TinyClip().state_dict() | {"token_embedding.weight": torch.zeros(100, WIDTH)}
    torch.save(tensors, tmp_path / "tiny.pt")
    with pytest.raises(WeightsError, match="vocabulary_size 100: the clip tokenizer has 49408 ids"):
        read_openai(tmp_path / "tiny.pt")


def test_the_first_five_missing_and_unexpected_tensors_are_listed(tmp_path):
    tensors = TinyClip().state_dict()
    kept = {
        name: tensor for name, tensor in tensors.items() if not name.startswith("visual.transformer.resblocks.1.ln")
    }
    torch.save(kept | {f"extra.{n}": torch.zeros(1) for n in range(7)}, tmp_path / "tiny.pt")
    with pytest.raises(WeightsError) as refused:
        read_openai(tmp_path / "tiny.pt")
    assert "missing visual.transformer.resblocks.1.ln_1.bias, " in str(refused.value)
    assert "unexpected extra.0, extra.1, extra.2, extra.3, extra.4, ... (7 in all)" in str(refused.value)


def test_a_file_without_a_model_is_refused(tmp_path):
    torch.save({"epoch": 3, "tensor": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="neither a module nor a flat state dict"):
        read_openai(tmp_path / "other.pt")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "no model")
    with pytest.raises(WeightsError, match=r"without data\.pkl, .*: it contains readme.txt; unpack it"):
        read_openai(tmp_path / "other.zip")


_MEASURE = """
import resource, sys
from pathlib import Path
from wordsight.weights.formats.openai import read_openai
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint = read_openai(Path(sys.argv[1]))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(4 * tensor.numel() for tensor in checkpoint.tensors.values())
print((after - before) * 1024 / size)
"""


def test_reading_half_precision_needs_little_more_memory_than_the_float32_tensors(tmp_path):
    model = build_empty(VIT)
    tensors = {name: torch.zeros(tensor.shape, dtype=torch.float16) for name, tensor in model.state_dict().items()}
    for name in ("visual.transformer.resblocks", "transformer.resblocks"):
        tensors |= {
            f"{name}.{layer}.{part[len(name) + 3 :]}": tensor.clone()
            for layer in range(2, 60)
            for part, tensor in tensors.items()
            if part.startswith(f"{name}.0.")
        }
    torch.save(tensors, tmp_path / "half.pt")
    growth = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "half.pt")], check=True, capture_output=True, text=True
    ).stdout
    # for 36 MB; at full size, where the allocator's overhead is relatively smaller, 1.2 was measured
    assert float(growth) < 1.3
