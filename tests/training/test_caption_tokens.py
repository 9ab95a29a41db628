import math
from pathlib import Path

import torch

from wordsight.data import Mixture, MixtureSource, open_shards
from wordsight.text import clip_tokenizer
from wordsight.training.caption_tokens import CaptionTokens


def count(world: Path) -> CaptionTokens:
    mixture = Mixture([MixtureSource(open_shards(world / "squares"))])
    return CaptionTokens.count(mixture, clip_tokenizer(16))


def test_a_word_weighs_by_how_few_images_it_describes(world: Path) -> None:
    words = count(world)
    (red,), (square,) = clip_tokenizer(16).encode("red"), clip_tokenizer(16).encode("square")
    assert words.weight[words.column[square]].item() == torch.tensor(math.log(1 + 1 / 1)).item()  # in all 96 captions
    assert abs(words.weight[words.column[red]].item() - math.log(1 + 4)) < 1e-6  # in a quarter of them


def test_targets_are_the_weights_of_the_captions_words_as_a_distribution(world: Path) -> None:
    words = count(world)
    tokenizer = clip_tokenizer(16)
    targets = words.targets(torch.from_numpy(tokenizer(["red square, red", "zebra"])))
    (red,), (square,) = tokenizer.encode("red"), tokenizer.encode("square")
    expected = torch.zeros(len(words.weight))
    total = math.log(5) + math.log(2)
    expected[words.column[red]], expected[words.column[square]] = math.log(5) / total, math.log(2) / total
    torch.testing.assert_close(targets[0], expected)
    assert targets[1].sum() == 0  # neither `zebra` nor padding nor the specials are words that were counted


def test_the_head_is_drawn_from_the_generator_alone(world: Path) -> None:
    words = count(world)
    torch.manual_seed(0)
    one = words.build_head(8, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    other = words.build_head(8, torch.Generator().manual_seed(3))
    assert torch.equal(one.weight, other.weight)
    assert one.weight.shape == (len(words.weight), 8)
