"""Changes to the plain data of a recipe, as the option `--set` makes them. This module does not load torch."""

from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from wordsight.config import plain, set_key
from wordsight.model import PRESETS, ModelConfig

_KIND = "model.image.kind"
_TOWERS = {tower.__struct_config__.tag: tower for tower in get_args(get_type_hints(ModelConfig)["image"])}

_SETS = (("sources",), ("validation", "sets"), ("validation", "retrieval"), ("validation", "labels"))
"""Lists of tables whose only required key is `shards`."""


_ALTERNATIVES = {
    "schedule.warmup_steps": "schedule.warmup_share",
    "schedule.warmup_share": "schedule.warmup_steps",
}
"""Pairs of keys of which a recipe can have only one: a change of one drops the other."""


def apply_changes(data: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return the plain data of a recipe with changes applied.

    A name of shards, or a list of names, may stand for the tables of `sources` and of validation sets. If the kind of
    the image tower changes, the keys of the former kind are dropped, whatever the order of the changes. A warm-up in
    steps replaces one that is a share, and the other way round. If keys of a model change that is named by a preset,
    the preset is written out first.

    Args:
        data: as returned by `read_toml`; it is not modified.
        changes: `dotted.key=value`.

    Raises:
        ConfigError: a change is not an assignment, or does not address a table.
    """
    for change in sorted(changes, key=lambda change: _key(change) != _KIND):  # the kind first; otherwise in order
        preset_name = data.get("model")
        if _key(change).startswith("model.") and isinstance(preset_name, str) and preset_name in PRESETS:
            data = data | {"model": plain(PRESETS[preset_name])}
        changed = set_key(data, change)
        if _key(change) in _ALTERNATIVES and _ALTERNATIVES[_key(change)] not in map(_key, changes):
            changed["schedule"] = _without(changed["schedule"], _ALTERNATIVES[_key(change)].rpartition(".")[2])
        if _key(change) == _KIND:
            changed["model"]["image"] = _without_former_keys(_image(data), changed["model"]["image"])
        data = changed
        for names in _SETS:
            data = _with_tables(data, names)
    return data


def _key(change: str) -> str:
    return ".".join(name.strip() for name in change.partition("=")[0].split("."))


def _image(data: dict[str, Any]) -> dict[str, Any]:
    model = data.get("model", {})
    image = model.get("image", {}) if isinstance(model, dict) else {}
    return image if isinstance(image, dict) else {}


def _without_former_keys(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Drop the keys of the former kind of image tower, except for those that the new kind has with the same type."""
    kinds = [_TOWERS.get(kind) if isinstance(kind, str) else None for kind in (before.get("kind"), after["kind"])]
    former, new = (get_type_hints(kind) if kind else {} for kind in kinds)
    if not new or kinds[0] == kinds[1]:
        return after
    return {key: value for key, value in after.items() if key not in former or former[key] == new.get(key)}


def _without(table: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in table.items() if name != key}


def _with_tables(data: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Replace names of shards by tables: `"a"` becomes `[{shards = "a"}]`."""
    name, *rest = names
    value = data.get(name)
    if rest:
        return data | {name: _with_tables(value, rest)} if isinstance(value, dict) else data
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list):
        return data
    return data | {name: [{"shards": entry} if isinstance(entry, str) else entry for entry in entries]}
