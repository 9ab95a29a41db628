"""`classify --copy-to` and `--move-to`: image files into one directory per label."""

from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.classify_outcome import Outcome
from wordsight.cli.transfer import TransferOptions, directory_name, plan_transfers, run_transfers
from wordsight.errors import ConfigError, DataError, counted


def check_sorting(images: Sequence[Path], paths: Sequence[Sequence[str]]) -> None:
    """Refuse, before a model is loaded, what cannot be sorted.

    Args:
        images: the inputs.
        paths: for each label, the names of its directories.

    Raises:
        DataError: an input contains images that are not files.
        ConfigError: two labels have the same directory.
    """
    from wordsight.data.inputs import detect_input

    for path in images:
        kind = detect_input(path)
        if kind in ("shards", "tar", "video"):
            raise DataError(f"{path}: only image files can be copied or moved, not images in {kind}; name a directory")
    directories: dict[tuple[str, ...], Sequence[str]] = {}
    for names in paths:
        directory = tuple(directory_name(name).casefold() for name in names)
        other = directories.setdefault(directory, names)
        if other is not names:
            raise ConfigError(
                f"labels {'/'.join(other)!r} and {'/'.join(names)!r}: their images would be in the same directory "
                f"{'/'.join(map(directory_name, names))!r}; rename one"
            )


class Sorting:
    """Collects the files, and copies or moves them to the directories of their labels.

    An image goes to the directory of its most probable label; in a hierarchy, of the path to its label. Images without
    a label and images that cannot be read stay where they are.
    """

    def __init__(self, options: TransferOptions, quiet: bool) -> None:
        self._options = options
        self._quiet = quiet
        self._files: list[tuple[Path, Sequence[str]]] = []
        self._num_kept = 0

    def add(self, outcome: Outcome) -> None:
        """Collect the file of an image."""
        from wordsight.data.inputs import file_of

        if outcome.prediction is None or not outcome.labels:
            self._num_kept += 1
            return
        file = file_of(outcome.image)
        if file is None:
            raise DataError(f"{outcome.image.name}: not an image file; only files can be copied or moved")
        self._files.append((file, outcome.prediction.path or outcome.labels[:1]))

    def finish(self) -> None:
        """Copy or move the files; see `run_transfers`."""
        from wordsight.cli.terminal import print_note

        run_transfers(plan_transfers(self._files, self._options), self._options, self._quiet)
        if self._num_kept:
            stay = f"{counted(self._num_kept, 'image')} without a label {'stays' if self._num_kept == 1 else 'stay'}"
            print_note(f"{stay} in place", self._quiet)
