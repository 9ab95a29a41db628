"""Score 3 of the paper, and what may stand in its place."""

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of finding each pair's partner, both ways (Radford et al. 2021, figure 3).

    Args:
        image_NE: unit embeddings of the images.
        text_NE: unit embeddings of the texts; row n belongs to image n.
        scale: what multiplies the cosine, ().

    Returns:
        A scalar, log N where nothing is known.
    """
    logits_NN = scale * image_NE @ text_NE.T
    partner_N = torch.arange(len(logits_NN), device=logits_NN.device)
    return (F.cross_entropy(logits_NN, partner_N) + F.cross_entropy(logits_NN.T, partner_N)) / 2


def masked_softmax_loss(image_NE: Tensor, text_NE: Tensor, scale: Tensor, is_own_NN: Tensor) -> Tensor:
    """`softmax_loss` in which no image has one of its own texts among its negatives.

    Where labels are captions a batch holds the same text many times, and the plain loss would push a picture of a cat
    away from "a cat", or one of a tabby from "a cat", where both are names of its class.

    Args:
        image_NE: unit embeddings of the images.
        text_NE: unit embeddings of the texts; row n belongs to image n.
        scale: what multiplies the cosine, ().
        is_own_NN: bool, whether text m is one of image n's; the diagonal does not matter.
    """
    logits_NN = scale * image_NE @ text_NE.T
    partner_N = torch.arange(len(logits_NN), device=logits_NN.device)
    logits_NN = logits_NN.masked_fill(is_own_NN & (partner_N[:, None] != partner_N), float("-inf"))
    return (F.cross_entropy(logits_NN, partner_N) + F.cross_entropy(logits_NN.T, partner_N)) / 2


def caption_token_loss(logits_NV: Tensor, target_NV: Tensor) -> Tensor:
    """Mean cross-entropy of naming a caption's words from its image (after SuperCLIP, arXiv 2512.14480).

    Args:
        logits_NV: what a linear layer says of V words from each image's embedding.
        target_NV: a distribution over the caption's words; a row of zeros counts as loss 0.
    """
    return -(target_NV * F.log_softmax(logits_NV, dim=1)).sum(dim=1).mean()
