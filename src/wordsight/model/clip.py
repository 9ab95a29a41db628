"""CLIP: a picture and a text into one space. The whole forward pass is on this screen.

Names of parameters are those of the published checkpoints, in which the text tower lies at the top, beside `visual`;
open_clip's `CLIP` class has the same, so weights pass by `load_state_dict`.
"""

import math

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import ModelConfig, ModifiedResNetConfig, ResidualConfig
from wordsight.model.initialise import fill_normal, initialise
from wordsight.model.residual import ResidualNet
from wordsight.model.resnet import ModifiedResNet
from wordsight.model.text import group_by_length, look_up, restore_order
from wordsight.model.transformer import Transformer
from wordsight.model.vit import VisionTransformer

FIRST_SCALE = 1 / 0.07  # Radford et al. 2021, 2.5
MOST_SCALE = 100.0


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
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text.width, text.heads, text.layers, config.activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.empty(()))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Pictures to embeddings, not normalised: (N, 3, H, W) float, as `to_float` gives them -> (N, E)."""
        return self.visual(pixels)

    def encode_text(self, ids_NL: Tensor) -> Tensor:
        """Texts to embeddings, not normalised: (N, L) integers, L at most the context length -> (N, E).

        The text ends at its greatest id, which is end-of-text in the published vocabulary.
        """
        end_N = ids_NL.argmax(dim=1)
        groups = group_by_length(end_N, ids_NL.shape[1])
        tokens = look_up(self.token_embedding, ids_NL, groups)
        ends = [
            self.transformer(x_NLD + self.positional_embedding[: group.length], end_N[group.rows])
            for x_NLD, group in zip(tokens, groups, strict=True)
        ]
        return self.ln_final(restore_order(ends, groups)) @ self.text_projection

    def forward(self, pixels: Tensor, ids_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings of pictures and of texts, (N, E) both, and the scale of their cosine, ()."""
        image_NE = F.normalize(self.encode_image(pixels), dim=1)
        text_NE = F.normalize(self.encode_text(ids_NL), dim=1)
        return image_NE, text_NE, self.scale

    @property
    def scale(self) -> Tensor:
        """What multiplies the cosine, at most 100 (Radford et al. 2021, 2.5)."""
        return self.logit_scale.clamp(max=math.log(MOST_SCALE)).exp()

    @torch.no_grad()
    def bound_scale_(self) -> None:
        """Bring the learnt scale back to 100 where a step took it above: beyond, its gradient would stay zero."""
        self.logit_scale.clamp_(max=math.log(MOST_SCALE))

    def initialise(self, generator: Generator) -> None:
        """The published deviations of the text tower."""
        fill_normal(self.token_embedding.weight, 0.02, generator)
        fill_normal(self.positional_embedding, 0.01, generator)
        self.transformer.initialise_scaled(generator)
        fill_normal(self.text_projection, self.transformer.width**-0.5, generator)
        nn.init.constant_(self.logit_scale, math.log(FIRST_SCALE))


def _image_tower(config: ModelConfig) -> nn.Module:
    if isinstance(config.image, ModifiedResNetConfig):
        return ModifiedResNet(config.image, config.embed_dim)
    if isinstance(config.image, ResidualConfig):
        return ResidualNet(config.image, config.embed_dim)
    return VisionTransformer(config.image, config.embed_dim, config.activation)


def build_empty(config: ModelConfig) -> CLIP:
    """A model without memory (meta device), for `load_state_dict(weights, assign=True)`."""
    with torch.device("meta"):
        return CLIP(config)


def build(config: ModelConfig, generator: Generator) -> CLIP:
    """A model with first weights as published, drawn from `generator`, on its device, in training mode."""
    model = build_empty(config).to_empty(device=generator.device)
    initialise(model, generator)
    return model
