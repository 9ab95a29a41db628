"""Sets of templates: sentences in which a label stands where `{}` is (Radford et al. 2021, section 3.1.4)."""

from collections.abc import Sequence

from wordsight.errors import ConfigError, nearest
from wordsight.zeroshot.published_templates import PUBLISHED

SLOT = "{}"

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
    # the 80 of OpenAI's notebook `Prompt_Engineering_for_ImageNet.ipynb`, in its order
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
"""Sets of templates by name; the place of the label is `{}`. Those of data sets are the published ones."""


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of a set of templates, given by its name or as texts with one `{}` each.

    Raises:
        ConfigError: no such set, no templates, or one without just one place for the label.
    """
    if isinstance(templates, str) and SLOT not in templates:
        if templates not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise ConfigError(
                f"templates {templates!r}: no such set{nearest(templates, TEMPLATES)}; a text has {{}} where the label "
                f"goes; known: {known}"
            )
        return TEMPLATES[templates]
    texts = (templates,) if isinstance(templates, str) else tuple(templates)
    if not texts:
        raise ConfigError("templates: none given; name a set, or give texts with {} where the label goes")
    for text in texts:
        places = text.count(SLOT) if isinstance(text, str) else 0
        if places != 1:
            raise ConfigError(f"template {text!r}: {places} places for the label; write {{}} once, where it goes")
    return texts
