"""Prepacked weights (oneDNN) for float32 models on a CPU: weights in the memory layout that the matrix product reads.

torch passes a weight to the matrix product in its own layout, and oneDNN reorders it in every call; for the 50 tokens
of one image this takes a third of the time. This module reorders each weight once, with the operators that torch's own
compiler uses. The patch embedding is computed as such a product too, because its convolution neither overlaps nor pads.
Other convolutions are prepacked together with the batch normalisation that follows them. The original model is not
modified, so that prepacked weights double the memory of the weights.
"""

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from wordsight.model import CLIP
from wordsight.model.siglip import SigLIPVisionTransformer
from wordsight.model.transformer import MLP, QUICK_GELU_SLOPE, Attention, Block, Transformer
from wordsight.model.vit import VisionTransformer

M = TypeVar("M", bound=nn.Module)

# activation of the model -> (name, algorithm) of the activation that oneDNN fuses into a product
_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "quick_gelu": ("swish", "")}


def can_prepack(model: CLIP) -> bool:
    """Whether prepacking applies: the model is float32 and on a CPU, and torch was built with oneDNN."""
    parameter = next(model.parameters())
    return (
        parameter.device.type == "cpu"
        and parameter.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


@torch.no_grad()
def prepack_image_tower(model: CLIP) -> CLIP:
    """Return the model with prepacked weights in its image tower; all other modules are shared with `model`."""
    visual, replaced = _prepack_convolutions(model.visual), dict[str, nn.Module]()
    if isinstance(visual, VisionTransformer | SigLIPVisionTransformer):
        reads_one_token = isinstance(visual, VisionTransformer) and visual.config.pool == "class_token"
        replaced["transformer"] = _prepack_transformer(visual.transformer, reads_one_token)
        if isinstance(model.visual.conv1, nn.Conv2d):
            replaced["conv1"] = PrepackedPatches(model.visual.conv1)
    return _with_modules(model, visual=_with_modules(visual, **replaced))


@torch.no_grad()
def prepack_text_tower(model: CLIP) -> CLIP:
    """Return the model with prepacked weights in its text tower; all other modules are shared with `model`."""
    return _with_modules(model, transformer=_prepack_transformer(model.transformer, reads_one_token=True))


def weights_version(model: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """Return a value that changes whenever a weight or a statistic is written or replaced.

    It consists of the address and the version counter of each tensor. None if there is a tensor that has no version
    counter, because it was created in inference mode.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)


class PrepackedLinear(nn.Module):
    """x W^T + b, followed by an activation, in one oneDNN primitive.

    Args:
        weight: (E, D).
        bias: (E,), or None.
        activation: name and algorithm as oneDNN's operators take them; see `_FUSED`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: tuple[str, str] = ("none", "")) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()
        self.activation, self.algorithm = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.algorithm)


class PrepackedPatches(nn.Module):
    """A convolution whose stride equals its kernel size, computed as a matrix product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.patch_size_px = conv.kernel_size[0]
        self.linear = PrepackedLinear(conv.weight.flatten(1), conv.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, H // patch, W // patch), channels last; pixels beyond the last patch are ignored."""
        n, channels, height, width = pixels.shape
        size = self.patch_size_px
        rows, columns = height // size, width // size
        whole = pixels[:, :, : rows * size, : columns * size]
        patches = whole.view(n, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        return self.linear(patches.reshape(n * rows * columns, -1)).view(n, rows, columns, -1).permute(0, 3, 1, 2)


class PrepackedConvolution(nn.Module):
    """A convolution in evaluation mode, with the batch normalisation that follows it (if any) folded in.

    The layout that oneDNN needs depends on the number and the size of the images, so the weights are prepacked again
    when the input shape changes.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.originals = (conv, norm)  # a tuple, so that they are not registered as submodules
        self.geometry: tuple[Any, ...] = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.prepacked: tuple[torch.Size, Tensor, Tensor | None] | None = None  # input shape, weight, bias

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H / stride, W / stride)."""
        if (prepacked := self.prepacked) is None or prepacked[0] != x_NCHW.shape:
            prepacked = self.prepacked = (x_NCHW.shape, *self._prepack(list(x_NCHW.shape)))
        _, weight, bias = prepacked
        return torch.ops.mkldnn._convolution_pointwise(x_NCHW, weight, bias, *self.geometry, "none", [], "")

    def _prepack(self, input_shape: list[int]) -> tuple[Tensor, Tensor | None]:
        conv, norm = self.originals
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if norm is not None:
            statistics = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            folded = fuse_conv_bn_weights(weight, bias, *statistics, norm.eps, norm.weight, norm.bias)
            weight, bias = (tensor.detach() for tensor in folded)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self.geometry, input_shape), bias


class PrepackedAttention(Attention):
    """`Attention` with prepacked weights.

    Args:
        attention: the original module.
        reads_one_token: whether the block is used by `Block.read`, where only one token has a query; queries are then
            projected separately from keys and values.
    """

    def __init__(self, attention: Attention, reads_one_token: bool) -> None:
        nn.Module.__init__(self)
        weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.in_features
        self.heads = attention.heads
        if reads_one_token:
            self.query_proj = PrepackedLinear(weight[:width], bias[:width])
            self.key_value_proj = PrepackedLinear(weight[width:], bias[width:])
        else:
            self.in_proj = PrepackedLinear(weight, bias)
        self.out_proj: Any = PrepackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def project(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 3 D): query, key and value, as `Attention.project`."""
        return self.in_proj(x)

    def project_query(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D): query, as `Attention.project_query`."""
        return self.query_proj(x)

    def project_keys_values(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 2 D): key and value, as `Attention.project_keys_values`."""
        return self.key_value_proj(x)


class PrepackedMLP(nn.Module):
    """`MLP` with prepacked weights and the activation fused into the first product.

    The factors of quick_gelu, silu(1.702 h) / 1.702, are multiplied into the weights.
    """

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        slope = QUICK_GELU_SLOPE if mlp.activation == "quick_gelu" else 1
        self.c_fc = PrepackedLinear(slope * mlp.c_fc.weight, slope * mlp.c_fc.bias, _FUSED[mlp.activation])
        self.c_proj = PrepackedLinear(mlp.c_proj.weight / slope, mlp.c_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.c_proj(self.c_fc(x))


def _prepack_convolutions(module: M) -> M:
    """Prepack all convolutions of a module, at any depth, each with the batch normalisation registered after it."""
    replaced: dict[str, nn.Module] = {}
    children = [*module.named_children(), ("", None)]
    for (name, child), (next_name, next_child) in pairwise(children):
        norm = next_child if isinstance(next_child, nn.BatchNorm2d) else None
        if isinstance(child, nn.Conv2d):
            replaced[name] = PrepackedConvolution(child, norm)
            if norm is not None:
                replaced[next_name] = nn.Identity()
        elif child is not None and name not in replaced:
            replaced[name] = _prepack_convolutions(child)
    return _with_modules(module, **replaced)


def _prepack_transformer(transformer: Transformer, reads_one_token: bool) -> Transformer:
    """Prepack all blocks; `reads_one_token` applies to the last one, the only block that may read a single token."""
    blocks = transformer.blocks()
    prepacked = [_prepack_block(block, reads_one_token and block is blocks[-1]) for block in blocks]
    return _with_modules(transformer, resblocks=nn.ModuleList(prepacked))


def _prepack_block(block: Block, reads_one_token: bool) -> Block:
    return _with_modules(block, attn=PrepackedAttention(block.attn, reads_one_token), mlp=PrepackedMLP(block.mlp))


def _with_modules(module: M, **replaced: nn.Module) -> M:
    """Return a shallow copy of a module in which some submodules are replaced."""
    new = copy.copy(module)
    new._modules = {**module._modules, **replaced}
    return new
