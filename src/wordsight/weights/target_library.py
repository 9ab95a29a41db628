"""Open written files with the library that they were written for, and compare its outputs with the model's.

Reading the files with wordsight alone cannot show that another program understands them as intended: transformers, for
example, ignores settings of a tokenizer that wordsight follows. Model, tokenizer and image processor are therefore
built by the library itself, from nothing but the written files, and compared on images and texts.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wordsight.image import preprocess
from wordsight.model import CLIP
from wordsight.text import build_tokenizer
from wordsight.weights.card import Card
from wordsight.weights.certificate import HARD_TEXTS, SENTENCES, Certificate, fixed_image, max_difference
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.openai import WEIGHTS_NAME as OPENAI_NAME

TEXTS = (*SENTENCES, *HARD_TEXTS)

_DISTRIBUTIONS = {"transformers": "transformers", "open_clip": "open_clip_torch"}
_MAX_REASON_LENGTH = 200


class Opened(NamedTuple):
    """A model, its tokenizer and its image processor, as the library built them from the written files.

    Attributes:
        tokenize: texts -> (M, L) ids, and a mask of the same shape that is 0 for padding, or None.
        preprocess: images -> (N, 3, H, W) float32.
        encode_texts: ids and mask, as `tokenize` returns them -> (M, E).
        encode_images: pixels -> (N, E).
    """

    tokenize: Callable[[list[str]], tuple[Tensor, Tensor | None]]
    preprocess: Callable[[list[Image.Image]], Tensor]
    encode_texts: Callable[[Tensor, Tensor | None], Tensor]
    encode_images: Callable[[Tensor], Tensor]


def with_library(certificate: Certificate, directory: Path, before: Checkpoint, model: CLIP, card: Card) -> Certificate:
    """Complete a certificate with the outputs of the target's own library.

    Args:
        certificate: names the target.
        directory: the written files.
        before: the source checkpoint.
        model: the model built from `before`.
        card: as read from the written files; its preprocessing is that of the target.

    Returns:
        The certificate with the library's version and differences; if the library is not installed or cannot open the
        files, with the reason. A target without a library of its own is returned unchanged.
    """
    if certificate.target not in _OPEN:
        return certificate
    name, open_files = _OPEN[certificate.target]
    try:
        library = f"{name} {version(_DISTRIBUTIONS[name])}"
    except PackageNotFoundError:
        return msgspec.structs.replace(certificate, unchecked=f"{name} is not installed")
    with _quiet(), torch.inference_mode():
        try:
            module = importlib.import_module(name)
            with _without_progress(module):
                opened = open_files(module, directory, before.card)
            compared = _compare(opened, before, model, card)
        except Exception as error:  # the library's errors, and those of its dependencies, have no common base class
            reason = " ".join(str(error).split())[:_MAX_REASON_LENGTH] or type(error).__name__
            return msgspec.structs.replace(certificate, unchecked=f"{library} cannot open them: {reason}")
    return msgspec.structs.replace(certificate, library=library, **compared)


def varied_images() -> list[Image.Image]:
    """Images with odd sides: wide in RGB, tall and grey, opaque with an alpha channel, and smaller than the input."""
    image = Image.fromarray(fixed_image())
    return [image, image.rotate(90, expand=True).convert("L"), image.convert("RGBA"), image.crop((0, 0, 9, 7))]


def _compare(opened: Opened, before: Checkpoint, model: CLIP, card: Card) -> dict[str, Any]:
    """The fields `library_...` of a certificate."""
    images, texts = varied_images(), list(TEXTS)
    pixels = opened.preprocess(images)
    expected = np.stack([preprocess(image, card.preprocessing, "published") for image in images])
    ids = build_tokenizer(before.card.tokenizer, before.files)(texts)
    their_ids, mask = opened.tokenize(texts)
    equal = _equal_rows(ids, their_ids, mask, before.card.tokenizer.pad_id)
    differing = [text for text, is_equal in zip(texts, equal, strict=True) if not is_equal]
    rows = torch.from_numpy(equal)
    text_features = opened.encode_texts(their_ids[rows], None if mask is None else mask[rows])
    return {
        "library_pixels": max_difference(pixels.numpy(), expected),
        "library_images": _difference(opened.encode_images(pixels), model.encode_image(torch.from_numpy(expected))),
        "library_texts": _difference(text_features, model.encode_text(torch.from_numpy(ids[equal]))),
        "library_ids": sum(text in SENTENCES for text in differing),
        "differing_texts": tuple(text for text in differing if text not in SENTENCES),
    }


def _equal_rows(ids: NDArray[np.int32], theirs: Tensor, mask: Tensor | None, pad_id: int) -> NDArray[np.bool_]:
    """Whether each row of ids is the same; padding, where the mask is 0, may have another id in the library."""
    if ids.shape != theirs.shape:
        return np.zeros(len(ids), np.bool_)
    is_text = np.ones(ids.shape, np.bool_) if mask is None else mask.numpy().astype(np.bool_)
    return np.where(is_text, ids == theirs.numpy(), ids == pad_id).all(axis=1)


def _difference(theirs: Tensor, ours: Tensor) -> float:
    return max_difference(F.normalize(theirs.float(), dim=1).numpy(), F.normalize(ours, dim=1).numpy())


def _open_transformers(library: Any, directory: Path, card: Card) -> Opened:
    options = {"local_files_only": True, "trust_remote_code": False}
    # Pillow resizes as published; the backend on torchvision, if installed, rounds differently
    backend = {"use_fast": False} if library.__version__.startswith("4.") else {"backend": "pil"}
    tokenizer = library.AutoTokenizer.from_pretrained(directory, **options)
    processor = library.AutoImageProcessor.from_pretrained(directory, **options, **backend)
    model = library.AutoModel.from_pretrained(directory, **options).eval()
    length = card.tokenizer.context_length

    def tokenize(texts: list[str]) -> tuple[Tensor, Tensor | None]:
        batch = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return batch["input_ids"], batch.get("attention_mask")

    def encode_texts(ids: Tensor, mask: Tensor | None) -> Tensor:
        features = model.get_text_features(input_ids=ids, **({} if mask is None else {"attention_mask": mask}))
        return getattr(features, "pooler_output", features)  # a tensor in transformers 4

    def encode_images(pixels: Tensor) -> Tensor:
        features = model.get_image_features(pixel_values=pixels)
        return getattr(features, "pooler_output", features)

    return Opened(
        tokenize, lambda images: processor(images, return_tensors="pt")["pixel_values"], encode_texts, encode_images
    )


def _open_open_clip(library: Any, directory: Path, card: Card) -> Opened:
    del card
    name = f"local-dir:{directory}"
    model, _, transform = library.create_model_and_transforms(name)
    return _of_open_clip(model, library.get_tokenizer(name), transform)


def _open_openai(library: Any, directory: Path, card: Card) -> Opened:
    path = directory / OPENAI_NAME
    model = library.load_openai_model(str(path), precision="fp32", device="cpu")
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict({name: state[name] for name in model.state_dict()})  # it has rounded them to float16
    tokenizer = library.SimpleTokenizer(context_length=card.tokenizer.context_length)
    return _of_open_clip(model, tokenizer, library.image_transform(model.visual.image_size, is_train=False))


def _of_open_clip(model: Any, tokenizer: Any, transform: Any) -> Opened:
    model = model.eval()
    return Opened(
        lambda texts: (tokenizer(texts), None),
        lambda images: torch.stack([transform(image) for image in images]),
        lambda ids, _: model.encode_text(ids),
        model.encode_image,
    )


_OPEN: dict[str, tuple[str, Callable[[Any, Path, Card], Opened]]] = {
    "hf": ("transformers", _open_transformers),
    "open_clip": ("open_clip", _open_open_clip),
    "openai": ("open_clip", _open_openai),
}
"""The library of each target, and the function that opens its files; open_clip reads OpenAI's archives too."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings and the logging of the libraries."""
    disabled = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


@contextmanager
def _without_progress(library: Any) -> Iterator[None]:
    """Disable transformers' progress bars, which it shows while it reads weights."""
    logger: Any = library.utils.logging if library.__name__ == "transformers" else None
    is_shown = logger is not None and logger.is_progress_bar_enabled()
    try:
        if is_shown:
            logger.disable_progress_bar()
        yield
    finally:
        if is_shown:
            logger.enable_progress_bar()
