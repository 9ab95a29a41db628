"""Evaluation tasks: a task applied to an encoder returns scores with confidence intervals.

evaluator.py        the interface: a callable that receives the encoder and the number of training steps
retrieval.py        recall@k in both directions on captioned images
classification.py   zero-shot accuracy on labelled images
validation_set.py   the images of a validation set, decoded once

No module loads torch; the encoder that they receive does.
"""

from wordsight.evaluation.classification import Classification
from wordsight.evaluation.evaluator import Evaluator
from wordsight.evaluation.retrieval import KS, Retrieval, retrieval_scores
from wordsight.evaluation.validation_set import dataset_name

__all__ = ["KS", "Classification", "Evaluator", "Retrieval", "dataset_name", "retrieval_scores"]
