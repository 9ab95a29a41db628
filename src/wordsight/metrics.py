"""Scores with what a reader needs to trust them: NumPy alone, no torch, no models.

A score is a share of items got right. Whatever prints one prints a `Score`: value, interval, number of items,
chance level and the method of the interval (design rule 5). Ties are split by expectation: where the right
answer shares its score with others, it counts as if their order were drawn by lot. A model that says the same
of everything therefore scores chance, on average and exactly, instead of 0 or 100 %.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]

WILSON = "Wilson"


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """A score and how sure it is.

    Attributes:
        name: what was measured, on what.
        value: in [0, 1].
        low, high: the interval, `low <= value <= high`.
        n: number of items behind the value.
        chance: what guessing gives, in [0, 1].
        method: of the interval, with its confidence, such as `Wilson 95 %`.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    chance: float
    method: str

    def __str__(self) -> str:
        """One line: `R@10: 12.3 % [11.0, 13.8] of 1,000, chance 1.0 % (Wilson 95 %)`."""
        value, low, high, chance = (100 * share for share in (self.value, self.low, self.high, self.chance))
        return (
            f"{self.name}: {value:.1f} % [{low:.1f}, {high:.1f}] of {self.n:,}, chance {chance:.1f} % ({self.method})"
        )


def share(name: str, hits: FloatArray, chance: float, confidence: float = 0.95) -> Score:
    """The mean of hits as a figure with Wilson's interval.

    Args:
        name: what was measured, on what.
        hits: (N,), each in [0, 1], as `accuracy_hits` and `recall_hits` give them; at least one.
        chance: what guessing gives.
        confidence: of the interval, in (0, 1).
    """
    total = float(hits.sum(dtype=np.float64))
    low, high = wilson_interval(total, len(hits), confidence)
    return Score(name, total / len(hits), low, high, len(hits), chance, f"{WILSON} {100 * confidence:g} %")


def wilson_interval(hits: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share, without continuity correction.

    Unlike value +- 1.96 deviations it stays within [0, 1] and is right for few items and for shares near 0 or 1.
    Items must be independent: five captions of one image count as one item.

    Args:
        hits: in [0, n]; a fraction where ties were split.
        n: number of items, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        ValueError: no items, hits outside [0, n], or confidence outside (0, 1).

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n < 1 or not 0 <= hits <= n or not 0 < confidence < 1:
        raise ValueError(f"wilson_interval(hits={hits}, n={n}, confidence={confidence})")
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    value = hits / n
    middle = value + z**2 / (2 * n)
    reach = z * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return min(value, max(0.0, (middle - reach) / scale)), max(value, min(1.0, (middle + reach) / scale))


def accuracy_hits(scores: FloatArray, labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """For each item, whether its label scores best: 1, 0, or 1 / t where t labels share the best score.

    Args:
        scores: (N, K), higher is better; an item with a value that is not a number is a miss.
        labels: (N,) integers in [0, K).

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: shapes do not fit, or a label outside [0, K).
    """
    labels = np.asarray(labels)
    if scores.ndim != 2 or labels.shape != (len(scores),):
        raise ValueError(f"accuracy_hits: scores {scores.shape}, labels {labels.shape}; expected (N, K) and (N,)")
    if len(labels) and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise ValueError(f"accuracy_hits: labels {labels.min()} to {labels.max()}; expected 0 to {scores.shape[1] - 1}")
    own = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)
    best = (scores <= own).all(axis=1)
    return np.asarray(best / np.maximum((scores == own).sum(axis=1), 1), dtype=np.float64)


def accuracy(scores: FloatArray, labels: NDArray[np.integer[Any]], name: str = "accuracy") -> Score:
    """Share of items whose label scores best, with interval and chance 1 / K; see `accuracy_hits`."""
    return share(name, accuracy_hits(scores, labels), 1 / scores.shape[1])


def recall_hits(similarity: FloatArray, relevant: Sequence[Sequence[int]], k: int) -> NDArray[np.float64]:
    """For each query, whether any of its relevant candidates is among the k most similar.

    Image to text, a query is a image and its captions are relevant, one of which suffices; text to image, a
    query is a caption and its image is relevant. At a tie that reaches over place k, the probability that a
    relevant candidate comes among the k if the tied ones are put in an order drawn by lot.

    Args:
        similarity: (N, M), higher is better; a value that is not a number ranks last.
        relevant: for each of the N queries the numbers of its candidates, in [0, M), at least one.
        k: 1 or more; k >= M is a hit for everybody.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: shapes do not fit, k < 1, or a query without a relevant candidate or with one outside [0, M).
    """
    _check_retrieval(similarity, relevant)
    if k < 1:
        raise ValueError(f"recall_hits: k={k}; expected 1 or more")
    hits = np.empty(len(similarity), dtype=np.float64)
    for query, own in enumerate(relevant):
        higher, tied, tied_own = _place(similarity[query], own)
        room = max(0, min(k - higher, tied))
        hits[query] = 1 - _none_drawn(tied, tied_own, room)
    return hits


def recall_at_k(similarity: FloatArray, relevant: Sequence[Sequence[int]], k: int, name: str = "") -> Score:
    """Share of queries that find a relevant candidate among the k most similar, with interval and chance.

    Arguments as for `recall_hits`. Items are the queries; where several are captions of one image they are not
    independent, and the interval is narrower than it should be (by at most the square root of their number).
    """
    hits = recall_hits(similarity, relevant, k)
    chance = float(np.mean([recall_chance(similarity.shape[1], len(set(own)), k) for own in relevant]))
    return share(name or f"R@{k}", hits, chance)


def recall_chance(candidates: int, relevant: int, k: int) -> float:
    """Probability that k candidates drawn by lot hold a relevant one: 1 - C(M - r, k) / C(M, k).

    Raises:
        ValueError: not 1 <= relevant <= candidates, or k < 1.
    """
    if not 1 <= relevant <= candidates or k < 1:
        raise ValueError(f"recall_chance(candidates={candidates}, relevant={relevant}, k={k})")
    return 1 - _none_drawn(candidates, relevant, min(k, candidates))


def first_positions(similarity: FloatArray, relevant: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """For each query the rank, 1 is best, of its first relevant candidate; the expected one where ranks are tied.

    Arguments and errors as for `recall_hits`. With M candidates and one relevant, chance is (M + 1) / 2.

    Returns:
        (N,) float64 in [1, M].
    """
    _check_retrieval(similarity, relevant)
    ranks = np.empty(len(similarity), dtype=np.float64)
    for query, own in enumerate(relevant):
        higher, tied, tied_own = _place(similarity[query], own)
        ranks[query] = higher + (tied + 1) / (tied_own + 1)
    return ranks


def calibration_error(confidence: FloatArray, hits: FloatArray, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass: the mean over items of |confidence - share right| of a bin.

    Items are sorted by confidence and cut into bins that differ by at most one item; fewer items than bins give a bin
    an item. Even a perfectly calibrated model has an error above 0 on few items.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,) in [0, 1], as `accuracy_hits` gives them.
        bins: 1 or more.

    Raises:
        ValueError: no items, shapes that differ, or no bins.

    Source: M. P. Naeini et al., AAAI 2015; bins of equal mass after K. Nguyen and B. O'Connor, EMNLP 2015.
    """
    if confidence.ndim != 1 or confidence.shape != hits.shape or not len(hits) or bins < 1:
        raise ValueError(f"calibration_error: confidence {confidence.shape}, hits {hits.shape}, bins={bins}")
    order = np.argsort(confidence, kind="stable")
    gap_N = (confidence - hits)[order].astype(np.float64)
    return float(sum(abs(part.sum()) for part in np.array_split(gap_N, bins)) / len(hits))


def auroc(higher: FloatArray, lower: FloatArray) -> float:
    """The probability that an item drawn from `higher` scores above one from `lower`, ties split: 0.5 is chance.

    It is the area under the receiver operating characteristic of telling the two apart by their scores.

    Args:
        higher: (N,) scores of those that should score higher; at least one.
        lower: (M,) scores of the others; at least one.

    Raises:
        ValueError: no scores on a side.
    """
    if not len(higher) or not len(lower):
        raise ValueError(f"auroc: {len(higher)} and {len(lower)} scores; expected at least one each")
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left").sum(dtype=np.float64)
    not_above = np.searchsorted(ordered, higher, "right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / len(higher) / len(lower))


def conformal_quantile(scores: FloatArray, coverage: float) -> float:
    """What the score of one more item stays within with the probability `coverage` or more (split conformal).

    Args:
        scores: (N,) of items that are exchangeable with the next one.
        coverage: in (0, 1).

    Returns:
        The ceil((N + 1) * coverage)-th smallest score; infinity where there are too few to promise it.

    Raises:
        ValueError: coverage outside (0, 1).

    Source: V. Vovk et al., Algorithmic learning in a random world, 2005; Angelopoulos and Bates, arXiv 2107.07511.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"conformal_quantile: coverage {coverage}; expected more than 0 and less than 1")
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 10 * 0.9 must be 9
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def _none_drawn(tied: int, own: int, drawn: int) -> float:
    """Probability that `drawn` of `tied` candidates hold none of `own`: C(tied - own, drawn) / C(tied, drawn)."""
    return math.comb(tied - own, drawn) / math.comb(tied, drawn)


def _place(row: FloatArray, own: Sequence[int]) -> tuple[int, int, int]:
    """How many rank above the best relevant candidate, how many tie with it (itself included), how many relevant."""
    known = np.where(np.isnan(row), -np.inf, row)
    numbers = np.unique(np.asarray(own, dtype=np.int64))
    best = known[numbers].max()
    return int((known > best).sum()), int((known == best).sum()), int((known[numbers] == best).sum())


def _check_retrieval(similarity: FloatArray, relevant: Sequence[Sequence[int]]) -> None:
    if similarity.ndim != 2 or len(relevant) != len(similarity):
        raise ValueError(
            f"retrieval: similarity {similarity.shape}, relevant for {len(relevant)}; expected (N, M) and N"
        )
    for query, own in enumerate(relevant):
        if not len(own) or min(own) < 0 or max(own) >= similarity.shape[1]:
            raise ValueError(f"retrieval: query {query} has relevant {list(own)}; expected some of 0 to M - 1")
