"""Archives for tests: tiny models with OpenAI's names, as torch writes them, and files assembled by hand."""

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wordsight.model import ModelConfig, TextConfig, VisionTransformerConfig

WIDTH, EMBED, PATCH, SIZE, CONTEXT, VOCABULARY = 64, 32, 8, 16, 12, 49408
VIT = ModelConfig(
    image=VisionTransformerConfig(image_size_px=SIZE, patch_size_px=PATCH, width=WIDTH, layers=2, heads=1),
    text=TextConfig(width=WIDTH, heads=1, layers=2, context_length=CONTEXT, vocabulary_size=VOCABULARY),
    embed_dim=EMBED,
)
"""The architecture of `TinyClip`."""


class QuickGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """As published, with torch's attention; `attn_mask` is an attribute, which TorchScript stores."""

    def __init__(self, width: int, mask: Tensor | None) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.ln_2 = nn.LayerNorm(width)
        self.attn_mask = mask

    def forward(self, x: Tensor) -> Tensor:
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=self.attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    def __init__(self, width: int, layers: int, mask: Tensor | None = None) -> None:
        super().__init__()
        self.width = width
        self.layers = layers
        self.resblocks = nn.Sequential(*(Block(width, mask) for _ in range(layers)))

    def forward(self, x: Tensor) -> Tensor:
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_resolution = SIZE
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIZE // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre = nn.LayerNorm(WIDTH)
        self.transformer = Transformer(WIDTH, 2)
        self.ln_post = nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        start = self.class_embedding + torch.zeros(x.shape[0], 1, x.shape[2], dtype=x.dtype)
        x = torch.cat([start, x], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj


class TinyClip(nn.Module):
    """A model in OpenAI's layout, built from torch's layers; every tensor is random."""

    def __init__(self, seed: int = 0, mask: Tensor | None = None) -> None:
        super().__init__()
        self.context_length = CONTEXT
        self.visual = Visual()
        self.transformer = Transformer(WIDTH, 2, torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1))
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(CONTEXT, WIDTH))
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBED))
        self.logit_scale = nn.Parameter(torch.ones([]))
        fill(self, seed)
        self.eval()

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        x = self.token_embedding(ids) + self.positional_embedding
        x = self.ln_final(self.transformer(x))
        end = ids.argmax(dim=-1)
        return self.visual(pixels), x[torch.arange(ids.shape[0]), end] @ self.text_projection


class Node(nn.Module):
    """A module that only holds the tensors of a state dict under their names."""

    def __init__(self, state_dict: Mapping[str, Tensor]) -> None:
        super().__init__()
        below: dict[str, dict[str, Tensor]] = {}
        for name, tensor in state_dict.items():
            first, _, rest = name.partition(".")
            if rest:
                below.setdefault(first, {})[rest] = tensor
            elif tensor.is_floating_point() and not first.startswith("running"):
                self.register_parameter(first, nn.Parameter(tensor))
            else:
                self.register_buffer(first, tensor)
        for name, tensors in below.items():
            self.add_module(name, Node(tensors))

    def forward(self, x: Tensor) -> Tensor:
        return x


def fill(module: nn.Module, seed: int) -> None:
    """Draw random values for every parameter and buffer, small enough that activations keep their magnitude."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1 + (tensor.ndim == 1))


def halve_as_published(module: nn.Module) -> nn.Module:
    """Convert layers and projections to half precision, but not normalisations and embeddings, as OpenAI does."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            part.half()
    for owner in (module, getattr(module, "visual", None)):
        for name in ("text_projection", "proj"):
            if isinstance(getattr(owner, name, None), nn.Parameter):
                setattr(owner, name, nn.Parameter(getattr(owner, name).half()))
    return module


def add_metadata(module: nn.Module, size_px: int = SIZE) -> nn.Module:
    """Add the three integers that OpenAI's archives contain as buffers."""
    for name, number in {"input_resolution": size_px, "context_length": CONTEXT, "vocab_size": VOCABULARY}.items():
        if hasattr(module, name):
            delattr(module, name)
        module.register_buffer(name, torch.tensor(number))
    return module


def write_script(path: Path, module: nn.Module, example: tuple[Tensor, ...] | None) -> Path:
    """Write a TorchScript archive, traced with an example, or scripted if the example is None."""
    script = torch.jit.script(module) if example is None else torch.jit.trace(module, example)
    torch.jit.save(script, path)
    return path


def rewrite(path: Path, root: str | None = None, **members: bytes) -> Path:
    """Rewrite an archive, unaligned and uncompressed, with another root directory and other bytes for some members."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    previous = next(name for name in content if name.endswith("/data.pkl")).split("/")[0]
    with zipfile.ZipFile(path, "w") as file:
        for name, value in content.items():
            inner = name.removeprefix(f"{previous}/")
            file.writestr(f"{root or previous}/{inner}", members.get(inner, value))
    return path


def hand_archive(pickle: bytes, storages: Mapping[str, bytes] | None = None, **members: bytes) -> bytes:
    """The bytes of an archive with the given `data.pkl`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle)
        for key, value in (storages or {}).items():
            file.writestr(f"archive/data/{key}", value)
        for name, value in members.items():
            file.writestr(f"archive/{name}", value)
    return buffer.getvalue()


# Pickles by hand: each of these functions returns instructions that leave one value on the stack.


def program(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def name(module: str, qualified: str) -> bytes:
    return f"c{module}\n{qualified}\n".encode()


def value(plain: Any) -> bytes:
    """A number, string or tuple of them as Python's pickler writes it, without header and end."""
    return pickle.dumps(plain, protocol=2)[2:-1]


def group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    words = [b"X" + struct.pack("<I", len(text)) + text.encode() for text in ("storage", key, "cuda:0")]
    return group(words[0], name("torch", kind), words[1], words[2], value(count)) + b"Q"


def tensor(
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), offset: int = 0, over: bytes | None = None
) -> bytes:
    parts = [over or storage(), value(offset), _numbers(size), _numbers(stride), b"\x89"]
    return call(name("torch._utils", "_rebuild_tensor_v2"), *parts, call(name("collections", "OrderedDict")))


def _numbers(plain: tuple[int, ...]) -> bytes:
    """A tuple of integers without memo entries, which would be assigned twice."""
    return group(*(value(number) for number in plain))
