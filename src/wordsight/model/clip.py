"""CLIP: a image and a text into one space. The whole forward pass is on this screen.

Names of parameters are those of the published checkpoints, in which the text tower lies at the top, beside `visual`;
open_clip's `CLIP` class has the same, so weights pass by `load_state_dict`.
"""

import math
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import ModelConfig, ModifiedResNetConfig, ResidualConfig, SigLIPConfig
from wordsight.model.initialise import fill_normal, initialise
from wordsight.model.residual import ResidualNet
from wordsight.model.resnet import ModifiedResNet
from wordsight.model.siglip import SigLIPVisionTransformer
from wordsight.model.text import class_token_mask, group_by_length, look_up, restore_order, text_position
from wordsight.model.transformer import Transformer
from wordsight.model.vit import VisionTransformer

FIRST_SCALE = 1 / 0.07  # Radford et al. 2021, 2.5
LOG_MOST_SCALE = math.log(100)
FIRST_BIASED_SCALE = 10.0  # Zhai et al. 2023, algorithm 1
FIRST_BIAS = -10.0


class CLIP(nn.Module):
    """Two encoders and the scale of their cosine. Make one with `build` or `build_empty`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.visual = _image_tower(config)
        # from a tensor: torch's own first weights, drawn on the meta device, would import its compiler (2 s)
        table = torch.empty(text.vocabulary_size, text.width)
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        num_positions = text.context_length + (text.pool == "class_token")
        self.positional_embedding = nn.Parameter(torch.empty(num_positions, text.width))
        if text.pool == "class_token":
            self.cls_emb = nn.Parameter(torch.empty(text.width))
        self.transformer = Transformer(text)
        self.ln_final = nn.LayerNorm(text.width, text.epsilon)
        self.text_projection: nn.Parameter | nn.Linear
        if text.projection == "matrix":
            self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        elif text.projection == "linear":
            self.text_projection = nn.Linear(text.width, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.empty(()))
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.empty(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Images to embeddings, not normalised: (N, 3, H, W) float, as `to_float` gives them -> (N, E)."""
        return self.visual(pixels)

    def encode_text(self, ids_NL: Tensor) -> Tensor:
        """Texts to embeddings, not normalised: (N, L) integers, L at most the context length -> (N, E).

        Where every token of the context counts, padding too (a tower that is not causal or has a class token), L is the
        context length.
        """
        text = self.config.text
        return self.project_text(self._read_ends(ids_NL) if text.is_trimmed else self._read_whole(ids_NL))

    def project_text(self, x_ND: Tensor) -> Tensor:
        """What the text tower makes of the states that it reads, after all blocks: (N, D) -> (N, E)."""
        x_ND = self.ln_final(x_ND)
        if self.config.text.projection == "none":
            return x_ND
        projection = self.text_projection
        return projection(x_ND) if isinstance(projection, nn.Linear) else x_ND @ projection

    def _read_ends(self, ids_NL: Tensor) -> Tensor:
        """A causal tower computes no position behind the one that is read: (N, L) -> (N, D)."""
        position_N = text_position(ids_NL, self.config.text)
        groups = group_by_length(position_N, ids_NL.shape[1])
        tokens = look_up(self.token_embedding, ids_NL, groups)
        ends = [
            self.transformer.read(x_NLD + self.positional_embedding[: group.length], position_N[group.rows], True)
            for x_NLD, group in zip(tokens, groups, strict=True)
        ]
        return restore_order(ends, groups)

    def _read_whole(self, ids_NL: Tensor) -> Tensor:
        """All positions of the context, and the class token behind them if there is one: (N, L) -> (N, D)."""
        text = self.config.text
        x_NLD = self.token_embedding(ids_NL)
        if text.pool != "class_token":
            x_NLD = x_NLD + self.positional_embedding[: x_NLD.shape[1]]
            return self.transformer.read(x_NLD, text_position(ids_NL, text), text.is_causal)
        x_NLD = torch.cat([x_NLD, self.cls_emb.expand(x_NLD.shape[0], 1, -1)], dim=1) + self.positional_embedding
        last_N = torch.full((x_NLD.shape[0],), x_NLD.shape[1] - 1, device=x_NLD.device)
        return self.transformer.read(x_NLD, last_N, visible_NLL=class_token_mask(ids_NL, text))

    def forward(self, pixels: Tensor, ids_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings of images and of texts, (N, E) both, and the scale of their cosine, ()."""
        image_NE = F.normalize(self.encode_image(pixels), dim=1)
        text_NE = F.normalize(self.encode_text(ids_NL), dim=1)
        return image_NE, text_NE, self.scale

    @property
    def scale(self) -> Tensor:
        """What multiplies the cosine: at most 100 (Radford et al. 2021, 2.5), but for models with a bias (SigLIP)."""
        return self.logit_scale.exp() if self.config.logit_bias else self.logit_scale.clamp(max=LOG_MOST_SCALE).exp()

    @torch.no_grad()
    def bound_scale_(self) -> None:
        """Bring the learnt scale back to 100 where a step took it above: beyond, its gradient would stay zero."""
        if not self.config.logit_bias:
            self.logit_scale.clamp_(max=LOG_MOST_SCALE)

    def initialise(self, generator: Generator) -> None:
        """The published deviations of the text tower."""
        fill_normal(self.token_embedding.weight, 0.02, generator)
        fill_normal(self.positional_embedding, 0.01, generator)
        self.transformer.initialise_scaled(generator)
        if self.config.text.pool == "class_token":
            fill_normal(self.cls_emb, 0.01, generator)
        if self.config.text.projection == "matrix":
            fill_normal(cast(Tensor, self.text_projection), self.transformer.width**-0.5, generator)
        nn.init.constant_(self.logit_scale, math.log(FIRST_BIASED_SCALE if self.config.logit_bias else FIRST_SCALE))
        if self.config.logit_bias:
            nn.init.constant_(self.logit_bias, FIRST_BIAS)


def _image_tower(config: ModelConfig) -> nn.Module:
    if isinstance(config.image, ModifiedResNetConfig):
        return ModifiedResNet(config.image, config.embed_dim)
    if isinstance(config.image, ResidualConfig):
        return ResidualNet(config.image, config.embed_dim)
    if isinstance(config.image, SigLIPConfig):
        return SigLIPVisionTransformer(config.image)
    return VisionTransformer(config.image, config.embed_dim)


def build_empty(config: ModelConfig) -> CLIP:
    """A model without memory (meta device), for `load_state_dict(weights, assign=True)`."""
    with torch.device("meta"):
        return CLIP(config)


def build(config: ModelConfig, generator: Generator) -> CLIP:
    """A model with first weights as published, drawn from `generator`, on its device, in training mode."""
    model = build_empty(config).to_empty(device=generator.device)
    initialise(model, generator)
    return model
