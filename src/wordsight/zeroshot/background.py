"""General words, against which labels are held: does a label fit a picture better than words that mean anything?

exp(scale * cosine) of a model trained with the softmax loss stands, up to a factor that is the picture's own, for how
many times likelier a text is beside this picture than beside any (van den Oord et al. 2018, arXiv 1807.03748). General
words give the factor. Related: Jiang et al. 2024 (NegLabel, arXiv 2403.20078), who take words far from the labels as
classes of their own.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

# the 200 "picturable" words of C. K. Ogden, Basic English, 1930: fixed before any picture of ours was taken
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
"""General words for what can be pictured."""

_LEAST_SHARE = 4  # at least a fourth of the words is kept, whatever the labels are


class Background:
    """Rows of general words beside the rows of labels.

    A word as near to a label as words are to their nearest among themselves (the median of it) says much the same and
    cannot stand against it.

    Args:
        clip: the model.
        words_ME: (M, E) float32, rows of the words, of unit length.
        labels_KE: (K, E) float32, rows of the labels.
    """

    def __init__(self, clip: "DualEncoder", words_ME: NDArray[np.float32], labels_KE: NDArray[np.float32]) -> None:
        self._clip = clip
        self._words_ME = words_ME
        among_MM = words_ME @ words_ME.T
        np.fill_diagonal(among_MM, -1)
        near = np.median(among_MM.max(axis=1))
        cosine_MK = words_ME @ labels_KE.T
        self._apart_MK = (cosine_MK < near).astype(np.float64)
        nearest_M = cosine_MK.max(axis=1)
        far = np.sort(nearest_M)[max(1, len(words_ME) // _LEAST_SHARE) - 1]
        self._apart_of_all_M = (nearest_M < near) | (nearest_M <= far)

    def lift(self, vector_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> float:
        """How many times better the labels fit a picture than general words do, on average; as its logarithm.

        Args:
            vector_E: the picture, of unit length.
            logits_K: of the labels.
        """
        words_M = self._logits(vector_E)[self._apart_of_all_M]
        return log_mean_exp(logits_K) - log_mean_exp(words_M)

    def independent(self, vector_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
        """(K,) probability of each label, alone among the general words: the softmax of these and the one label."""
        words_M = self._logits(vector_E)
        powers_M = np.exp(words_M - words_M.max())
        with np.errstate(divide="ignore"):  # a label may be near to all words; then nothing speaks against it
            words_K = np.log(powers_M @ self._apart_MK) + words_M.max()
        return sigmoid(logits_K - words_K)

    def _logits(self, vector_E: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._clip.logits(vector_E[None], self._words_ME)[0].astype(np.float64)


def log_mean_exp(values: NDArray[np.floating]) -> float:
    """The logarithm of the mean of the exponentials."""
    most = float(values.max())
    return most + float(np.log(np.mean(np.exp(values.astype(np.float64) - most))))


def sigmoid(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-x)), for any x."""
    return np.asarray(np.exp(-np.logaddexp(0, -values.astype(np.float64))))
