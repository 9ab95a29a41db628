"""Proof that a written model computes the same outputs as its source, stored next to the written files.

Three comparisons are made. The towers are compared on fixed pixels and token ids, drawn by Philox: these need no image
and no tokenizer, so every model has a certificate. Preprocessing and tokenizer of the written files are compared with
those of the source on a fixed image and fixed sentences. Finally the target's own library, if it is installed, opens
the written files (`target_library.py`).
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wordsight.cache import require_sha256
from wordsight.config import Config, decode
from wordsight.errors import ConfigError, WeightsError
from wordsight.files import read_json, sha256_file
from wordsight.image import Preprocessing, normalise, resize_and_crop
from wordsight.model import CLIP, TextConfig
from wordsight.text import build_tokenizer
from wordsight.weights.checkpoint import Checkpoint

CERTIFICATE_NAME = "certificate.json"
TOLERANCE = 1e-5
LIBRARY_TOLERANCE = 1e-4
"""For unit-length embeddings of another implementation, which sums in another order; its cosine error is below 1e-8."""

SENTENCES = (
    "a photo of a cat",
    "Two Dogs, running over wet sand!",
    "a diagram with 12 parts (fig. 3)",
    "crème brûlée   in a caf\u00e9",
    "one two three four five six seven eight nine ten " * 12,
    "UPPER, lower & it's (mixed)?!",
    "",
)
"""Texts whose ids must be the same everywhere."""

HARD_TEXTS = (
    "don\u2019t \u201cstop\u201d",
    "  white \t space\n runs  ",
    "a \U0001f63a and \U0001f469\u200d\U0001f680 in space",
    "\u4e00\u53ea\u732b\uff0c\uff21\uff22\uff23\uff01",
    "cats &amp; dogs &eacute; &#39;s &lt;b&gt;",
    "\ufb01re \ufb02ies, cafe\u0301",
    "\u039f\u0394\u039f\u03a3 \u0130stanbul",
    "snake_case __init__",
    "a\x00b\x1b[31mc",
    "cafÃ© itâ€™s",
    "&#65;&#x42; R&ampD",
    "</s> <eos> <|endoftext|> <end_of_text>",
)
"""Texts that a library may clean differently; the certificate lists those with other ids."""

_MAX_CERTIFICATE_BYTES = 1 << 20
_SEED = 20210226  # the day on which the CLIP paper was submitted


class Certificate(Config, frozen=True):
    """Largest absolute differences between a model and its copy in another format, on fixed inputs.

    Attributes:
        target: the format that was written.
        images: largest difference of a component of the unit-length image embeddings.
        texts: largest difference of a component of the unit-length text embeddings.
        scale: difference of the logit scale or of the logit bias, whichever is larger.
        pixels: largest difference of the preprocessed pixels of a fixed image.
        ids: number of token ids of fixed sentences that differ; -1 if even the number of ids differs.
        files: SHA-256 of each written file, which shows that the certificate belongs to them; empty in certificates of
            older versions.
        crop: how the rounding of an odd crop margin changed, such as `round to floor`, if the target format prescribes
            another one; `pixels` is measured with the source's rounding.
        tolerance: upper limit for `images`, `texts`, `scale` and `pixels`; `ids` must be 0.
        library: the target's own library that opened the written files, with its version; empty if none did.
        unchecked: why no library opened them, so that only wordsight has read them; empty for the format wordsight.
        library_images: like `images`, from the library and its own preprocessing, on images of several modes and sizes.
        library_texts: like `texts`, from the library and its own tokenizer, on the texts whose ids are the same.
        library_pixels: like `pixels`, from the library.
        library_ids: number of fixed sentences that have other ids in the library.
        differing_texts: other texts with other ids in the library, which cleans them differently.
    """

    target: str
    images: float
    texts: float
    scale: float = 0.0
    pixels: float = 0.0
    ids: int = 0
    files: dict[str, str] = msgspec.field(default_factory=dict)
    crop: str = ""
    tolerance: float = TOLERANCE
    library: str = ""
    unchecked: str = ""
    library_images: float = 0.0
    library_texts: float = 0.0
    library_pixels: float = 0.0
    library_ids: int = 0
    differing_texts: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all differences are within the tolerance; NaN is not."""
        return self.ids == 0 and all(d <= self.tolerance for d in (self.images, self.texts, self.scale, self.pixels))

    @property
    def library_agrees(self) -> bool:
        """Whether the differences of the library, if one opened the files, are within the tolerance."""
        differences = (self.library_images, self.library_texts, self.library_pixels)
        return self.library_ids == 0 and all(difference <= LIBRARY_TOLERANCE for difference in differences)

    def require(self, out: object) -> None:
        """Refuse a conversion that changed the model.

        Args:
            out: the output directory, named in the error.

        Raises:
            WeightsError: a difference is above the tolerance.
        """
        if not self.holds:
            raise WeightsError(
                f"{out}: not written, because the model in {self.target} format computes different values: "
                f"images differ by {self.images:.2g}, texts by {self.texts:.2g}, scale by {self.scale:.2g}, "
                f"pixels by {self.pixels:.2g} and {self.ids} token ids; "
                f"expected at most {self.tolerance:g} and 0: please report this as a bug"
            )
        if not self.library_agrees:
            raise WeightsError(
                f"{out}: not written, because {self.library} computes different values from the {self.target} files: "
                f"images differ by {self.library_images:.2g}, texts by {self.library_texts:.2g}, pixels by "
                f"{self.library_pixels:.2g} and the ids of {self.library_ids} texts; expected at most "
                f"{LIBRARY_TOLERANCE:g} and 0: choose another format, and please report this as a bug"
            )

    def as_json(self) -> bytes:
        """The content of `certificate.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def hash_files(directory: Path) -> dict[str, str]:
    """SHA-256 of each file in a directory, except for the certificate."""
    paths = sorted(path for path in directory.iterdir() if path.name != CERTIFICATE_NAME)
    return {path.name: sha256_file(path) for path in paths if path.is_file()}


def check_certified(directory: Path) -> None:
    """Compare the files of a directory with those that its certificate states, if it has one.

    A difference is a warning and not an error, because people edit converted models on purpose.

    Raises:
        WeightsError: the certificate is damaged.
    """
    path = directory / CERTIFICATE_NAME
    if not path.is_file():
        return
    try:
        certificate = decode(read_json(path, _MAX_CERTIFICATE_BYTES, WeightsError), Certificate, str(path))
    except ConfigError as error:
        raise WeightsError(f"{error}; delete it, or convert the model again") from error
    for name, sha256 in certificate.files.items():
        if Path(name).name != name:
            raise WeightsError(f"{path}: names the file {name!r}, which is not next to it; convert the model again")
        try:
            require_sha256(directory / name, sha256, "weights", WeightsError)
        except WeightsError:
            warnings.warn(
                f"{directory}: {name} is not the file that was converted, so {CERTIFICATE_NAME} does not describe it; "
                f"delete {CERTIFICATE_NAME} if the change was made on purpose",
                stacklevel=2,
            )


def compare(target: str, before: Checkpoint, model: CLIP, after: Checkpoint, written: CLIP) -> Certificate:
    """Compare a model with the one that was read back from the written files.

    Args:
        target: the format that was written.
        before: the source checkpoint.
        model: the model built from `before`.
        after: the checkpoint read from the written files.
        written: the model built from `after`.
    """
    pixels, ids = probe_pixels(model.config.image.image_size_px), probe_ids(model.config.text)
    one, other = _outputs(model, pixels, ids), _outputs(written, pixels, ids)
    image, preprocessings = fixed_image(), (before.card.preprocessing, after.card.preprocessing)
    crops = [preprocessing.crop for preprocessing in preprocessings]
    prepared = [_pixels(image, msgspec.structs.replace(each, crop=crops[0])) for each in preprocessings]
    ids_before, ids_after = sentence_ids(before), sentence_ids(after)
    return Certificate(
        target=target,
        images=max_difference(one["images"], other["images"]),
        texts=max_difference(one["texts"], other["texts"]),
        scale=max_difference(one["scale"], other["scale"]),
        pixels=max_difference(*prepared),
        ids=int((ids_before != ids_after).sum()) if ids_before.shape == ids_after.shape else -1,
        crop="" if crops[0] == crops[1] else " to ".join(crops),
    )


def probe_pixels(size_px: int, count: int = 4) -> Tensor:
    """Fixed pixels: (N, 3, H, W) float32 with H = W = `size_px`, normally distributed like normalised images."""
    drawn = np.random.Generator(np.random.Philox(key=_SEED)).standard_normal((count, 3, size_px, size_px), np.float32)
    return torch.from_numpy(drawn)


def probe_ids(text: TextConfig, count: int = 4, length: int | None = None) -> Tensor:
    """Fixed texts: (M, L) int32 token ids, each a random sequence with an end and padding, of lengths from 2 to L.

    A text ends with `text.end_id`; if that is None, with the largest id, as in the published vocabulary.

    Args:
        text: the text tower.
        count: M.
        length: L; by default the context length.
    """
    length = length or text.context_length
    last = text.vocabulary_size - 1
    end = last if text.end_id is None else text.end_id
    generator = np.random.Generator(np.random.Philox(key=_SEED + 1))
    ids = np.full((count, length), text.pad_id, np.int32)
    for row, used in enumerate(np.linspace(2, length, count).round().astype(int)):
        ids[row, :used] = generator.integers(0, max(1, last - 1), used)
        ids[row, ids[row] == end] = text.pad_id
        ids[row, used - 1] = end
    return torch.from_numpy(ids)


def max_difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    """The largest absolute difference of two arrays; infinite if their shapes differ."""
    return float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")


def sentence_ids(checkpoint: Checkpoint) -> NDArray[np.int32]:
    """(M, L) token ids of the fixed sentences, from the checkpoint's own tokenizer."""
    return build_tokenizer(checkpoint.card.tokenizer, checkpoint.files)(SENTENCES)


def fixed_image() -> NDArray[np.uint8]:
    """(251, 334, 3) uint8: gradients and noise, with odd sides, so that the rounding of crops has an effect."""
    rows, columns = np.mgrid[0:251, 0:334]
    gradients = np.stack([rows % 256, columns % 256, (rows + columns) // 3], axis=-1)
    noise = np.random.Generator(np.random.Philox(key=7)).integers(0, 32, gradients.shape)
    return (gradients + noise).clip(0, 255).astype(np.uint8)


@torch.inference_mode()
def _outputs(model: CLIP, pixels: Tensor, ids: Tensor) -> Mapping[str, NDArray[Any]]:
    """Unit-length embeddings of both towers, and the logit scale followed by the bias if there is one."""
    images, texts, scale = model(pixels, ids)
    bias = [model.logit_bias.item()] if model.config.logit_bias else []
    return {"images": images.numpy(), "texts": texts.numpy(), "scale": np.array([scale.item(), *bias])}


def _pixels(image: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    return normalise(resize_and_crop(image, preprocessing), preprocessing)
