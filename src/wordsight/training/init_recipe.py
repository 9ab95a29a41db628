"""A first recipe for one's own shards, with comments: what `wordsight train --init-recipe DATA` writes.

This module does not load torch.
"""

from pathlib import Path
from typing import NamedTuple

from wordsight.config import to_toml
from wordsight.data import ShardSet, open_shards
from wordsight.data.remote import is_remote
from wordsight.errors import DataError, counted, printable
from wordsight.training.sources import TextKinds, texts_of

VALIDATION_NAMES = ("val", "validation", "valid", "dev", "held-out")
"""Directories of shards that are not trained on but measure the model."""

_TEST_NAMES = ("test", "testing", "evaluation")
_BATCH_SIZE = 128
_EPOCHS = 20
_MIN_STEPS, _MAX_STEPS = 100, 2000


class ShardDirectory(NamedTuple):
    """Shards, with the name that a recipe gives them and the kinds of texts that they have."""

    name: str
    shards: ShardSet
    texts: TextKinds

    @property
    def described(self) -> str:
        """What is in the shards, such as `900 images with captions`."""
        kinds = {(True, True): "captions and labels", (True, False): "captions", (False, True): "labels"}
        texts = kinds.get((self.texts.captions, self.texts.labels), "no texts")
        return f"{counted(len(self.shards), 'image')} with {texts}"


def initial_recipe(data: str, title: str) -> str:
    """Return the text of a recipe that trains a small model on shards.

    Args:
        data: a directory of shards, a directory of such directories, or an address.
        title: of the recipe.

    Raises:
        DataError: there are no shards, they have no texts, or there is nothing to train on but validation sets.
    """
    directories = _directories(data)
    names = {entry.name for entry in directories}
    training = [entry for entry in directories if entry.name not in (*VALIDATION_NAMES, *_TEST_NAMES)]
    validation = [entry for entry in directories if entry.name in VALIDATION_NAMES]
    if not training:
        raise DataError(
            f"{data}: only {', '.join(sorted(names))}, which are not trained on; pack the training images beside them"
        )
    for entry in (*training, *validation):
        if not any(entry.texts):
            raise DataError(f"{entry.name}: its samples have no captions and no labels, so nothing can be learnt")
    total = sum(len(entry.shards) for entry in training)
    batch_size = min(_BATCH_SIZE, max(2, total // 2))
    steps = min(_MAX_STEPS, max(_MIN_STEPS, round(_EPOCHS * total / batch_size)))
    head = _HEAD.format(
        title=printable(title),
        title_line=to_toml({"title": title}).strip(),
        batch_size=batch_size,
        steps=steps,
        epochs=f"{steps * batch_size / total:.3g}",
        every_steps=max(1, steps // 10),
        data=printable(data),
    )
    left_out = [f"# {entry.name}: {entry.described}, left out because of its name\n" for entry in directories]
    unused = "".join(line for entry, line in zip(directories, left_out, strict=True) if entry.name in _TEST_NAMES)
    return (
        head
        + unused
        + "".join(_source(entry, len(training) > 1) for entry in training)
        + _VALIDATION
        + _sets(validation, steps)
    )


def _directories(data: str) -> list[ShardDirectory]:
    if is_remote(data):
        return [_opened(data, data)]
    root = Path(data)
    inner = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    with_shards = [path for path in inner if any(path.glob("*.tar"))]
    if with_shards and not any(root.glob("*.tar")):
        return [_opened(path.name, str(path)) for path in with_shards]
    return [_opened(root.absolute().name, data)]


def _opened(name: str, path: str) -> ShardDirectory:
    shards = open_shards(path)
    return ShardDirectory(name, shards, texts_of(shards))


def _source(entry: ShardDirectory, is_weighted: bool) -> str:
    weight = (
        f"weight = {len(entry.shards)}.0  # its share of a batch; here its number of images\n" if is_weighted else ""
    )
    lines = f"\n[[sources]]  # {entry.described}\n{to_toml({'shards': entry.name})}{weight}"
    return lines + (_CAPTIONED if entry.texts.captions else _LABELLED)


def _sets(validation: list[ShardDirectory], steps: int) -> str:
    if not validation:
        return _NO_SETS.format(every_steps=max(1, steps // 10))
    metric = "image_to_text_recall@10" if any(entry.texts.captions for entry in validation) else "accuracy"
    text = _SETTINGS.format(every_steps=max(1, steps // 10), metric=metric)
    return text + "".join(
        f"\n[[validation.sets]]  # {entry.described}\n{to_toml({'shards': entry.name})}" for entry in validation
    )


_HEAD = """\
# A recipe contains everything that determines what a run learns. Train with it:
#   wordsight train {title}.toml --data {data} --out runs/{title}
# Every key is described in the reference; `wordsight train ... --set KEY=VALUE` changes one for a single run.
batch_size = {batch_size}  # pairs per step; the loss compares each image with all texts of the batch
ema_decay = 0.99  # the averaged weights are evaluated and saved
checkpoint_every_steps = 100  # a run that is killed continues from here

# residual-tiny and residual-small are fast on CPUs; vit-small is a transformer; ViT-B-32 is a published size, for GPUs.
# Ignored if the run starts from a model: --from MODEL
model = "residual-small"

[about]
{title_line}

[schedule]
steps = {steps}  # {epochs} times through the data
warmup_share = 0.05

[optimizer]
learning_rate = 3e-3  # 10 to 100 times smaller if the run starts from a model
weight_decay = 1.0
matrices = "muon"  # faster than "adamw" for small models

[loss]
mask_equal_texts = true  # images may share a text, as those of one label do
caption_token_weight = 0.5  # a second task that helps small models

[augmentation]
scale = [0.4, 1.0]  # crops of 40 to 100 % of an image; more for little data
flip = true  # false if left and right matter, as for writing
"""

_CAPTIONED = """\
# leave out words of captions that are seen often, so that they are not memorised:
# word_dropout = 0.3
"""

_LABELLED = """\
label_templates = ["a photo of a {}.", "a photo of the {}.", "a {}.", "{}"]
"""

_VALIDATION = """
[validation]
"""

_SETTINGS = """\
every_steps = {every_steps}
# DATASET/METRIC is the score of one set; "auto" is image_to_text_recall@10 if there are captions, otherwise accuracy
selection_metric = "{metric}"
max_unreadable_share = 0.1  # more unreadable images than these are an error
"""

_NO_SETS = """\
# Nothing is measured, so the last model is kept. To measure, keep some images for it:
#   wordsight shards SOURCE OUT --split 0.9/0.1
every_steps = {every_steps}
# selection_metric = "auto"
# [[validation.sets]]
# shards = "val"
"""
