"""The second task: name the words of a image's texts from the image alone (after SuperCLIP, arXiv 2512.14480).

A small batch holds few negatives, and contrast alone learns slowly from it; words teach the image tower directly:
those of all captions or names of a image, not only of the one that was drawn for the contrast. Rare words say more
than frequent ones, so each word counts by its inverse document frequency. The layer that names them is used in training
only.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from wordsight.data import BrokenSampleError, Mixture
from wordsight.text import TextTokenizer

_MOST_WORDS = 5000
_LEAST_SAMPLES = 6
_SAMPLES_A_SOURCE = 50_000


@dataclass(frozen=True)
class CaptionTokens:
    """The words that are asked for: V token ids with their weights.

    Attributes:
        column: (vocabulary,) int64, the place of a token id among the V words, or V where it is none of them.
        weight: (V,) float32, log(1 + samples / samples with the word).
    """

    column: Tensor
    weight: Tensor

    @classmethod
    def count(cls, mixture: Mixture, tokenizer: TextTokenizer) -> "CaptionTokens":
        """Count in how many samples each token occurs, in an even sample of each source of at most 50,000.

        Kept are the 5,000 most frequent tokens that occur in at least 6 samples; sources count by their weight.
        Token 0, `!`, is left out: ids are padded with it.
        """
        share: dict[int, float] = defaultdict(float)
        samples: Counter[int] = Counter()
        total = sum(source.weight for source in mixture.sources)
        for source in mixture.sources:
            numbers = np.unique(np.linspace(0, len(source.shards) - 1, _SAMPLES_A_SOURCE).round().astype(int))
            for number in numbers:
                try:
                    sample = source.shards.sample(int(number))
                except BrokenSampleError:
                    continue
                for token in {token for text in sample.captions + sample.names for token in tokenizer.encode(text)}:
                    samples[token] += 1
                    share[token] += source.weight / total / len(numbers)
        words = sorted((t for t in samples if t and samples[t] >= _LEAST_SAMPLES), key=lambda t: (-share[t], t))[
            :_MOST_WORDS
        ]
        column = torch.full((tokenizer.vocabulary_size,), len(words), dtype=torch.int64)
        column[torch.tensor(words, dtype=torch.int64)] = torch.arange(len(words))
        return cls(column, torch.tensor([1 + 1 / share[token] for token in words]).log())

    def build_head(self, embed_dim: int, generator: torch.Generator) -> nn.Linear:
        """The layer (E -> V) that names words, its weights drawn with deviation 1 / sqrt(E)."""
        head = nn.Linear(embed_dim, len(self.weight), device="meta").to_empty(device="cpu")
        nn.init.normal_(head.weight, std=embed_dim**-0.5, generator=generator)
        nn.init.zeros_(head.bias)
        return head

    def targets(self, ids_NL: Tensor) -> Tensor:
        """For each text a distribution over its words, (N, V) float32; a row of zeros where it has none of them."""
        N, V = len(ids_NL), len(self.weight)
        present_NV = torch.zeros(N, V + 1, device=ids_NL.device).scatter_(1, self.column[ids_NL.long()], 1.0)[:, :V]
        weighted_NV = present_NV * self.weight
        return weighted_NV / weighted_NV.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    def to(self, device: torch.device) -> "CaptionTokens":
        """The same on a device."""
        return CaptionTokens(self.column.to(device), self.weight.to(device))
