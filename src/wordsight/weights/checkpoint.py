"""A checkpoint in memory, as the reader of each format returns it: tensors under wordsight's names, and their card."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.model import CLIP
from wordsight.progress import phase
from wordsight.weights.card import Card
from wordsight.weights.shapes import build_bounded, differences, shapes_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Floating-point types of supported weights."""


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint's files, from which its model can be built.

    Attributes:
        tensors: the state dict under the names of `wordsight.model.CLIP`, in the precision of the file.
        card: describes the tensors; its architecture, preprocessing and tokenizer are consistent.
        files: bytes of the tokenizer's file under its name; empty for the published CLIP tokenizer, which is part of
            this package.
    """

    tensors: Mapping[str, Tensor]
    card: Card
    files: Mapping[str, bytes] = field(default_factory=dict)

    @phase("building the model")
    def build(self, where: str) -> CLIP:
        """Build the model in evaluation mode, on the CPU, in the precision of the tensors.

        The model shares memory with `tensors`; nothing is copied.

        Args:
            where: the file, named in errors.

        Raises:
            WeightsError: names, shapes or types differ from those of the model that the card describes, or the logit
                scale or bias is not a finite number. Other weights are not examined, which would read all of them.
        """
        try:
            model = build_bounded(self.card.model, len(self.tensors))
        except WeightsError as error:
            raise WeightsError(f"{where}: {error}; download the weights and their card again") from error
        self._check(model.state_dict(), where)
        model.load_state_dict(self.tensors, assign=True)
        for name in ("logit_scale", "logit_bias"):
            value = getattr(model, name, None)
            if value is not None and not torch.isfinite(value.float()):
                raise WeightsError(
                    f"{where}: {name} is {value.item()}: the weights are damaged, or their training diverged"
                )
        if not torch.isfinite(model.scale.float()):
            raise WeightsError(f"{where}: logit_scale is {model.logit_scale.item():g}, whose exponential is infinite")
        return model.eval()

    def _check(self, expected: Mapping[str, Tensor], where: str) -> None:
        mismatch = differences(shapes_of(self.tensors), shapes_of(expected), "the card says")
        if mismatch:
            raise WeightsError(
                f"{where}: not the model that its card describes: {mismatch}; download the weights and their card again"
            )
        floats = {self.tensors[name].dtype for name, tensor in expected.items() if tensor.is_floating_point()}
        if len(floats) != 1 or not floats <= set(FLOATS):
            types = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in floats))
            raise WeightsError(
                f"{where}: the weights are {types}; expected float32, float16, bfloat16 or float64: save them as floats"
            )
        for name, tensor in expected.items():
            dtype = self.tensors[name].dtype
            if not tensor.is_floating_point() and dtype != tensor.dtype:
                raise WeightsError(f"{where}: {name} is {dtype}, expected {tensor.dtype}; save the weights again")
