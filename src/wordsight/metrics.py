"""Scores with their confidence intervals, in NumPy alone: no torch, no models.

Every reported number is a `Score`: value, interval, number of items, chance level and the method of the interval.
Ties count as their expected value: a correct answer whose similarity equals that of other candidates scores as if the
tied candidates were in random order. A model that returns the same similarity for everything therefore
scores exactly the chance level, not 0 or 100 %.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]

WILSON = "Wilson"

_BLOCK_VALUES = 1 << 23
"""Similarities that are held in memory at a time: 32 MiB in float32."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The value of a metric on a dataset, with its confidence interval.

    Attributes:
        dataset: name of the evaluated dataset, such as `flickr8k-val`.
        metric: `accuracy`, `image_to_text_recall@10`, `text_to_image_recall@10` and the like.
        value: in [0, 1].
        low: lower end of the interval; `low <= value <= high`.
        high: upper end of the interval.
        n: number of independent items that the value is the mean of.
        unreadable: number of images of the dataset that could not be read and are not counted in `n`.
        chance: expected value of a random guess, in [0, 1].
        method: method and confidence of the interval, such as `Wilson 95 %`.
    """

    dataset: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    unreadable: int = 0
    chance: float
    method: str

    def __str__(self) -> str:
        """One line: `cifar10, accuracy: 12.3 % [11.0, 13.8] of 1,000, chance 10.0 % (Wilson 95 %)`."""
        value, low, high, chance = (100 * share for share in (self.value, self.low, self.high, self.chance))
        unreadable = f" ({self.unreadable:,} unreadable)" if self.unreadable else ""
        return (
            f"{self.dataset}, {self.metric}: {value:.1f} % [{low:.1f}, {high:.1f}] of {self.n:,}{unreadable}, "
            f"chance {chance:.1f} % ({self.method})"
        )


def score_hits(
    hits: FloatArray, *, dataset: str, metric: str, chance: float, unreadable: int = 0, confidence: float = 0.95
) -> Score:
    """Return the mean of hits as a score with Wilson's interval.

    Args:
        hits: (N,), each in [0, 1], as returned by `accuracy_hits` and `recall_hits`; at least one.
        dataset: name of the dataset.
        metric: name of the metric.
        chance: expected value of a random guess.
        unreadable: number of images of the dataset that could not be read.
        confidence: of the interval, in (0, 1).
    """
    total = float(hits.sum(dtype=np.float64))
    low, high = wilson_interval(total, len(hits), confidence)
    return Score(
        dataset=dataset,
        metric=metric,
        value=total / len(hits),
        low=low,
        high=high,
        n=len(hits),
        unreadable=unreadable,
        chance=chance,
        method=f"{WILSON} {100 * confidence:g} %",
    )


def wilson_interval(hits: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a proportion, without continuity correction.

    Unlike value +- 1.96 standard errors, it stays within [0, 1] and is accurate for few items and for proportions
    near 0 or 1. Items must be independent: five captions of one image count as one item.

    Args:
        hits: in [0, n]; may be a fraction, because ties are split.
        n: number of items, at least 1; a fraction for the effective number of weighted items.
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


def accuracy_hits(scores: FloatArray, targets: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return for each item whether its target class scores highest.

    Args:
        scores: (N, K), higher is better; an item whose target scores NaN is a miss.
        targets: (N,) class indices in [0, K).

    Returns:
        (N,) float64: 1, 0, or 1 / t if the target is one of t classes that share the highest score.

    Raises:
        ValueError: shapes do not match, or a target outside [0, K).
    """
    targets = np.asarray(targets)
    if scores.ndim != 2 or targets.shape != (len(scores),):
        raise ValueError(f"accuracy_hits: scores {scores.shape}, targets {targets.shape}; expected (N, K) and (N,)")
    if len(targets) and not (targets.min() >= 0 and targets.max() < scores.shape[1]):
        raise ValueError(
            f"accuracy_hits: targets {targets.min()} to {targets.max()}; expected 0 to {scores.shape[1] - 1}"
        )
    target_N1 = np.take_along_axis(scores, targets[:, None].astype(np.int64), axis=1)
    is_best_N = (scores <= target_N1).all(axis=1)
    return np.asarray(is_best_N / np.maximum((scores == target_N1).sum(axis=1), 1), dtype=np.float64)


def accuracy(
    scores: FloatArray, targets: NDArray[np.integer[Any]], dataset: str = "", metric: str = "accuracy"
) -> Score:
    """Return the accuracy with its interval and chance 1 / K; see `accuracy_hits` for the arguments."""
    return score_hits(accuracy_hits(scores, targets), dataset=dataset, metric=metric, chance=1 / scores.shape[1])


class Positions(NamedTuple):
    """Where the best relevant candidate of each of N queries is among all candidates, sorted by similarity.

    Attributes:
        above: (N,) number of candidates that are more similar to the query.
        tied: (N,) number of candidates that are equally similar, itself included.
        tied_relevant: (N,) number of relevant candidates among these.
    """

    above: IntArray
    tied: IntArray
    tied_relevant: IntArray

    def hits(self, k: int) -> NDArray[np.float64]:
        """Return for each query whether a relevant candidate is among the first k, as `recall_hits` does.

        Raises:
            ValueError: k < 1.
        """
        if k < 1:
            raise ValueError(f"hits: k={k}; expected 1 or more")
        drawn_N = np.clip(k - self.above, 0, self.tied)
        hits_N = (drawn_N > 0).astype(np.float64)
        for query in np.flatnonzero((drawn_N > 0) & (drawn_N < self.tied)):
            counts = int(self.tied[query]), int(self.tied_relevant[query]), int(drawn_N[query])
            hits_N[query] = 1 - _miss_probability(*counts)
        return hits_N

    def expected(self) -> NDArray[np.float64]:
        """Return the expected position of each query's best relevant candidate, 1 for the most similar."""
        return np.asarray(self.above + (self.tied + 1) / (self.tied_relevant + 1), np.float64)


def positions_of(similarity: FloatArray, query_P: IntArray, candidate_P: IntArray) -> Positions:
    """Find the best relevant candidate of each query.

    Args:
        similarity: (N, M), higher is better; NaN ranks last.
        query_P: (P,) the queries of P pairs of a query and a relevant candidate. Every query occurs at least once, and
            no pair twice.
        candidate_P: (P,) the candidates of these pairs.
    """
    comparable = np.where(np.isnan(similarity), -np.inf, similarity) if np.isnan(similarity).any() else similarity
    relevant_P = comparable[query_P, candidate_P]
    best_N = np.full(len(similarity), -np.inf, comparable.dtype)
    np.maximum.at(best_N, query_P, relevant_P)
    return Positions(
        np.count_nonzero(comparable > best_N[:, None], axis=1),
        np.count_nonzero(comparable == best_N[:, None], axis=1),
        np.bincount(query_P[relevant_P == best_N[query_P]], minlength=len(similarity)),
    )


def positions_by_embedding(
    query_NE: NDArray[np.float32], candidate_ME: NDArray[np.float32], query_P: IntArray, candidate_P: IntArray
) -> Positions:
    """Return `positions_of` the products of embeddings, a block of queries at a time.

    Memory holds 32 MiB of similarities, not all N x M.

    Args:
        query_NE: embeddings of the queries; at least one.
        candidate_ME: embeddings of the candidates; at least one.
        query_P, candidate_P: the relevant pairs, as in `positions_of`, sorted by query.
    """
    size = max(1, _BLOCK_VALUES // len(candidate_ME))
    blocks = []
    for start in range(0, len(query_NE), size):
        pairs = slice(*np.searchsorted(query_P, (start, start + size)))
        similarity = query_NE[start : start + size] @ candidate_ME.T
        blocks.append(positions_of(similarity, query_P[pairs] - start, candidate_P[pairs]))
    return Positions(*map(np.concatenate, zip(*blocks, strict=True)))


def recall_hits(similarity: FloatArray, relevant: Sequence[Sequence[int]], k: int) -> NDArray[np.float64]:
    """Return for each query whether any of its relevant candidates is among the k most similar.

    For image to text, a query is an image and its captions are relevant; one of them suffices. For text to image, a
    query is a caption and its image is relevant. If a tie extends across position k, the hit is the probability that a
    relevant candidate is among the first k when the tied candidates are put in random order.

    Args:
        similarity: (N, M), higher is better; NaN ranks last.
        relevant: for each of the N queries the indices of its relevant candidates, in [0, M), at least one.
        k: 1 or more; with k >= M every query is a hit.

    Returns:
        (N,) float64 in [0, 1].

    Raises:
        ValueError: shapes do not match, k < 1, or a query without relevant candidates or with one outside [0, M).
    """
    return _relevant_positions(similarity, relevant).hits(k)


def recall_at_k(
    similarity: FloatArray, relevant: Sequence[Sequence[int]], k: int, dataset: str = "", metric: str = ""
) -> Score:
    """Return recall@k with its interval and chance level; see `recall_hits` for the first three arguments.

    The items are the queries. If several of them are captions of one image, they are not independent, and the
    interval is too narrow, by at most a factor of the square root of the number of captions per image. `metric`
    defaults to `recall@<k>`.
    """
    hits = recall_hits(similarity, relevant, k)
    chance = float(np.mean([recall_chance(similarity.shape[1], len(set(indices)), k) for indices in relevant]))
    return score_hits(hits, dataset=dataset, metric=metric or f"recall@{k}", chance=chance)


def recall_chance(candidates: int, relevant: int, k: int) -> float:
    """Return the probability that k random candidates include a relevant one: 1 - C(M - r, k) / C(M, k).

    Raises:
        ValueError: not 1 <= relevant <= candidates, or k < 1.
    """
    if not 1 <= relevant <= candidates or k < 1:
        raise ValueError(f"recall_chance(candidates={candidates}, relevant={relevant}, k={k})")
    return 1 - _miss_probability(candidates, relevant, min(k, candidates))


def first_positions(similarity: FloatArray, relevant: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Return for each query the position of its best relevant candidate, where 1 is the most similar.

    Tied candidates count with the expected position. Arguments and errors are those of `recall_hits`. With M
    candidates of which one is relevant, chance is (M + 1) / 2.

    Returns:
        (N,) float64 in [1, M].
    """
    return _relevant_positions(similarity, relevant).expected()


def calibration_error(confidence: FloatArray, hits: FloatArray, bins: int = 15) -> float:
    """Return the expected calibration error over bins of equal mass.

    It is the mean over all items of |mean confidence - accuracy| of the item's bin. Items are sorted by confidence and
    cut into bins whose sizes differ by at most one; with fewer items than bins, each item has its own bin. On few
    items even a perfectly calibrated model has an error above 0.

    Args:
        confidence: (N,) in [0, 1].
        hits: (N,) in [0, 1], as returned by `accuracy_hits`.
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
    """Return the area under the receiver operating characteristic curve.

    It is the probability that a random item of `higher` scores above a random item of `lower`; a tie counts as one
    half, and chance is 0.5.

    Args:
        higher: (N,) scores of the items that should score higher; at least one.
        lower: (M,) scores of the other items; at least one.

    Raises:
        ValueError: either array is empty.
    """
    if not len(higher) or not len(lower):
        raise ValueError(f"auroc: {len(higher)} and {len(lower)} scores; expected at least one each")
    ordered = np.sort(lower)
    below = np.searchsorted(ordered, higher, "left").sum(dtype=np.float64)
    not_above = np.searchsorted(ordered, higher, "right").sum(dtype=np.float64)
    return float((below + not_above) / 2 / len(higher) / len(lower))


def conformal_quantile(scores: FloatArray, coverage: float) -> float:
    """Return the bound that the score of one more item does not exceed with probability `coverage` or more.

    This is split conformal prediction.

    Args:
        scores: (N,) of items that are exchangeable with the next one.
        coverage: in (0, 1).

    Returns:
        The ceil((N + 1) * coverage)-th smallest score; infinity if N is too small to guarantee the coverage.

    Raises:
        ValueError: coverage outside (0, 1).

    Source: V. Vovk et al., Algorithmic learning in a random world, 2005; Angelopoulos and Bates, arXiv 2107.07511.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"conformal_quantile: coverage {coverage}; expected more than 0 and less than 1")
    position = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 10 * 0.9 must be 9
    return float(np.sort(scores)[position - 1]) if position <= len(scores) else math.inf


def _miss_probability(candidates: int, relevant: int, drawn: int) -> float:
    """Return the probability that `drawn` of the candidates include no relevant one."""
    return math.comb(candidates - relevant, drawn) / math.comb(candidates, drawn)


def _relevant_positions(similarity: FloatArray, relevant: Sequence[Sequence[int]]) -> Positions:
    """Return the positions for relevant candidates that are listed by query; errors as for `recall_hits`."""
    _check_retrieval(similarity, relevant)
    distinct = [np.unique(np.asarray(candidates, dtype=np.int64)) for candidates in relevant]
    query_P = np.repeat(np.arange(len(distinct)), [len(candidates) for candidates in distinct])
    return positions_of(similarity, query_P, np.concatenate(distinct) if distinct else query_P)


def _check_retrieval(similarity: FloatArray, relevant: Sequence[Sequence[int]]) -> None:
    if similarity.ndim != 2 or len(relevant) != len(similarity):
        raise ValueError(
            f"retrieval: similarity {similarity.shape}, relevant for {len(relevant)}; expected (N, M) and N"
        )
    for query, indices in enumerate(relevant):
        if not len(indices) or min(indices) < 0 or max(indices) >= similarity.shape[1]:
            raise ValueError(f"retrieval: query {query} has relevant {list(indices)}; expected some of 0 to M - 1")
