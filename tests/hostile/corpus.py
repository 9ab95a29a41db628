"""Hostile inputs of every kind that a command reads: valid files, changed by a seeded generator, and hand-made ones.

`SEEDS` are valid files with the command that reads them; `mutate` changes one of their bytes, fields or values;
`special_inputs` are attacks that no random change would make.
"""

import contextlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.random import Generator
from tests.golden.make import CLASS_NAMES
from tests.golden.make import DIRECTORY as GOLDEN
from tests.hostile.sandbox import HostileInput
from tests.hostile.test_hostile_images import FILES as IMAGES
from tests.hostile.test_hostile_images import bombs
from tests.text.test_families import gemma_files, siglip_files
from tests.tiny_clip import png
from tests.weights.archives import CONTEXT, SIZE, TinyClip, add_metadata, write_script
from tests.weights.formats.test_hugging_face import IMAGES as IMAGES_OF_CLIP
from tests.weights.formats.test_hugging_face import SQUASHED, clip_config, siglip_config
from tests.weights.formats.test_hugging_face import directory_of as hugging_face

from wordsight.cli import main

MODEL = "golden/model"
EMBED = ("embed", "photos", "--out", "out/v.npy", "--model", MODEL)
PACK = ("shards", "data", "out/shards")
CLASSIFY = ("classify", "photos/0.png", "--labels", "red,blue", "--model", MODEL)
RESUME = ("train", "golden/recipe.toml", "--data", "golden/shards", "--out", "out/run", "--from", MODEL, "--resume")


@dataclass(frozen=True)
class Seed:
    """A valid file, and the command that reads it.

    Attributes:
        path: of the file that is changed, in the directory in which the command runs.
        content: valid content.
        command: arguments of `wordsight`.
        others: other files that the command needs.
    """

    path: str
    content: bytes
    command: tuple[str, ...]
    others: tuple[tuple[str, bytes], ...] = ()

    def write(self, root: Path, content: bytes) -> None:
        """Write the golden files, the other files, two valid images, and `content` in place of the valid one."""
        shutil.copytree(GOLDEN, root / "golden")
        shutil.copytree(GOLDEN / "run", root / "out" / "run")
        for path, other in (("photos/0.png", png(0)), ("photos/1.png", png(1)), *self.others, (self.path, content)):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(other)


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def parquet(columns: dict[str, list[object]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tables() -> dict[str, Seed]:
    names, texts = ["0.png", "1.png"], ["a red boat, at sea", "two “dogs”"]
    rows = list(zip(names, texts, strict=True))
    lines = [{"path": name, "caption": text} for name, text in rows]
    images = tuple((f"data/{name}", png(number)) for number, name in enumerate(names))
    contents = {
        "t.csv": ("path,caption\n" + "".join(f'{name},"{text}"\n' for name, text in rows)).encode(),
        "t.tsv": ("path\tcaption\n" + "".join(f"{name}\t{text}\n" for name, text in rows)).encode(),
        "t.jsonl": b"\n".join(map(_json, lines)),
        "t.parquet": parquet({"path": names, "caption": texts}),
    }
    seeds = {
        f"table {name}": Seed(f"data/{name}", content, ("shards", f"data/{name}", "out/shards"), images)
        for name, content in contents.items()
    }
    directories = {
        "0.txt": b"a red boat",
        "captions.jsonl": b"\n".join(_json({"file": name, "captions": [text]}) for name, text in rows),
        "metadata.jsonl": b"\n".join(_json({"file_name": name, "text": text}) for name, text in rows),
        "metadata.csv": b"file_name,text\n0.png,a red boat\n1.png,two dogs\n",
        "captions.txt": b"image,caption\n0.png,a red boat\n1.png,two dogs\n",
        "annotations.json": _json(
            {
                "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
                "annotations": [{"image_id": number, "caption": text} for number, text in enumerate(texts)],
            }
        ),
    }
    seeds |= {
        f"directory with {name}": Seed(f"data/{name}", content, PACK, images) for name, content in directories.items()
    }
    embedded = ("embed", "data/t.parquet", "--out", "out/v.parquet", "--model", MODEL)
    return seeds | {"embedded table": Seed("data/t.parquet", contents["t.parquet"], embedded, images)}


def _labels() -> dict[str, Seed]:
    # words that the tokenizer of the model knows: it cannot tell others apart
    contents = {
        "labels.txt": b"red\nblue\nsquare\n  small\n  large\n",
        "labels.json": _json({"red": ["small", "large"], "blue": ["dark"]}),
        "labels.csv": b"id,name\n0,red\n1,blue\n",
        "labels.yaml": b"names:\n  0: red\n  1: blue\nnc: 2\n",
    }
    classify = ("classify", "photos/0.png", "--model", MODEL, "--labels")
    return {name: Seed(name, content, (*classify, name)) for name, content in contents.items()}


def _golden(path: str, command: tuple[str, ...]) -> Seed:
    return Seed(f"golden/{path}", (GOLDEN / path).read_bytes(), command)


def _models() -> dict[str, Seed]:
    files = ("model/model.safetensors", "model/tokenizer.json", "model/wordsight.json")
    seeds = {path: _golden(path, CLASSIFY) for path in files}
    run = (*CLASSIFY[:-1], "golden/run")
    state = ("convert", "weights.pt", "out/converted", "--to", "wordsight", "--as", "ViT-B-32")
    new_run = ("train", "golden/recipe.toml", "--data", "nowhere", "--out", "out/new")
    seeds |= {
        "run/best/wordsight.json": _golden("run/best/wordsight.json", run),
        "run/recipe.toml": _golden("run/recipe.toml", run),
        "state dict": Seed("weights.pt", (GOLDEN / "run/checkpoint.pt").read_bytes(), state),
        "recipe.toml": _golden("recipe.toml", new_run),
    }
    with tempfile.TemporaryDirectory() as work:
        for name, build in MODEL_BUILDERS.items():
            directory = Path(work) / name
            directory.mkdir()
            build(directory)
            contents = {f"m/{path.name}": path.read_bytes() for path in sorted(directory.iterdir())}
            model = next(iter(contents)) if len(contents) == 1 else "m"
            for path, content in contents.items():
                others = tuple(item for item in contents.items() if item[0] != path)
                seeds[f"{name} {Path(path).name}"] = Seed(path, content, (*CLASSIFY[:-1], model), others)
    return seeds


def _write_openai(directory: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, CONTEXT, dtype=torch.int64))
        write_script(directory / "archive.pt", add_metadata(TinyClip()), example)


def _write_onnx(directory: Path) -> None:
    directory.rmdir()
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["convert", str(GOLDEN / "model"), str(directory), "--to", "onnx"]) == 0


MODEL_BUILDERS: dict[str, Callable[[Path], object]] = {
    "openai": _write_openai,
    "hf clip": lambda directory: hugging_face(directory, clip_config(), IMAGES_OF_CLIP, {}),
    "siglip": lambda directory: hugging_face(directory, siglip_config(), SQUASHED, siglip_files()),
    "siglip 2": lambda directory: hugging_face(directory, siglip_config(), SQUASHED, gemma_files()),
    "onnx": _write_onnx,
}
"""Functions that write a model of another format into a directory."""


def _video() -> dict[str, Seed]:
    try:
        import av
    except ImportError:  # the extra `video`
        return {}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return {"video": Seed("photos/a.mp4", buffer.getvalue(), EMBED)}


def _responses() -> dict[str, Seed]:
    """Responses of mirrors and hubs: weights that are not the published ones, and descriptions of repositories."""
    commit = "0123456789" * 4
    repository = _json({"id": "a/b", "sha": commit, "siblings": [{"rfilename": "config.json", "size": 9}]})
    weights = ("models", "openai/ViT-B-32", "--fetch", "--mirror", "{mirror}")
    hub = ("models", "hf-hub:a/b", "--fetch", "--mirror", "{mirror}")
    headers = f'ETag: "{commit}"\r\nX-Repo-Commit: {commit}\r\nContent-Type: application/json\r\n'
    return {
        f"{name} response": Seed(
            "response", f"HTTP/1.1 200 OK\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body, command
        )
        for name, body, command in (("mirror", bytes(range(256)), weights), ("hub", repository, hub))
    }


def _runs() -> dict[str, Seed]:
    paths = ("checkpoint.pt", "metrics.jsonl", "recipe.toml")
    return {f"resumed {path}": Seed(f"out/run/{path}", (GOLDEN / "run" / path).read_bytes(), RESUME) for path in paths}


def _shards() -> dict[str, Seed]:
    pair = {
        f"{number}.{kind}": png(number) if kind == "png" else b"a boat"
        for number in range(2)
        for kind in ("png", "txt")
    }
    embed = ("embed", "x.tar", "--out", "out/v.parquet", "--model", MODEL)
    paths = ("manifest.json", "skipped.jsonl", "000000.tar", "000000.tar.index")
    pairs = ("embed", "golden/shards/pairs", "--out", "out/v.npy", "--model", MODEL)
    return {
        "embedded tar": Seed("x.tar", tar(pair), embed),
        "packed tar": Seed("data/x.tar", tar(pair), PACK),
        **{f"shards {path}": _golden(f"shards/pairs/{path}", pairs) for path in paths},
    }


def _embeddings() -> dict[str, Seed]:
    files = {
        name: (GOLDEN / name).read_bytes() for name in ("embeddings.npy", "embeddings.npy.json", "embeddings.parquet")
    }
    command = ("embed", "golden/images", "--model", MODEL, "--out")
    numpy = (*command, "out/embeddings.npy")
    sidecar, array = (
        ("out/embeddings.npy.json", files["embeddings.npy.json"]),
        ("out/embeddings.npy", files["embeddings.npy"]),
    )
    return {
        "embeddings.npy": Seed(*array, numpy, (sidecar,)),
        "embeddings.npy.json": Seed(*sidecar, numpy, (array,)),
        "embeddings.parquet": Seed(
            "out/embeddings.parquet", files["embeddings.parquet"], (*command, "out/embeddings.parquet")
        ),
    }


def _cached_classifier() -> dict[str, Seed]:
    (path,) = (GOLDEN / "cache" / "classifiers").iterdir()
    labels = ",".join(CLASS_NAMES)
    command = ("classify", "golden/images", "--labels", labels, "--templates", "imagenet", "--model", MODEL)
    return {"cached classifier": Seed(f"cache/classifiers/{path.name}", path.read_bytes(), command)}


@cache
def seeds() -> dict[str, Seed]:
    """Every valid file; the image formats are named by their kind."""
    images = {f"image {kind}": Seed("photos/a.jpg", content, EMBED) for kind, content in IMAGES.items()}
    return (
        images
        | _tables()
        | _labels()
        | _models()
        | _runs()
        | _shards()
        | _embeddings()
        | _cached_classifier()
        | _video()
        | _responses()
    )


def _random_bytes(content: bytes, draw: Generator) -> bytes:
    changed = bytearray(content)
    for index in draw.integers(0, len(content), 1 + draw.integers(8)):
        changed[index] = draw.integers(256)
    return bytes(changed)


def _truncated(content: bytes, draw: Generator) -> bytes:
    return content[: draw.integers(len(content))]


def _extreme_field(content: bytes, draw: Generator) -> bytes:
    field = [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4), b"\0\0\0\x80", b"\xff" * 8][
        draw.integers(6)
    ]
    start = draw.integers(len(content))
    return content[:start] + field + content[start + len(field) :]


def _repeated(content: bytes, draw: Generator) -> bytes:
    start, length = draw.integers(len(content)), 1 + draw.integers(64)
    return (
        content[:start] + content[start : start + length] * int(draw.choice([2, 50, 5000])) + content[start + length :]
    )


def _inserted(content: bytes, draw: Generator) -> bytes:
    start = draw.integers(len(content) + 1)
    return content[:start] + draw.bytes(1 + draw.integers(64)) + content[start:]


def _other_encoding(content: bytes, draw: Generator) -> bytes:
    text = content.decode("latin-1")
    return [text.encode("utf-16"), b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r"), b"\0" + content][
        draw.integers(4)
    ]


_NUMBERS = [
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"10" * 20,
    b"0.5",
    b"true",
    b"null",
    b'"x"',
    b"99999999999999999999",
]
_STRINGS = [
    b"\x1b[31mred",
    b"../../../../tmp/x",
    b"/dev/zero",
    b"\\u0000",
    b"\\ud800",
    b"x" * 70_000,
    b"",
    b"\xff\xfe",
    b"{}",
    b"%s{0}",
]


def _other_number(content: bytes, draw: Generator) -> bytes:
    matches = list(re.finditer(rb"\d+(\.\d+)?", content[:100_000]))
    if not matches:
        return _random_bytes(content, draw)
    match = matches[draw.integers(len(matches))]
    return content[: match.start()] + _NUMBERS[draw.integers(len(_NUMBERS))] + content[match.end() :]


def _other_string(content: bytes, draw: Generator) -> bytes:
    matches = list(re.finditer(rb"[A-Za-z_./-]{2,}", content[:100_000]))
    if not matches:
        return _random_bytes(content, draw)
    match = matches[draw.integers(len(matches))]
    return content[: match.start()] + _STRINGS[draw.integers(len(_STRINGS))] + content[match.end() :]


def _nested(content: bytes, draw: Generator) -> bytes:
    start = draw.integers(len(content) + 1)
    return content[:start] + [b"[", b'{"a":', b"(", b"<"][draw.integers(4)] * 100_000 + content[start:]


MUTATIONS: Sequence[Callable[[bytes, Generator], bytes]] = (
    _random_bytes,
    _truncated,
    _extreme_field,
    _repeated,
    _inserted,
    _other_encoding,
    _other_number,
    _other_string,
    _nested,
)


def mutated(name: str, seed: Seed, number: int) -> HostileInput:
    """The input of this number that is made from a seed; every mutation has its turn."""
    mutation = MUTATIONS[number % len(MUTATIONS)]

    def write(root: Path) -> None:
        draw = np.random.default_rng([number, *name.encode()])
        seed.write(root, mutation(seed.content or b"\0", draw))

    return HostileInput(f"{name}, {mutation.__name__[1:]} {number}", write, seed.command)


def special_inputs() -> Iterator[HostileInput]:
    """Attacks that are made by hand."""
    for kind, content in bombs().items():
        yield _special(f"bomb {kind}", seeds()["image png"], content)
    for name, seed in seeds().items():
        if not name.startswith("image "):
            for kind, content in (("empty", b""), ("zeros", bytes(1 << 20)), ("line", b"a" * (1 << 24))):
                yield _special(f"{name}, {kind}", seed, content)
            for kind, make in (
                ("pipe", os.mkfifo),
                ("directory", os.mkdir),
                ("endless", partial(os.symlink, "/dev/zero")),
            ):
                yield HostileInput(f"{name}, {kind}", partial(_write_irregular, seed, make), seed.command)
    for kind, name in ODD_NAMES.items():
        for command in (EMBED, ("shards", "photos", "out/shards"), ("classify", "photos", *CLASSIFY[2:])):
            yield HostileInput(f"name {kind}, {command[0]}", partial(_write_named, name), command)
    for kind, members in tars().items():
        for seed in ("embedded tar", "packed tar"):
            yield _special(f"{seed}, {kind}", seeds()[seed], members)
    yield _special("state dict, zip bomb", seeds()["state dict"], zip_bomb())


ODD_NAMES = {
    "bytes": b"\xff\xfex.png",
    "line break": b"a\nerror: b.png",
    "escape": b"\x1b]0;title\x07\x1b[31m.png",
    "tab": b"a\tb.png",
    "long": b"a" * 251 + b".png",
    "option": b"--out.png",
    "right to left": "a\u202egnp.exe.png".encode(),
    "formula": b"=cmd|'calc'!A1.png",
    "html": b"<img src=x onerror=alert(1)>.png",
    "backslash": b"..\\..\\x.png",
}


def tars() -> dict[str, bytes]:
    """Tar files that leave their directory, lie about sizes, or are not what they claim."""
    image = png(0)
    plain = tar({"0.png": image, "0.txt": b"a boat"})
    huge = bytearray(plain)
    huge[124:136] = b"\x80" + bytes(7) + b"\x7f\xff\xff\xff"  # base-256 size of the first member
    negative = bytearray(plain)
    negative[124:136] = b"\xff" * 12
    link = io.BytesIO()
    with tarfile.open(fileobj=link, mode="w") as archive:
        for name, kind in (("0.png", tarfile.SYMTYPE), ("1.png", tarfile.LNKTYPE), ("2.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    return {
        "parent directories": tar({"../../../evil.png": image, "../../../evil.txt": b"a boat"}),
        "absolute": tar({"/tmp/evil.png": image, "/tmp/evil.txt": b"a boat"}),
        "huge member": bytes(huge),
        "negative member": bytes(negative),
        "links": link.getvalue(),
        "escapes": tar({"\x1b[31m0.png": image, "\x1b[31m0.txt": b"a \x1b[31mboat"}),
        "many members": tar({f"{number}.txt": b"" for number in range(20_000)}),
        "same name": tar({"0.png": image})[:-1024] + plain,
        "not a tar": b"PK\x03\x04" + bytes(5000),
        "caption of 16 MB": tar({"0.png": image, "0.txt": b"a" * (1 << 24)}),
        "json of brackets": tar({"0.png": image, "0.json": b"[" * 1_000_000}),
    }


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 28))
    return buffer.getvalue()


def _special(name: str, seed: Seed, content: bytes) -> HostileInput:
    return HostileInput(name, partial(seed.write, content=content), seed.command)


def _write_irregular(seed: Seed, make: Callable[[Path], None], root: Path) -> None:
    seed.write(root, seed.content)
    (root / seed.path).unlink()
    make(root / seed.path)


def _write_named(name: bytes, root: Path) -> None:
    seeds()["image png"].write(root, png(0))
    with open(os.fsencode(root / "photos") + b"/" + name, "wb") as file:  # noqa: PTH123
        file.write(png(2))
