"""JSON objects: the configuration files of all formats."""

from pathlib import Path
from typing import Any

import msgspec

from wordsight.errors import WeightsError
from wordsight.files import read_json, write_atomic
from wordsight.weights.mistaken import mistaken_for_text

_MAX_JSON_BYTES = 1 << 24


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file of at most 16 MiB whose content is an object.

    Raises:
        WeightsError: the file is missing, too large, not JSON, or not an object.
    """
    try:
        content = read_json(path, _MAX_JSON_BYTES, WeightsError)
    except WeightsError as error:
        if reason := mistaken_for_text(path):
            raise WeightsError(f"{path}: {reason}") from error
        raise WeightsError(f"{error}; put the file that was published with the weights next to them") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, found {type(content).__name__}; download it again")
    return content


def encode_json(content: Any) -> bytes:
    """Plain data or a structure as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def write_json(path: Path, content: Any) -> None:
    """Write plain data or a structure as indented JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    write_atomic(path, encode_json(content))
