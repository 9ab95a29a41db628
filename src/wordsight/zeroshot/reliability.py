"""Reliability of labels: how much of the difference between their embeddings is meaning, and not only spelling.

A model is as confident about labels that it never saw in training as about others, because its text encoder assigns an
embedding to every spelling. The embedding of a learned label changes little from one template to the next (relative to
the distance between labels); that of an unknown label changes more. Nonsense words show how large this relative change
is if embeddings reflect spelling alone. The ratio of the two changes estimates the share of the differences between the
labels that is due to spelling; the remaining share is their reliability.

The reliability sets a softmax temperature of 1 / reliability. This is Kelley's (1927) estimate of a true score, the
observed deviation from the mean times the reliability, applied to logits.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

PLAIN = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")
"""Templates that every image-text model has seen; with rarer ones, the embeddings of learned labels change as well."""

MIN_RELIABILITY = 0.1
"""Lower bound: below it the labels cannot be distinguished at any temperature."""

_TINY = float(np.finfo(np.float32).tiny)

# Drawn at random once, syllable by syllable.
_DRAWN = """
brimedab groslis drozistesh bepribot haprazal sibad clicles ritrutret clucrorug druwenip prastiror poblim reprelos
feplix loprab pihutux lodisug foblunut kostarod broslitirt vasus trostan fliviwex sedrot stagadrund trubaprart
stehitrend plevek graslumir tastodut bribut baflap stediplod petutrar meleprek gonur zograzil sigrus storazer pluhun
sludish suplabam feclil crostogash dirin vitrox numish prawopirt nakepresh clistind droprulig cladrug suslizor kowowed
trazibix triblunog clikor blustafip drehorub drefesund vislax slegifad probrup heclel cratop grefableg gruvitrig
stagrop gribloclind diplaril treflavan prufut grugrol groliron zigun bidresh gecresh traplan trotrip flislavesh crunex
zuferud vason blugert creplind blidacror plowesh trepuhem flotoblod dremug prazevond facrepig cleroport kewib
hopragrar lozibat druclos folar sotroslag blocrug nadrind pelush bluvuk fobar kitrud tisulix cladred powun dekestag
plaplom voplat ploflucrend plakidrud susukert fabupirt meplihur stodrutrir triplefland brapap leflaher zacleflud
brases crebludrop tonilit craketrat waplup vomehit placlerer zasturig prusladog bragras kiguwash lefizag doflosh
sinamom blowopos clizares blipil zubros rizitran plifand stamib vekurt slistablap pleclalirt tefliwog niblahib
teflebrel drovetrux plimog katiwag flaprel weblet hamedror slutisel laclimesh miclir broslohug gufuwig grebim valem
lumind serebros clefiblux groblud fopond voslatex vicrenand mobedrut clocrar guclub kusom gasibrum crilohax clitig
cledrug crepund flamosteb kuladrep veliflod legrutend bligrekul ruvivush hepluprud banin trudex vigim ralol sestaturt
bidibes liblogrul ladrivig fadreprund wuhuk tiplus meflen tritush budrum vakond kuzor
"""
NONSENSE = tuple(_DRAWN.split())
"""200 words without meaning."""


def reliability(label_TKE: NDArray[np.float32], nonsense_TME: NDArray[np.float32]) -> float:
    """Return the share of the differences between labels that is not explained by spelling.

    It is 1 - r, where r is the relative change of the label embeddings between two templates divided by that of the
    nonsense words. r is the geometric mean over all pairs of templates, so that a single template unknown to the model
    does not dominate.

    Args:
        label_TKE: (T, K, E) embeddings of K labels in each of T >= 2 templates, unit length.
        nonsense_TME: (T, M, E) embeddings of nonsense words in the same templates.

    Returns:
        A share in [`MIN_RELIABILITY`, 1]; 1 for a single label.
    """
    if label_TKE.shape[1] < 2:
        return 1.0
    pairs = [list(pair) for pair in combinations(range(len(label_TKE)), 2)]
    log_ratios = [
        np.log(_relative_change(label_TKE[pair])) - np.log(_relative_change(nonsense_TME[pair])) for pair in pairs
    ]
    return float(np.clip(1 - np.exp(np.mean(log_ratios)), MIN_RELIABILITY, 1))


def _relative_change(embedding_TKE: NDArray[np.float32]) -> float:
    """Return the interaction of template and label, divided by the variance between labels.

    The interaction is the change of an embedding between templates beyond the shift that all labels share.
    """
    rows = embedding_TKE.astype(np.float64)
    label_KE, template_TE, mean_E = rows.mean(axis=0), rows.mean(axis=1), rows.mean(axis=(0, 1))
    interaction = np.square(rows - label_KE - template_TE[:, None] + mean_E).sum(axis=-1).mean()
    between = np.square(label_KE - mean_E).sum(axis=-1).mean()
    return float(max(interaction, _TINY) / max(between, _TINY))
