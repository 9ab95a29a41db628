"""Queries: texts and images with weights, combined to one embedding."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, counted

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

_MIN_LENGTH = 1e-3
"""Length of a combined embedding below which its direction is mostly rounding."""

_NUM_QUOTED_CHARACTERS = 60


class QueryPart(NamedTuple):
    """One text or image of a query.

    Attributes:
        kind: `text` or `image`.
        value: the text, or the path of the image.
        weight: not 0; images that resemble a part with a negative weight are ranked lower.
    """

    kind: Literal["text", "image"]
    value: str
    weight: float = 1.0

    def __str__(self) -> str:
        value = self.value
        shown = value if len(value) <= _NUM_QUOTED_CHARACTERS else f"{value[:_NUM_QUOTED_CHARACTERS]}..."
        quoted = f"'{shown}'" if self.kind == "text" else f"image {shown}"
        return quoted if self.weight == 1 else f"{self.weight:g} x {quoted}"


def build_query(
    texts: Sequence[str], images: Sequence[Path], weights: Sequence[float] | None = None
) -> list[QueryPart]:
    """Combine texts and images to a query.

    Args:
        texts: in order.
        images: in order; they come after the texts.
        weights: of the texts, then of the images; by default all are 1.

    Raises:
        ConfigError: there is neither a text nor an image, a text is empty, or the weights do not fit.
    """
    parts = [QueryPart("text", text.strip()) for text in texts] + [QueryPart("image", str(path)) for path in images]
    if not parts:
        raise ConfigError("an empty query; give a text, such as 'a dog on a beach', or --image FILE")
    if any(not part.value for part in parts):
        raise ConfigError("an empty text in the query; describe what the image shows, such as 'a dog on a beach'")
    if weights is None:
        return parts
    if len(weights) != len(parts):
        listed = ", ".join(map(str, parts))
        raise ConfigError(
            f"{counted(len(weights), 'weight')} for {counted(len(parts), 'part')} of the query ({listed}); give one "
            "for each, texts first"
        )
    for weight in weights:
        if not np.isfinite(weight) or weight == 0:
            raise ConfigError(f"weight {weight:g}: expected a number other than 0; leave that part out instead")
    return [part._replace(weight=weight) for part, weight in zip(parts, weights, strict=True)]


def embed_query(encoder: "DualEncoder", parts: Sequence[QueryPart]) -> NDArray[np.float32]:
    """Return the weighted sum of the embeddings of all parts, scaled to unit length, (E,) float32.

    Raises:
        ConfigError: the parts cancel each other out.
        ImageError: an image cannot be read.
        WeightsError: as for `embed_texts`.
    """
    query_E = np.zeros(encoder.card.model.embed_dim, np.float64)
    for part in parts:
        embedding_E = encoder.embed_texts(part.value)[0] if part.kind == "text" else _embed_image(encoder, part.value)
        query_E += part.weight * embedding_E.astype(np.float64)
    length = float(np.linalg.norm(query_E))
    if length < _MIN_LENGTH * sum(abs(part.weight) for part in parts):
        raise ConfigError(
            f"the parts of the query cancel each other out ({', '.join(map(str, parts))}); change a weight"
        )
    return np.asarray(query_E / length, np.float32)


def _embed_image(encoder: "DualEncoder", path: str) -> NDArray[np.float32]:
    return encoder.embed_images([Path(path)])[0]
