"""The checks and the output of `wordsight evaluate`."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.cli.terminal import print_json, print_lines
from wordsight.errors import ConfigError, OutputError, encodable, printable

if TYPE_CHECKING:
    from wordsight.evaluation import EvaluationResult

MAX_SHOWN_UNREADABLE = 20

_USAGE = "wordsight evaluate MODEL... DATA"
_OUT_SUFFIXES = (".csv", ".json")


def check_out(out: Path | None) -> None:
    """Refuse an output file that exists, has another suffix, or is not writable.

    Raises:
        ConfigError: another suffix.
        OutputError: an existing or unwritable file.
    """
    from wordsight.files import check_writable

    if out is None:
        return
    if out.suffix.lower() not in _OUT_SUFFIXES:
        raise ConfigError(f"--out {out}: expected a name that ends in .csv or .json")
    if out.exists():
        raise OutputError(f"{out}: exists already; name another file, or delete it")
    check_writable(out)


def check_arguments(models: Sequence[str], data: str) -> None:
    """Report models that do not exist, and models and data in the wrong order, before a model is loaded.

    Raises:
        WeightsError: no such model.
        ConfigError: a model is data, the data a model, or either an empty string.
    """
    from wordsight.encoder.loading import check_name

    if not all([*models, data]):
        raise ConfigError(f"an argument is empty; expected {_USAGE}")
    if _is_model(data):
        raise ConfigError(f"{data}: a model, not data; the data comes last: {_USAGE}")
    for model in models:
        check_name(model)
        if _is_data(Path(model)):
            raise ConfigError(f"{model}: images or texts, not a model; models come first, then the data: {_USAGE}")


def _is_model(name: str) -> bool:
    from wordsight.weights.hub.catalogue import is_published
    from wordsight.weights.read import WEIGHTS_SUFFIXES, describes_model

    path = Path(name)
    if path.is_dir():
        return describes_model(path) or describes_model(path / "best")
    return path.suffix in WEIGHTS_SUFFIXES or (is_published(name) and not path.exists())


def _is_data(path: Path) -> bool:
    from wordsight.data.inputs import detect_input
    from wordsight.data.walk import contains_image_files

    if not path.exists() or _is_model(str(path)):
        return False
    kind = detect_input(path)
    return contains_image_files(path) if kind == "directory" else kind != "file"


def report(result: "EvaluationResult", out: Path | None, as_json: bool) -> None:
    """Write the scores to a file if one is named, print them, and list unreadable images on standard error."""
    if out is not None:
        _write(result, out)
    if as_json:
        print_json(_plain(result))
        return
    unreadable = result.models[0].unreadable
    for _, reason in unreadable[:MAX_SHOWN_UNREADABLE]:
        print(f"unreadable: {printable(reason)}", file=sys.stderr)
    if len(unreadable) > MAX_SHOWN_UNREADABLE:
        print(f"unreadable: {len(unreadable) - MAX_SHOWN_UNREADABLE:,} more; --json lists all", file=sys.stderr)
    print_lines(*result.lines())


def _write(result: "EvaluationResult", out: Path) -> None:
    """Write a CSV file, one row per model and metric, or a JSON file, as `--json` prints it."""
    from wordsight.files import write_atomic

    if out.suffix.lower() == ".json":
        write_atomic(out, (json.dumps(_plain(result), indent=2) + "\n").encode())
        return
    rows = result.rows()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: encodable(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows
    )
    write_atomic(out, text.getvalue().encode())


def _plain(result: "EvaluationResult") -> dict[str, Any]:
    unreadable = [{"image": name, "reason": reason} for name, reason in result.models[0].unreadable]
    return {"contents": list(result.contents), "scores": result.rows(), "unreadable": unreadable}
