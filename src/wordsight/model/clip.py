"""CLIP: images and texts -> embeddings in one space; `CLIP` shows the forward pass from top to bottom.

Parameters are named as in the published checkpoints, where the modules of the text tower are at the top level, next to
`visual`. open_clip's `CLIP` class has the same names, so `load_state_dict` accepts its weights.
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
from wordsight.model.text import class_token_mask, embed_groups, group_by_length, restore_order, text_position
from wordsight.model.transformer import Transformer
from wordsight.model.vit import VisionTransformer

INITIAL_SCALE = 1 / 0.07  # Radford et al. 2021, 2.5
LOG_MAX_SCALE = math.log(100)
INITIAL_BIASED_SCALE = 10.0  # Zhai et al. 2023, algorithm 1
INITIAL_BIAS = -10.0


class CLIP(nn.Module):
    """Two encoders and their logit scale. Created by `build` and `build_empty`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        text = config.text
        self.visual = _image_tower(config)
        # from a tensor, because nn.Embedding's own initialisation on the meta device imports torch's compiler (2 s)
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
        """Return embeddings of images, not normalised: (N, 3, H, W) float, from `to_float` -> (N, E)."""
        return self.visual(pixels)

    def encode_text(self, ids_NL: Tensor) -> Tensor:
        """Return embeddings of texts, not normalised: (N, L) integers, L at most the context length -> (N, E).

        L must be the context length if all tokens are attended to, padding included: in towers that are not causal or
        have a class token.
        """
        text = self.config.text
        return self.project_text(self._encode_trimmed(ids_NL) if text.is_trimmed else self._encode_full(ids_NL))

    def project_text(self, x_ND: Tensor) -> Tensor:
        """Apply the final normalisation and projection to the hidden states of the pooled tokens: (N, D) -> (N, E)."""
        x_ND = self.ln_final(x_ND)
        if self.config.text.projection == "none":
            return x_ND
        projection = self.text_projection
        return projection(x_ND) if isinstance(projection, nn.Linear) else x_ND @ projection

    def _encode_trimmed(self, ids_NL: Tensor) -> Tensor:
        """Return the hidden states of the pooled tokens, without computing later positions: (N, L) -> (N, D)."""
        position_N = text_position(ids_NL, self.config.text)
        groups = group_by_length(position_N, ids_NL.shape[1])
        tokens = embed_groups(self.token_embedding, ids_NL, groups)
        pooled = [
            self.transformer.read(x_NLD + self.positional_embedding[: group.length], position_N[group.rows], True)
            for x_NLD, group in zip(tokens, groups, strict=True)
        ]
        return restore_order(pooled, groups)

    def _encode_full(self, ids_NL: Tensor) -> Tensor:
        """Return the hidden states of the pooled tokens, computing all positions: (N, L) -> (N, D)."""
        text = self.config.text
        x_NLD = self.token_embedding(ids_NL)
        if text.pool != "class_token":
            x_NLD = x_NLD + self.positional_embedding[: x_NLD.shape[1]]
            return self.transformer.read(x_NLD, text_position(ids_NL, text), text.is_causal)
        x_NLD = torch.cat([x_NLD, self.cls_emb.expand(x_NLD.shape[0], 1, -1)], dim=1) + self.positional_embedding
        last_N = torch.full((x_NLD.shape[0],), x_NLD.shape[1] - 1, device=x_NLD.device)
        return self.transformer.read(x_NLD, last_N, visible_NLL=class_token_mask(ids_NL, text))

    def forward(self, pixels: Tensor, ids_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit embeddings of images and of texts, both (N, E), and the logit scale, ()."""
        image_NE = F.normalize(self.encode_image(pixels), dim=1)
        text_NE = F.normalize(self.encode_text(ids_NL), dim=1)
        return image_NE, text_NE, self.scale

    @property
    def scale(self) -> Tensor:
        """The logit scale: at most 100 (Radford et al. 2021, 2.5), or unbounded in models with a bias (SigLIP)."""
        return self.logit_scale.exp() if self.config.logit_bias else self.logit_scale.clamp(max=LOG_MAX_SCALE).exp()

    @torch.no_grad()
    def bound_scale_(self) -> None:
        """Clamp the logit scale to 100 after a step: above it, the clamp in `scale` would keep the gradient at zero."""
        if not self.config.logit_bias:
            self.logit_scale.clamp_(max=LOG_MAX_SCALE)

    def initialise(self, generator: Generator) -> None:
        """Draw the text tower's weights with the published standard deviations, and set logit scale and bias."""
        fill_normal(self.token_embedding.weight, 0.02, generator)
        fill_normal(self.positional_embedding, 0.01, generator)
        self.transformer.initialise_scaled(generator)
        if self.config.text.pool == "class_token":
            fill_normal(self.cls_emb, 0.01, generator)
        if self.config.text.projection == "matrix":
            fill_normal(cast(Tensor, self.text_projection), self.transformer.width**-0.5, generator)
        nn.init.constant_(self.logit_scale, math.log(INITIAL_BIASED_SCALE if self.config.logit_bias else INITIAL_SCALE))
        if self.config.logit_bias:
            nn.init.constant_(self.logit_bias, INITIAL_BIAS)


def _image_tower(config: ModelConfig) -> nn.Module:
    if isinstance(config.image, ModifiedResNetConfig):
        return ModifiedResNet(config.image, config.embed_dim)
    if isinstance(config.image, ResidualConfig):
        return ResidualNet(config.image, config.embed_dim)
    if isinstance(config.image, SigLIPConfig):
        return SigLIPVisionTransformer(config.image)
    return VisionTransformer(config.image, config.embed_dim)


def build_empty(config: ModelConfig) -> CLIP:
    """Build a model on the meta device, without memory, for `load_state_dict(weights, assign=True)`."""
    with torch.device("meta"):
        return CLIP(config)


def build(config: ModelConfig, generator: Generator) -> CLIP:
    """Build a model in training mode, with initial weights drawn from `generator` as published, on its device."""
    model = build_empty(config).to_empty(device=generator.device)
    initialise(model, generator)
    return model
