"""The options that several commands share, each declared once, so that it has the same name and meaning everywhere.

A command annotates its parameter with an alias and adds the default: `device: DeviceOption = None`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from wordsight.errors import ConfigError, nearest

RUNTIMES = ("torch", "half", "onnx", "int8", "auto")
DECODINGS = ("exact", "cropped", "scaled")
POLICIES = ("viewer", "published")
# The choices are repeated here because the modules that define them import NumPy, which would slow down `--help`; the
# tests compare the two.


def choice(option: str, choices: Sequence[str]) -> dict[str, Any]:
    """Arguments of `typer.Option` that restrict an option to a few values.

    Args:
        option: its name, such as `--runtime`, for the error message.
        choices: the values that are accepted.
    """

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise ConfigError(f"{option} {value!r}: expected {expected}{nearest(value, choices)}")
        return value

    return {"callback": check, "metavar": "|".join(choices), "autocompletion": lambda: list(choices)}


def published_names() -> list[str]:
    """The names of published weights, for shell completion."""
    from wordsight.weights.hub.catalogue import published_cards

    return list(published_cards())


def recipe_names() -> list[str]:
    """The names of the built-in recipes, for shell completion."""
    from wordsight.training.recipe import recipe_paths

    return list(recipe_paths())


def _show_phases_unless(quiet: bool) -> bool:
    """Show the phases of the command, such as loading weights, unless `--quiet` was given."""
    from wordsight.cli.terminal import show_phases

    show_phases(quiet)
    return quiet


ImagesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="IMAGES",
        help="Image files, directories of images, shards, tables of images (CSV, TSV, Parquet, JSONL), videos.",
        show_default=False,
    ),
]
ImageColumnOption = Annotated[
    str | None,
    typer.Option("--image-column", metavar="NAME", help="Column of image paths or image bytes in a table."),
]
TextColumnOption = Annotated[
    list[str] | None, typer.Option("--text-column", metavar="NAME", help="Column of texts in a table; may be repeated.")
]
LabelColumnOption = Annotated[
    str | None, typer.Option("--label-column", metavar="NAME", help="Column of labels in a table.")
]
ImageRootOption = Annotated[
    Path | None,
    typer.Option(
        "--image-root",
        metavar="DIR",
        help="Directory to which the image paths in a table are relative.",
        show_default="next to the table, then the working directory",
    ),
]
NamesOption = Annotated[
    Path | None,
    typer.Option(
        "--names",
        metavar="FILE",
        help="Class names as JSON, YAML, CSV or text: a list, or names with their labels or ids.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A name listed by 'wordsight models', a weights file, a directory of a model or a training run, or "
        "hf-hub:ORG/NAME.",
        autocompletion=published_names,
        show_default=False,
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option(
        "--as",
        metavar="ARCHITECTURE",
        help="Architecture of a weights file that does not state it, such as ViT-B-32-quickgelu.",
    ),
]
AveragedOption = Annotated[
    bool | None,
    typer.Option(
        "--averaged/--plain", help="Use the averaged (EMA) or the plain weights of a checkpoint that has both."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="Such as cpu, cuda or cuda:1.", show_default="first accelerator, else cpu"
    ),
]
RuntimeOption = Annotated[
    str,
    typer.Option(
        "--runtime",
        help="torch: float32; half: torch in float16; onnx: ONNX Runtime; int8: ONNX Runtime with 8-bit products; "
        "auto: torch or onnx, whichever is faster on this machine.",
        **choice("--runtime", RUNTIMES),
    ),
]
DecodingOption = Annotated[
    str | None,
    typer.Option(
        "--decoding",
        help="How images are resized. exact: as published; cropped, scaled: faster, with slightly different pixels.",
        show_default="the model's own",
        **choice("--decoding", DECODINGS),
    ),
]
PolicyOption = Annotated[
    str,
    typer.Option(
        "--policy",
        help="How images are decoded. viewer: as image viewers show them (EXIF rotation, transparency over white); "
        "published: as in the published pipelines.",
        **choice("--policy", POLICIES),
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size", min=1, metavar="N", help="Images encoded together.", show_default="depends on the device"
    ),
]
FramesOption = Annotated[
    float, typer.Option("--frames-per-s", min=0.001, metavar="N", help="Frames per second to take from videos.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=0, metavar="N", help="Threads that prepare batches.")]
MirrorOption = Annotated[
    str | None,
    typer.Option("--mirror", metavar="URL", help="Server from which to download weights instead of the original."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON per image.")]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", help="Print results and errors only: no progress, no notes.", callback=_show_phases_unless
    ),
]
