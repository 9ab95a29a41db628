"""Batches: identical for any number of workers and ranks and after a resume, with broken samples counted."""

import dataclasses
import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from wordsight.data import loader as module
from wordsight.data.loader import Batch, BatchPlan, Loader, draw_text, drop_words
from wordsight.data.mixture import Mixture, MixtureSource, SourceOrder
from wordsight.data.order import Purpose, draws, stream_of
from wordsight.data.shard_reader import open_shards
from wordsight.errors import ConfigError, DataError
from wordsight.image import Augmentation, augment, decode
from wordsight.text import clip_tokenizer

Shards = Callable[..., Path]
PLAN = BatchPlan(batch_size=12, size_px=8, augmentation=Augmentation(scale=(0.5, 1.0), flip=True), seed=3)
TEMPLATES = ("a photo of a {}", "{}")


@pytest.fixture
def mixture(make_shards: Shards) -> Mixture:
    """17 captioned samples and 5 labelled ones (two labels with two names each), mixed two to one."""

    def label(number: int) -> dict[str, Any]:
        return {"label": f"thing {number % 2}", "names": [f"thing {number % 2}", f"object {number % 2}"]}

    captions = open_shards(make_shards("captions", [9, 8]))
    labels = open_shards(make_shards("labels", [5], label))
    return Mixture([MixtureSource(captions, 2.0), MixtureSource(labels, 1.0, TEMPLATES)])


def take(mixture: Mixture, count: int, plan: BatchPlan = PLAN, **options: Any) -> list[Batch]:
    with Loader(mixture, clip_tokenizer(16), plan, **options) as loader:
        return [next(loader) for _ in range(count)]


def assert_equal(one: Batch, other: Batch) -> None:
    assert (one.step, one.keys, one.texts) == (other.step, other.keys, other.texts)
    for name in ("pixels", "ids", "text_numbers", "own_numbers", "own_ids", "is_label"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_every_slot_follows_from_the_documented_draws(mixture: Mixture) -> None:
    for batch in take(mixture, 3):
        for row in range(12):
            source = 0 if row < 8 else 1
            position = batch.step * (8, 4)[source] + row - 8 * source
            shards = mixture.sources[source].shards
            epoch, index = divmod(position, len(shards))
            sample = shards.sample(SourceOrder(shards, 3, source).sample_at(position))
            drawn = draws(3, stream_of(Purpose.TEXT, source), epoch, index)
            _, text = draw_text(mixture.sources[source].texts_of(sample), mixture.sources[source].templates, drawn)
            crop = draws(3, stream_of(Purpose.CROP, source), epoch, index)
            assert (batch.keys[row], batch.texts[row]) == (sample.key, text)
            assert (batch.pixels[row].numpy() == augment(decode(sample.image), 8, PLAN.augmentation, crop)).all()
            assert bool(batch.is_label[row]) == (source == 1)


def test_types_and_shapes_are_as_documented(mixture: Mixture) -> None:
    (batch,) = take(mixture, 1)
    assert (batch.pixels.shape, batch.pixels.dtype) == ((12, 8, 8, 3), torch.uint8)
    assert (batch.ids.dtype, batch.text_numbers.dtype, batch.is_label.dtype) == (torch.int32, torch.int64, torch.bool)
    assert (batch.own_numbers.shape, batch.own_numbers.dtype) == ((12, 2), torch.int64)
    assert (batch.own_ids.shape[:2], batch.own_ids.dtype) == ((12, 2), torch.int32)
    for text, own in zip(batch.texts[:8], batch.own_ids[:8].tolist(), strict=True):
        assert clip_tokenizer(16).encode(text) in [[token for token in ids[1:] if token][:-1] for ids in own]
    full = torch.from_numpy(clip_tokenizer(16)(list(batch.texts)))
    length = max(len(clip_tokenizer(16).encode(text)) for text in batch.texts) + 2
    assert torch.equal(batch.ids, full[:, :length])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.step = 5  # type: ignore[misc]


@pytest.mark.parametrize("options", [{"workers": 1}, {"workers": 3}, {"workers": 5, "prefetch": 1}])
def test_the_number_of_workers_does_not_change_the_batches(mixture: Mixture, options: dict[str, int]) -> None:
    for one, other in zip(take(mixture, 9), take(mixture, 9, **options), strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("first_step", [1, 4, 7])
def test_a_resumed_loader_returns_the_same_batches(mixture: Mixture, first_step: int) -> None:
    whole = take(mixture, 9)
    for one, other in zip(whole[first_step:], take(mixture, 9 - first_step, first_step=first_step), strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_concatenated_ranks_are_the_global_batch(mixture: Mixture, world: int) -> None:
    whole = take(mixture, 3)
    parts = [take(mixture, 3, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        ranks = [part[step] for part in parts]
        width, own_width = batch.ids.shape[1], batch.own_ids.shape[2]
        joined = Batch(
            step=step,
            pixels=torch.cat([rank.pixels for rank in ranks]),
            ids=torch.cat([torch.nn.functional.pad(rank.ids, (0, width - rank.ids.shape[1])) for rank in ranks]),
            text_numbers=torch.cat([rank.text_numbers for rank in ranks]),
            own_numbers=torch.cat([rank.own_numbers for rank in ranks]),
            own_ids=torch.cat(
                [torch.nn.functional.pad(rank.own_ids, (0, own_width - rank.own_ids.shape[2])) for rank in ranks]
            ),
            is_label=torch.cat([rank.is_label for rank in ranks]),
            keys=sum((rank.keys for rank in ranks), ()),
            texts=sum((rank.texts for rank in ranks), ()),
        )
        assert_equal(batch, joined)


def test_another_seed_changes_the_batches(mixture: Mixture) -> None:
    """A negative control of the three tests above."""
    (one,), (other,) = take(mixture, 1), take(mixture, 1, dataclasses.replace(PLAN, seed=4))
    assert one.keys != other.keys
    assert not torch.equal(one.pixels, other.pixels)


def test_every_batch_has_the_same_composition_and_every_epoch_has_all_samples(mixture: Mixture) -> None:
    batches = take(mixture, 17)
    assert {int(batch.is_label.sum()) for batch in batches} == {4}
    captions = [key for batch in batches for key in batch.keys[:8]]  # 136 slots, 8 epochs of 17
    labels = [key for batch in batches for key in batch.keys[8:]][:65]  # 13 epochs of 5
    assert set(Counter(captions).values()) == {8}
    assert set(Counter(labels).values()) == {13}


def test_all_captions_names_and_templates_are_drawn(mixture: Mixture) -> None:
    texts = {text for batch in take(mixture, 40) for text in batch.texts}
    names = [f"{kind} {number}" for kind in ("thing", "object") for number in range(2)]
    labels = {template.replace("{}", name) for template in TEMPLATES for name in names}
    captions = {f"{word} {number}" for word in ("image", "number") for number in range(17)}
    assert texts == labels | captions


def test_equal_texts_belong_to_every_image_that_has_them(make_shards: Shards) -> None:
    caption_of = ["A  cat ", "a dog"]
    names = [{"label": "tabby", "names": ["tabby", "a cat"]}, {"label": "pug", "names": ["pug", "a dog"]}]
    captions = open_shards(make_shards("captions", [2], lambda number: {"caption": caption_of[number]}))
    labels = open_shards(make_shards("labels", [2], lambda number: names[number % 2]))
    mixture = Mixture([MixtureSource(captions, 2.0), MixtureSource(labels, 2.0, ("a big {}",))])
    drawn = set()
    for batch in take(mixture, 12, dataclasses.replace(PLAN, batch_size=4)):
        own = [{"a cat"} if t == "A  cat" else {"a dog"} for t in batch.texts[:2]]
        own += [
            {"tabby", "a cat"} if t in ("a big tabby", "a big a cat") else {"pug", "a dog"} for t in batch.texts[2:]
        ]
        bare = [" ".join(text.removeprefix("a big ").lower().split()) for text in batch.texts]
        expected = [[text in texts for text in bare] for texts in own]
        # "a big a cat" is a text of the tabby's image, and "a big a dog" of the pug's
        assert batch.is_own_text().tolist() == expected
        drawn.update(bare)
    assert drawn == {"a cat", "a dog", "tabby", "pug"}


def test_a_source_can_have_its_own_augmentation(mixture: Mixture) -> None:
    first, second = mixture.sources
    own = Augmentation(scale=(0.1, 0.2), detail=(0.5, 0.5))
    changed = Mixture([first, msgspec.structs.replace(second, augmentation=own)])
    (plain,), (batch,) = take(mixture, 1), take(changed, 1)
    assert torch.equal(plain.pixels[:8], batch.pixels[:8])
    assert not torch.equal(plain.pixels[8:], batch.pixels[8:])
    assert changed.fingerprint != mixture.fingerprint


@pytest.mark.parametrize("texts", ["captions", "names"])
def test_a_source_uses_the_captions_or_the_names_of_images_that_have_both(make_shards: Shards, texts: Any) -> None:
    def both(number: int) -> dict[str, Any]:
        values = {"captions": [f"caption {number}"], "label": "cat", "names": ["cat", "kitten"]}
        keys = {0: ["captions"], 1: ["label", "names"]}.get(number, list(values))
        return {key: values[key] for key in keys}

    source = MixtureSource(open_shards(make_shards("both", [6], both)), texts=texts)
    (batch,) = take(Mixture([source]), 1)
    for key, text, own, is_label in zip(batch.keys, batch.texts, batch.own_ids, batch.is_label, strict=True):
        uses_names = key.endswith("1") or (texts == "names" and not key.endswith("0"))
        assert bool(is_label) == uses_names
        assert text in (("cat", "kitten") if uses_names else (f"caption {key[-1]}",))
        assert sum(bool(ids.any()) for ids in own) == (2 if uses_names else 1)


def test_the_choice_of_texts_is_part_of_the_fingerprint_only_if_it_is_made(mixture: Mixture) -> None:
    """So that runs of versions without this key can be resumed."""
    first, second = mixture.sources
    changed = Mixture([first, msgspec.structs.replace(second, texts="names")])
    parts = [(s.shards.fingerprint, s.weight, s.templates, s.augmentation, s.word_dropout) for s in mixture.sources]
    assert mixture.fingerprint == hashlib.sha256(msgspec.json.encode(parts)).hexdigest()
    assert changed.fingerprint != mixture.fingerprint


def test_braces_in_a_name_are_not_formatted() -> None:
    assert draw_text(["{0.__class__}"], ("a {}",), draws(0, 0, 0, 0)) == ("{0.__class__}", "a {0.__class__}")


def test_templates_apply_to_captions_too() -> None:
    drawn = {draw_text(["two dogs"], ("{}", "a picture of {}"), draws(0, 0, 0, position)) for position in range(20)}
    assert drawn == {("two dogs", "two dogs"), ("two dogs", "a picture of two dogs")}


def test_words_are_dropped_with_the_given_probability_and_one_is_kept() -> None:
    words = [f"w{number}" for number in range(20)]
    kept = [drop_words(" ".join(words), 0.3, draws(0, 0, 0, position)).split() for position in range(500)]
    assert all(list(dict.fromkeys(one)) == sorted(one, key=words.index) for one in kept)
    assert abs(np.mean([len(one) for one in kept]) / 20 - 0.7) < 4 * (0.3 * 0.7 / (20 * 500)) ** 0.5
    assert {drop_words("two dogs", 0.99, draws(0, 0, 0, position)) for position in range(50)} == {"two", "dogs"}
    assert drop_words("  as  it is ", 0.0, draws(0, 0, 0, 0)) == "  as  it is "
    assert drop_words("", 0.5, draws(0, 0, 0, 0)) == ""


def test_word_dropout_changes_only_the_drawn_texts_of_its_source(mixture: Mixture) -> None:
    dropping = Mixture([msgspec.structs.replace(mixture.sources[0], word_dropout=0.9), *mixture.sources[1:]])
    assert dropping.fingerprint != mixture.fingerprint
    (plain,), (batch,) = take(mixture, 1), take(dropping, 1)
    assert batch.texts[8:] == plain.texts[8:]
    assert sum(len(text.split()) for text in batch.texts[:8]) < sum(len(text.split()) for text in plain.texts[:8])
    assert torch.equal(batch.text_numbers, plain.text_numbers)
    assert torch.equal(batch.pixels, plain.pixels)
    assert torch.equal(batch.own_ids, plain.own_ids)


def test_the_image_size_can_depend_on_the_step(mixture: Mixture) -> None:
    plan = dataclasses.replace(PLAN, size_px=lambda step: 8 if step < 2 else 16)
    assert [batch.pixels.shape[1] for batch in take(mixture, 4, plan, workers=2)] == [8, 8, 16, 16]


class TestBroken:
    """Sets in which some samples cannot be used."""

    def mixture(self, tmp_path: Path, write_tar: Callable[..., Path], members: Sequence[tuple[str, bytes]]) -> Mixture:
        return Mixture([MixtureSource(open_shards(write_tar(tmp_path / "set" / "000007.tar", members)))])

    def members(self, image: Callable[..., bytes], good: int) -> list[tuple[str, bytes]]:
        pairs = [((f"g{i}.jpg", image(i)), (f"g{i}.txt", b"fine")) for i in range(good)]
        broken = [
            ("undecodable.jpg", b"\xff\xd8\xff junk"),
            ("undecodable.txt", b"x"),
            ("cut.jpg", image(size=(200, 160))[:500]),
            ("cut.txt", b"x"),
            ("alone.txt", b"x"),
            ("mute.jpg", image()),
            ("blank.jpg", image()),
            ("blank.txt", b" "),
        ]
        return [member for pair in pairs for member in pair] + broken

    def test_each_broken_sample_is_listed_once_and_replaced(
        self, tmp_path: Path, write_tar: Callable[..., Path], image: Callable[..., bytes]
    ) -> None:
        mixture = self.mixture(tmp_path, write_tar, self.members(image, 15))
        plan = dataclasses.replace(PLAN, max_broken_share=0.5)
        with Loader(mixture, clip_tokenizer(16), plan, workers=2) as loader:
            batches = [next(loader) for _ in range(10)]
            broken = loader.broken
        assert sorted(item.key for item in broken) == ["alone", "blank", "cut", "mute", "undecodable"]
        reasons = {item.key: item.reason for item in broken}
        assert reasons["alone"].startswith("no image")
        assert reasons["mute"].startswith("no text")
        assert "empty text" in reasons["blank"]
        assert "JPEG" in reasons["cut"]
        assert {item.shard for item in broken} == {str(tmp_path / "set" / "000007.tar")}
        assert all(key.startswith("g") for batch in batches for key in batch.keys)
        for one, other in zip(batches, take(mixture, 10, plan), strict=True):
            assert_equal(one, other)
        assert_equal(batches[7], take(mixture, 1, plan, first_step=7)[0])

    def test_too_many_broken_samples_stop_the_loader_and_name_the_worst_shard(
        self, tmp_path: Path, write_tar: Callable[..., Path], image: Callable[..., bytes]
    ) -> None:
        good = [(f"g{i}.{kind}", image(i) if kind == "jpg" else b"t") for i in range(60) for kind in ("jpg", "txt")]
        write_tar(tmp_path / "set" / "000000.tar", good)
        write_tar(tmp_path / "set" / "000001.tar", self.members(image, 60))
        mixture = Mixture([MixtureSource(open_shards(tmp_path / "set"))])
        with Loader(mixture, clip_tokenizer(16), PLAN, workers=2) as loader:
            message = (
                r"000001\.tar: [345] broken samples, .* of 1\d\d samples read are broken, more than 2\.0%; the first"
            )
            with pytest.raises(DataError, match=message):
                deque(loader, maxlen=0)
            assert len(loader.broken) >= 3
            with pytest.raises(StopIteration):
                next(loader)

    def test_a_small_set_is_judged_after_its_first_pass(
        self, tmp_path: Path, write_tar: Callable[..., Path], image: Callable[..., bytes]
    ) -> None:
        mixture = self.mixture(tmp_path, write_tar, self.members(image, 15))
        plan = dataclasses.replace(PLAN, batch_size=4)
        with (
            Loader(mixture, clip_tokenizer(16), plan) as loader,
            pytest.raises(DataError, match="5 of 20 samples read"),
        ):
            deque(loader, maxlen=0)

    def test_a_set_without_usable_samples_is_an_error_and_not_an_endless_loop(
        self, tmp_path: Path, write_tar: Callable[..., Path]
    ) -> None:
        members = [(f"{i}.{kind}", b"junk") for i in range(200) for kind in ("jpg", "txt")]
        mixture = self.mixture(tmp_path, write_tar, members)
        with pytest.raises(
            DataError, match=r"000007\.tar: \d+ broken samples, .*; none of \d+ samples drawn in a row can be used"
        ):
            take(mixture, 1, workers=2)


def test_an_unexpected_error_in_a_worker_names_the_sample(mixture: Mixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(module, "decode", fail)
    with pytest.raises(ZeroDivisionError) as caught:
        take(mixture, 1, workers=2)
    assert "while decoding captions0" in caught.value.__notes__[0]


def test_prefetching_is_bounded_and_closing_stops_the_threads(
    mixture: Mixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    make = module._BatchMaker.make

    def count(self: Any, step: int, size_px: int) -> Any:
        started.append(step)
        return make(self, step, size_px)

    monkeypatch.setattr(module._BatchMaker, "make", count)
    before = threading.active_count()
    loader = Loader(mixture, clip_tokenizer(16), PLAN, workers=4, prefetch=2)
    for _ in range(3):
        next(loader)
    assert max(started) <= 3 + 2
    loader.close()
    loader.close()
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(loader)


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ({}, {"rank": 2, "world": 2}, "equal parts"),
        ({}, {"rank": 0, "world": 5}, "equal parts"),
        ({}, {"workers": -1}, "workers=-1, .*: expected at least 0"),
        ({}, {"prefetch": 0}, "prefetch=0, .*: expected at least"),
        ({"batch_size": 0}, {}, "batch size 0"),
        ({"seed": -1}, {}, "seed -1"),
        ({"batch_size": 1}, {}, "gives no slot"),
    ],
)
def test_invalid_arguments_are_refused(
    mixture: Mixture, plan: dict[str, Any], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(mixture, clip_tokenizer(16), dataclasses.replace(PLAN, **plan), **options)


def test_global_random_state_is_not_changed(mixture: Mixture) -> None:
    import random

    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    take(mixture, 2, workers=2)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
