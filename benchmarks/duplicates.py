"""Near-duplicates among 20,000 real images: time against embedding them, recall and precision of planted copies.

    python -m benchmarks.duplicates [--quick] [--data DIRECTORY] [--model MODEL] [--json FILE]

The images are 17,000 of `tiny-imagenet-train`, of which 1,000 get three copies each: saved again as JPEG of quality 50,
scaled by 0.5, and cropped to 90 % of the sides or of the area (alternately, at a random position). `--quick` has 3,400
images and 200 of them with copies. The threshold was chosen on other data: `things`, `flickr8k-train` and
`captions-more`, whose rows are measured as well (not with `--quick`). Results on the test images were seen meanwhile.

Recall is the share of the copies that are in the group of their original; precision is the share of the members of all
groups that are copies of the image that is kept. Duplicates that were in the data before count as errors.

Both sides run `wordsight` in a new process on the same directory, with a warm file cache; `embed` with the model that
the tour trains (48 pixels), the smallest that there is, or with `--model`.
"""

import io
import json
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.table import Row, finish, parser
from PIL import Image

NUM_ORIGINALS, NUM_WITH_COPIES = 17_000, 1_000
TUNING = ("things", "flickr8k-train", "captions-more")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MAX_TIME_RATIO, MIN_RECALL, MIN_PRECISION = 1.2, 0.95, 0.95


def images(data: Path, archives: Sequence[str], count: int) -> list[bytes]:
    """The bytes of a random selection of the images in archives."""
    contents = []
    for archive in archives:
        with tarfile.open(data / f"{archive}.tar") as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(SUFFIXES):
                    file = tar.extractfile(member)
                    assert file is not None
                    contents.append(file.read())
    random.Random(1).shuffle(contents)
    return contents[:count]


def jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def copies(content: bytes, number: int) -> Iterator[tuple[str, bytes]]:
    """The three copies of an image."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    width, height = image.size
    yield "quality", jpeg(image, 50)
    yield "scale", jpeg(image.resize((width // 2, height // 2), Image.Resampling.BICUBIC), 88)
    side, generator = (0.9, 0.9**0.5)[number % 2], random.Random(number)
    cropped_width, cropped_height = round(width * side), round(height * side)
    left, top = generator.randint(0, width - cropped_width), generator.randint(0, height - cropped_height)
    yield "crop", jpeg(image.crop((left, top, left + cropped_width, top + cropped_height)), 88)


def plant(directory: Path, contents: Sequence[bytes], num_with_copies: int) -> None:
    """Write images and copies as `NUMBER-KIND`, in the order of random names, so that copies are not neighbours."""
    directory.mkdir()
    generator = random.Random(2)
    for number, content in enumerate(contents):
        kinds = [("original", content), *(copies(content, number) if number < num_with_copies else ())]
        for kind, variant in kinds:
            (directory / f"{generator.getrandbits(32):08x}-{number}-{kind}.jpg").write_bytes(variant)


def run(*arguments: str) -> tuple[float, str]:
    """Run `wordsight` in a new process: the time in seconds and its output."""
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "wordsight", *arguments, "--quiet"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return time.perf_counter() - start_s, output


def quality(output: str, num_with_copies: int) -> tuple[dict[str, float], float, int]:
    """Recall by kind of copy, precision, and the number of members that are no planted copies."""
    counts: dict[str, int] = dict.fromkeys(("quality", "scale", "crop"), 0)
    num_right = num_members = 0
    for group in json.loads(output)["groups"]:
        names = [Path(each["image"]).stem.split("-")[1:] for each in (group["keep"], *group["duplicates"])]
        num_members += len(names) - 1
        num_right += sum(number == names[0][0] for number, _ in names[1:])
        originals = {number for number, kind in names if kind == "original"}
        for number, kind in names:
            if kind != "original" and number in originals:
                counts[kind] += 1
    recall = {kind: count / num_with_copies for kind, count in counts.items()}
    return recall, num_right / num_members, num_members - num_right


def quality_rows(name: str, output: str, num_with_copies: int) -> list[Row]:
    recall, precision, num_others = quality(output, num_with_copies)
    rows = [Row.at_least(f"{name}: recall of planted copies", sum(recall.values()) / len(recall), MIN_RECALL)]
    rows += [Row.measured(f"{name}: recall, {kind}", value) for kind, value in recall.items()]
    rows.append(Row.at_least(f"{name}: precision", precision, MIN_PRECISION))
    return [*rows, Row.measured(f"{name}: members that were not planted", num_others)]


def save_model(directory: Path) -> str:
    """The model of the tour with random weights, which take as long as trained ones."""
    import torch

    from wordsight.encoder import DualEncoder
    from wordsight.image import Preprocessing
    from wordsight.model import ModelConfig, ResidualConfig, TextConfig, build
    from wordsight.weights import Card, TokenizerConfig

    image = ResidualConfig(image_size_px=48, widths=(24, 48, 96, 192), blocks=(1, 1, 1, 1))
    config = ModelConfig(image=image, text=TextConfig(width=64, heads=2, layers=1, context_length=32), embed_dim=128)
    card = Card("random", config, Preprocessing(size_px=48), TokenizerConfig(context_length=32))
    DualEncoder(build(config, torch.Generator().manual_seed(0)).eval(), card).save(directory)
    return str(directory)


def main() -> None:
    command = parser(__doc__, needs_data=True)
    command.add_argument("--model", help="the model that embeds the images (default: one like that of the tour)")
    options = command.parse_args()
    divisor = 5 if options.quick else 1
    num_originals, num_with_copies = NUM_ORIGINALS // divisor, NUM_WITH_COPIES // divisor
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plant(directory / "test", images(options.data, ["tiny-imagenet-train"], num_originals), num_with_copies)
        model = options.model or save_model(directory / "model")
        times: list[tuple[float, float]] = []
        for number in range(1 if options.quick else 3):
            embed_s, _ = run("embed", str(directory / "test"), "--out", f"{name}/{number}.parquet", "--model", model)
            duplicates_s, output = run("duplicates", str(directory / "test"), "--json")
            times.append((duplicates_s, embed_s))
        rows = quality_rows("test", output, num_with_copies)
        if not options.quick:
            plant(directory / "tuning", images(options.data, TUNING, 12_000), num_with_copies)
            rows += quality_rows("tuning", run("duplicates", str(directory / "tuning"), "--json")[1], num_with_copies)
    duplicates_s, embed_s = sorted(times, key=lambda pair: pair[0] / pair[1])[len(times) // 2]
    num_images = num_originals + 3 * num_with_copies
    timing = Row.at_most("duplicates, time over that of embed", duplicates_s / embed_s, MAX_TIME_RATIO)
    seconds = [Row.measured(f"duplicates, {num_images:,} images (s)", duplicates_s), Row.measured("embed (s)", embed_s)]
    finish([timing, *seconds, *rows], options.json)


if __name__ == "__main__":
    main()
