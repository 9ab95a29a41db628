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
    bool,
    typer.Option("--multi-label", help="Judge each label independently; report those above 0.5, or --threshold."),
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
TopOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Show at least N labels per image, even those below the threshold.",
        show_default="1; with a threshold, only the labels above it",
    ),
]
ThresholdOption = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Report all labels with a probability above P, perhaps none, as tags.",
        show_default="0.5 with --multi-label, otherwise none: each image gets its most probable label",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv|.jsonl|.parquet",
        help="Write one row per image, with the other columns of a table, instead of printing lines.",
    ),
]
PageOption = Annotated[
    Path | None,
    typer.Option(
        "--page",
        metavar="FILE.html",
        help="Write a page of thumbnails with their labels, which can be sorted, filtered and searched.",
    ),
]
PageLimitOption = Annotated[
    int, typer.Option("--page-limit", metavar="N", min=1, help="Number of images on the page; about 6 kB each.")
]
