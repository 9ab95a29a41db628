"""The loss of figure 3 against closed forms, and its variants against it: values and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.loss import caption_token_loss, masked_sigmoid_loss, masked_softmax_loss, sigmoid_loss, softmax_loss


def unit_pairs(n: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    towers = [torch.randn(n, width, generator=generator, dtype=torch.float64) for _ in range(2)]
    image, text = (F.normalize(tower, dim=1).requires_grad_() for tower in towers)
    return image, text, torch.tensor(7.0, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("n", "scale"), [(1, 3.0), (2, 0.0), (5, 1 / 0.07), (8, 2.5)])
def test_the_loss_of_orthonormal_pairs_has_a_closed_form(n: int, scale: float) -> None:
    units = torch.eye(8, dtype=torch.float64)[:n]
    loss = softmax_loss(units, units, torch.tensor(scale))
    assert loss.item() == pytest.approx(math.log(1 + (n - 1) * math.exp(-scale)), abs=1e-12)


def test_the_loss_of_two_pairs_matches_a_hand_computed_case() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    text = torch.tensor([[0.6, 0.8], [1.0, 0.0]])
    # logits [[6, 10], [8, 0]]: the targets are 4 and 8 too low for images, 2 and 10 for texts
    by_image = (math.log1p(math.exp(4)) + math.log1p(math.exp(8))) / 2
    by_text = (math.log1p(math.exp(2)) + math.log1p(math.exp(10))) / 2
    loss = softmax_loss(image, text, torch.tensor(10.0))
    assert loss.item() == pytest.approx((by_image + by_text) / 2, rel=1e-6)


def test_gradients_match_finite_differences() -> None:
    assert torch.autograd.gradcheck(softmax_loss, unit_pairs(4))


def test_the_masked_loss_equals_the_plain_one_if_every_text_has_one_image() -> None:
    plain, masked = unit_pairs(9), unit_pairs(9)
    loss, masked_loss = softmax_loss(*plain), masked_softmax_loss(*masked, torch.eye(9, dtype=torch.bool))
    loss.backward(), masked_loss.backward()
    torch.testing.assert_close(masked_loss, loss, rtol=0, atol=1e-12)
    for one, other in zip(plain, masked, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-12)


def test_the_masked_loss_leaves_out_an_images_own_texts() -> None:
    """For a tabby captioned "cat" and a Persian captioned "Persian", "cat" is not a negative of the second image."""
    image, text, scale = unit_pairs(3)
    is_own = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    e = (scale * image @ text.T).exp().tolist()
    by_image = [e[0][0] / sum(e[0]), e[1][1] / (e[1][1] + e[1][2]), e[2][2] / sum(e[2])]
    by_text = [
        e[0][0] / (e[0][0] + e[2][0]),
        e[1][1] / (e[0][1] + e[1][1] + e[2][1]),
        e[2][2] / sum(row[2] for row in e),
    ]
    loss = masked_softmax_loss(image, text, scale, is_own)
    assert loss.item() == pytest.approx(-sum(map(math.log, by_image + by_text)) / 6, abs=1e-12)


def test_masked_pairs_have_no_gradient() -> None:
    image, text, scale = unit_pairs(3)
    masked_softmax_loss(image, text, scale, torch.ones(3, 3, dtype=torch.bool)).backward()
    assert not any(tensor.grad.any() for tensor in (image, text, scale))
    is_own = torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda *pair: masked_softmax_loss(*pair, is_own), unit_pairs(3))


def test_caption_token_loss_matches_a_hand_computed_case() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 1.0]])
    target = torch.tensor([[0.25, 0.75], [0.0, 0.0]])  # the second caption has none of the tokens
    expected = (0.25 * math.log(4) + 0.75 * math.log(4 / 3)) / 2
    assert caption_token_loss(logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "scale", "bias"), [(2, 10.0, -10.0), (5, 2.0, 0.5)])
def test_the_sigmoid_loss_of_orthonormal_pairs_has_a_closed_form(n: int, scale: float, bias: float) -> None:
    units = torch.eye(8, dtype=torch.float64)[:n]
    loss = sigmoid_loss(units, units, torch.tensor(scale), torch.tensor(bias))
    expected = math.log1p(math.exp(-scale - bias)) + (n - 1) * math.log1p(math.exp(bias))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def test_the_sigmoid_loss_equals_open_clips() -> None:
    from tests.parity import peers

    if not peers.has_open_clip():
        pytest.skip("needs open_clip")
    image, text, scale = unit_pairs(7)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    sigmoid_loss(image, text, scale, bias).backward()
    ours = [tensor.grad.clone() for tensor in (image, text, scale, bias)]
    for tensor in (image, text, scale, bias):
        tensor.grad = None
    peers.open_clip().loss.SigLipLoss()(image, text, scale, bias).backward()
    for one, other in zip(ours, (image, text, scale, bias), strict=True):
        torch.testing.assert_close(one, other.grad, rtol=0, atol=1e-12)


def test_the_masked_sigmoid_loss_leaves_out_an_images_own_texts() -> None:
    image, text, scale = unit_pairs(3)
    bias = torch.tensor(-1.0, dtype=torch.float64)
    is_own = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    logits = (scale * image @ text.T + bias).tolist()
    terms = [math.log1p(math.exp(-logits[n][m] if n == m else logits[n][m])) for n in range(3) for m in range(3)]
    del terms[3]  # image 1 with text 0, which is its own
    assert masked_sigmoid_loss(image, text, scale, bias, is_own).item() == pytest.approx(sum(terms) / 3, rel=1e-9)
    plain = masked_sigmoid_loss(image, text, scale, bias, torch.eye(3, dtype=torch.bool))
    torch.testing.assert_close(plain, sigmoid_loss(image, text, scale, bias))
