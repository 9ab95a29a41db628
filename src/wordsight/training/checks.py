"""Checks at the start of a run: contradictions are errors, and what a user may not have noticed becomes a line.

They read little data: texts of at most a thousand samples per source, and training images whose file has the size of a
validation image.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from torch import nn

from wordsight.config import integers_of
from wordsight.data import BrokenSampleError, Mixture, MixtureSource
from wordsight.data.loader import text_number
from wordsight.data.sample import Texts
from wordsight.data.shard_reader import Shard
from wordsight.errors import ConfigError, DataError, TextError
from wordsight.evaluation import Classification, Retrieval
from wordsight.model import CLIP
from wordsight.progress import phase
from wordsight.text import TextTokenizer, TokenizerConfig
from wordsight.training.recipe import Recipe
from wordsight.training.selection import reported_metric
from wordsight.weights import Card

_MAX_LAYERS = 1024
"""Blocks of both towers together; the largest published model has 88, and building more than this takes minutes."""

_MAX_COUNT = 1 << 24
"""Any other size of an architecture, such as a width; torch refuses tensors of more elements than memory holds."""

_CHECKED_SAMPLES = 1000
"""Samples per source whose texts are tokenised at the start; takes less than a second."""

_MAX_COMPARED_BYTES = 1 << 30
"""Bytes of training images that are read for the comparison with validation images; takes seconds."""


def check_recipe(recipe: Recipe, tokenizer: TokenizerConfig) -> None:
    """Refuse a recipe whose model cannot be built, trained or saved.

    Args:
        recipe: the recipe, with the architecture and preprocessing of the start model, if there is one.
        tokenizer: of the model.

    Raises:
        ConfigError: a size is implausibly large, or keys contradict each other.
    """
    architecture = recipe.architecture
    try:
        Card(name="recipe", model=architecture, preprocessing=recipe.image_preprocessing, tokenizer=tokenizer)
    except ConfigError as error:
        raise ConfigError(f"recipe: {error}") from error
    if recipe.loss.kind == "sigmoid" and not architecture.logit_bias:
        raise ConfigError(
            "recipe: loss.kind is 'sigmoid', but the model has no logit bias; set model.logit_bias = true or loss.kind "
            "= 'softmax'"
        )
    counts = list(integers_of(msgspec.to_builtins(architecture)))
    key, largest = max(counts, key=lambda count: count[1])
    if largest > _MAX_COUNT:
        raise ConfigError(f"recipe: the model has {key} {largest}; expected at most {_MAX_COUNT}")
    num_layers = sum(count for key, count in counts if key in ("layers", "blocks"))
    if num_layers > _MAX_LAYERS:
        raise ConfigError(f"recipe: the model has {num_layers} layers; expected at most {_MAX_LAYERS}")


def check_data(recipe: Recipe, mixture: Mixture) -> None:
    """Refuse data that a contrastive loss cannot learn from.

    Raises:
        DataError: there is only one sample.
        ConfigError: a source would get no slot in a batch.
    """
    mixture.slots(recipe.batch_size)
    if sum(len(source.shards) for source in mixture.sources) < 2:
        raise DataError(
            f"{mixture.sources[0].shards.shards[0].name}: one sample; the contrastive loss compares pairs with each "
            "other and needs at least 2"
        )


def check_selection(recipe: Recipe, evaluators: Sequence[Retrieval | Classification]) -> None:
    """Refuse a selection metric that none of the recipe's validation sets reports.

    Raises:
        ConfigError: the message lists the metrics that are reported.
    """
    if recipe.validation.selection_metric is not None:
        reported = [(evaluator.dataset, metric) for evaluator in evaluators for metric in evaluator.metrics]
        reported_metric(recipe.validation.selection_metric, reported)


def notes(recipe: Recipe, mixture: Mixture, model: CLIP, tokenizer: TextTokenizer) -> Iterator[str]:
    """Yield one line for each property of recipe and data that may surprise."""
    if recipe.uses_sigmoid_loss:
        yield "loss: sigmoid, because the model has a logit bias"
    elif recipe.architecture.logit_bias:
        yield "loss: softmax, as loss.kind says; the logit bias of the model is not trained"
    normalises_batches = any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules())
    if recipe.accumulation > 1 and normalises_batches:
        yield (
            f"accumulation {recipe.accumulation}: the image tower normalises batches, with statistics of each part of "
            f"{recipe.batch_size // recipe.accumulation} pairs, so steps differ from those of the whole batch"
        )
    for source, slots in zip(mixture.sources, mixture.slots(recipe.batch_size), strict=True):
        if slots > len(source.shards):
            name = source.shards.shards[0].name
            yield f"{name}: {slots} pairs per step but only {len(source.shards)} samples, so every batch repeats some"
    texts: list[str] = []
    for source in mixture.sources:
        samples = list(_texts(source))
        if both := sum(bool(sample.captions and sample.names) for sample in samples):
            used, other = ("labels", "captions") if source.texts == "names" else ("captions", "names")
            yield (
                f"{source.shards.shards[0].name}: {both:,} of {len(samples):,} samples that were checked have captions "
                f"and a label: the {used} are used; texts = {other!r} in the source uses the others"
            )
        texts += [text for sample in samples for text in source.texts_of(sample)]
    yield from _text_notes(texts, tokenizer)


def overlap_notes(mixture: Mixture, evaluators: Sequence[Retrieval | Classification]) -> Iterator[str]:
    """Yield a line for each validation set of which images are also trained on."""
    for evaluator in evaluators:
        digests = evaluator.images.digests
        if count := _overlap(mixture, digests):
            yield (
                f"{evaluator.dataset}: {count:,} of {len(digests):,} different validation images are also training "
                "images (equal files), so its scores are too high"
            )


def _texts(source: MixtureSource) -> Iterator[Texts]:
    """The texts of evenly spaced samples of a source; of remote shards only those of the first one."""
    shards = source.shards
    total = len(shards) if shards.window is None else shards.counts[0]
    for index in np.unique(np.linspace(0, total - 1, min(total, _CHECKED_SAMPLES)).round().astype(int)):
        try:
            shard, row = shards.locate(int(index))
            yield shard.read_texts(row)
        except BrokenSampleError:
            continue


def _text_notes(texts: Sequence[str], tokenizer: TextTokenizer) -> Iterator[str]:
    distinct = list({text_number(text): text for text in texts}.values())
    if len(distinct) == 1:
        yield f"all {len(texts):,} texts that were checked are equal, so the model cannot learn to tell images apart"
    cut = _cut(distinct, tokenizer)
    if cut:
        ids_ML = tokenizer(cut)
        repeats = Counter(row.tobytes() for row in ids_ML)
        num_equal = sum(count for count in repeats.values() if count > 1)
        equal = f"; {num_equal:,} of them then equal another one" if num_equal else ""
        yield (
            f"{len(cut):,} of {len(distinct):,} different texts that were checked are longer than the context of "
            f"{ids_ML.shape[1]} tokens and are cut{equal}"
        )


def _cut(texts: Sequence[str], tokenizer: TextTokenizer) -> list[str]:
    """The texts that are too long for the tokenizer's context."""
    if not texts or _fits(texts, tokenizer):
        return []
    return [text for text in texts if not _fits([text], tokenizer)]


def _fits(texts: Sequence[str], tokenizer: TextTokenizer) -> bool:
    try:
        tokenizer(texts, truncate=False)
    except TextError:
        return False
    return True


@phase("comparing validation images with training images")
def _overlap(mixture: Mixture, digests: Mapping[bytes, int]) -> int:
    """Count the validation images that are also training images, by size and SHA-256 of the files.

    Args:
        mixture: the training data; remote shards are not compared, because they would have to be downloaded.
        digests: SHA-256 of each validation image's file -> its size.
    """
    seen: set[bytes] = set()
    num_bytes = 0
    for shard, row, size in _images_of_sizes(mixture, set(digests.values())):
        num_bytes += size
        if num_bytes > _MAX_COMPARED_BYTES or len(seen) == len(digests):
            break
        try:
            seen |= digests.keys() & {hashlib.sha256(shard.read_image(row)).digest()}
        except BrokenSampleError:
            continue
    return len(seen)


def _images_of_sizes(mixture: Mixture, sizes: set[int]) -> Iterator[tuple[Shard, int, int]]:
    """Shard, row and size in bytes of each image of local shards whose file has one of the sizes."""
    for source in mixture.sources:
        for shard in source.shards.shards if source.shards.window is None else ():
            sizes_N = shard.index.spans[:, 0, 1]
            for row in np.flatnonzero(np.isin(sizes_N, list(sizes))):
                yield shard, int(row), int(sizes_N[row])
