"""The options that only `wordsight classify` has."""

from pathlib import Path
from typing import Annotated

import typer

from wordsight.cli.options import choice

TEMPERATURES = ("model", "labels")

LabelListOption = Annotated[
    str,
    typer.Option(
        metavar="A,B|FILE",
        help="Labels separated by commas, or a file: one label per line (indented lines form a hierarchy), JSON, YAML "
        "or CSV.",
        show_default=False,
    ),
]
TemplatesOption = Annotated[
    str,
    typer.Option(
        metavar="SET|TEXT",
        help="A template set (plain, photo, photos, drawings, imagenet, food101 ...), or a text that contains {}.",
    ),
]
RepeatedOption = Annotated[
    bool,
    typer.Option(
        "--repeated-labels", help="Labels with the same name are separate classes, as in ImageNet, and not an error."
    ),
]
MultiLabelOption = Annotated[
    bool, typer.Option("--multi-label", help="Judge each label independently; report those with probability > 0.5.")
]
NoneOption = Annotated[
    bool,
    typer.Option(
        "--none-of-these", help="Reject images that the labels fit less than 4 times as well as general words do."
    ),
]
TemperatureOption = Annotated[
    str,
    typer.Option(
        help="model: probabilities as trained; labels: less confident about label names the model does not know.",
        **choice("--temperature", TEMPERATURES),
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option(
        metavar="SOURCE",
        help="Labelled images, such as one directory per label: fits a temperature and, with enough images, an offset "
        "per label, and reports label sets that contain the true label for 90 % of images.",
    ),
]
WhyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write a page that shows which regions of each image support its label."),
]
TopOption = Annotated[int, typer.Option(metavar="K", min=1, help="Number of labels to show per image.")]
