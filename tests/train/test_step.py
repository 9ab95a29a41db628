"""The loss of a batch whose pictures have several texts, by hand."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.nn import functional as F

from wordsight.loss import masked_softmax_loss, softmax_loss
from wordsight.train import step


def test_the_loss_is_the_mean_over_the_texts_that_each_picture_has() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(4, 8, generator=generator), torch.randn(8, 8, generator=generator)
    is_own = torch.zeros(4, 8, dtype=torch.bool)
    is_own[torch.arange(8) // 2, torch.arange(8)] = True
    is_own[0, 5] = True  # a text of picture 2 that is one of picture 0's too
    scale = torch.tensor(5.0)
    learner = SimpleNamespace(clip=SimpleNamespace(scale=scale), words=None)
    state = cast(Any, SimpleNamespace(learner=learner, words=None))
    batch = cast(Any, SimpleNamespace(is_own_text=lambda: is_own))
    image, first, second = (F.normalize(one, dim=-1) for one in (images, texts[[0, 2, 4, 6]], texts[[1, 3, 5, 7]]))

    plain = cast(Any, SimpleNamespace(masks_equal_texts=False, texts_a_picture=2))
    expected = (softmax_loss(image, first, scale) + softmax_loss(image, second, scale)) / 2
    assert step._losses(state, images, texts, batch, plain)[0].item() == pytest.approx(expected.item(), rel=1e-6)

    masked = cast(Any, SimpleNamespace(masks_equal_texts=True, texts_a_picture=2))
    own_second = torch.eye(4, dtype=torch.bool)
    own_second[0, 2] = True
    other = masked_softmax_loss(image, second, scale, own_second)
    expected = (softmax_loss(image, first, scale) + other) / 2
    found = step._losses(state, images, texts, batch, masked)[0].item()
    assert found == pytest.approx(expected.item(), rel=1e-6)
    assert abs(found - step._losses(state, images, texts, batch, plain)[0].item()) > 1e-4
