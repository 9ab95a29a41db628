"""The proof that a written model is the one that was read: numbers on fixed inputs, kept beside the files.

Two things are compared. The towers, on fixed pixels and ids (`probes.py`). And what stands before them, on a fixed
image and fixed sentences: the written files' own preprocessing and tokenizer against the source's.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wordsight.config import Config
from wordsight.errors import WeightsError
from wordsight.image import Preprocessing, normalise, resize_and_crop
from wordsight.model import CLIP
from wordsight.text import build_tokenizer
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.probes import probe_ids, probe_pixels

NAME = "certificate.json"
TOLERANCE = 1e-5

SENTENCES = (
    "a photo of a cat",
    "Two Dogs, running over wet sand!",
    "a diagram with 12 parts (fig. 3)",
    "crème brûlée   in a caf\u00e9",
    "one two three four five six seven eight nine ten " * 12,
)


class Certificate(Config, frozen=True):
    """Greatest differences between a model before and after it was written in another form.

    Attributes:
        target: the form that was written.
        images, texts: of a component of the unit embeddings, on fixed pixels and ids.
        scale: of the logit scale and bias.
        pixels: of the preprocessed pixels of a fixed image, by the written files and by the source.
        ids: how many token ids of fixed sentences differ.
        crop: where the format puts the half pixel of an odd margin, if not where the source does: `round to floor`.
            The pixels are compared apart from it.
        tolerance: what the first four may be; ids may not differ.
    """

    target: str
    images: float
    texts: float
    scale: float = 0.0
    pixels: float = 0.0
    ids: int = 0
    crop: str = ""
    tolerance: float = TOLERANCE

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance; what is not a number is not."""
        return self.ids == 0 and all(d <= self.tolerance for d in (self.images, self.texts, self.scale, self.pixels))

    def require(self, out: object) -> None:
        """Refuse a conversion that changed the model.

        Raises:
            WeightsError: a difference is above the tolerance.
        """
        if not self.holds:
            raise WeightsError(
                f"{out}: not written: as {self.target} the model answers otherwise: images differ by "
                f"{self.images:.2g}, texts by {self.texts:.2g}, scale by {self.scale:.2g}, "
                f"pixels by {self.pixels:.2g} and {self.ids} token ids; "
                f"at most {self.tolerance:g} and 0 may be: please report this"
            )

    def as_json(self) -> bytes:
        """The certificate as it lies beside the files."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def compare(target: str, before: Checkpoint, model: CLIP, after: Checkpoint, written: CLIP) -> Certificate:
    """Compare the model that was read with the one that its written files give.

    Args:
        before, model: what was read, and the model of it.
        after, written: the same of the written files.
    """
    pixels, ids = probe_pixels(model.config.image.image_size_px), probe_ids(model.config.text)
    one, other = answers(model, pixels, ids), answers(written, pixels, ids)
    square, forms = fixed_image(), (before.card.preprocessing, after.card.preprocessing)
    crops = [form.crop for form in forms]
    return Certificate(
        target=target,
        images=difference(one["images"], other["images"]),
        texts=difference(one["texts"], other["texts"]),
        scale=difference(one["scale"], other["scale"]),
        pixels=difference(*(_pixels(square, msgspec.structs.replace(form, crop=crops[0])) for form in forms)),
        ids=int((tokens(before) != tokens(after)).sum()) if tokens(before).shape == tokens(after).shape else -1,
        crop="" if crops[0] == crops[1] else " to ".join(crops),
    )


@torch.inference_mode()
def answers(model: CLIP, pixels: Tensor, ids: Tensor) -> Mapping[str, NDArray[Any]]:
    """Unit embeddings of both towers, and scale with bias."""
    images, texts, scale = model(pixels, ids)
    bias = [model.logit_bias.item()] if model.config.logit_bias else []
    return {"images": images.numpy(), "texts": texts.numpy(), "scale": np.array([scale.item(), *bias])}


def difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The greatest difference of two arrays; infinite where their shapes differ."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


def tokens(found: Checkpoint) -> NDArray[np.int32]:
    """What a model's own tokenizer makes of the fixed sentences."""
    return build_tokenizer(found.card.tokenizer, found.files)(SENTENCES)


def fixed_image() -> NDArray[np.uint8]:
    """(251, 334, 3) uint8: slopes and noise; odd sides, so that rounding of crops shows."""
    rows, columns = np.mgrid[0:251, 0:334]
    slopes = np.stack([rows % 256, columns % 256, (rows + columns) // 3], axis=-1)
    noise = np.random.Generator(np.random.Philox(key=7)).integers(0, 32, slopes.shape)
    return (slopes + noise).clip(0, 255).astype(np.uint8)


def _pixels(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    return normalise(resize_and_crop(image, preprocessing), preprocessing)
