"""Changes to the model from which training starts: the options `--set model...` and `--set preprocessing...`."""

from collections.abc import Sequence

import msgspec

from wordsight.config import Config, decode, differing_keys, plain, set_key
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, build_empty, resize_image_tower

_SIZE_KEY = "model.image.image_size_px"


class _ChangedParts(Config, frozen=True):
    """The parts of a card that `--set` can address."""

    model: ModelConfig
    preprocessing: Preprocessing


def change_start(start: DualEncoder, changes: Sequence[str]) -> tuple[DualEncoder, tuple[str, ...]]:
    """Apply the changes that concern the start model, whose architecture and preprocessing replace the recipe's.

    Preprocessing can be changed freely. Of the architecture only the image size can be changed, because all other keys
    contradict the weights; the positional embedding is interpolated, and `preprocessing.size_px` follows.

    Args:
        start: the model of `--from`; not modified.
        changes: assignments as for `--set`.

    Returns:
        The model to start from, and the changes that concern other keys of the recipe.

    Raises:
        ConfigError: a change of another key of the model, or an invalid one.
    """
    tables = [change.partition("=")[0].strip().partition(".")[0] for change in changes]
    own = [change for change, table in zip(changes, tables, strict=True) if table in ("model", "preprocessing")]
    rest = tuple(change for change in changes if change not in own)
    if not own:
        return start, rest
    card = start.card
    parts = {"model": plain(card.model), "preprocessing": plain(card.preprocessing)}
    for change in own:
        if change.partition("=")[0].strip() == "model":
            raise _fixed(change)
        parts = set_key(parts, change)
    changed = decode(parts, _ChangedParts, f"--set {' '.join(own)}")
    for key in differing_keys(plain(card.model), plain(changed.model), "model"):
        if key != _SIZE_KEY:
            raise _fixed(key)
    size_px, preprocessing = changed.model.image.image_size_px, changed.preprocessing
    if preprocessing.size_px == card.preprocessing.size_px:
        preprocessing = msgspec.structs.replace(preprocessing, size_px=size_px)
    tensors, config = resize_image_tower(start.model.state_dict(), card.model, size_px)
    card = msgspec.structs.replace(card, model=config, preprocessing=preprocessing, weights_sha256="")
    model = build_empty(config)
    model.load_state_dict(tensors, assign=True)
    return DualEncoder(model.eval(), card, start.policy, start.files, start.batch_size), rest


def _fixed(key: str) -> ConfigError:
    return ConfigError(
        f"--set {key}: the weights of --from determine the architecture; of the keys of model, only {_SIZE_KEY} can be "
        "changed"
    )
