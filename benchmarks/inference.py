"""Inference with equal weights: ViT-B/32 with QuickGELU, random weights, two threads, sides in turn, medians.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.inference [--only texts,classifier] [--json FILE]

Peers: open_clip, transformers (sdpa), and a bare ONNX Runtime session of our own export. All sides have
the same weights and inputs, and what they answer is compared before anything is timed.
"""

import io
import os
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from benchmarks.table import Row, finish, parser
from numpy.typing import NDArray
from PIL import Image
from tests.parity.peers import open_clip, transformers

import wordsight as ws
from wordsight.encoder.prefix_tree import encode_texts
from wordsight.encoder.prepacked import prepack_text_tower
from wordsight.image import Preprocessing, load_pixels, normalise, preprocess
from wordsight.model import PUBLISHED, build
from wordsight.parallel import ordered_map
from wordsight.text import tokenize
from wordsight.training import load_recipe
from wordsight.weights import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert

THREADS = 2
ROUNDS = 9
CLOSE_ROUNDS = 101  # two sides a hundredth apart: medians of fewer rounds scatter by more than the bound allows
PAUSE_S = 0.1  # ONNX Runtime's threads spin on after a run and would take half of the next side's processors
NAME = "ViT-B-32"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LABELS, SAMPLE = 1000, 20

Side = Callable[[], Any]


def race(sides: dict[str, Side], rounds: int = ROUNDS, pause_s: float = 0) -> dict[str, float]:
    """Median seconds of each side; every round has its own order, so that none always follows the same other."""
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for side in sides.values():
        side()
    draw = random.Random(0)
    for _ in range(rounds):
        for name in draw.sample(names, len(names)):
            time.sleep(pause_s)
            begin = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass
class Sides:
    """The same weights everywhere; a side is made when it is first asked for."""

    clip: ws.DualEncoder
    work: Path
    trained: Path | None

    @cached_property
    def open_clip(self) -> Any:
        peer = open_clip().create_model(f"{NAME}-quickgelu", pretrained=None)
        peer.load_state_dict(self.clip.model.state_dict())
        return peer.eval()

    @cached_property
    def transformers(self) -> Any:
        directory = self._converted("hf")
        return transformers().CLIPModel.from_pretrained(directory, attn_implementation="sdpa").eval()

    @cached_property
    def onnx(self) -> ws.DualEncoder:
        return ws.load(self._converted("onnx"))

    @cached_property
    def int8(self) -> ws.DualEncoder:
        return ws.load(self._converted("onnx"), runtime="int8")

    @cached_property
    def auto(self) -> ws.DualEncoder:
        return ws.load(self._converted("wordsight"), runtime="auto")

    @cached_property
    def session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        path = self._converted("onnx") / "image.onnx"
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def _converted(self, target: str) -> Path:
        directory = self.work / target
        if not directory.exists():
            convert(Checkpoint(self.clip.model.state_dict(), self.clip.card, {}), directory, target)
        return directory


def random_clip(name: str = NAME) -> ws.DualEncoder:
    """First weights as published, gains, biases and statistics moved too."""
    generator = torch.Generator().manual_seed(0)
    model = build(PUBLISHED[name], generator).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim == 1:
                tensor.add_(torch.randn(tensor.shape, generator=generator) / 20)
    preprocessing, tokenizer = Preprocessing(size_px=224), TokenizerConfig(context_length=77)
    return ws.DualEncoder(model, Card(name, model=model.config, preprocessing=preprocessing, tokenizer=tokenizer))


def prompts(count: int, tokens: range, seed: int = 7) -> list[str]:
    """Different texts of so many tokens, begin and end counted."""
    words = [
        "red",
        "blue",
        "dog",
        "cat",
        "house",
        "tree",
        "car",
        "boat",
        "man",
        "woman",
        "child",
        "snow",
        "field",
        "water",
        "bird",
        "horse",
        "door",
        "street",
        "light",
    ]
    generator = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(generator.choice(words, int(generator.integers(tokens.start, tokens.stop)) - 2))] = None
    return list(texts)


def labels(count: int) -> list[str]:
    """Different names of one to three words, as label sets have them."""
    first = ["great", "common", "red", "black", "white", "small", "northern", "spotted", "golden", "wild"]
    second = ["snow", "water", "house", "desk", "garden", "mountain", "river", "forest", "sea", "grass"]
    third = ["cat", "dog", "spider", "boat", "car", "lamp", "shark", "fox", "clock", "chair"]
    names = [*third, *(f"{a} {c}" for a in second for c in third)]
    names += [f"{a} {b} {c}" for a in first for b in second for c in third]
    return names[:count]


def largest_difference(one: Any, other: Any) -> float:
    """Of a component of the unit embeddings."""
    units = [np.asarray(x, np.float64) / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other)]
    return float(np.abs(units[0] - units[1]).max())


@torch.inference_mode()
def texts(sides: Sides) -> list[Row]:
    """256 prompts of 8 to 14 tokens, no two equal."""
    given = prompts(256, range(8, 15))
    ids = torch.from_numpy(tokenize(given))
    padded = ids[:, : int(ids.argmax(1).max()) + 1].long()
    mask = (torch.arange(padded.shape[1]) <= padded.argmax(1)[:, None]).long()
    clip, peer, hugging_face = sides.clip, sides.open_clip, sides.transformers
    packed = prepack_text_tower(clip.model)
    runs: dict[str, Side] = {
        "apart": lambda: encode_texts(packed, ids, shares=False),
        "shared": lambda: clip.embed_texts(given),
        "int8": lambda: sides.int8.embed_texts(given),
        "transformers": lambda: hugging_face.get_text_features(input_ids=padded, attention_mask=mask),
        "open_clip": lambda: peer.encode_text(ids),
    }
    expected = runs["open_clip"]()
    assert max(largest_difference(runs[name](), expected) for name in ("apart", "shared")) < 1e-5
    rates = {name: len(given) / seconds for name, seconds in race(runs).items()}
    what = "256 prompts of 8 to 14 tokens (texts/s)"
    return [
        Row.compare(f"{what}: nothing shared, transformers", rates["apart"], rates["transformers"], 1.1),
        Row.compare(f"{what}: nothing shared, open_clip", rates["apart"], rates["open_clip"], 7.5),
        Row.compare(f"{what}: beginnings shared, tokenizing included, open_clip", rates["shared"], rates["open_clip"]),
        Row.compare(f"{what}: int8, tokenizing included, open_clip", rates["int8"], rates["open_clip"], 11),
    ]


@torch.inference_mode()
def classifier(sides: Sides) -> list[Row]:
    """1000 labels in the 80 published templates, tokenizing included; open_clip by a sample, as it builds it."""
    library = open_clip()
    templates = [template("{}") for template in library.OPENAI_IMAGENET_TEMPLATES]
    names = labels(LABELS)
    begin = time.perf_counter()
    ours = ws.ZeroShotClassifier(sides.clip, names, templates, cache=False).weights
    seconds = time.perf_counter() - begin
    plain = [
        sides.clip.model.encode_text(torch.from_numpy(tokenize([t.format(n) for t in templates])).long())
        for n in names[:3]
    ]
    mean = torch.stack([torch.nn.functional.normalize(rows, dim=1).mean(0) for rows in plain])
    begin = time.perf_counter()
    tokenizer = library.get_tokenizer(NAME)
    theirs = library.build_zero_shot_classifier(
        sides.open_clip, tokenizer, names[:SAMPLE], library.OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=10
    )
    peer_seconds = (time.perf_counter() - begin) * LABELS / SAMPLE
    return [
        Row.compare("classifier of 1000 labels x 80 templates (texts/s)", 80000 / seconds, 80000 / peer_seconds, 14),
        Row.at_most("the same, largest difference from the plain path", largest_difference(ours[:3], mean), 1e-5),
        Row.at_most("the same, largest difference from open_clip", largest_difference(ours[:SAMPLE], theirs.T), 1e-5),
    ]


def classifier_memory(sides: Sides) -> list[Row]:
    """Peak resident memory of a process that builds a classifier of 1000 labels over that of 100, results left out."""
    directory = sides._converted("wordsight")
    peaks = {}
    for count in (100, LABELS):
        code = (
            "import resource, torch, wordsight as ws\n"
            "from benchmarks.inference import THREADS, labels\n"
            f"torch.set_num_threads(THREADS); clip = ws.load({str(directory)!r}, 'cpu')\n"
            f"made = ws.ZeroShotClassifier(clip, labels({count}), 'imagenet', cache=False).weights\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - made.nbytes)"
        )
        peaks[count] = int(subprocess.check_output([sys.executable, "-c", code]).split()[-1])
    ratio = peaks[LABELS] / peaks[100]
    return [Row.at_most("peak memory of 1000 labels x 80 templates over that of 100", ratio, 1.1)]


@torch.inference_mode()
def images(sides: Sides) -> list[Row]:
    """Pixels ready, for us as bytes, for peers as floats: one image, and sixteen."""
    rows = []
    for count in (1, 16):
        squares = np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
        array = normalise(squares, sides.clip.card.preprocessing)
        pixels = torch.from_numpy(array)
        clips = {"torch": sides.clip, "auto": sides.auto, "int8": sides.int8}
        runs: dict[str, Side] = {
            name: lambda clip=clip, squares=squares: clip.runtime.encode_pixels(squares) for name, clip in clips.items()
        }
        runs |= {
            "open_clip": lambda pixels=pixels: sides.open_clip.encode_image(pixels),
            "transformers": lambda pixels=pixels: sides.transformers.get_image_features(pixels),
            "session": lambda array=array: sides.session.run(None, {"pixels": array})[0],
        }
        expected = runs["open_clip"]()
        assert max(largest_difference(runs[name](), expected) for name in ("torch", "auto", "session")) < 1e-5
        rates = {name: count / seconds for name, seconds in race(runs, 3 * ROUNDS, PAUSE_S).items()}
        print({name: round(rate, 2) for name, rate in rates.items()}, "auto is", sides.auto.runtime.name)
        best = max(("open_clip", "transformers", "session"), key=lambda name: rates[name])
        close = race({name: runs[name] for name in ("auto", best)}, CLOSE_ROUNDS if count == 1 else 3 * ROUNDS, PAUSE_S)
        what = f"{count} images, pixels ready (images/s)"
        asked = (
            [("torch", "open_clip", 1.35), ("auto", "open_clip", 1.75), ("int8", best, None)]
            if count == 1
            else [("torch", "open_clip", None), ("torch", "session", None), ("int8", best, 1.4)]
        )
        rows += [
            Row.compare(f"{what}: {ours}, {peer}", rates[ours], rates[peer], target) for ours, peer, target in asked
        ]
        row = f"{what}: auto, the best peer ({best}), the two in turn"
        rows.append(Row.compare(row, count / close["auto"], count / close[best], 0.97))
    return rows


@torch.inference_mode()
def resnet(_: Sides) -> list[Row]:
    """The published ResNet-50 on torch, one image and sixteen."""
    with torch.inference_mode(False):  # parameters made in it would not say when they change
        clip, peer = random_clip("RN50"), open_clip().create_model("RN50-quickgelu", pretrained=None)
    peer.load_state_dict(clip.model.state_dict(), strict=False)  # without the counts of batches
    peer.eval()
    rows = []
    for count in (1, 16):
        squares = np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
        pixels = torch.from_numpy(normalise(squares, clip.card.preprocessing))
        runs: dict[str, Side] = {
            "torch": lambda squares=squares: clip.runtime.encode_pixels(squares),
            "open_clip": lambda pixels=pixels: peer.encode_image(pixels),
        }
        assert largest_difference(runs["torch"](), runs["open_clip"]()) < 1e-5
        rates = {name: count / seconds for name, seconds in race(runs, 3 * ROUNDS).items()}
        what = f"RN50, {count} images, pixels ready (images/s): torch, open_clip"
        rows.append(Row.compare(what, rates["torch"], rates["open_clip"]))
    return rows


def neighbours(sides: Sides) -> list[Row]:
    """Each image and text alone, among 8, among 64, and in another order."""
    generator = np.random.default_rng(3)
    images = list(generator.integers(0, 256, (64, 224, 224, 3), dtype=np.uint8))
    given = prompts(64, range(4, 20))
    rows = []
    for name, clip, most in (("torch", sides.clip, 1e-5), ("onnx", sides.onnx, 1e-5), ("int8", sides.int8, 1e-3)):
        for what, items, embed in (("images", images, clip.embed_images), ("texts", given, clip.embed_texts)):
            whole, order = embed(items), generator.permutation(64)
            others = [
                np.concatenate([embed(items[start : start + size]) for start in range(0, 64, size)]) for size in (1, 8)
            ]
            others.append(embed([items[n] for n in order])[np.argsort(order)])
            worst = max(float(np.abs(whole - other).max()) for other in others)
            rows.append(Row.at_most(f"neighbours, {name}, 64 {what}: largest difference", worst, most))
    return rows


def photographs(count: int) -> list[bytes]:
    """Photographs of flickr8k-val enlarged to 1024 x 768, as JPEG 4:2:0 of quality 90."""
    made = []
    with tarfile.open(DATA / "flickr8k-val.tar") as archive:
        for member in archive:
            if member.name.endswith(".jpg") and (file := archive.extractfile(member)):
                image = Image.open(io.BytesIO(file.read())).convert("RGB").resize((1024, 768), Image.Resampling.BICUBIC)
                content = io.BytesIO()
                image.save(content, "JPEG", quality=90, subsampling=2)
                made.append(content.getvalue())
                if len(made) == count:
                    break
    return made


def published(content: bytes, form: Preprocessing, draft: bool = False) -> NDArray[np.float32]:
    """Pillow's path, as OpenAI's and open_clip's transforms take it; with `draft`, Pillow's own scaled decoding."""
    image = Image.open(io.BytesIO(content))
    if draft:
        image.draft("RGB", (form.size_px, form.size_px))
    width, height = image.size
    short = min(width, height)
    size = (int(form.size_px * width / short), int(form.size_px * height / short))
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - form.size_px) / 2) for side in size)
    return normalise(np.asarray(image.crop((left, top, left + form.size_px, top + form.size_px))), form)


def jpeg(sides: Sides) -> list[Row]:
    """Bytes to the normalised tensor, one core."""
    files, form = photographs(24), sides.clip.card.preprocessing
    cropped, scaled = (msgspec.structs.replace(form, decoding=name) for name in ("cropped", "scaled"))
    runs: dict[str, Side] = {
        "ours": lambda: [preprocess(content, form) for content in files],
        "cropped": lambda: [preprocess(content, cropped) for content in files],
        "scaled": lambda: [preprocess(content, scaled) for content in files],
        "pillow": lambda: [published(content, form) for content in files],
        "draft": lambda: [published(content, form, draft=True) for content in files],
    }
    std = np.array(form.std, np.float32)[:, None, None]
    differences = [np.abs(one - other) * std for one, other in zip(runs["cropped"](), runs["pillow"](), strict=True)]
    assert all((one == other).all() for one, other in zip(runs["ours"](), runs["pillow"](), strict=True))
    rates = {name: len(files) / seconds for name, seconds in race(runs).items()}
    what = "JPEG 1024x768, bytes to tensor, one core (images/s)"
    return [
        Row.compare(f"{what}: exact, Pillow's path", rates["ours"], rates["pillow"]),
        Row.compare(f"{what}: cropped, Pillow's path", rates["cropped"], rates["pillow"], 1.2),
        Row.at_most("the same, largest difference (of 1)", max(float(d.max()) for d in differences), 1 / 255 + 1e-6),
        Row.compare(f"{what}: scaled decoding, Pillow's path", rates["scaled"], rates["pillow"], 2.3),
        Row.compare(f"{what}: scaled decoding, Pillow's draft", rates["scaled"], rates["draft"], 1.0),
    ]


def scaled_embeddings(sides: Sides) -> list[Row]:
    """How far scaled decoding moves the embeddings of a trained model, on photographs of 1024 x 768."""
    if sides.trained is None:
        return []
    files, clip = photographs(1000), ws.load(sides.trained)
    scaled = ws.load(sides.trained, decoding="scaled")
    cosines = (clip.embed_images(files) * scaled.embed_images(files)).sum(axis=1)
    what = "scaled decoding, 1,000 photographs, the trained model: cosine to the exact embedding"
    return [
        Row.compare(f"{what}, {name}", float(np.percentile(cosines, share)), 1.0)
        for name, share in (("least", 0), ("1st percentile", 1), ("median", 50))
    ]


def small_clip() -> ws.DualEncoder:
    """The model of the recipe `flickr8k`, with first weights."""
    config = load_recipe("flickr8k").architecture
    model = build(config, torch.Generator().manual_seed(0)).eval()
    form = Preprocessing(size_px=config.image.image_size_px)
    tokenizer = TokenizerConfig(context_length=config.text.context_length)
    return ws.DualEncoder(model, Card("small", model=config, preprocessing=form, tokenizer=tokenizer))


def overlap(clip: ws.DualEncoder, files: list[Path], what: str) -> Row:
    """End to end against both stages alone, each on all cores, in turns over four parts of the files."""
    seconds = {"decode": 0.0, "encode": 0.0, "both": 0.0}
    form = clip.card.preprocessing
    for start in range(0, len(files), -(-len(files) // 4)):
        part = files[start : start + -(-len(files) // 4)]
        squares: list[NDArray[np.uint8]] = []

        def decode(part: list[Path] = part, squares: list[NDArray[np.uint8]] = squares) -> None:
            squares[:] = ordered_map(lambda path: load_pixels(path, form), part, ahead=64)

        def encode(squares: list[NDArray[np.uint8]] = squares) -> None:
            for first in range(0, len(squares), 64):
                clip.runtime.encode_pixels(np.stack(squares[first : first + 64]))

        sides: dict[str, Side] = {"decode": decode, "encode": encode, "both": lambda part=part: clip.embed_images(part)}
        for name, side in sides.items():
            begin = time.perf_counter()
            side()
            seconds[name] += time.perf_counter() - begin
    ours, ideal = len(files) / seconds["both"], len(files) / (seconds["decode"] + seconds["encode"])
    return Row.compare(f"{what} (images/s): 1/(1/decode + 1/encode)", ours, ideal, 0.95)


def directories(sides: Sides) -> list[Row]:
    """A directory of large files and a large model, and one of small files and the small model."""
    large, small = sides.work / "large", sides.work / "small"
    large.mkdir(), small.mkdir()
    for number, content in enumerate(photographs(500)):
        for copy in range(4):
            (large / f"{number:04d}-{copy}.jpg").write_bytes(content)
    with tarfile.open(DATA / "tiny-imagenet-train.tar") as archive:
        images = (member for member in archive if member.isfile() and not member.name.endswith((".jsonl", ".json")))
        for number, member in enumerate(images):
            (small / f"{number:05d}.jpg").write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    return [
        overlap(sides.clip, sorted(large.iterdir()), "2,000 files of 1024x768, ViT-B/32"),
        overlap(
            small_clip(), sorted(small.iterdir()), f"{len(list(small.iterdir())):,} files of 64 px, the small model"
        ),
    ]


def processes(sides: Sides) -> list[Row]:
    """`wordsight classify` of one image in a fresh process, with a model as the demo's."""
    config = load_recipe("demo").architecture
    clip = ws.DualEncoder(
        build(config, torch.Generator().manual_seed(0)).eval(),
        Card(
            "demo",
            model=config,
            preprocessing=Preprocessing(size_px=config.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=config.text.context_length),
        ),
    )
    clip.save(sides.work / "demo")
    convert(Checkpoint(clip.model.state_dict(), clip.card, {}), sides.work / "demo-onnx", "onnx")
    image = sides.work / "one.jpg"
    image.write_bytes(photographs(1)[0])
    command = [str(Path(sys.executable).parent / "wordsight"), "classify", str(image), "--labels", "cat,dog", "--model"]
    commands = {
        "torch": [sys.executable, "-c", "import torch"],
        "classify": [*command, str(sides.work / "demo")],
        "onnx": [*command, str(sides.work / "demo-onnx")],
    }
    runs: dict[str, Side] = {
        name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    seconds = race(runs)
    return [
        Row.at_most(
            "classify one image, fresh process: seconds beyond import torch",
            seconds["classify"] - seconds["torch"],
            1,
        ),
        Row.at_most("the same exported to ONNX, torch never imported: seconds", seconds["onnx"], 1.2, seconds["torch"]),
    ]


PARTS = {
    part.__name__: part
    for part in (
        texts,
        classifier,
        classifier_memory,
        images,
        resnet,
        neighbours,
        jpeg,
        directories,
        processes,
        scaled_embeddings,
    )
}


def main() -> None:
    """Run the parts and print the table."""
    command = parser(__doc__)
    command.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    command.add_argument("--trained", type=Path, help="a run of the recipe flickr8k, for what needs trained weights")
    options = command.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as work:
        os.environ["WORDSIGHT_CACHE"] = str(Path(work) / "cache")
        sides = Sides(random_clip(), Path(work), options.trained)
        rows = [row for part in options.only.split(",") for row in PARTS[part](sides)]
    finish(rows, options.json)


if __name__ == "__main__":
    main()
