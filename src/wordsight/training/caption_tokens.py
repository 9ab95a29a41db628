"""The auxiliary task: caption token classification (after SuperCLIP, arXiv 2512.14480).

A linear layer predicts from an image's embedding which tokens its captions contain. A small batch has few negatives, so
the contrastive loss alone learns slowly; caption tokens supervise the image encoder directly, with the tokens of all
captions or label names of an image, not only of the one drawn for the contrastive loss. Rare tokens are more
informative than frequent ones, so each token is weighted by its inverse document frequency. The layer is used in
training only.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wordsight.data import BrokenSampleError, Mixture
from wordsight.progress import tracked
from wordsight.text import TextTokenizer

_MAX_TOKENS = 5000
_MIN_SAMPLES = 6
_SAMPLES_PER_SOURCE = 50_000


@dataclass(frozen=True)
class CaptionTokens:
    """The V token ids that are predicted, with their weights.

    Attributes:
        column: (vocabulary size,) int64, the index of a token id among the V tokens, or V if it is not among them.
        weight: (V,) float32, log(1 + samples / samples with the token).
    """

    column: Tensor
    weight: Tensor

    @classmethod
    def count(cls, mixture: Mixture, tokenizer: TextTokenizer) -> "CaptionTokens":
        """Select tokens by the number of samples that they occur in.

        At most 50,000 evenly spaced samples of each source are counted. The 5,000 most frequent tokens that occur in at
        least 6 samples are kept; each source counts in proportion to its weight. Token 0, `!`, is left out because it
        is also the padding.
        """
        share: dict[int, float] = defaultdict(float)
        samples: Counter[int] = Counter()
        total = sum(source.weight for source in mixture.sources)
        for source in mixture.sources:
            indices = np.unique(np.linspace(0, len(source.shards) - 1, _SAMPLES_PER_SOURCE).round().astype(int))
            for index in tracked(indices, "counting the tokens of captions", "samples"):
                try:
                    sample = source.shards.sample(int(index))
                except BrokenSampleError:
                    continue
                for token in {token for text in source.texts_of(sample) for token in tokenizer.encode(text)}:
                    samples[token] += 1
                    share[token] += source.weight / total / len(indices)
        frequent = [token for token in samples if token and samples[token] >= _MIN_SAMPLES]
        tokens = sorted(frequent, key=lambda token: (-share[token], token))[:_MAX_TOKENS]
        column = torch.full((tokenizer.vocabulary_size,), len(tokens), dtype=torch.int64)
        column[torch.tensor(tokens, dtype=torch.int64)] = torch.arange(len(tokens))
        return cls(column, torch.tensor([1 + 1 / share[token] for token in tokens]).log())

    def build_head(self, embed_dim: int, generator: torch.Generator) -> nn.Linear:
        """Return the linear layer (E -> V), its weights drawn with standard deviation 1 / sqrt(E)."""
        head = nn.Linear(embed_dim, len(self.weight), device="meta").to_empty(device="cpu")
        nn.init.normal_(head.weight, std=embed_dim**-0.5, generator=generator)
        nn.init.zeros_(head.bias)
        return head

    def targets(self, ids_NL: Tensor) -> Tensor:
        """Return for each row of token ids a distribution over the V tokens.

        Returns:
            (N, V) float32; a row of zeros if none of the V tokens occurs.
        """
        N, V = len(ids_NL), len(self.weight)
        present_NV = torch.zeros(N, V + 1, device=ids_NL.device).scatter_(1, self.column[ids_NL.long()], 1.0)[:, :V]
        weighted_NV = present_NV * self.weight
        return weighted_NV / weighted_NV.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def to(self, device: torch.device) -> "CaptionTokens":
        """Return a copy on a device."""
        return CaptionTokens(self.column.to(device), self.weight.to(device))
