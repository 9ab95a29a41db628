"""A small residual net for processors without a graphics card.

Dense 3x3 convolutions are what a CPU does quickest for each parameter; depthwise ones wait for memory. Basic blocks
(He et al. 2016, arXiv 1512.03385, the shortcut with an average pool as in arXiv 1812.01187), average pooling and a
projection; no positions, so that training may change the resolution as it goes.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import ResidualConfig
from wordsight.model.initialise import fill_normal


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
            if stride > 1 or before != after
            else None
        )

    def initialise(self, generator: Generator) -> None:
        """The block starts as its shortcut."""
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, after, H / stride, W / stride), rounded up."""
        inner = F.relu(self.bn1(self.conv1(x_NCHW)), inplace=True)
        inner = self.bn2(self.conv2(inner))
        if self.shortcut is None:
            return F.relu(inner + x_NCHW, inplace=True)
        if self.stride > 1:
            x_NCHW = F.avg_pool2d(x_NCHW, 2, ceil_mode=True)
        return F.relu(inner + self.shortcut(x_NCHW), inplace=True)


class ResidualNet(nn.Module):
    """Stem, stages of basic blocks, the mean over places, a projection."""

    def __init__(self, config: ResidualConfig, embed_dim: int) -> None:
        super().__init__()
        widths = config.widths
        kernel, padding = (3, 1) if config.stem_stride == 2 else (4, 0)
        self.conv1 = nn.Conv2d(3, widths[0], kernel, config.stem_stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = nn.Sequential()
        before = widths[0]
        for stage, (width, blocks) in enumerate(zip(widths, config.blocks, strict=True)):
            for block in range(blocks):
                self.stages.append(BasicBlock(before, width, stride=2 if stage > 0 and block == 0 else 1))
                before = width
        self.proj = nn.Parameter(torch.empty(widths[-1], embed_dim))

    def initialise(self, generator: Generator) -> None:
        """Deviations that keep the variance through rectified convolutions (He et al. 2015, arXiv 1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fill_normal(
                    module.weight, math.sqrt(2 / (module.weight[0, 0].numel() * module.out_channels)), generator
                )
        fill_normal(self.proj, self.proj.shape[0] ** -0.5, generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E), at any resolution."""
        x_NCHW = F.relu(self.bn1(self.conv1(pixels)), inplace=True)
        return self.stages(x_NCHW).mean(dim=(2, 3)) @ self.proj
