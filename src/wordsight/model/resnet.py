"""The published ResNet, with parameters named as in the published weights.

It differs from a standard ResNet in three ways (Radford et al. 2021, 2.4; He et al. 2019, arXiv 1812.01187; Zhang 2019,
arXiv 1904.11486): the stem has three convolutions, average pooling replaces every stride, and attention pooling
replaces the final average pooling.
"""

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import ModifiedResNetConfig
from wordsight.model.initialise import fill_normal

EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; a stride is an average pool before the last convolution."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = EXPANSION * width
        self.stride = stride
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
            if stride > 1 or in_channels != out_channels
            else None
        )

    def initialise(self, generator: Generator) -> None:
        """Make the block equal to its shortcut initially, as published."""
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, 4 width, H / stride, W / stride)."""
        branch = F.relu(self.bn1(self.conv1(x_NCHW)), inplace=True)
        branch = F.relu(self.bn2(self.conv2(branch)), inplace=True)
        branch = self.bn3(self.conv3(_pool(branch, self.stride)))
        shortcut = x_NCHW if self.downsample is None else self.downsample(_pool(x_NCHW, self.stride))
        return F.relu(branch + shortcut, inplace=True)


def _pool(x_NCHW: Tensor, stride: int) -> Tensor:
    return F.avg_pool2d(x_NCHW, stride) if stride > 1 else x_NCHW


class AttentionPool2d(nn.Module):
    """Attention pooling: one query, the mean over all positions, attends to itself and to every position."""

    def __init__(self, grid: int, width: int, heads: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(grid**2 + 1, width))
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, embed_dim)

    def initialise(self, generator: Generator) -> None:
        """Draw the weights with the published standard deviation."""
        deviation = self.c_proj.in_features**-0.5
        fill_normal(self.positional_embedding, deviation, generator)
        for projection in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            fill_normal(projection.weight, deviation, generator)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """(N, D, grid, grid) -> (N, E)."""
        n, width = x_NCHW.shape[:2]
        x_NPD = x_NCHW.flatten(2).transpose(1, 2)
        x_NLD = torch.cat([x_NPD.mean(dim=1, keepdim=True), x_NPD], dim=1) + self.positional_embedding
        query = self.q_proj(x_NLD[:, 0]).view(n, self.heads, 1, width // self.heads)
        key, value = (
            projection(x_NLD).view(n, -1, self.heads, width // self.heads).transpose(1, 2)
            for projection in (self.k_proj, self.v_proj)
        )
        return self.c_proj(F.scaled_dot_product_attention(query, key, value).reshape(n, width))


class ModifiedResNet(nn.Module):
    """A stem, four stages of bottleneck blocks and attention pooling."""

    def __init__(self, config: ModifiedResNetConfig, embed_dim: int) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, config.layers[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, config.layers[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, config.layers[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, config.layers[3], stride=2)
        self.attnpool = AttentionPool2d(config.image_size_px // 32, width * 32, config.heads, embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E)."""
        x_NCHW = F.relu(self.bn1(self.conv1(pixels)), inplace=True)
        x_NCHW = F.relu(self.bn2(self.conv2(x_NCHW)), inplace=True)
        x_NCHW = F.relu(self.bn3(self.conv3(x_NCHW)), inplace=True)
        x_NCHW = F.avg_pool2d(x_NCHW, 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x_NCHW = stage(x_NCHW)
        return self.attnpool(x_NCHW)


def _stage(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(first, *(Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)))
