"""Models in transformers' directories are compared with transformers: towers, token ids and pixels.

A CLIPModel or SiglipModel with random tensors is saved by `save_pretrained` and read by `read_hugging_face`.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.parity.peers import fill_at_random, has_transformers, transformers
from tests.text.test_families import siglip_files
from wordsight.image import CLIP_MEAN, Preprocessing, normalise, resize_and_crop
from wordsight.model import CLIP, PUBLISHED, ModelConfig, VisionTransformerConfig, build_empty
from wordsight.text import build_tokenizer, tokenize
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.hugging_face import hugging_face_files_of, read_hugging_face
from wordsight.weights.formats.key_layouts import to_theirs

pytestmark = pytest.mark.skipif(not has_transformers(), reason="needs transformers")

TOLERANCE = 1e-5
TEXTS = ["a cat", "two dogs running over wet sand towards a very blue sea", "", "a photo of the number 7"]
VITS = [name for name, config in PUBLISHED.items() if isinstance(config.image, VisionTransformerConfig)]
SIDES = (5, 31, 32, 33, 47, 64, 65, 97, 100, 128)


def clip_config(name: str = "ViT-B-32", text: dict[str, Any] | None = None, **vision: Any) -> Any:
    """A published architecture with all layers and patches, at an eighth of the width."""
    config = PUBLISHED[name]
    image_tower, text_tower = config.image, config.text
    towers = {
        "vision_config": {
            "hidden_size": image_tower.width // 8,
            "intermediate_size": image_tower.width // 2,
            "num_hidden_layers": image_tower.layers,
            "num_attention_heads": image_tower.heads,
            "image_size": image_tower.image_size_px,
            "patch_size": image_tower.patch_size_px,
        }
        | vision,
        "text_config": {
            "hidden_size": text_tower.width // 8,
            "intermediate_size": text_tower.width // 2,
            "num_hidden_layers": text_tower.layers,
            "num_attention_heads": text_tower.heads,
        }
        | (text or {}),
    }
    return transformers().CLIPConfig(**towers, projection_dim=config.embed_dim // 8)


def small_clip(text: dict[str, Any] | None = None, **vision: Any) -> Any:
    return clip_config(
        text={"num_hidden_layers": 3} | (text or {}), **({"num_hidden_layers": 3, "image_size": 64} | vision)
    )


def siglip_config(text: dict[str, Any] | None = None, **vision: Any) -> Any:
    """SigLIP with a vocabulary of 50; 65 pixels are not a multiple of the patch size 16, like 384 and 14."""
    common = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12}
    return transformers().SiglipConfig(
        vision_config=common | {"image_size": 65, "patch_size": 16} | vision,
        text_config=common
        | {"vocab_size": 50, "bos_token_id": None, "eos_token_id": 1, "max_position_embeddings": 16}
        | (text or {}),
    )


def peer_of(config: Any, seed: int = 0) -> Any:
    library = transformers()
    peer = (library.CLIPModel if config.model_type == "clip" else library.SiglipModel)(config).eval()
    fill_at_random(peer, seed)
    return peer


def processor_of(config: Any) -> Any:
    library, size = transformers(), config.vision_config.image_size
    side = {"height": size, "width": size}
    if config.model_type == "clip":
        return library.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=side)
    return library.SiglipImageProcessorPil(size=side)


def saved(directory: Path, peer: Any) -> Path:
    peer.save_pretrained(directory)
    processor_of(peer.config).save_pretrained(directory)
    if peer.config.model_type == "siglip":
        for name, content in siglip_files().items():
            (directory / name).write_bytes(content)
    return directory


def built(checkpoint: Checkpoint, model: ModelConfig | None = None) -> CLIP:
    ours = build_empty(model or checkpoint.card.model)
    ours.load_state_dict(dict(checkpoint.tensors), strict=True, assign=True)
    return ours.eval()


def inputs(checkpoint: Checkpoint) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size = checkpoint.card.model.image.image_size_px
    ids = torch.from_numpy(build_tokenizer(checkpoint.card.tokenizer, checkpoint.files)(TEXTS)).long()
    return torch.randn(2, 3, size, size, generator=generator), ids


@torch.no_grad()
def max_difference(ours: CLIP, peer: Any, checkpoint: Checkpoint) -> float:
    """The largest difference of a component of the unit-length embeddings; logits are compared too."""
    pixels, ids = inputs(checkpoint)
    images = torch.nn.functional.normalize(ours.encode_image(pixels), dim=1)
    texts = torch.nn.functional.normalize(ours.encode_text(ids), dim=1)
    theirs = peer(input_ids=ids, pixel_values=pixels)
    difference = max((images - theirs.image_embeds).abs().max().item(), (texts - theirs.text_embeds).abs().max().item())
    logits = ours.scale * images @ texts.T + (ours.logit_bias if ours.config.logit_bias else 0)
    if difference < TOLERANCE:
        torch.testing.assert_close(logits, theirs.logits_per_image, rtol=1e-4, atol=1e-3)
    return difference


@pytest.mark.parametrize("name", VITS)
def test_embeddings_of_the_four_vits_equal_transformers(tmp_path: Path, name: str) -> None:
    peer = peer_of(clip_config(name))
    checkpoint = read_hugging_face(saved(tmp_path, peer))
    assert max_difference(built(checkpoint), peer, checkpoint) < TOLERANCE
    published = PUBLISHED[name]
    text = msgspec.structs.replace(published.text, width=published.text.width // 8, end_id=49407)
    image = msgspec.structs.replace(published.image, width=published.image.width // 8)
    assert checkpoint.card.model == ModelConfig(image=image, text=text, embed_dim=published.embed_dim // 8)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu_pytorch_tanh"},
        {"layer_norm_eps": 1e-6},
        {"intermediate_size": 200},
        {"num_attention_heads": 4},
        {"image_size": 30, "patch_size": 14},
        {"text": {"hidden_act": "gelu"}},
        {"text": {"eos_token_id": 2}},
        {"text": {"layer_norm_eps": 1e-3, "intermediate_size": 100, "max_position_embeddings": 20}},
    ],
    ids=str,
)
def test_embeddings_of_clip_with_every_key_equal_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    peer = peer_of(small_clip(**config))
    checkpoint = read_hugging_face(saved(tmp_path, peer))
    assert max_difference(built(checkpoint), peer, checkpoint) < TOLERANCE


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_act": "gelu", "text": {"hidden_act": "quick_gelu"}},
        {"layer_norm_eps": 1e-4, "text": {"layer_norm_eps": 1e-3}},
        {"intermediate_size": 359, "num_attention_heads": 8, "num_hidden_layers": 3},
    ],
    ids=str,
)
def test_embeddings_of_siglip_equal_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    peer = peer_of(siglip_config(**config))
    checkpoint = read_hugging_face(saved(tmp_path, peer))
    assert max_difference(built(checkpoint), peer, checkpoint) < TOLERANCE


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_negative_control_faults_change_embeddings(tmp_path: Path, kind: str) -> None:
    """Each fault must change an embedding by more than the tolerance."""
    few = {"num_hidden_layers": 2}
    peer = peer_of(
        siglip_config(few, **few)
        if kind == "siglip"
        else small_clip(layer_norm_eps=1e-6, text={"layer_norm_eps": 1e-6})
    )
    checkpoint = read_hugging_face(saved(tmp_path, peer))
    model, tensors = checkpoint.card.model, checkpoint.tensors
    for tower in ("image", "text"):
        for change in ({"activation": "gelu"}, {"epsilon": 1e-5}):
            wrong = msgspec.structs.replace(getattr(model, tower), **change)
            other = built(checkpoint, msgspec.structs.replace(model, **{tower: wrong}))
            assert max_difference(other, peer, checkpoint) > TOLERANCE, (tower, change)
    for prefix in ("visual.transformer.", "transformer."):
        one, other = (f"{prefix}resblocks.{number}." for number in (0, 1))
        swap = {n: n.replace(one, other) if n.startswith(one) else n.replace(other, one) for n in tensors}
        swapped = {n: tensors[swap[n]] if n.startswith((one, other)) else tensors[n] for n in tensors}
        assert max_difference(built(Checkpoint(swapped, checkpoint.card)), peer, checkpoint) > TOLERANCE, prefix
    for name, tensor in tensors.items():
        if name.endswith("bias") and name != "logit_bias" and not name.endswith("in_proj_bias"):
            zeroed = Checkpoint({**tensors, name: torch.zeros_like(tensor)}, checkpoint.card)
            assert max_difference(built(zeroed), peer, checkpoint) > TOLERANCE, name


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_loads_the_written_files(tmp_path: Path, kind: str) -> None:
    peer = peer_of(siglip_config() if kind == "siglip" else small_clip(text={"eos_token_id": 2}))
    checkpoint = read_hugging_face(saved(tmp_path / "one", peer))
    written = hugging_face_files_of(checkpoint.card, checkpoint.tensors)
    directory = tmp_path / "two"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(written.config))
    (directory / "preprocessor_config.json").write_text(json.dumps(written.preprocessor))
    save_file(written.tensors, directory / "model.safetensors", {"format": "pt"})
    for name, content in checkpoint.files.items():
        (directory / name).write_bytes(content)
    original = load_file(tmp_path / "one" / "model.safetensors")
    assert written.tensors.keys() == original.keys()
    assert all(torch.equal(written.tensors[name], tensor) for name, tensor in original.items())
    library = transformers()
    loaded = (library.CLIPModel if kind == "clip" else library.SiglipModel).from_pretrained(directory).eval()
    assert max_difference(built(checkpoint), loaded, checkpoint) < TOLERANCE
    loader = library.CLIPImageProcessorPil if kind == "clip" else library.SiglipImageProcessorPil
    processor = loader.from_pretrained(directory)
    image = random_image(100, 64)  # an even margin, which both halve equally
    pixels = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    ours = normalise(resize_and_crop(image, checkpoint.card.preprocessing), checkpoint.card.preprocessing)
    np.testing.assert_allclose(pixels, ours, atol=1e-6)


def test_shards_and_pickled_weights_are_read_like_one_file(tmp_path: Path) -> None:
    peer = peer_of(small_clip())
    expected = read_hugging_face(saved(tmp_path / "one", peer)).tensors
    peer.save_pretrained(tmp_path / "many", max_shard_size="1MB")
    processor_of(peer.config).save_pretrained(tmp_path / "many")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    saved(tmp_path / "old", peer)
    (tmp_path / "old" / "model.safetensors").unlink()
    buffers = {"text_model.embeddings.position_ids": torch.arange(77)[None]}  # as in files of older versions
    torch.save(peer.state_dict() | buffers, tmp_path / "old" / "pytorch_model.bin")
    for directory in ("many", "old"):
        checkpoint = read_hugging_face(tmp_path / directory).tensors
        assert checkpoint.keys() == expected.keys()
        assert all(torch.equal(checkpoint[name], tensor) for name, tensor in expected.items())


def test_an_older_tower_config_replaces_the_newer_one(tmp_path: Path) -> None:
    peer = peer_of(small_clip())
    path = saved(tmp_path, peer) / "config.json"
    config = json.loads(path.read_text())
    text = config["text_config"]
    config["text_config_dict"] = {key: text[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config["text_config"] = text | {"num_hidden_layers": 7, "num_attention_heads": 2}
    path.write_text(json.dumps(config))
    theirs = transformers().CLIPConfig.from_pretrained(tmp_path).text_config
    ours = read_hugging_face(tmp_path).card.model.text
    assert (ours.layers, ours.heads) == (theirs.num_hidden_layers, theirs.num_attention_heads) == (3, 8)


def random_image(width: int, height: int) -> np.ndarray:
    return np.random.default_rng(1000 * width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixels_of(processor: Any, array: np.ndarray) -> np.ndarray:
    return processor(Image.fromarray(array), return_tensors="np")["pixel_values"][0]


def test_pixels_of_siglip_equal_transformers() -> None:
    size = 33
    processor = transformers().SiglipImageProcessorPil(size={"height": size, "width": size})
    preprocessing = Preprocessing(size_px=size, mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash")
    for width in SIDES:
        for height in SIDES:
            array = random_image(width, height)
            np.testing.assert_allclose(
                pixels_of(processor, array), normalise(resize_and_crop(array, preprocessing), preprocessing), atol=1e-6
            )


def test_pixels_of_clip_equal_transformers() -> None:
    """transformers rounds half of an odd margin down; OpenAI's and open_clip's transforms round it to even."""
    size = 32
    processor = transformers().CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    floor, published = Preprocessing(size_px=size, crop="floor"), Preprocessing(size_px=size)
    differing = set()
    for width in SIDES:
        for height in SIDES:
            array = random_image(width, height)
            theirs = pixels_of(processor, array)
            np.testing.assert_allclose(theirs, normalise(resize_and_crop(array, floor), floor), atol=1e-6)
            margin = int(size * max(width, height) / min(width, height)) - size
            is_equal = bool(np.abs(theirs - normalise(resize_and_crop(array, published), published)).max() < 1e-6)
            assert is_equal == (round(margin / 2) == margin // 2), (width, height)
            differing |= {(width, height)} if not is_equal else set()
    assert differing, "negative control"


def test_preprocessing_is_read(tmp_path: Path) -> None:
    checkpoint = read_hugging_face(saved(tmp_path / "clip", peer_of(small_clip())))
    assert checkpoint.card.preprocessing == Preprocessing(size_px=64, crop="floor")
    assert checkpoint.card.preprocessing.mean == CLIP_MEAN
    checkpoint = read_hugging_face(saved(tmp_path / "siglip", peer_of(siglip_config(num_hidden_layers=2))))
    half = (0.5, 0.5, 0.5)
    assert checkpoint.card.preprocessing == Preprocessing(size_px=65, mean=half, std=half, resize="squash")


def test_token_ids_equal_transformers_for_the_directory(tmp_path: Path) -> None:
    checkpoint = read_hugging_face(saved(tmp_path / "siglip", peer_of(siglip_config(num_hidden_layers=2))))
    texts = ["A photo of: TWO dogs!", *TEXTS]
    peer = transformers().SiglipTokenizer(str(tmp_path / "siglip" / "spiece.model"))
    theirs = peer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="np")["input_ids"]
    assert np.array_equal(build_tokenizer(checkpoint.card.tokenizer, checkpoint.files)(texts), theirs)
    checkpoint = read_hugging_face(saved(tmp_path / "clip", peer_of(small_clip())))
    assert np.array_equal(build_tokenizer(checkpoint.card.tokenizer, checkpoint.files)(texts), tokenize(texts))


def test_key_layouts_restore_the_original_state_dict(tmp_path: Path) -> None:
    for kind, config in (("clip", small_clip()), ("siglip", siglip_config(num_hidden_layers=2))):
        peer = peer_of(config)
        checkpoint = read_hugging_face(saved(tmp_path / kind, peer))
        back = to_theirs(checkpoint.tensors, f"hugging_face_{kind}")  # type: ignore[arg-type]
        assert back.keys() == peer.state_dict().keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in peer.state_dict().items())
