"""The sides of the inference benchmark: models with equal weights, their inputs, and alternating timing.

Every part of `benchmarks.inference` receives one `Sides`. A side is built on first use, so that a run with `--only`
does not build what it does not time.
"""

import io
import random
import statistics
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tests.parity.peers import open_clip, transformers

import wordsight as ws
from wordsight.cache import cache_directory
from wordsight.image import Preprocessing
from wordsight.model import PUBLISHED, ModelConfig, build
from wordsight.weights import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert

THREADS = 2
ROUNDS = 9
CLOSE_ROUNDS = 101  # two sides that differ by 1 %: the median of fewer rounds scatters by more than the target allows
IMAGE_ROUNDS = 27
PAUSE_S = 0.1  # ONNX Runtime's threads keep spinning after a run and would take half of the next side's CPU time
NAME = "ViT-B-32"
NUM_PROMPTS = 256
NUM_LABELS = 1000
PEER_NUM_LABELS = 20  # the peer's time for all labels is extrapolated from these

Side = Callable[[], Any]


def race(sides: dict[str, Side], rounds: int = ROUNDS, pause_s: float = 0) -> dict[str, float]:
    """Return the median time of each side in seconds.

    The order within a round is random, so that no side always runs after the same other side.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            time.sleep(pause_s)
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass
class Sides:
    """One set of weights in every implementation; a side is built on first use.

    Attributes:
        clip: our model on torch.
        data: the directory of the archives of real data.
        work: a temporary directory for converted models and image files.
        trained: a trained run, for the parts that need trained weights; without one they have no rows.
        quick: whether to measure fewer rounds and smaller inputs.
    """

    clip: ws.DualEncoder
    data: Path
    work: Path
    trained: Path | None
    quick: bool = False

    @property
    def rounds(self) -> int:
        """Rounds of an ordinary comparison."""
        return 3 if self.quick else ROUNDS

    @property
    def image_rounds(self) -> int:
        """Rounds of a comparison of the image towers."""
        return 4 if self.quick else IMAGE_ROUNDS

    @property
    def close_rounds(self) -> int:
        """Rounds of a comparison between two sides that are about equally fast."""
        return 25 if self.quick else CLOSE_ROUNDS

    @property
    def num_labels(self) -> int:
        """Labels of the classifier."""
        return 64 if self.quick else NUM_LABELS

    @property
    def peer_num_labels(self) -> int:
        """Labels of the part of the classifier that open_clip builds."""
        return 4 if self.quick else PEER_NUM_LABELS

    @property
    def num_prompts(self) -> int:
        """Prompts that are encoded together."""
        return 64 if self.quick else NUM_PROMPTS

    @cached_property
    def open_clip(self) -> Any:
        """open_clip's model."""
        peer = open_clip().create_model(f"{NAME}-quickgelu", pretrained=None)
        peer.load_state_dict(self.clip.model.state_dict())
        return peer.eval()

    @cached_property
    def transformers(self) -> Any:
        """transformers' model."""
        directory = self.converted("hf")
        return transformers().CLIPModel.from_pretrained(directory, attn_implementation="sdpa").eval()

    @cached_property
    def onnx(self) -> ws.DualEncoder:
        """Our model on ONNX Runtime."""
        return ws.load(self.converted("wordsight"), runtime="onnx")

    @cached_property
    def int8(self) -> ws.DualEncoder:
        """Our model on ONNX Runtime with 8-bit products."""
        return ws.load(self.converted("wordsight"), runtime="int8")

    @cached_property
    def auto(self) -> ws.DualEncoder:
        """Our model on the runtime that `auto` selects."""
        return ws.load(self.converted("wordsight"), runtime="auto")

    @cached_property
    def session(self) -> Any:
        """A bare ONNX Runtime session of our exported image tower."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        assert self.onnx  # exports into the cache
        (path,) = cache_directory("onnx").glob("*/image.onnx")
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def converted(self, target: str) -> Path:
        """The directory of the model in another format, written on first use."""
        directory = self.work / target
        if not directory.exists():
            convert(Checkpoint(self.clip.model.state_dict(), self.clip.card, {}), directory, target)
        return directory


def random_clip(name: str = NAME) -> ws.DualEncoder:
    """A published architecture with random weights; gains, biases and running statistics are random too."""
    generator = torch.Generator().manual_seed(0)
    model = build(PUBLISHED[name], generator).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) / 20)
    preprocessing, tokenizer = Preprocessing(size_px=224), TokenizerConfig(context_length=77)
    return ws.DualEncoder(model, Card(name, model=model.config, preprocessing=preprocessing, tokenizer=tokenizer))


def untrained_clip(config: ModelConfig, name: str) -> ws.DualEncoder:
    """A model of the given architecture with the initial weights of a training run."""
    model = build(config, torch.Generator().manual_seed(0)).eval()
    preprocessing = Preprocessing(size_px=config.image.image_size_px)
    tokenizer = TokenizerConfig(context_length=config.text.context_length)
    return ws.DualEncoder(model, Card(name, model=config, preprocessing=preprocessing, tokenizer=tokenizer))


PROMPT_WORDS = (
    "red blue dog cat house tree car boat man woman child snow field water bird horse door street light".split()
)


def prompts(count: int, num_tokens: range, seed: int = 7) -> list[str]:
    """Distinct texts whose number of tokens, begin and end included, is in `num_tokens`."""
    generator = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        num_words = int(generator.integers(num_tokens.start, num_tokens.stop)) - 2
        texts[" ".join(generator.choice(PROMPT_WORDS, num_words))] = None
    return list(texts)


def labels(count: int) -> list[str]:
    """Distinct class names of one to three words, as in published label sets."""
    first = ["great", "common", "red", "black", "white", "small", "northern", "spotted", "golden", "wild"]
    second = ["snow", "water", "house", "desk", "garden", "mountain", "river", "forest", "sea", "grass"]
    third = ["cat", "dog", "spider", "boat", "car", "lamp", "shark", "fox", "clock", "chair"]
    names = [*third, *(f"{a} {c}" for a in second for c in third)]
    names += [f"{a} {b} {c}" for a in first for b in second for c in third]
    return names[:count]


def max_difference(one: Any, other: Any) -> float:
    """The largest absolute difference of a component of the normalised embeddings."""
    unit_one, unit_other = (np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    return float(np.abs(unit_one - unit_other).max())


def photo_files(data: Path, count: int) -> list[bytes]:
    """Photographs of flickr8k-val enlarged to 1024x768, as JPEG files (4:2:0, quality 90)."""
    contents = []
    with tarfile.open(data / "flickr8k-val.tar") as archive:
        for member in archive:
            if member.name.endswith(".jpg") and (file := archive.extractfile(member)):
                image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((1024, 768), Image.Resampling.BICUBIC)
                buffer = io.BytesIO()
                image.save(buffer, "JPEG", quality=90, subsampling=2)
                contents.append(buffer.getvalue())
                if len(contents) == count:
                    break
    return contents
