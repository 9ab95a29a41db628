"""What the tour's model is asked: images of things that it has never seen, by their names and by their kinds.

The names of 296 images are hard to tell apart and half of them are words that no caption had; the kinds are few and
their words are known. Both classifiers are made of texts alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.data.openmoji import EmojiPair
from wordsight.encoder import DualEncoder
from wordsight.evaluate.tasks import as_scores, retrieval_scores
from wordsight.metrics import Score, accuracy_hits, first_positions, share
from wordsight.training import Evaluator
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
"""Kinds of things, each with its names, the shown one first, and the subgroups of Unicode that belong to it."""

TEMPLATES = "drawings"
_SHOWN = 5


@dataclass(frozen=True)
class KindEvaluation:
    """Which kind of thing does a image show?

    Attributes:
        accuracy: over all images of the kinds, against always answering the commonest kind.
        by_kind: share of right answers for each kind, most images first, against one answer in K by lot.
        commonest: the kind with the most images.
        found: for each kind the numbers of the images, of all that there are, that fit its words best.
    """

    accuracy: Score
    by_kind: tuple[Score, ...]
    commonest: str
    found: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        pairs: the N held-out images.
        retrieval: recall at 1, 5 and 10, first from a image to its name, then from a name to its image.
        kinds: the second exam.
        similarity: (N, N) cosine of image n and name m.
        probability: (N, N) of name m for image n.
        rank: (N,) at which place, counted from 1, each image's name came.
    """

    pairs: tuple[EmojiPair, ...]
    retrieval: tuple[Score, ...]
    kinds: KindEvaluation
    similarity: NDArray[np.float32]
    probability: NDArray[np.float64]
    rank: NDArray[np.float64]

    @property
    def best(self) -> list[int]:
        """Numbers of the images that were named best: by rank, then by probability."""
        own_N = np.diagonal(self.probability)
        return np.lexsort((-own_N, self.rank))[:_SHOWN].tolist()

    @property
    def worst(self) -> list[int]:
        """Numbers of the images whose name came last."""
        own_N = np.diagonal(self.probability)
        return np.lexsort((own_N, -self.rank))[:_SHOWN].tolist()

    def names_of(self, number: int) -> list[int]:
        """Numbers of the names that fit a image best."""
        return np.argsort(-self.probability[number], kind="stable")[:_SHOWN].tolist()

    def one_of_each_kind(self, count: int) -> list[int]:
        """Numbers of images of different kinds, drawn by lot."""
        chosen: dict[str, int] = {}
        lots = sorted(
            range(len(self.pairs)), key=lambda n: hashlib.sha256(f"lot:{self.pairs[n].key}".encode()).digest()
        )
        for number in lots:
            if (kind := kind_of(self.pairs[number])) is not None:
                chosen.setdefault(kind, number)
        return [chosen[names[0]] for names in KINDS if names[0] in chosen][:count]


def kind_of(pair: EmojiPair) -> str | None:
    """The kind of `KINDS` that a image belongs to, or None."""
    return next((names[0] for names, subgroups in KINDS.items() if pair.subgroup in subgroups), None)


def evaluate(clip: DualEncoder, pairs: Sequence[EmojiPair]) -> Evaluation:
    """Ask a model about images; at least one of them belongs to a kind."""
    image_NE = clip.embed_images([pair.image for pair in pairs])
    text_NE = clip.embed_texts([pair.name for pair in pairs])
    similarity_NN = clip.similarity(image_NE, text_NE)
    logits_NN = clip.logits(image_NE, text_NE).astype(np.float64)
    powers_NN = np.exp(logits_NN - logits_NN.max(axis=1, keepdims=True))
    return Evaluation(
        pairs=tuple(pairs),
        retrieval=tuple(retrieval_scores(image_NE, text_NE, range(len(pairs)))),
        kinds=_examine_kinds(clip, image_NE, pairs),
        similarity=similarity_NN,
        probability=powers_NN / powers_NN.sum(axis=1, keepdims=True),
        rank=first_positions(similarity_NN, [[number] for number in range(len(pairs))]),
    )


def _examine_kinds(clip: DualEncoder, image_NE: NDArray[np.float32], pairs: Sequence[EmojiPair]) -> KindEvaluation:
    names = [kind[0] for kind in KINDS]
    found = [(number, names.index(kind)) for number, pair in enumerate(pairs) if (kind := kind_of(pair))]
    number_N, label_N = np.array(found).T
    fit_NK = image_NE @ ZeroShotClassifier(clip, KINDS, templates=TEMPLATES).weights.T
    hits_N = accuracy_hits(fit_NK[number_N], label_N)
    best_KN = np.argsort(-fit_NK, axis=0, kind="stable").T[:, :_SHOWN]
    counts_K = np.bincount(label_N, minlength=len(names))
    return KindEvaluation(
        accuracy=share("kind of thing", hits_N, float(counts_K.max() / len(label_N))),
        by_kind=tuple(
            share(names[kind], hits_N[label_N == kind], 1 / len(names))
            for kind in np.argsort(-counts_K, kind="stable")
            if counts_K[kind]
        ),
        commonest=names[int(counts_K.argmax())],
        found={name: tuple(row.tolist()) for name, row in zip(names, best_KN, strict=True)},
    )


def watcher(pairs: Sequence[EmojiPair]) -> Evaluator:
    """An evaluator that watches recall at 10 while a run goes on.

    Its scores have names of their own, so that they do not choose the best model: held-out images would not be held
    out any more.
    """

    def watch(encoder: DualEncoder, steps: int) -> Mapping[str, float]:
        image_NE = encoder.embed_images([pair.image for pair in pairs])
        text_NE = encoder.embed_texts([pair.name for pair in pairs])
        figures = retrieval_scores(image_NE, text_NE, range(len(pairs)))
        named = as_scores("held-out", [figures[2], figures[5]])
        return {name.replace("_recall_at_10", "_best_10"): value for name, value in named.items()}

    return watch
