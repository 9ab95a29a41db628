"""Inference with equal weights: ViT-B/32 with QuickGELU, random weights, two threads, sides in turn, medians.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.inference [--only texts,classifier] [--json FILE]

Peers: open_clip's CLIP and transformers' CLIPModel (sdpa). All sides have the same weights and the same inputs, and what
they answer is compared before anything is timed.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.table import Row, finish, parser
from tests.parity.peers import open_clip, transformers

import wordsight as ws
from wordsight.image import Preprocessing
from wordsight.infer.prefix_tree import encode_texts
from wordsight.model import PUBLISHED, CLIP, build
from wordsight.text import tokenize
from wordsight.weights import Card, TokenizerConfig
from wordsight.weights.convert import convert
from wordsight.weights.found import Found

THREADS = 2
ROUNDS = 9
NAME = "ViT-B-32"

Side = Callable[[], Any]


def race(sides: dict[str, Side], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each side; in every round they take turns, from another one on."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


def random_clip() -> ws.DualEncoder:
    """Random weights, as the paper starts training, gains and biases drawn too."""
    generator = torch.Generator().manual_seed(0)
    model = build(PUBLISHED[NAME], generator).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) / 20)
    card = Card(
        name=NAME, model=model.config, preprocessing=Preprocessing(size_px=224), tokenizer=TokenizerConfig(context_length=77)
    )
    return ws.DualEncoder(model, card)


def open_clip_of(model: CLIP) -> Any:
    """open_clip's model with the same weights."""
    peer = open_clip().create_model(f"{NAME}-quickgelu", pretrained=None)
    peer.load_state_dict(model.state_dict())
    return peer.eval()


def transformers_of(clip: ws.DualEncoder) -> Any:
    """transformers' model with the same weights."""
    with tempfile.TemporaryDirectory() as folder:
        found = Found(clip.model.state_dict(), clip.card, {})
        convert(found, Path(folder) / "hf", "hf")
        return transformers().CLIPModel.from_pretrained(Path(folder) / "hf", attn_implementation="sdpa").eval()


def prompts(count: int, tokens: range, seed: int = 7) -> list[str]:
    """Different texts of so many tokens, begin and end counted."""
    words = "red blue dog cat house tree car boat man woman child snow field water bird horse door street light".split()
    generator = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(generator.choice(words, int(generator.integers(tokens.start, tokens.stop)) - 2))] = None
    return list(texts)


def largest_difference(one: Any, other: Any) -> float:
    """Of a component of the unit vectors."""
    units = [np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other)]
    return float(np.abs(units[0] - units[1]).max())


@torch.inference_mode()
def texts(clip: ws.DualEncoder, peers: dict[str, Any]) -> list[Row]:
    """256 prompts of 8 to 14 tokens, no two equal."""
    given = prompts(256, range(8, 15))
    ids = torch.from_numpy(tokenize(given))
    padded = ids[:, : int(ids.argmax(1).max()) + 1].long()
    mask = (torch.arange(padded.shape[1]) <= padded.argmax(1)[:, None]).long()
    model, open_clip_model, hugging_face = clip.model, peers["open_clip"], peers["transformers"]
    sides = {
        "apart": lambda: encode_texts(model, ids, shares=False),
        "shared": lambda: clip.embed_texts(given),
        "transformers": lambda: hugging_face.get_text_features(input_ids=padded, attention_mask=mask),
        "open_clip": lambda: open_clip_model.encode_text(ids),
    }
    expected = sides["open_clip"]()
    for name in ("apart", "shared"):
        assert largest_difference(sides[name](), expected) < 1e-5, name
    rates = {name: len(given) / seconds for name, seconds in race(sides).items()}
    what = "256 prompts of 8 to 14 tokens (texts/s)"
    return [
        Row.compare(f"{what}, nothing shared, over transformers", rates["apart"], rates["transformers"], 1.1),
        Row.compare(f"{what}, nothing shared, over open_clip", rates["apart"], rates["open_clip"], 7.5),
        Row.compare(f"{what}, beginnings shared, tokenizing included, over open_clip", rates["shared"], rates["open_clip"]),
    ]


PARTS: dict[str, Callable[[ws.DualEncoder, dict[str, Any]], list[Row]]] = {"texts": texts}


def main() -> None:
    """Run the parts and print the table."""
    command = parser(__doc__)
    command.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    options = command.parse_args()
    torch.set_num_threads(THREADS)
    clip = random_clip()
    peers = {"open_clip": open_clip_of(clip.model), "transformers": transformers_of(clip)}
    finish([row for part in options.only.split(",") for row in PARTS[part](clip, peers)], options.json)


if __name__ == "__main__":
    main()
