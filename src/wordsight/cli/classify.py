"""`wordsight classify`: zero-shot classification of images."""

from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.classify_options import (
    CalibrateOption,
    LabelListOption,
    MultiLabelOption,
    NoneOption,
    RepeatedOption,
    TemperatureOption,
    TemplatesOption,
    TopOption,
    WhyOption,
)
from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    BatchSizeOption,
    DecodingOption,
    DeviceOption,
    FramesOption,
    ImagesArgument,
    JsonLinesOption,
    MirrorOption,
    ModelOption,
    PolicyOption,
    QuietOption,
    RuntimeOption,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wordsight.cli.classify_output import PlainOutput
    from wordsight.cli.explain_page import ExplanationPage
    from wordsight.image import ImageRef
    from wordsight.zeroshot import ZeroShotClassifier


def classify(
    images: ImagesArgument,
    labels: LabelListOption,
    model: ModelOption,
    templates: TemplatesOption = "photo",
    repeated_labels: RepeatedOption = False,
    multi_label: MultiLabelOption = False,
    none_of_these: NoneOption = False,
    temperature: TemperatureOption = "model",
    calibrate: CalibrateOption = None,
    why: WhyOption = None,
    top: TopOption = 1,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = "torch",
    decoding: DecodingOption = None,
    policy: PolicyOption = "viewer",
    batch_size: BatchSizeOption = None,
    frames_per_s: FramesOption = 1.0,
    mirror: MirrorOption = None,
    as_json: JsonLinesOption = False,
    quiet: QuietOption = False,
) -> None:
    """Classify images with labels of your choice, without training.

    Prints one line per image: its name and the most probable label. An image that cannot be read gets a line with the
    reason, and the others are still classified.

    \b
    Example:
      wordsight classify photos/ --labels cat,dog,bird --model runs/first
    """
    from wordsight.cli.classify_calibration import apply_calibration
    from wordsight.cli.classify_output import choose_output
    from wordsight.cli.loading import ModelOptions, load_model
    from wordsight.data.inputs import iter_images
    from wordsight.zeroshot import ZeroShotClassifier, read_labels, resolve_templates

    names, texts = read_labels(labels, repeated_labels), resolve_templates(templates)
    total = _check(images, why, temperature, calibrate)
    options = ModelOptions(model, architecture, averaged, device, runtime, decoding, policy, batch_size, mirror)
    encoder = load_model(options, quiet)
    classifier = ZeroShotClassifier(
        encoder,
        names,
        texts,
        multi_label=multi_label,
        none_of_these=none_of_these,
        temperature=temperature,
        repeated_labels=repeated_labels,
    )
    classifier = apply_calibration(classifier, calibrate, quiet)
    output = choose_output(len(classifier.names) if as_json and multi_label else top, as_json)
    page = _open_page(classifier, model, why)
    _run(classifier, iter_images(images, frames_per_s), total, output, page, quiet)


def _check(images: list[Path], why: Path | None, temperature: str, calibrate: Path | None) -> int | None:
    """Report bad inputs, outputs and options before a model is loaded, and return the number of images if known."""
    from wordsight.data.inputs import count_images
    from wordsight.errors import ConfigError
    from wordsight.files import check_writable

    if temperature == "labels" and calibrate is not None:
        raise ConfigError("--temperature labels and --calibrate both set the temperature; choose one")
    if why is not None:
        check_writable(why)
    return count_images(images)


def _open_page(classifier: "ZeroShotClassifier", model: str, why: Path | None) -> "ExplanationPage | None":
    if why is None:
        return None
    from wordsight.cli.explain_page import ExplanationPage

    return ExplanationPage(classifier, model, why)


def _run(
    classifier: "ZeroShotClassifier",
    images: "Iterator[ImageRef]",
    total: int | None,
    output: "PlainOutput",
    page: "ExplanationPage | None",
    quiet: bool,
) -> None:
    """Classify the images, print the predictions and add them to the page."""
    from wordsight.cli.terminal import show_progress
    from wordsight.errors import DataError, counted

    with show_progress(total, "images", quiet) as progress:
        for prediction in classifier.classify(images, on_unreadable=output.unreadable):
            output.prediction(prediction)
            if page is not None:
                page.add(prediction)
            progress(output.num_predictions + output.num_unreadable)
    output.finish()
    if not output.num_predictions:
        raise DataError(f"none of {counted(output.num_unreadable, 'image')} could be read")
    if page is not None:
        page.write()
