"""What `wordsight classify` does with its options: checks before any work, then one pass over the images.

Each image becomes an `Outcome`, which every requested output receives: the lines on standard output, the file, the
pages, the summaries and the plan of files to copy or move.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.cli.classify_outcome import Outcome, Output
from wordsight.cli.transfer import TransferOptions

if TYPE_CHECKING:
    from wordsight.cli.classify_targets import Targets
    from wordsight.cli.loading import ModelOptions
    from wordsight.data import InputOptions
    from wordsight.image import ImageRef
    from wordsight.zeroshot import LabelHierarchy, ZeroShotClassifier


@dataclass(frozen=True)
class Outputs:
    """The values of the options that name files and directories to write, and the name of the model for the pages."""

    model: str
    out: Path | None = None
    page: Path | None = None
    page_limit: int = 2000
    why: Path | None = None
    transfers: TransferOptions = field(default_factory=TransferOptions)

    @property
    def replace_lines(self) -> bool:
        """Whether images are listed elsewhere than on standard output."""
        return any((self.out, self.page, self.transfers.directory))


@dataclass(frozen=True)
class PrintOptions:
    """The values of the options `--top`, `--json`, `--quiet` and `--frames-per-s`."""

    top: int | None = None
    as_json: bool = False
    quiet: bool = False
    frames_per_s: float = 1.0


@dataclass(frozen=True)
class LabelOptions:
    """The values of the options that determine the classifier."""

    labels: str
    templates: str = "photo"
    repeated_labels: bool = False
    multi_label: bool = False
    none_of_these: bool = False
    temperature: str = "model"
    calibrate: Path | None = None
    threshold: float | None = None


def table_options(
    image_column: str | None,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    image_root: Path | None,
    names: Path | None,
) -> "InputOptions":
    """Return the options of tables as one value."""
    from wordsight.data import InputOptions

    return InputOptions(
        image_column=image_column,
        text_columns=tuple(text_columns or ()),
        label_column=label_column,
        image_root=image_root,
        names=names,
    )


def run_classify(
    images: Sequence[Path],
    inputs: "InputOptions",
    model: "ModelOptions",
    label_options: LabelOptions,
    outputs: Outputs,
    options: PrintOptions,
) -> None:
    """Check all options, then load the model, classify the images and write all outputs.

    Raises:
        DataError: none of the images can be read.
    """
    from wordsight.cli.classify_targets import Targets
    from wordsight.cli.terminal import show_progress
    from wordsight.data.inputs import count_images, iter_images
    from wordsight.errors import DataError, counted
    from wordsight.zeroshot import read_labels, resolve_templates

    labels = read_labels(label_options.labels, label_options.repeated_labels)
    resolve_templates(label_options.templates)
    _check_options(images, labels, label_options, outputs)
    total = count_images(images, inputs)
    classifier = _build_classifier(labels, label_options, model, options.quiet)
    targets = Targets(classifier, images, is_requested=inputs.label_column is not None)
    num_unreadable = num_done = 0
    with ExitStack() as stack:
        receivers = _receivers(classifier, targets, outputs, options, stack)
        refs = iter_images(images, options.frames_per_s, inputs)
        with show_progress(total, "images", options.quiet) as progress:
            for num_done, outcome in enumerate(_outcomes(classifier, refs, targets, options), start=1):
                num_unreadable += bool(outcome.error)
                for receiver in receivers:
                    receiver.add(outcome)
                progress(num_done)
        is_nothing_readable = num_unreadable == num_done
        for receiver in receivers[: 1 if is_nothing_readable else None]:
            receiver.finish()
    if is_nothing_readable:
        raise DataError(f"none of {counted(num_unreadable, 'image')} could be read")


def _check_options(
    images: Sequence[Path],
    labels: "list[tuple[str, ...]] | LabelHierarchy",
    options: LabelOptions,
    outputs: Outputs,
) -> None:
    """Report contradictory options and unwritable outputs before a model is loaded."""
    from wordsight.cli.classify_sorting import check_sorting
    from wordsight.errors import ConfigError, OutputError
    from wordsight.files import check_writable
    from wordsight.zeroshot import LabelHierarchy
    from wordsight.zeroshot.labels import display_names
    from wordsight.zeroshot.prediction_files import check_output_path

    if options.temperature == "labels" and options.calibrate is not None:
        raise ConfigError("--temperature labels and --calibrate both set the temperature; choose one")
    if options.threshold is not None and not 0 < options.threshold < 1:
        raise ConfigError(f"--threshold {options.threshold:g}: expected a probability above 0 and below 1")
    if options.threshold is not None and isinstance(labels, LabelHierarchy):
        raise ConfigError("--threshold cannot be combined with a hierarchy of labels; choose one of the two")
    written = [path for path in (outputs.out, outputs.page, outputs.why) if path is not None]
    for number, path in enumerate(written):
        check_writable(path)
        other = next((other for other in (*images, *written[:number]) if _is_same(path, other)), None)
        if other is not None:
            raise OutputError(f"{path}: is also an input or another output; choose another path")
    paths = labels.paths if isinstance(labels, LabelHierarchy) else tuple((name,) for name in display_names(labels))
    if outputs.out is not None:
        check_output_path(outputs.out, [path[-1] for path in paths])
    if outputs.transfers.directory is not None:
        check_sorting(images, paths)


def _is_same(path: Path, other: Path) -> bool:
    return path.absolute() == other.absolute() or (path.exists() and other.exists() and path.samefile(other))


def _build_classifier(
    labels: "list[tuple[str, ...]] | LabelHierarchy", options: LabelOptions, model: "ModelOptions", quiet: bool
) -> "ZeroShotClassifier":
    from wordsight.cli.classify_calibration import apply_calibration
    from wordsight.cli.loading import load_model
    from wordsight.zeroshot import ZeroShotClassifier

    classifier = ZeroShotClassifier(
        load_model(model, quiet),
        labels,
        options.templates,
        multi_label=options.multi_label,
        none_of_these=options.none_of_these,
        temperature=options.temperature,
        repeated_labels=options.repeated_labels,
    )
    if options.threshold is not None:
        classifier = classifier.with_threshold(options.threshold)
    return apply_calibration(classifier, options.calibrate, quiet)


def _outcomes(
    classifier: "ZeroShotClassifier", refs: "Iterator[ImageRef]", targets: "Targets", options: PrintOptions
) -> Iterator[Outcome]:
    """Yield the outcomes of readable and unreadable images in the order of the images."""
    unreadable: list[Outcome] = []

    def on_unreadable(image: Any, reason: str) -> None:
        unreadable.append(Outcome(image, error=reason, target=targets.of(image)))

    num_labels = len(classifier.names)
    for prediction in classifier.classify(refs, on_unreadable):
        yield from unreadable
        unreadable.clear()
        labels = prediction.labels
        if classifier.threshold is not None and options.top and not prediction.reason:
            labels = tuple(name for name, _ in prediction.ranking[: max(options.top, len(labels))])
        all_shown = options.as_json and classifier.multi_label and options.top is None
        num_shown = num_labels if all_shown else max(options.top or 1, len(labels))
        image: Any = prediction.image
        yield Outcome(image, prediction, labels, num_shown, targets.of(image))
    yield from unreadable


def _receivers(
    classifier: "ZeroShotClassifier",
    targets: "Targets",
    outputs: Outputs,
    options: PrintOptions,
    stack: ExitStack,
) -> list[Output]:
    """Return the requested outputs, the one that prints lines first; `stack` closes what they hold open."""
    from wordsight.cli.classify_output import UnreadableOutput, choose_output
    from wordsight.cli.classify_summary import Summary
    from wordsight.cli.terminal import print_lines, print_note

    has_lines = options.as_json or not outputs.replace_lines
    is_explicit_top = options.top is not None
    lines = choose_output(classifier.threshold, is_explicit_top, options.as_json) if has_lines else UnreadableOutput()
    print_summary = partial(print_note, quiet=options.quiet) if has_lines else print_lines
    summary = Summary(classifier, targets, is_explicit_top, print_summary, options.as_json)
    receivers: list[Output] = [lines]
    if outputs.out is not None:
        from wordsight.cli.classify_output import FileOutput
        from wordsight.zeroshot.prediction_files import PredictionWriter

        writer = stack.enter_context(closing(PredictionWriter(outputs.out)))
        receivers.append(FileOutput(writer, print_summary))
    if outputs.page is not None:
        from wordsight.cli.classify_page import PredictionPage

        page = PredictionPage(outputs.page, outputs.page_limit, classifier, summary, outputs.model)
        receivers.append(stack.enter_context(closing(page)))
    if outputs.why is not None:
        from wordsight.cli.explain_page import ExplanationPage

        receivers.append(ExplanationPage(classifier, outputs.model, outputs.why))
    receivers.append(summary)  # after the files, which are then complete even if the reader of the summary stops
    if outputs.transfers.directory is not None:
        from wordsight.cli.classify_sorting import Sorting

        receivers.append(Sorting(outputs.transfers, options.quiet, options.as_json))
    return receivers
