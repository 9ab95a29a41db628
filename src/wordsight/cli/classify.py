"""`wordsight classify`: which of the labels does each image show?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wordsight.cli.classify_lines import Lines
    from wordsight.cli.classify_report import WhyPage
    from wordsight.zeroshot import ZeroShotClassifier


def classify(
    images: Annotated[
        list[Path], typer.Argument(help="Images, or directories of them.", metavar="IMAGES...", show_default=False)
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="a,b,c, or a file: lines (indented: a tree) or JSON.", metavar="A,B|FILE", show_default=False
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A name of 'wordsight models', a model, or a training run.", metavar="MODEL", show_default=False
        ),
    ],
    templates: Annotated[
        str, typer.Option(help="A set (plain, photo, photos, drawings, imagenet, food101 ...), or a text with {}.")
    ] = "photo",
    multi_label: Annotated[bool, typer.Option("--multi-label", help="Each label by itself; shown above 0.5.")] = False,
    none_of_these: Annotated[
        bool, typer.Option("--none-of-these", help="Say so where general words fit as well as the labels.")
    ] = False,
    temperature: Annotated[
        str, typer.Option(help="model: as it was trained; labels: less sure of words that it never learned.")
    ] = "model",
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Labelled images, a directory a class: probabilities that fit, sets that hold the label at 90 %.",
            metavar="SOURCE",
        ),
    ] = None,
    why: Annotated[
        Path | None, typer.Option(help="Write a page that shows which parts speak for the label.", metavar="FILE.html")
    ] = None,
    top: Annotated[int, typer.Option(help="How many labels to show for each image.", min=1)] = 1,
    runtime: Annotated[
        str, typer.Option(help="torch, onnx, auto: the select_runtime of both here; half, int8.")
    ] = "torch",
    mirror: Annotated[str | None, typer.Option(help="A server in place of the one that published the weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a image.")] = False,
) -> None:
    """Label images, zero-shot.

    \b
    Example:
      wordsight classify photos/ --labels cat,dog,bird --model runs/first
    """
    from wordsight.cli.classify_calibration import calibrated
    from wordsight.cli.classify_lines import printer_of
    from wordsight.cli.terminal import open_model
    from wordsight.zeroshot import ZeroShotClassifier, read_labels, resolve_templates

    names, texts = read_labels(labels), resolve_templates(templates)
    total = _checked(images, why, temperature, calibrate)
    clip = open_model(model, mirror, runtime)
    readings = {"multi_label": multi_label, "none_of_these": none_of_these}
    classifier = calibrated(ZeroShotClassifier(clip, names, texts, **readings, temperature=temperature), calibrate)
    printer = printer_of(len(classifier.names) if as_json and multi_label else top, as_json)
    _show(classifier, images, total, printer, _page(classifier, model, why))


def _checked(images: list[Path], why: Path | None, temperature: str, calibrate: Path | None) -> int:
    """How many images there are; what cannot be read, written or meant is told before a model is opened."""
    from wordsight.data.inputs import count_image_files
    from wordsight.errors import ConfigError
    from wordsight.files import check_writable

    if temperature == "labels" and calibrate is not None:
        raise ConfigError("--temperature labels: the labelled images of --calibrate give the temperature; choose one")
    if why is not None:
        check_writable(why)
    return count_image_files(images)


def _page(classifier: "ZeroShotClassifier", model: str, why: Path | None) -> "WhyPage | None":
    if why is None:
        return None
    from wordsight.cli.classify_report import WhyPage

    return WhyPage(classifier, model, why)


def _show(
    classifier: "ZeroShotClassifier", images: list[Path], total: int, printer: "Lines", page: "WhyPage | None"
) -> None:
    """Label images and print the answers; the page is told them too."""
    from wordsight.cli.terminal import progress_of
    from wordsight.data.inputs import find_image_files
    from wordsight.errors import DataError

    with progress_of(total, "images") as progress:
        for answer in classifier.classify(find_image_files(images), on_unreadable=printer.broken):
            printer.answer(answer)
            if page is not None:
                page.add(answer)
            progress(printer.num_answers + printer.num_broken)
    printer.end()
    if not printer.num_answers:
        raise DataError(f"none of {printer.num_broken} images could be read")
    if page is not None:
        page.write()
