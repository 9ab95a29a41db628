"""The summary that `wordsight classify` ends with: how many images got labels, and the accuracy where it is known."""

from array import array
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wordsight.cli.classify_outcome import Outcome
from wordsight.cli.classify_targets import Targets
from wordsight.errors import counted, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from wordsight.metrics import Score
    from wordsight.zeroshot import ZeroShotClassifier

MAX_CLASSES_SHOWN = 20
"""Rows of the table of classes on a terminal; `--json` and the page have all."""

MAX_CONFUSIONS_SHOWN = 10

_SHARE_WITHOUT = 0.1  # of images that may stay without a label at the suggested threshold
_BINS = 1000


class Summary:
    """Counts the outcomes, and prints what a user would otherwise miss.

    Args:
        classifier: the classifier.
        targets: finds the true labels.
        is_explicit_top: whether `--top` was given, so that no image is without a label.
        print_line: prints a line.
        as_json: whether the scores are printed as one JSON object instead.
    """

    def __init__(
        self,
        classifier: "ZeroShotClassifier",
        targets: Targets,
        is_explicit_top: bool,
        print_line: Callable[[str], None],
        as_json: bool,
    ) -> None:
        from wordsight.zeroshot import ConfusionCounts

        self.counts = ConfusionCounts(len(classifier.names))
        self.num_unreadable = 0
        self._threshold = classifier.threshold
        self._targets = targets
        self._is_explicit_top = is_explicit_top
        self._print = print_line
        self._as_json = as_json
        self._num_above: array[int] = array("l")  # labels above the threshold, of each image
        self._best = array("d")  # highest probability of each image
        self._bins: NDArray[np.int64] | None = None  # number of all probabilities in each thousandth

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        prediction = outcome.prediction
        if prediction is None:
            self.num_unreadable += 1
            return
        if outcome.target is not None:
            probabilities = dict(prediction.ranking)
            best = prediction.ranking[0][1]
            num_best = sum(probability == best for probability in probabilities.values())
            is_hit = not prediction.reason and probabilities[outcome.target] == best
            self.counts.add(outcome.target, outcome.best, is_hit / num_best)
        if self._threshold is not None:
            self._count_tags(outcome)

    def _count_tags(self, outcome: Outcome) -> None:
        import numpy as np

        assert outcome.prediction is not None
        assert self._threshold is not None
        probability_K = np.array([probability for _, probability in outcome.prediction.ranking])
        self._num_above.append(0 if outcome.prediction.reason else int((probability_K > self._threshold).sum()))
        self._best.append(float(probability_K[0]))
        bins = np.bincount((probability_K * _BINS).astype(np.int64), minlength=_BINS + 1)
        self._bins = bins if self._bins is None else self._bins + bins

    def finish(self) -> None:
        """Print the summary."""
        for line in self.tag_lines:
            self._print(line)
        if self._as_json:
            self._print_json()
            return
        for line in self._accuracy_lines():
            self._print(line)

    @property
    def tag_lines(self) -> list[str]:
        """How many images got labels, and how the others would get some; nothing without a threshold."""
        if self._threshold is None or not self._num_above:
            return []
        num_images = len(self._num_above)
        num_with = sum(number > 0 for number in self._num_above)
        each = f", {sum(self._num_above) / num_with:.1f} each" if num_with else ""
        above = f"above {self._threshold:g}"
        if num_with == num_images:
            return [f"{counted(num_images, 'image')}: all have a label {above}{each}"]
        lines = [
            f"{num_with:,} of {counted(num_images, 'image')} have a label {above}{each}; {num_images - num_with:,} "
        ]
        if self._is_explicit_top:
            return [f"{lines[0]}got their best labels although these are not"]
        lines[0] += "have none"
        return [*lines, f"{self._suggestion(num_images, num_with)}--top 1 gives every image its best label"]

    def _suggestion(self, num_images: int, num_with: int) -> str:
        """Return the threshold at which nine of ten images have a label, with its effect, if it is a lower one."""
        import numpy as np

        assert self._threshold is not None
        assert self._bins is not None
        best_N = np.sort(np.frombuffer(self._best))
        tenth = float(best_N[int(_SHARE_WITHOUT * num_images)])
        threshold = np.floor(tenth * _BINS - 1e-9) / _BINS
        num_better = int((best_N > threshold).sum())
        if not 0 < threshold < self._threshold or num_better <= num_with:
            return ""
        num_labels = int(self._bins[round(threshold * _BINS) :].sum())
        return f"--threshold {threshold:g} gives {num_better:,} images a label, {num_labels / num_better:.1f} each; "

    @property
    def score(self) -> "Score | None":
        """The accuracy; None if no true label is known."""
        return self.counts.score(self._targets.dataset, self.num_unreadable) if self.counts.n else None

    @property
    def unknown_note(self) -> str:
        """How many images have a label that is none of the classifier's; empty if there are none."""
        unknown = self._targets.unknown
        if not unknown:
            return ""
        return (
            f"not counted: {counted(unknown.total(), 'image')} with a label that is none of --labels, such as "
            f"{unknown.most_common(1)[0][0]!r}"
        )

    def _accuracy_lines(self) -> list[str]:
        lines = [self.unknown_note] if self.unknown_note else []
        if self.score is None:
            return lines
        classes, confusions = self.counts.classes(), self.counts.confusions()
        width = max(len(printable(each.label)) for each in classes[:MAX_CLASSES_SHOWN])
        lines += [str(self.score), f"{'label':{width}}      n  recall                 precision"]
        for each in classes[:MAX_CLASSES_SHOWN]:
            low, high = each.recall_interval
            recall = f"{_percent(each.recall)} [{100 * low:.1f}, {100 * high:.1f}]" if each.n else "-"
            lines.append(f"{printable(each.label):{width}}  {each.n:5,}  {recall:21}  {_percent(each.precision)}")
        if len(classes) > MAX_CLASSES_SHOWN:
            lines.append(
                f"{len(classes) - MAX_CLASSES_SHOWN:,} more classes with a higher recall: see --json or --page"
            )
        shown = [f"{true} as {other} {count:,}" for true, other, count in confusions[:MAX_CONFUSIONS_SHOWN]]
        return [*lines, f"most frequent confusions: {', '.join(shown)}"] if shown else lines

    def _print_json(self) -> None:
        from wordsight.cli.terminal import print_json

        if self.score is None:
            return
        classes = [
            {
                "label": each.label,
                "n": each.n,
                "recall": each.recall,
                "recall_interval": each.recall_interval,
                "predicted": each.num_predicted,
                "precision": each.precision,
            }
            for each in self.counts.classes()
        ]
        result: dict[str, Any] = {"scores": [asdict(self.score)], "classes": classes}
        result["confusions"] = [
            {"true_label": true, "label": other, "n": count} for true, other, count in self.counts.confusions()
        ]
        print_json(result | {"unknown_labels": dict(self._targets.unknown)})


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share == share else "-"
