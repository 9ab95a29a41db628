"""Find the state dict of a CLIP model in the file that a training program saved.

Programs nest it in dictionaries (`state_dict`, `model_state_dict`, `ema`), add the names of wrappers to those of its
tensors (`module.`, `_orig_mod.`), and make it an attribute of a larger module (`model.`, `clip.`). Known keys are tried
first; otherwise the model is recognised by its logit scale, which no other part of a checkpoint has.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.weights.containers.pickle import Record
from wordsight.weights.shapes import first_names

PLAIN_KEYS = ("state_dict", "model_state_dict", "model", "module", "model_state", "net", "network", "params", "weights")
"""Keys under which training checkpoints store their weights."""

AVERAGED_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "model_ema_state_dict")
"""Keys under which training checkpoints store averaged (EMA) weights."""

_MAX_NESTING = 4
_WRAPPERS = frozenset(
    ["module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"]
)
"""Attributes under which DDP, torch.compile, Lightning, FSDP and activation checkpointing store the wrapped module."""

_SCALE = "logit_scale"
_IMAGE_TOWER = re.compile(r"(?:^|\.)(?=(?:visual|vision_model)\.)")
_MAX_MODELS = 2
_AVERAGED = re.compile(r"(^|[_.])(ema|swa|averaged?|avg|shadow)([_.]|$)")


class StateDict(NamedTuple):
    """The weights of a model.

    Attributes:
        tensors: by name, without the names of wrappers.
        is_averaged: whether they are known to be averaged (EMA) weights.
    """

    tensors: dict[str, Tensor]
    is_averaged: bool


def find_state_dict(value: Any, averaged: bool | None, where: str) -> StateDict:
    """Find the weights of a model in what a training program saved.

    Args:
        value: content of the file.
        averaged: whether to take the averaged (EMA) weights; None takes whichever there are.
        where: the file, named in errors.

    Raises:
        WeightsError: there are no weights, only the other ones, several models, or both kinds and `averaged` is None.
    """
    is_averaged = False
    for _ in range(_MAX_NESTING):
        candidates = _nested(value)
        if not candidates:
            break
        key = _choose(candidates, averaged, where)
        is_averaged = is_averaged or candidates[key]
        value = value[key]
    tensors = _without_wrappers(dict(_checked(value, where)), where)
    is_averaged = is_averaged or any(name.split(".")[-1] == "n_averaged" for name in tensors)
    if prefixes := _prefixes(tensors):
        prefix = _choose({each: bool(_AVERAGED.search(each)) for each in prefixes}, averaged, where)
        is_averaged = is_averaged or bool(_AVERAGED.search(prefix))
        others = tuple(each for each in prefixes if len(each) > len(prefix))
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix) and not (others and name.startswith(others))
        }
    if averaged is not None:
        require_averaged(is_averaged, averaged, where)
    return StateDict(tensors, is_averaged)


def require_averaged(is_averaged: bool, averaged: bool, where: str) -> None:
    """Refuse plain weights if averaged ones are requested, and the reverse.

    Raises:
        WeightsError: the message names the option for the weights that there are.
    """
    if averaged != is_averaged:
        requested, present = ("averaged", "plain") if averaged else ("plain", "averaged")
        raise WeightsError(f"{where}: has no {requested} weights, only {present} ones; use --{present}")


def _nested(value: Any) -> dict[str, bool]:
    """The keys under which a dictionary may hold weights, each with whether these are averaged."""
    if not isinstance(value, dict):
        return {}
    parts = {key: part for key, part in value.items() if isinstance(key, str) and isinstance(part, dict) and part}
    plain = next((key for key in PLAIN_KEYS if key in parts), None)
    ema = next((key for key in AVERAGED_KEYS if key in parts), None)
    known = {key: key == ema for key in (plain, ema) if key is not None}
    if known:
        return known
    return {key: bool(_AVERAGED.search(key)) for key, part in parts.items() if _contains_model(part)}


def _contains_model(value: Any, depth: int = 1) -> bool:
    """Whether a dictionary has a logit scale, or contains one that has."""
    if not isinstance(value, dict) or depth > _MAX_NESTING:
        return False
    if any(isinstance(key, str) and key.endswith(_SCALE) and isinstance(part, Tensor) for key, part in value.items()):
        return True
    return any(_contains_model(value.get(key), depth + 1) for key in (*PLAIN_KEYS, *AVERAGED_KEYS))


def _choose(candidates: Mapping[str, bool], averaged: bool | None, where: str) -> str:
    """The name of the averaged or of the plain one of several candidates."""
    if averaged is None and len(set(candidates.values())) > 1:
        raise WeightsError(f"{where}: has both plain and averaged weights; choose with --averaged or --plain")
    matching = [key for key, is_averaged in candidates.items() if is_averaged == averaged] or list(candidates)
    if len(matching) > 1 or len(candidates) > _MAX_MODELS:
        raise WeightsError(
            f"{where}: has several models, {first_names(each or 'one without a prefix' for each in candidates)}; "
            "save the state dict of one alone"
        )
    return matching[0]


def _checked(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The items of a state dict; a dictionary that contains anything other than tensors is not one."""
    if isinstance(value, Record):
        raise WeightsError(
            f"{where}: contains an object of the class {first_names([value.class_name])}, but no state dict; save its "
            "state_dict() alone"
        )
    if not isinstance(value, dict) or not value:
        raise WeightsError(
            f"{where}: contains no state dict; expected tensors by name, possibly under the key 'state_dict'"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            shown = first_names([str(name)])
            raise WeightsError(f"{where}: contains no state dict: {shown} is not a tensor; save the state dict alone")
        if name.endswith("flat_param"):
            raise WeightsError(
                f"{where}: a part of a model that FSDP has divided; save a full state dict "
                "(StateDictType.FULL_STATE_DICT) on one rank"
            )
        yield name, tensor


def _without_wrappers(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Remove the names of wrappers from those of the tensors."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        if bare in renamed:
            raise WeightsError(f"{where}: two tensors are named {first_names([bare])}; save the state dict again")
        renamed[bare] = tensor
    return renamed


def _prefixes(names: Mapping[str, Tensor]) -> Sequence[str]:
    """What precedes the names of each model: that of its logit scale, if there is an image tower next to it."""
    with_tower = {name[: match.end()] for name in names if (match := _IMAGE_TOWER.search(name))}
    prefixes = [name.removesuffix(_SCALE) for name in names if name == _SCALE or name.endswith(f".{_SCALE}")]
    return [prefix for prefix in prefixes if prefix in with_tower]
