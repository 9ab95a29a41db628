"""A small residual network for CPUs.

On CPUs dense 3x3 convolutions have the highest throughput per parameter; depthwise convolutions are bound by memory
bandwidth. The network consists of basic blocks (He et al. 2016, arXiv 1512.03385; shortcuts with an average pool as in
arXiv 1812.01187), average pooling and a projection. It has no positional embedding, so any resolution works.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import ResidualConfig
from wordsight.model.initialise import fill_normal


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
            if stride > 1 or in_channels != out_channels
            else None
        )

    def initialise(self, generator: Generator) -> None:
        """Make the block equal to its shortcut initially."""
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, ceil(H / stride), ceil(W / stride)), with D output channels."""
        branch = F.relu(self.bn1(self.conv1(x_NCHW)), inplace=True)
        branch = self.bn2(self.conv2(branch))
        if self.shortcut is None:
            return F.relu(branch + x_NCHW, inplace=True)
        if self.stride > 1:
            x_NCHW = F.avg_pool2d(x_NCHW, 2, ceil_mode=True)
        return F.relu(branch + self.shortcut(x_NCHW), inplace=True)


class ResidualNet(nn.Module):
    """A stem, stages of basic blocks, global average pooling and a projection."""

    def __init__(self, config: ResidualConfig, embed_dim: int) -> None:
        super().__init__()
        widths = config.widths
        kernel, padding = (3, 1) if config.stem_stride == 2 else (4, 0)
        self.conv1 = nn.Conv2d(3, widths[0], kernel, config.stem_stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = nn.Sequential()
        in_channels = widths[0]
        for stage, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            for block in range(blocks):
                self.stages.append(BasicBlock(in_channels, width, stride=2 if stage > 0 and block == 0 else 1))
                in_channels = width
        self.proj = nn.Parameter(torch.empty(widths[-1], embed_dim))

    def initialise(self, generator: Generator) -> None:
        """Draw weights so that convolutions with ReLU preserve the variance (He et al. 2015, arXiv 1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fill_normal(
                    module.weight, math.sqrt(2 / (module.weight[0, 0].numel() * module.out_channels)), generator
                )
        fill_normal(self.proj, self.proj.shape[0] ** -0.5, generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E), for any resolution."""
        x_NCHW = F.relu(self.bn1(self.conv1(pixels)), inplace=True)
        return self.stages(x_NCHW).mean(dim=(2, 3)) @ self.proj
