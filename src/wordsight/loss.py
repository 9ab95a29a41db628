"""The contrastive loss of the paper's figure 3, and the losses that extend it."""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy over scaled cosine similarities (Radford et al. 2021, figure 3).

    Args:
        image_NE: unit embeddings of the images.
        text_NE: unit embeddings of the texts; row n belongs to image n.
        scale: the logit scale, which multiplies the cosine, ().

    Returns:
        A scalar; log N if all logits are equal.
    """
    logits_NN = scale * image_NE @ text_NE.T
    target_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, target_N) + F.cross_entropy(logits_NN.T, target_N)) / 2


def masked_softmax_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor, is_own_NN: Tensor) -> Tensor:
    """`softmax_loss` without false negatives: no image's own texts are among its negatives.

    If class labels serve as captions, a batch contains the same text many times. The plain loss would then push an
    image of a cat away from "a cat", or an image of a tabby from "a cat" when both are names of its class.

    Args:
        image_NE: unit embeddings of the images.
        text_NE: unit embeddings of the texts; row n belongs to image n.
        scale: the logit scale, which multiplies the cosine, ().
        is_own_NN: bool, whether text m is one of the texts of image n; the diagonal is ignored.
    """
    logits_NN = scale * image_NE @ text_NE.T
    target_N = torch.arange(len(logits_NN), device=logits_NN.device)
    logits_NN = logits_NN.masked_fill(is_own_NN & (target_N[:, None] != target_N), float("-inf"))
    return (F.cross_entropy(logits_NN, target_N) + F.cross_entropy(logits_NN.T, target_N)) / 2


def sigmoid_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of every image with every text, for models with a logit bias (Zhai et al. 2023, SigLIP).

    Args:
        image_NE: unit embeddings of the images.
        text_NE: unit embeddings of the texts; row n belongs to image n.
        scale: the logit scale, which multiplies the cosine, ().
        bias: the logit bias, ().

    Returns:
        A scalar: the sum over all pairs, divided by N.

    Source: arXiv 2303.15343, algorithm 1.
    """
    return -_log_likelihood(image_NE, text_NE, scale, bias).sum() / len(image_NE)


def masked_sigmoid_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor, bias: Tensor, is_own_NN: Tensor) -> Tensor:
    """`sigmoid_loss` without false negatives, which `is_own_NN` marks as for `masked_softmax_loss`."""
    target_N = torch.arange(len(image_NE), device=image_NE.device)
    is_false_negative_NN = is_own_NN & (target_N[:, None] != target_N)
    likelihood_NN = _log_likelihood(image_NE, text_NE, scale, bias).masked_fill(is_false_negative_NN, 0)
    return -likelihood_NN.sum() / len(image_NE)


def _log_likelihood(image_NE: Tensor, text_NE: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Log-probability, for each image and text, of whether they belong together: (N, N)."""
    logits_NN = scale * image_NE @ text_NE.T + bias
    sign_NN = 2 * torch.eye(len(logits_NN), device=logits_NN.device, dtype=logits_NN.dtype) - 1
    return F.logsigmoid(sign_NN * logits_NN)


def caption_token_loss(logits_NV: Tensor, target_NV: Tensor) -> Tensor:
    """Mean cross-entropy of classifying the tokens of a caption from its image (after SuperCLIP, arXiv 2512.14480).

    Args:
        logits_NV: scores of V tokens, computed by a linear layer from each image's embedding.
        target_NV: for each image a distribution over the tokens of its captions; a row of zeros has loss 0.
    """
    return -(target_NV * F.log_softmax(logits_NV, dim=1)).sum(dim=1).mean()
