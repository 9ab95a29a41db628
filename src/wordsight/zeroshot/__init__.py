"""ZeroShotClassifier and templates become a classifier that was never trained on them.

classifier.py   the weights of the classifier, and what it says of images: read this first
labels.py       labels with their names, or a tree of them, as a command line or a file gives them
background.py   general words against which labels are held
reliability.py  how far the labels are more than their spelling, and a temperature by it
calibration.py  what labelled images teach: temperature, sets of labels, when to say none
templates.py    sets of templates; published_templates.py has those of the paper's data sets
cache.py        classifiers that were computed before
explain.py      which parts of a image speak for a label
"""

from wordsight.zeroshot.classifier import NONE, Prediction, ZeroShotClassifier
from wordsight.zeroshot.explain import Explanation, explain
from wordsight.zeroshot.labels import LabelHierarchy, read_labels
from wordsight.zeroshot.templates import TEMPLATES, resolve_templates

__all__ = [
    "NONE",
    "TEMPLATES",
    "Explanation",
    "LabelHierarchy",
    "Prediction",
    "ZeroShotClassifier",
    "explain",
    "read_labels",
    "resolve_templates",
]
