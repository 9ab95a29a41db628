"""Background words: does a label fit an image better than general words do?

For a model trained with the softmax (InfoNCE) loss, exp(scale * cosine) estimates the density ratio
p(text | image) / p(text), up to a factor that depends only on the image (van den Oord et al. 2018, arXiv 1807.03748,
section 2.3). Comparing the labels with a fixed list of general words cancels that factor, so the comparison has the
same meaning for every image. Related work: NegLabel (Jiang et al. 2024, arXiv 2403.20078), which uses words far from
the labels as additional classes.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

# The 200 "picturable" words of C. K. Ogden, Basic English, 1930. The list was fixed before any test image was embedded.
_PICTURABLE = """
angle ant apple arch arm army baby bag ball band basin basket bath bed bee bell berry bird blade board boat bone book
boot bottle box boy brain brake branch brick bridge brush bucket bulb button cake camera card cart carriage cat chain
cheese chest chin church circle clock cloud coat collar comb cord cow cup curtain cushion dog door drain drawer dress
drop ear egg engine eye face farm feather finger fish flag floor fly foot fork fowl frame garden girl glove goat gun
hair hammer hand hat head heart hook horn horse hospital house island jewel kettle key knee knife knot leaf leg
library line lip lock map match monkey moon mouth muscle nail neck needle nerve net nose nut office orange oven parcel
pen pencil picture pig pin pipe plane plate plow pocket pot potato prison pump rail rat receipt ring rod roof root
sail school scissors screw seed sheep shelf ship shirt shoe skin skirt snake sock spade sponge spoon spring square
stamp star station stem stick stocking stomach store street sun table tail thread throat thumb ticket toe tongue tooth
town train tray tree trousers umbrella wall watch wheel whip whistle window wing wire worm
"""
WORDS = tuple(_PICTURABLE.split())
"""General words for things that an image can show."""

_MIN_KEPT_DIVISOR = 4  # at least a quarter of the words is kept, whatever the labels are


class Background:
    """Embeddings of general words, compared with the embeddings of the labels.

    A word that is a near-synonym of a label is not evidence against it, so it is excluded. The exclusion threshold is
    the median, over the words, of the cosine similarity to the nearest other word.

    Args:
        clip: the model that the embeddings come from.
        words_ME: (M, E) float32, embeddings of the words, unit length.
        labels_KE: (K, E) float32, embeddings of the labels, unit length.
    """

    def __init__(self, clip: "DualEncoder", words_ME: NDArray[np.float32], labels_KE: NDArray[np.float32]) -> None:
        self._clip = clip
        self._words_ME = words_ME
        cosine_MM = words_ME @ words_ME.T
        np.fill_diagonal(cosine_MM, -1)
        threshold = np.median(cosine_MM.max(axis=1))
        cosine_MK = words_ME @ labels_KE.T
        self._is_distinct_MK = (cosine_MK < threshold).astype(np.float64)
        nearest_M = cosine_MK.max(axis=1)
        fallback = np.sort(nearest_M)[max(1, len(words_ME) // _MIN_KEPT_DIVISOR) - 1]
        self._is_distinct_from_all_M = (nearest_M < threshold) | (nearest_M <= fallback)

    def log_lift(self, image_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> float:
        """Return the logarithm of the lift: how many times better the labels fit an image than general words do.

        The lift is mean(exp(logits of the labels)) / mean(exp(logits of the words)), where words near any label are
        left out.

        Args:
            image_E: (E,) embedding of the image, unit length.
            logits_K: (K,) logits of the labels for this image.

        Returns:
            A natural logarithm.
        """
        words_M = self._logits(image_E)[self._is_distinct_from_all_M]
        return log_mean_exp(logits_K) - log_mean_exp(words_M)

    def independent(self, image_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each label independently of the other labels.

        Each is the softmax probability of the one label among the general words that are not near to it.

        Args:
            image_E: (E,) embedding of the image, unit length.
            logits_K: (K,) logits of the labels for this image.

        Returns:
            (K,) float64 in [0, 1].
        """
        return sigmoid(self.log_odds(image_E, logits_K))

    def log_odds(self, image_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the logarithm of the odds of the probabilities that `independent` returns."""
        words_M = self._logits(image_E)
        powers_M = np.exp(words_M - words_M.max())
        with np.errstate(divide="ignore"):  # log(0) if all words are near a label: its probability is then 1
            words_K = np.log(powers_M @ self._is_distinct_MK) + words_M.max()
        return np.asarray(logits_K - words_K)

    def _logits(self, image_E: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._clip.logits(image_E[None], self._words_ME)[0].astype(np.float64)


def log_mean_exp(values: NDArray[np.floating]) -> float:
    """Return the logarithm of the mean of the exponentials, without overflow."""
    largest = float(values.max())
    return largest + float(np.log(np.mean(np.exp(values.astype(np.float64) - largest))))


def log_sigmoid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logarithm of the sigmoid, without overflow for any x."""
    return np.asarray(-np.logaddexp(0, -values.astype(np.float64)))


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-x)), without overflow for any x."""
    return np.asarray(np.exp(log_sigmoid(values)))
