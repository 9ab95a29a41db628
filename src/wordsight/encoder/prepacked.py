"""A float32 model on a CPU whose weights lie in the order in which oneDNN reads them.

torch hands a weight to the matrix product as it is, and the product arranges it anew in each call; for the fifty tokens
of one image that is a third of the time. Here it is arranged once, by the operators that torch's own compiler uses.
Patches go through such a product too: their convolution neither overlaps nor pads. Other convolutions are arranged with
the batch normalisation after them inside. The arranged weights take as much memory again as those they were made from,
which stay as they are.
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

_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "quick_gelu": ("swish", "")}


def can_prepack(model: CLIP) -> bool:
    """Whether there is something to gain: float32, on a CPU for which torch has oneDNN."""
    first = next(model.parameters())
    return (
        first.device.type == "cpu"
        and first.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


@torch.no_grad()
def prepack_image_tower(model: CLIP) -> CLIP:
    """The same model with arranged weights in its image tower; what is not arranged it shares with the one given."""
    visual, parts = _convolutions(model.visual), dict[str, nn.Module]()
    if isinstance(visual, VisionTransformer | SigLIPVisionTransformer):
        is_read = isinstance(visual, VisionTransformer) and visual.config.pool == "class_token"
        parts["transformer"] = _transformer(visual.transformer, is_read)
        if isinstance(model.visual.conv1, nn.Conv2d):
            parts["conv1"] = PrepackedPatches(model.visual.conv1)
    return _with(model, visual=_with(visual, **parts))


@torch.no_grad()
def prepack_text_tower(model: CLIP) -> CLIP:
    """The same model with arranged weights in its text tower."""
    return _with(model, transformer=_transformer(model.transformer, is_read=True))


def state_of(model: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """What changes when a weight or a statistic does: where it lies, how often it was written; None if not kept."""
    tensors = [*model.parameters(), *model.buffers()]
    if any(one.is_inference() for one in tensors):
        return None
    return tuple((one.data_ptr(), one._version) for one in tensors)


class PrepackedLinear(nn.Module):
    """x W^T + b, and an activation after it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: tuple[str, str] = ("none", "")) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self.bias = None if bias is None else bias.detach()
        self.activation, self.form = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.form)


class PrepackedPatches(nn.Module):
    """A convolution whose stride is its kernel, as a product."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.patch_size_px = conv.kernel_size[0]
        self.linear = PrepackedLinear(conv.weight.flatten(1), conv.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, D, H / patch, W / patch), channels last."""
        n, channels, height, width = pixels.shape
        size = self.patch_size_px
        rows, columns = height // size, width // size
        patches = pixels.view(n, channels, rows, size, columns, size).permute(0, 2, 4, 1, 3, 5)
        return self.linear(patches.reshape(n * rows * columns, -1)).view(n, rows, columns, -1).permute(0, 3, 1, 2)


class PrepackedConvolution(nn.Module):
    """A convolution, and the batch normalisation after it if there is one, in evaluation.

    oneDNN wants weights in another order for another number or size of images; those of the last call are kept.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.made_of = (conv, norm)  # a tuple, so that they are no parts of this module
        self.shape: tuple[Any, ...] = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.arranged: tuple[torch.Size, Tensor, Tensor | None] | None = None

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H / stride, W / stride)."""
        if (arranged := self.arranged) is None or arranged[0] != x_NCHW.shape:
            arranged = self.arranged = (x_NCHW.shape, *self._arrange(list(x_NCHW.shape)))
        _, weight, bias = arranged
        return torch.ops.mkldnn._convolution_pointwise(x_NCHW, weight, bias, *self.shape, "none", [], "")

    def _arrange(self, size: list[int]) -> tuple[Tensor, Tensor | None]:
        conv, norm = self.made_of
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if norm is not None:
            statistics = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
            folded = fuse_conv_bn_weights(weight, bias, *statistics, norm.eps, norm.weight, norm.bias)
            weight, bias = (part.detach() for part in folded)
        weight = weight.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._reorder_convolution_weight(weight, *self.shape, size), bias


class PrepackedAttention(Attention):
    """`Attention`; where one token of a block is read, its query has a product apart from that of all pairs."""

    def __init__(self, attention: Attention, is_read: bool) -> None:
        nn.Module.__init__(self)
        weight, bias, width = attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.in_features
        self.heads = attention.heads
        if is_read:
            self.query = PrepackedLinear(weight[:width], bias[:width])
            self.pairs = PrepackedLinear(weight[width:], bias[width:])
        else:
            self.all = PrepackedLinear(weight, bias)
        self.out_proj: Any = PrepackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def project(self, x: Tensor) -> Tensor:
        """As `Attention`; and so the other two."""
        return self.all(x)

    def project_query(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.query(x)

    def project_pairs(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., 2 D)."""
        return self.pairs(x)


class PrepackedMLP(nn.Module):
    """`MLP` with the activation inside the first product, the factors of quick_gelu in the weights."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        slope = QUICK_GELU_SLOPE if mlp.activation == "quick_gelu" else 1
        self.c_fc = PrepackedLinear(slope * mlp.c_fc.weight, slope * mlp.c_fc.bias, _FUSED[mlp.activation])
        self.c_proj = PrepackedLinear(mlp.c_proj.weight / slope, mlp.c_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.c_proj(self.c_fc(x))


def _convolutions(module: M) -> M:
    """A module whose convolutions are arranged, at any depth, each with the batch normalisation that is next to it."""
    parts: dict[str, nn.Module] = {}
    children = [*module.named_children(), ("", None)]
    for (name, child), (after, norm) in pairwise(children):
        followed_by = norm if isinstance(norm, nn.BatchNorm2d) else None
        if isinstance(child, nn.Conv2d):
            parts[name] = PrepackedConvolution(child, followed_by)
            if followed_by is not None:
                parts[after] = nn.Identity()
        elif child is not None and name not in parts:
            parts[name] = _convolutions(child)
    return _with(module, **parts)


def _transformer(transformer: Transformer, is_read: bool) -> Transformer:
    blocks = transformer.blocks()
    return _with(
        transformer,
        resblocks=nn.ModuleList(_block(block, is_read and block is blocks[-1]) for block in blocks),
    )


def _block(block: Block, is_read: bool) -> Block:
    return _with(block, attn=PrepackedAttention(block.attn, is_read), mlp=PrepackedMLP(block.mlp))


def _with(module: M, **parts: nn.Module) -> M:
    """A module that shares all with another but for some parts."""
    new = copy.copy(module)
    new._modules = {**module._modules, **parts}
    return new
