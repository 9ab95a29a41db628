"""The true labels of the images that `wordsight classify` reads, where their source has any."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wordsight.image import ImageRef
    from wordsight.zeroshot import ZeroShotClassifier


class Targets:
    """Finds the true labels of images: of a column of a table, of shards, or the directories of classes.

    The directories below an input are classes if all of them have the name of a label and no image is outside of them.

    Args:
        classifier: its labels are the only ones that count.
        inputs: the inputs.

    Attributes:
        dataset: names of the inputs.
        unknown: labels of the source that are none of the classifier's, with the number of images.
    """

    def __init__(self, classifier: "ZeroShotClassifier", inputs: Sequence[Path]) -> None:
        self.dataset = ", ".join(map(str, inputs))
        self._classifier = classifier
        self._known: dict[str, str | None] = {}
        self.unknown: Counter[str] = Counter()
        self._roots = [path for path in inputs if self._has_class_directories(path)]

    def of(self, image: "ImageRef") -> str | None:
        """Return the displayed name of the label that an image shows; None if it is not known."""
        names = image.names or self._directory_names(image.name)
        label = next(filter(None, map(self._label, names)), None)
        if names and label is None:
            self.unknown[names[0]] += 1
        return label

    def _label(self, name: str) -> str | None:
        """Return the label with a name, or None."""
        from wordsight.errors import ConfigError

        if name not in self._known:
            try:
                self._known[name] = self._classifier.names[self._classifier.index_of(name)]
            except ConfigError:
                self._known[name] = None
        return self._known[name]

    def _has_class_directories(self, path: Path) -> bool:
        from wordsight.data.inputs import detect_input, find_image_files

        if detect_input(path) != "directory":
            return False
        names: set[str] = set()
        for file in find_image_files([path]):
            parts = file.relative_to(path).parts
            if len(parts) < 2 or (parts[0] not in names and self._label(parts[0]) is None):
                return False
            names.add(parts[0])
        return bool(names)

    def _directory_names(self, name: str) -> tuple[str, ...]:
        path = Path(name)
        root = next((root for root in self._roots if path.is_relative_to(root)), None)
        return () if root is None else path.relative_to(root).parts[:1]
