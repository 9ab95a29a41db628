"""Small models of every architecture with random tensors, as checkpoints that a reader returns."""

import hashlib
import io
import json
import shutil
import tempfile
from pathlib import Path

import msgspec
import pytest
from tests.parity.peers import fill_at_random

from wordsight.image import Preprocessing
from wordsight.model import (
    ModelConfig,
    ModifiedResNetConfig,
    ResidualConfig,
    SigLIPConfig,
    TextConfig,
    VisionTransformerConfig,
    build_empty,
)
from wordsight.text import TokenizerConfig
from wordsight.weights import Card
from wordsight.weights.card import CARD_NAME
from wordsight.weights.certificate import CERTIFICATE_NAME
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.formats.onnx_directory import EXPORTED_NAME
from wordsight.weights.formats.wordsight import hash_weights

S = msgspec.structs.replace
TEXT = TextConfig(width=64, heads=1, layers=2, context_length=16)
VIT = VisionTransformerConfig(image_size_px=32, patch_size_px=16, width=64, layers=2, heads=1)
SIGLIP_TEXT = S(
    TEXT,
    vocabulary_size=26,
    is_causal=False,
    pool="last",
    projection="linear",
    activation="gelu_tanh",
    epsilon=1e-6,
)
GELU = {"activation": "gelu"}

MODELS = {
    "vit": ModelConfig(image=VIT, text=TEXT, embed_dim=32),
    "vit-gelu": ModelConfig(image=S(VIT, **GELU), text=S(TEXT, **GELU), embed_dim=32),
    "vit-mixed": ModelConfig(image=S(VIT, **GELU), text=TEXT, embed_dim=32),
    "vit-narrow-heads": ModelConfig(image=S(VIT, heads=2), text=S(TEXT, heads=4), embed_dim=32),
    "vit-leftover": ModelConfig(image=S(VIT, image_size_px=30, patch_size_px=14), text=TEXT, embed_dim=32),
    "vit-mean": ModelConfig(image=S(VIT, pool="mean", norm_before=False), text=TEXT, embed_dim=32),
    "vit-conv-stem": ModelConfig(image=S(VIT, stem="conv"), text=TEXT, embed_dim=32),
    "resnet": ModelConfig(
        image=ModifiedResNetConfig(image_size_px=64, layers=(1, 1, 1, 1), width=8), text=TEXT, embed_dim=32
    ),
    "residual": ModelConfig(
        image=ResidualConfig(image_size_px=32, widths=(8, 16), blocks=(1, 1)), text=TEXT, embed_dim=32
    ),
    "class-token": ModelConfig(image=VIT, text=S(TEXT, pool="class_token"), embed_dim=32),
    "siglip": ModelConfig(
        image=SigLIPConfig(image_size_px=32, patch_size_px=16, width=64, layers=2, heads=1),
        text=SIGLIP_TEXT,
        embed_dim=64,
        logit_bias=True,
    ),
    "siglip-leftover": ModelConfig(
        image=SigLIPConfig(image_size_px=30, patch_size_px=14, width=64, layers=2, heads=1),
        text=SIGLIP_TEXT,
        embed_dim=64,
        logit_bias=True,
    ),
}


def sentencepiece_file() -> bytes:
    """A sentencepiece model of 26 pieces with SigLIP's symbols, trained here."""
    sentencepiece = pytest.importorskip("sentencepiece")
    file = io.BytesIO()
    sentences = ["a photo of a cat", "two dogs running over wet sand", "a diagram with parts"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=file,
        vocab_size=26,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return file.getvalue()


def checkpoint_of(name: str, seed: int = 0) -> Checkpoint:
    """A checkpoint in which every parameter and buffer is random."""
    config = MODELS[name]
    model = build_empty(config).to_empty(device="cpu")
    fill_at_random(model, seed)
    tokenizer, files = TokenizerConfig(context_length=16), {}
    if name.startswith("siglip"):
        files = {"spiece.model": sentencepiece_file()}
        tokenizer = TokenizerConfig(
            family="sentencepiece",
            context_length=16,
            end_id=1,
            pad_id=1,
            lower_case=True,
            removes_punctuation=True,
            file="spiece.model",
            file_sha256=hashlib.sha256(files["spiece.model"]).hexdigest(),
        )
    size_px = config.image.image_size_px
    preprocessing = Preprocessing(size_px=size_px)
    if name.startswith("siglip"):
        preprocessing = Preprocessing(size_px=size_px, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash")
    card = Card(name=name, model=config, preprocessing=preprocessing, tokenizer=tokenizer)
    return Checkpoint({key: value.clone() for key, value in model.state_dict().items()}, card, files)


def heads_64_wide() -> Checkpoint:
    """A model that every format can represent."""
    return checkpoint_of("vit")


def sentencepiece_model() -> Checkpoint:
    """A small SigLIP model, which has its own tokenizer."""
    return checkpoint_of("siglip")


_converted: dict[str, tempfile.TemporaryDirectory[str]] = {}


def convert_without_hashes(checkpoint: Checkpoint, directory: Path, target: str) -> None:
    """Convert a model and remove the hashes of the written files, so that a test can change the files.

    Equal models are converted once and copied.
    """
    key = hash_weights(checkpoint.tensors) + repr(checkpoint.card) + target
    if key not in _converted:
        _converted[key] = tempfile.TemporaryDirectory()
        convert(checkpoint, Path(_converted[key].name) / "out", target)
    shutil.copytree(Path(_converted[key].name) / "out", directory)
    (directory / CERTIFICATE_NAME).unlink()
    if target == "wordsight":
        card = json.loads((directory / CARD_NAME).read_text())
        (directory / CARD_NAME).write_text(json.dumps(card | {"weights_sha256": ""}))
    if target == "onnx":
        exported = json.loads((directory / EXPORTED_NAME).read_text())
        (directory / EXPORTED_NAME).write_text(json.dumps(exported | {"files": {}}))
