"""The demo's evaluation on held-out images: retrieval by name, and zero-shot classification into kinds.

The names of the 296 held-out images are hard to tell apart, and half of them are words that occur in no training
caption. The kinds are few, and their words do occur. Both classifiers are made from text alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.data.openmoji import EmojiPair
from wordsight.encoder import DualEncoder
from wordsight.evaluation import Evaluator, retrieval_scores
from wordsight.metrics import Score, accuracy_hits, first_positions, score_hits
from wordsight.zeroshot import ZeroShotClassifier

KINDS: dict[tuple[str, ...], frozenset[str]] = {
    ("animal", "mammal", "bird", "bug", "fish"): frozenset(
        f"{kind} animal" for kind in ("mammal", "bird", "bug", "marine", "reptile", "amphibian")
    ),
    ("food or drink", "food", "fruit", "vegetable", "drink"): frozenset(
        {"drink", *(f"{kind} food" for kind in ("prepared", "asian", "sweet", "marine", "fruit", "vegetable"))}
    ),
    ("flag", "flag of a country"): frozenset({"flag", "country flag", "subdivision flag"}),
    ("face", "smiling face", "sad face"): frozenset(
        f"{kind} face"
        for kind in (
            *("smiling", "affection", "tongue", "hand", "neutral skeptical", "sleepy", "unwell"),
            *("hat", "glasses", "concerned", "negative", "costume"),
        )
    ),
    ("hand", "fingers"): frozenset(
        {"hands", "prop hand", "single finger hand", "fingers open hand", "fingers closed hand", "fingers partial hand"}
    ),
    ("person", "man", "woman"): frozenset(
        {"person", "family"}
        | {f"{kind} person" for kind in ("activity", "fantasy", "gesture", "resting", "role", "sport", "symbol")}
    ),
    ("building", "house"): frozenset({"building place", "religious place"}),
    ("vehicle", "car", "ship", "aircraft"): frozenset(f"{kind} transport" for kind in ("ground", "water", "air")),
    ("weather or sky", "weather", "moon", "cloud"): frozenset({"sky and weather"}),
    ("clock", "time"): frozenset({"time"}),
    ("clothing",): frozenset({"clothing"}),
    ("letter or number", "letter", "number"): frozenset({"alphanum", "keycap"}),
    ("arrow",): frozenset({"arrow"}),
    ("coloured shape", "circle", "square", "triangle"): frozenset({"geometric"}),
}
"""The classes: the names of each kind, of which the first is displayed -> the Unicode subgroups that belong to it."""

DATASET = "held-out"
TEMPLATES = "drawings"
_NUM_SHOWN = 5


@dataclass(frozen=True)
class KindEvaluation:
    """Zero-shot classification of the held-out images into kinds.

    Attributes:
        accuracy: over all images that belong to a kind; chance is the accuracy of always predicting the most common
            kind.
        by_kind: accuracy for each kind, most images first; the `dataset` is the kind, chance is 1 / K.
        most_common: the kind with the most images.
        best_images: for each kind the indices of the images, among all of them, that are most similar to it.
    """

    accuracy: Score
    by_kind: tuple[Score, ...]
    most_common: str
    best_images: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Evaluation:
    """The results of a model on the held-out images.

    Attributes:
        pairs: the N held-out images with their names.
        retrieval: recall@1, @5 and @10, first from images to names, then from names to images.
        kinds: zero-shot classification into kinds.
        similarity: (N, N) cosine similarity of image n and name m.
        probability: (N, N) probability of name m for image n.
        position: (N,) position of each image's own name among all names, where 1 is the most similar.
    """

    pairs: tuple[EmojiPair, ...]
    retrieval: tuple[Score, ...]
    kinds: KindEvaluation
    similarity: NDArray[np.float32]
    probability: NDArray[np.float64]
    position: NDArray[np.float64]

    @property
    def best(self) -> list[int]:
        """Indices of the images whose name ranks highest; equal positions are ordered by probability."""
        own_N = np.diagonal(self.probability)
        return np.lexsort((-own_N, self.position))[:_NUM_SHOWN].tolist()

    @property
    def worst(self) -> list[int]:
        """Indices of the images whose name ranks lowest."""
        own_N = np.diagonal(self.probability)
        return np.lexsort((own_N, -self.position))[:_NUM_SHOWN].tolist()

    def top_names(self, image: int) -> list[int]:
        """Return the indices of the most probable names of an image."""
        return np.argsort(-self.probability[image], kind="stable")[:_NUM_SHOWN].tolist()

    def one_of_each_kind(self, count: int) -> list[int]:
        """Return the indices of `count` pseudorandom images of different kinds."""
        chosen: dict[str, int] = {}
        shuffled = sorted(
            range(len(self.pairs)), key=lambda n: hashlib.sha256(f"lot:{self.pairs[n].key}".encode()).digest()
        )
        for index in shuffled:
            if (kind := kind_of(self.pairs[index])) is not None:
                chosen.setdefault(kind, index)
        return [chosen[names[0]] for names in KINDS if names[0] in chosen][:count]


def kind_of(pair: EmojiPair) -> str | None:
    """Return the kind of `KINDS` that an image belongs to, or None."""
    return next((names[0] for names, subgroups in KINDS.items() if pair.subgroup in subgroups), None)


def evaluate(encoder: DualEncoder, pairs: Sequence[EmojiPair]) -> Evaluation:
    """Evaluate a model on images, at least one of which belongs to a kind."""
    image_NE = encoder.embed_images([pair.image for pair in pairs])
    text_NE = encoder.embed_texts([pair.name for pair in pairs])
    similarity_NN = encoder.similarity(image_NE, text_NE)
    logits_NN = encoder.logits(image_NE, text_NE).astype(np.float64)
    exponentials_NN = np.exp(logits_NN - logits_NN.max(axis=1, keepdims=True))
    return Evaluation(
        pairs=tuple(pairs),
        retrieval=tuple(retrieval_scores(image_NE, text_NE, range(len(pairs)), DATASET)),
        kinds=_evaluate_kinds(encoder, image_NE, pairs),
        similarity=similarity_NN,
        probability=exponentials_NN / exponentials_NN.sum(axis=1, keepdims=True),
        position=first_positions(similarity_NN, [[index] for index in range(len(pairs))]),
    )


def _evaluate_kinds(encoder: DualEncoder, image_NE: NDArray[np.float32], pairs: Sequence[EmojiPair]) -> KindEvaluation:
    names = [kind[0] for kind in KINDS]
    with_kind = [(index, names.index(kind)) for index, pair in enumerate(pairs) if (kind := kind_of(pair))]
    index_N, target_N = np.array(with_kind).T
    scores_NK = image_NE @ ZeroShotClassifier(encoder, KINDS, templates=TEMPLATES).weights.T
    hits_N = accuracy_hits(scores_NK[index_N], target_N)
    best_KN = np.argsort(-scores_NK, axis=0, kind="stable").T[:, :_NUM_SHOWN]
    counts_K = np.bincount(target_N, minlength=len(names))
    chance = float(counts_K.max() / len(target_N))
    return KindEvaluation(
        accuracy=score_hits(hits_N, dataset=DATASET, metric="accuracy", chance=chance),
        by_kind=tuple(
            score_hits(hits_N[target_N == kind], dataset=names[kind], metric="accuracy", chance=1 / len(names))
            for kind in np.argsort(-counts_K, kind="stable")
            if counts_K[kind]
        ),
        most_common=names[int(counts_K.argmax())],
        best_images={name: tuple(row.tolist()) for name, row in zip(names, best_KN, strict=True)},
    )


def held_out_evaluator(pairs: Sequence[EmojiPair]) -> Evaluator:
    """Return an evaluator that reports recall@10 on the held-out images during training.

    The demo's recipe has no selection metric, so these scores do not select the best model. If they did, the held-out
    images would no longer be held out.
    """

    def evaluate_recall(encoder: DualEncoder, steps: int) -> list[Score]:
        image_NE = encoder.embed_images([pair.image for pair in pairs])
        text_NE = encoder.embed_texts([pair.name for pair in pairs])
        scores = retrieval_scores(image_NE, text_NE, range(len(pairs)), DATASET)
        return [score for score in scores if score.metric.endswith("recall@10")]

    return evaluate_recall
