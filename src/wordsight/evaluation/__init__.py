"""Evaluation tasks: a task applied to an encoder returns scores with confidence intervals.

retrieval.py        recall@k in both directions on captioned images
classification.py   zero-shot accuracy on labelled images
measurement.py      a metric measured on every image: what scores and comparisons are computed from
comparison.py       paired tests between two models
evaluator.py        the interface of training: a callable that receives the encoder and the number of training steps
validation_set.py   the images of training's validation sets, decoded once
labelled.py         the captions and labels of one's own images, and the tasks that they permit
embeddings.py       the embeddings of images and texts, from a `DualEncoder` or any object with its two methods
models.py           evaluate, and evaluate_models for several models
scores.py           what they return

A task is one function of embeddings (`measure_retrieval`, `measure_classification`), which the evaluators of training
and `evaluate` share. No module loads torch; the encoder that they receive does.
"""

from wordsight.evaluation.classification import Classification
from wordsight.evaluation.comparison import Comparison
from wordsight.evaluation.evaluator import Evaluator
from wordsight.evaluation.labelled import TASKS, EvaluationOptions
from wordsight.evaluation.models import NamedModel, evaluate, evaluate_models
from wordsight.evaluation.retrieval import KS, Retrieval, retrieval_scores
from wordsight.evaluation.scores import EvaluationResult, Scores
from wordsight.evaluation.validation_set import dataset_name

__all__ = [
    "KS",
    "TASKS",
    "Classification",
    "Comparison",
    "EvaluationOptions",
    "EvaluationResult",
    "Evaluator",
    "NamedModel",
    "Retrieval",
    "Scores",
    "dataset_name",
    "evaluate",
    "evaluate_models",
    "retrieval_scores",
]
