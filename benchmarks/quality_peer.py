"""The peer of `train_quality`: open_clip's model and loss, trained as its own trainer does.

Model, tokenizer and loss are open_clip's. The choices of its trainer are reimplemented: AdamW with betas 0.9 and 0.98,
epsilon 1e-6, weight decay 0.2 except for gains, biases and the scale; linear warm-up and cosine decay; scale clamped to
100. So is its augmentation, which needs torchvision: random resized crop, scale 0.9 to 1, bicubic. The schedule is a
function of the elapsed time, so that the whole time is used.
"""

import hashlib
import io
import json
import math
import random
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tests.parity.peers import open_clip

from wordsight.training import load_recipe
from wordsight.training.recipe import recipe_path

PEER_SIZE_PX = 64
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
LABEL_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.", "a small photo of a {}.")
RECIPE = load_recipe("flickr8k")
SHARES = dict(zip(("captions", "labels", "drawings"), (source.weight for source in RECIPE.sources), strict=True))
TEMPLATES = dict(zip(SHARES, (source.templates or ("{}",) for source in RECIPE.sources), strict=True))
NAMES = recipe_path("flickr8k").with_name("tiny-imagenet-names.json")


@dataclass(frozen=True)
class Pair:
    """The bytes of an image file with its texts."""

    key: str
    image: bytes
    texts: tuple[str, ...]


def _members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {
            member.name.partition("/")[2]: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar
            if member.isfile()
        }


def _rows(files: dict[str, bytes], name: str) -> list[dict]:
    return [json.loads(line) for line in files[name].decode().splitlines()]


def _select_by_hash(names: list[str], count: int) -> set[str]:
    return set(sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())[:count])


def captioned(archive: Path) -> list[Pair]:
    """The images of an archive with their five captions."""
    files = _members(archive)
    return [Pair(row["file"], files[row["file"]], tuple(row["captions"])) for row in _rows(files, "captions.jsonl")]


def labelled(archive: Path) -> list[Pair]:
    """The images of an archive with the name of their class."""
    files = _members(archive)
    names = json.loads(files["classes.json"])
    return [Pair(row["file"], files[row["file"]], (names[row["label"]],)) for row in _rows(files, "labels.jsonl")]


def selection_keys(pairs: list[Pair]) -> set[str]:
    """The keys of the 500 images of flickr8k-train on which recipes are selected: the first by hash of their name."""
    return _select_by_hash([pair.key for pair in pairs], 500)


def training_pairs(data: Path, selection: bool) -> dict[str, list[Pair]]:
    """The three sources; with `selection`, without the 500 images and 20 classes on which recipes are selected."""
    captions = captioned(data / "flickr8k-train.tar")
    left_out = selection_keys(captions) if selection else set()
    files = _members(data / "tiny-imagenet-train.tar")
    names = json.loads(NAMES.read_text())
    classes_left_out = _select_by_hash(list(names), 20) if selection else set()
    labels = [
        Pair(row["file"], files[row["file"]], tuple(names[row["wnid"]]))
        for row in _rows(files, "labels.jsonl")
        if row["wnid"] not in classes_left_out
    ]
    drawings = []
    for archive in sorted(data.glob("illus-*.tar")):
        files = _members(archive)
        drawings += [Pair(row["file"], files[row["file"]], tuple(row["texts"])) for row in _rows(files, "pairs.jsonl")]
    return {
        "captions": [pair for pair in captions if pair.key not in left_out],
        "labels": labels,
        "drawings": drawings,
    }


def _random_resized_crop(image: Image.Image, generator: random.Random) -> Image.Image:
    width, height = image.size
    for _ in range(10):
        area = width * height * generator.uniform(0.9, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = generator.randint(0, width - w), generator.randint(0, height - h)
            return image.crop((left, top, left + w, top + h)).resize((PEER_SIZE_PX, PEER_SIZE_PX), Image.BICUBIC)
    return image.resize((PEER_SIZE_PX, PEER_SIZE_PX), Image.BICUBIC)


def _as_batch(images: list[Image.Image]) -> torch.Tensor:
    array = np.stack([np.asarray(image, dtype=np.uint8) for image in images])
    return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def _batches(sources: dict[str, list[Pair]], batch: int, generator: random.Random):
    """Yield batches without end, with a fixed share of each source; a source is reshuffled after each pass over it."""
    counts = {name: round(batch * share) for name, share in SHARES.items()}
    counts["captions"] += batch - sum(counts.values())
    queues: dict[str, list[Pair]] = {name: [] for name in sources}

    def next_pair(name: str) -> Pair:
        if not queues[name]:
            queues[name] = generator.sample(sources[name], len(sources[name]))
        return queues[name].pop()

    while True:
        images, texts = [], []
        for name, count in counts.items():
            for _ in range(count):
                pair = next_pair(name)
                text = generator.choice(pair.texts)
                texts.append(generator.choice(TEMPLATES[name]).replace("{}", text))
                images.append(_random_resized_crop(Image.open(io.BytesIO(pair.image)).convert("RGB"), generator))
        yield _as_batch(images), texts


def peer_model() -> torch.nn.Module:
    """open_clip's CLIP of about the recipe's size: a ResNet of 73 million multiply-adds; text width 192, 2 layers."""
    open_clip()
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=(1, 1, 1, 1), width=32, head_width=64, image_size=PEER_SIZE_PX)
    return CLIP(256, vision, CLIPTextCfg(context_length=77, vocab_size=49408, width=192, heads=4, layers=2))


def train_peer(
    sources: dict[str, list[Pair]], rate: float, batch: int, core_minutes: float, seed: int = 0
) -> tuple[torch.nn.Module, dict]:
    """Train for a number of core minutes (CPU time of this process, data loading included).

    Returns:
        The model in evaluation mode, and a log as plain data.
    """
    library = open_clip()
    from open_clip.loss import ClipLoss

    torch.manual_seed(seed)
    model = peer_model()
    tokenize = library.get_tokenizer("ViT-B-32")
    without_decay = [p for n, p in model.named_parameters() if p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n)]
    groups = [{"params": without_decay, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6)
    compute_loss = ClipLoss()
    batches = _batches(sources, batch, random.Random(seed))
    begin, wall, step, losses = time.process_time(), time.time(), 0, []
    while (spent := (time.process_time() - begin) / 60) < core_minutes:
        share = spent / core_minutes
        learning_rate = rate * min(share / 0.05, 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        pixels, texts = next(batches)
        optimizer.zero_grad()
        image, text, scale = model(pixels, tokenize(texts))
        loss = compute_loss(image, text, scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.detach().item())
        step += 1
        if step % 20 == 0:
            print(f"step {step}, {share:.0%}, loss {sum(losses[-20:]) / 20:.3f}", flush=True)
    log = {"rate": rate, "batch": batch, "core_minutes": core_minutes, "steps": step, "losses": losses[::20]}
    return model.eval(), log | {"wall_minutes": (time.time() - wall) / 60, "pairs_seen": step * batch}


def _evaluation_image(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    shorter = min(image.size)
    image = image.resize(tuple(int(PEER_SIZE_PX * side / shorter) for side in image.size), Image.BICUBIC)
    left, top = (round((side - PEER_SIZE_PX) / 2.0) for side in image.size)
    return image.crop((left, top, left + PEER_SIZE_PX, top + PEER_SIZE_PX))


@torch.inference_mode()
def peer_images(model: torch.nn.Module, images: list[bytes]) -> np.ndarray:
    """Embed images with open_clip's model; unit length."""
    parts = [
        model.encode_image(_as_batch([_evaluation_image(p) for p in images[i : i + 100]]), normalize=True)
        for i in range(0, len(images), 100)
    ]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def peer_texts(model: torch.nn.Module, texts: list[str]) -> np.ndarray:
    """Embed texts with open_clip's model and tokenizer; unit length."""
    tokenize = open_clip().get_tokenizer("ViT-B-32")
    parts = [model.encode_text(tokenize(texts[i : i + 100]), normalize=True) for i in range(0, len(texts), 100)]
    return torch.cat(parts).numpy()
