"""How far a model tells labels apart by more than their spelling, and the temperature that follows from it.

A model is as sure of labels that it has never learned as of others: its text tower gives each spelling a direction.
But a learned label keeps its direction from sentence to sentence, and another does so less. How much directions that
come of spelling change, beside how much they differ from one another, words without meaning show; by that the labels'
own change tells how much of the difference between them is spelling.

The share that is left is a reliability as in Kelley (1927), who estimates a true score by the observed deviation times
the reliability. Of logits that is a temperature of one over the reliability.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

PLAIN = ("a photo of a {}.", "a picture of a {}.", "a {}.", "{}")
"""Sentences that any model of images and texts has met; with rarer ones learned labels change as well."""

LEAST_RELIABILITY = 0.1
"""Below, nothing is told apart and no better temperature can be."""

_TINY = float(np.finfo(np.float32).tiny)

# drawn once, syllable by syllable
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
"""Words without meaning."""


def reliability(label_TKE: NDArray[np.float32], nonsense_TME: NDArray[np.float32]) -> float:
    """The share of what tells labels apart that is more than spelling, in [`LEAST_RELIABILITY`, 1].

    Args:
        label_TKE: rows of K labels in each of T templates, two or more, of unit length.
        nonsense_TME: rows of words without meaning in the same templates.

    Returns:
        1 - change of the labels / change of the words without meaning, this ratio as its geometric mean over all pairs
        of templates, so that one which the model never met does not decide; 1 of a single label.
    """
    if label_TKE.shape[1] < 2:
        return 1.0
    pairs = [list(pair) for pair in combinations(range(len(label_TKE)), 2)]
    log_ratios = [np.log(_change(label_TKE[pair])) - np.log(_change(nonsense_TME[pair])) for pair in pairs]
    return float(np.clip(1 - np.exp(np.mean(log_ratios)), LEAST_RELIABILITY, 1))


def _change(row_TKE: NDArray[np.float32]) -> float:
    """How much rows change from template to template beyond what all do, over how much they differ from one another."""
    rows = row_TKE.astype(np.float64)
    of_label_KE, of_template_TE, mean_E = rows.mean(axis=0), rows.mean(axis=1), rows.mean(axis=(0, 1))
    interaction = np.square(rows - of_label_KE - of_template_TE[:, None] + mean_E).sum(axis=-1).mean()
    between = np.square(of_label_KE - mean_E).sum(axis=-1).mean()
    return float(max(interaction, _TINY) / max(between, _TINY))
