"""Prompt templates: texts with a slot `{}` for the name of a label (Radford et al. 2021, section 3.1.4).

Several templates per label form an ensemble: their embeddings are averaged. The templates and their order determine
results; do not edit existing sets.
"""

from collections.abc import Sequence
from itertools import islice

from wordsight.data.named_class import quote
from wordsight.errors import ConfigError, nearest
from wordsight.zeroshot.published_templates import PUBLISHED

SLOT = "{}"
"""The placeholder of a template, replaced with the name of a label. Nothing else in a template is interpreted."""

MAX_TEMPLATE_CHARACTERS = 2_000
"""As for the name of a label."""

MAX_TEMPLATES = 10_000
"""The largest published set has 80."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    "photos": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of one {}.",
        "a photo of many {}.",
        "a close-up photo of a {}.",
        "a small, blurred photo of a {}.",
        "a {} in the distance.",
    ),
    # the 80 templates of OpenAI's notebook `Prompt_Engineering_for_ImageNet.ipynb`, in its order
    "imagenet": (
        "a bad photo of a {}.",
        "a photo of many {}.",
        "a sculpture of a {}.",
        "a photo of the hard to see {}.",
        "a low resolution photo of the {}.",
        "a rendering of a {}.",
        "graffiti of a {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
        "a tattoo of a {}.",
        "the embroidered {}.",
        "a photo of a hard to see {}.",
        "a bright photo of a {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a dark photo of the {}.",
        "a drawing of a {}.",
        "a photo of my {}.",
        "the plastic {}.",
        "a photo of the cool {}.",
        "a close-up photo of a {}.",
        "a black and white photo of the {}.",
        "a painting of the {}.",
        "a painting of a {}.",
        "a pixelated photo of the {}.",
        "a sculpture of the {}.",
        "a bright photo of the {}.",
        "a cropped photo of a {}.",
        "a plastic {}.",
        "a photo of the dirty {}.",
        "a jpeg corrupted photo of a {}.",
        "a blurry photo of the {}.",
        "a photo of the {}.",
        "a good photo of the {}.",
        "a rendering of the {}.",
        "a {} in a video game.",
        "a photo of one {}.",
        "a doodle of a {}.",
        "a close-up photo of the {}.",
        "a photo of a {}.",
        "the origami {}.",
        "the {} in a video game.",
        "a sketch of a {}.",
        "a doodle of the {}.",
        "a origami {}.",
        "a low resolution photo of a {}.",
        "the toy {}.",
        "a rendition of the {}.",
        "a photo of the clean {}.",
        "a photo of a large {}.",
        "a rendition of a {}.",
        "a photo of a nice {}.",
        "a photo of a weird {}.",
        "a blurry photo of a {}.",
        "a cartoon {}.",
        "art of a {}.",
        "a sketch of the {}.",
        "a embroidered {}.",
        "a pixelated photo of a {}.",
        "itap of the {}.",
        "a jpeg corrupted photo of the {}.",
        "a good photo of a {}.",
        "a plushie {}.",
        "a photo of the nice {}.",
        "a photo of the small {}.",
        "a photo of the weird {}.",
        "the cartoon {}.",
        "art of the {}.",
        "a drawing of the {}.",
        "a photo of the large {}.",
        "a black and white photo of a {}.",
        "the plushie {}.",
        "a dark photo of a {}.",
        "itap of a {}.",
        "graffiti of the {}.",
        "a toy {}.",
        "itap of my {}.",
        "a photo of a cool {}.",
        "a photo of a small {}.",
        "a tattoo of the {}.",
    ),
    "drawings": ("a drawing of a {}.", "a simple picture of a {}.", "an icon of a {}.", "an emoji of {}.", "{}"),
    **PUBLISHED,
}
"""Template sets by name. The sets named after datasets are the published ones."""


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """Return the templates of a set, given by its name, or check templates that are given as texts.

    Args:
        templates: a key of `TEMPLATES`, one template, or several; every template contains `{}` exactly once.

    Raises:
        ConfigError: the set is unknown, there are no templates, or one does not have exactly one slot.
    """
    if isinstance(templates, str) and SLOT not in templates:
        if templates not in TEMPLATES:
            raise ConfigError(
                f"templates {quote(templates)}: no such set; expected a text with {SLOT} for the label, or one of "
                f"{', '.join(TEMPLATES)}{nearest(templates[:MAX_TEMPLATE_CHARACTERS], TEMPLATES)}"
            )
        return TEMPLATES[templates]
    texts = (templates,) if isinstance(templates, str) else tuple(islice(templates, MAX_TEMPLATES + 1))
    if len(texts) > MAX_TEMPLATES:
        raise ConfigError(f"templates: more than {MAX_TEMPLATES:,}; an ensemble of fewer is as accurate")
    if not texts:
        raise ConfigError(f"templates: none given; expected the name of a set, or texts with {SLOT} for the label")
    for text in texts:
        num_slots = text.count(SLOT) if isinstance(text, str) else 0
        if num_slots != 1:
            raise ConfigError(f"template {quote(text)}: {num_slots} slots for the label; write {SLOT} exactly once")
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise ConfigError(f"template {quote(text)}: more than {MAX_TEMPLATE_CHARACTERS:,} characters; shorten it")
    return texts
