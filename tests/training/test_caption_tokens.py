import math
from pathlib import Path

import torch

from wordsight.data import Mixture, MixtureSource, open_shards
from wordsight.text import clip_tokenizer
from wordsight.training.caption_tokens import CaptionTokens


def count(world: Path) -> CaptionTokens:
    mixture = Mixture([MixtureSource(open_shards(world / "squares"))])
    return CaptionTokens.count(mixture, clip_tokenizer(16))


def test_rare_tokens_have_a_higher_weight(world: Path) -> None:
    tokens = count(world)
    (red,), (square,) = clip_tokenizer(16).encode("red"), clip_tokenizer(16).encode("square")
    assert tokens.weight[tokens.column[square]].item() == torch.tensor(math.log(1 + 1 / 1)).item()  # in all 96 captions
    assert abs(tokens.weight[tokens.column[red]].item() - math.log(1 + 4)) < 1e-6  # in a quarter of them


def test_targets_are_the_normalised_weights_of_the_captions_tokens(world: Path) -> None:
    tokens = count(world)
    tokenizer = clip_tokenizer(16)
    targets = tokens.targets(torch.from_numpy(tokenizer(["red square, red", "zebra"])))
    (red,), (square,) = tokenizer.encode("red"), tokenizer.encode("square")
    expected = torch.zeros(len(tokens.weight))
    total = math.log(5) + math.log(2)
    expected[tokens.column[red]], expected[tokens.column[square]] = math.log(5) / total, math.log(2) / total
    torch.testing.assert_close(targets[0], expected)
    assert targets[1].sum() == 0  # neither `zebra` nor padding nor special tokens were counted


def test_the_head_depends_on_the_generator_alone(world: Path) -> None:
    tokens = count(world)
    torch.manual_seed(0)
    one = tokens.build_head(8, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    other = tokens.build_head(8, torch.Generator().manual_seed(3))
    assert torch.equal(one.weight, other.weight)
    assert one.weight.shape == (len(tokens.weight), 8)
