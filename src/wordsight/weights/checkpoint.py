"""What a format's reader finds in files of weights: tensors under our names, and all that is said of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.model import CLIP
from wordsight.weights.card import Card
from wordsight.weights.shapes import build_bounded, differences, shapes_of

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Checkpoint:
    """One model as it lies in files, before it is built.

    Attributes:
        tensors: by the names of `wordsight.model.CLIP`'s state dict, in the precision of the file.
        card: what they are; architecture, activation, preprocessing and tokenizer agree with one another.
        files: the tokenizer's own files by name, empty for the published CLIP tokenizer, which we have.
    """

    tensors: Mapping[str, Tensor]
    card: Card
    files: Mapping[str, bytes] = field(default_factory=dict)

    def build(self, where: str) -> CLIP:
        """The model, evaluating, on the CPU, in the precision of the tensors, which it holds without a copy.

        Args:
            where: the file, for errors.

        Raises:
            WeightsError: names, shapes or types are not those of the model that the card describes.
        """
        try:
            model = build_bounded(self.card.model, len(self.tensors))
        except WeightsError as error:
            raise WeightsError(f"{where}: {error}; fetch both again") from error
        self._check(model.state_dict(), where)
        model.load_state_dict(self.tensors, assign=True)
        return model.eval()

    def _check(self, expected: Mapping[str, Tensor], where: str) -> None:
        wrong = differences(shapes_of(self.tensors), shapes_of(expected), "the card says")
        if wrong:
            raise WeightsError(f"{where}: not the model of its card: {wrong}; fetch both again")
        floats = {self.tensors[name].dtype for name, tensor in expected.items() if tensor.is_floating_point()}
        if len(floats) != 1 or not floats <= set(FLOATS):
            kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in floats))
            raise WeightsError(
                f"{where}: the weights are {kinds}; expected one of float32, float16, bfloat16 throughout"
            )
        for name, tensor in expected.items():
            if not tensor.is_floating_point() and self.tensors[name].dtype != tensor.dtype:
                found = self.tensors[name].dtype
                raise WeightsError(f"{where}: {name} is {found}, expected {tensor.dtype}; save it again")
