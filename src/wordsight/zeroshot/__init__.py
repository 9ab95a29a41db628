"""Zero-shot classification: class names and templates become a classifier that needs no training images.

Read `classifier.py` first.

    classifier.py           `ZeroShotClassifier`: builds the weights and classifies images
    labels.py               reads labels and label hierarchies from the command line or a file
    templates.py            prompt template sets; published_templates.py holds those of the paper's datasets
    prompts.py              labels that are truncated or become the same text
    background.py           general words that the labels are compared with, for "none of these" and multi-label mode
    reliability.py          a temperature derived from the label texts alone
    calibration.py          temperature, prediction sets and the rejection threshold, fitted to labelled images
    cache.py                classifier weights cached on disk
    explain.py              occlusion maps: which parts of an image support a label
    accuracy.py             accuracy, recall and precision per class, and confusions
    prediction_files.py     predictions as CSV, JSON Lines or Parquet
"""

from wordsight.zeroshot.accuracy import ClassScore, ConfusionCounts
from wordsight.zeroshot.classifier import NONE, Prediction, ZeroShotClassifier
from wordsight.zeroshot.explain import Explanation, explain
from wordsight.zeroshot.labels import LabelHierarchy, read_labels
from wordsight.zeroshot.templates import TEMPLATES, resolve_templates

__all__ = [
    "NONE",
    "TEMPLATES",
    "ClassScore",
    "ConfusionCounts",
    "Explanation",
    "LabelHierarchy",
    "Prediction",
    "ZeroShotClassifier",
    "explain",
    "read_labels",
    "resolve_templates",
]
