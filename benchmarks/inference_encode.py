"""Rows of the inference benchmark about the towers: texts, classifiers, images, and independence of the batch."""

import subprocess
import sys
import time

import numpy as np
import torch
from benchmarks.inference_sides import NAME, PAUSE_S, Side, Sides, labels, max_difference, prompts, race, random_clip
from benchmarks.table import Row
from tests.parity.peers import open_clip

import wordsight as ws
from wordsight.encoder.prefix_tree import encode_texts
from wordsight.encoder.prepacked import prepack_text_tower
from wordsight.image import normalise
from wordsight.text import tokenize


@torch.inference_mode()
def texts(sides: Sides) -> list[Row]:
    """Encode distinct prompts of 8 to 14 tokens."""
    strings = prompts(sides.num_prompts, range(8, 15))
    ids = torch.from_numpy(tokenize(strings))
    padded = ids[:, : int(ids.argmax(1).max()) + 1].long()
    mask = (torch.arange(padded.shape[1]) <= padded.argmax(1)[:, None]).long()
    clip, peer, hugging_face = sides.clip, sides.open_clip, sides.transformers
    prepacked = prepack_text_tower(clip.model)
    runs: dict[str, Side] = {
        "separate": lambda: encode_texts(prepacked, ids, shares=False),
        "shared": lambda: clip.embed_texts(strings),
        "int8": lambda: sides.int8.embed_texts(strings),
        "transformers": lambda: hugging_face.get_text_features(input_ids=padded, attention_mask=mask),
        "open_clip": lambda: peer.encode_text(ids),
    }
    expected = runs["open_clip"]()
    assert max(max_difference(runs[name](), expected) for name in ("separate", "shared")) < 1e-5
    rates = {name: len(strings) / seconds for name, seconds in race(runs, sides.rounds).items()}
    title = f"{len(strings)} prompts of 8 to 14 tokens (texts/s)"
    return [
        Row.compare(f"{title}: no shared prefixes, transformers", rates["separate"], rates["transformers"], 1.1),
        Row.compare(f"{title}: no shared prefixes, open_clip", rates["separate"], rates["open_clip"], 7.5),
        Row.compare(f"{title}: shared prefixes, tokenization included, open_clip", rates["shared"], rates["open_clip"]),
        Row.compare(f"{title}: int8, tokenization included, open_clip", rates["int8"], rates["open_clip"], 11),
    ]


@torch.inference_mode()
def classifier(sides: Sides) -> list[Row]:
    """Build a classifier with the 80 published templates, tokenization included; open_clip builds a sample of it."""
    library = open_clip()
    templates = [template("{}") for template in library.OPENAI_IMAGENET_TEMPLATES]
    names, sample = labels(sides.num_labels), sides.peer_num_labels
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
        sides.open_clip, tokenizer, names[:sample], library.OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=10
    )
    peer_seconds = (time.perf_counter() - begin) * len(names) / sample
    num_texts, title = len(names) * len(templates), f"classifier of {len(names)} labels x 80 templates"
    peer_difference = max_difference(ours[:sample], theirs.T)
    return [
        Row.compare(f"{title} (texts/s)", num_texts / seconds, num_texts / peer_seconds, 14),
        Row.at_most("the same, largest difference from the plain path", max_difference(ours[:3], mean), 1e-5),
        Row.at_most("the same, largest difference from open_clip", peer_difference, 1e-5),
    ]


def classifier_memory(sides: Sides) -> list[Row]:
    """Compare the peak memory of a process that builds a classifier of 1,000 labels with one of 100 labels.

    The memory of the resulting classifier itself is subtracted.
    """
    directory = sides.converted("wordsight")
    peaks = {}
    for count in (100, 1000):
        code = (
            "import resource, torch, wordsight as ws\n"
            "from benchmarks.inference_sides import THREADS, labels\n"
            f"torch.set_num_threads(THREADS); clip = ws.load({str(directory)!r}, 'cpu')\n"
            f"weights = ws.ZeroShotClassifier(clip, labels({count}), 'imagenet', cache=False).weights\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - weights.nbytes)"
        )
        peaks[count] = int(subprocess.check_output([sys.executable, "-c", code]).split()[-1])
    return [Row.at_most("peak memory of 1000 labels x 80 templates over that of 100", peaks[1000] / peaks[100], 1.1)]


@torch.inference_mode()
def images(sides: Sides) -> list[Row]:
    """Encode one image, and sixteen, from pixels: uint8 for us, float32 for the peers."""
    return [row for count in (1, 16) for row in _image_rows(sides, count)]


def _image_rows(sides: Sides, count: int) -> list[Row]:
    pixels_NHWC = np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
    array = normalise(pixels_NHWC, sides.clip.card.preprocessing)
    pixels = torch.from_numpy(array)
    encoders = {"torch": sides.clip, "auto": sides.auto, "int8": sides.int8}
    runs: dict[str, Side] = {
        name: lambda encoder=encoder: encoder.runtime.encode_pixels(pixels_NHWC) for name, encoder in encoders.items()
    }
    runs |= {
        "open_clip": lambda: sides.open_clip.encode_image(pixels),
        "transformers": lambda: sides.transformers.get_image_features(pixels),
        "session": lambda: sides.session.run(None, {"pixels": array})[0],
    }
    expected = runs["open_clip"]()
    assert max(max_difference(runs[name](), expected) for name in ("torch", "auto", "session")) < 1e-5
    rates = {name: count / seconds for name, seconds in race(runs, sides.image_rounds, PAUSE_S).items()}
    print({name: round(rate, 2) for name, rate in rates.items()}, "auto is", sides.auto.runtime.name)
    best = max(("open_clip", "transformers", "session"), key=lambda name: rates[name])
    close_rounds = sides.close_rounds if count == 1 else sides.image_rounds
    close = race({name: runs[name] for name in ("auto", best)}, close_rounds, PAUSE_S)
    title = f"{count} images, pixels ready (images/s)"
    comparisons = (
        [("torch", "open_clip", 1.35), ("auto", "open_clip", 1.75), ("int8", best, None)]
        if count == 1
        else [("torch", "open_clip", None), ("torch", "session", None), ("int8", best, 1.4)]
    )
    rows = [
        Row.compare(f"{title}: {ours}, {peer}", rates[ours], rates[peer], target) for ours, peer, target in comparisons
    ]
    name = f"{title}: auto, the best peer ({best}), alternating"
    return [*rows, Row.compare(name, count / close["auto"], count / close[best], 0.97)]


@torch.inference_mode()
def resnet(sides: Sides) -> list[Row]:
    """Encode one image, and sixteen, with the published ResNet-50 on torch."""
    with torch.inference_mode(False):  # changes of parameters made in inference mode are not tracked
        clip, peer = random_clip("RN50"), open_clip().create_model("RN50-quickgelu", pretrained=None)
    peer.load_state_dict(clip.model.state_dict(), strict=False)  # without num_batches_tracked
    peer.eval()
    rows = []
    for count in (1, 16):
        pixels_NHWC = np.random.default_rng(1).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
        pixels = torch.from_numpy(normalise(pixels_NHWC, clip.card.preprocessing))
        runs: dict[str, Side] = {
            "torch": lambda pixels_NHWC=pixels_NHWC: clip.runtime.encode_pixels(pixels_NHWC),
            "open_clip": lambda pixels=pixels: peer.encode_image(pixels),
        }
        assert max_difference(runs["torch"](), runs["open_clip"]()) < 1e-5
        rates = {name: count / seconds for name, seconds in race(runs, sides.image_rounds).items()}
        title = f"RN50, {count} images, pixels ready (images/s): torch, open_clip"
        rows.append(Row.compare(title, rates["torch"], rates["open_clip"]))
    return rows


def batch_independence(sides: Sides) -> list[Row]:
    """Embed each image and text alone, in batches of 8, in one batch of 64, and in another order."""
    generator = np.random.default_rng(3)
    pixels = list(generator.integers(0, 256, (64, 224, 224, 3), dtype=np.uint8))
    strings = prompts(64, range(4, 20))
    rows = []
    encoders = [("torch", sides.clip, 1e-5)]
    if not sides.quick:
        encoders += [("onnx", sides.onnx, 1e-5), ("int8", sides.int8, 1e-3)]
    for name, clip, bound in encoders:
        for kind, inputs, embed in (("images", pixels, clip.embed_images), ("texts", strings, clip.embed_texts)):
            together, order = embed(inputs), generator.permutation(64)
            others = [
                np.concatenate([embed(inputs[start : start + size]) for start in range(0, 64, size)]) for size in (1, 8)
            ]
            others.append(embed([inputs[n] for n in order])[np.argsort(order)])
            worst = max(float(np.abs(together - other).max()) for other in others)
            rows.append(Row.at_most(f"batch independence, {name}, 64 {kind}: largest difference", worst, bound))
    return rows
