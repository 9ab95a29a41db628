"""`wordsight cache`: list and clear the cache."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordsight.cache import CACHE_KINDS
from wordsight.cli.options import JsonOption, choice

if TYPE_CHECKING:
    from wordsight.cache import CacheUsage

_CONTENTS = {
    "weights": "downloaded checkpoints and their hashes",
    "shards": "downloaded shards",
    "indexes": "indexes of shards in directories that are not writable",
    "onnx": "models exported to ONNX",
    "int8": "models quantised to 8 bits",
    "classifiers": "text embeddings of large classifiers",
    "embeddings": "embeddings of directories in which 'find' has searched",
    "timings": "which runtime is faster on this machine",
}


def cache(
    clear: Annotated[
        str | None,
        typer.Option("--clear", help="Delete all entries of this kind.", **choice("--clear", (*CACHE_KINDS, "all"))),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List what is cached, or delete it.

    Everything in the cache can be downloaded or computed again. It is in $WORDSIGHT_CACHE, or else in
    $XDG_CACHE_HOME/wordsight or ~/.cache/wordsight. Models from the Hugging Face Hub are in that library's own cache,
    which is not listed here.

    \b
    Example:
      wordsight cache
      wordsight cache --clear onnx
    """
    from wordsight.cache import cache_usage, clear_cache
    from wordsight.cli.terminal import print_json, print_lines

    if clear is None:
        usage = cache_usage()
        print_json(as_dict(usage)) if as_json else print_lines(*_describe(usage))
        return
    deleted = [clear_cache(kind) for kind in CACHE_KINDS if clear in (kind, "all")]
    print_json({"deleted": as_dict(deleted)["kinds"]}) if as_json else print_lines(*_describe_deleted(deleted))


def as_dict(usage: "list[CacheUsage]") -> dict[str, Any]:
    """The path and the contents of the cache, for JSON."""
    from wordsight.cache import cache_directory

    return {
        "path": str(cache_directory()),
        "kinds": {
            entry.kind: {"path": str(entry.path), "files": entry.num_files, "bytes": entry.num_bytes} for entry in usage
        },
    }


def usage_lines(usage: "list[CacheUsage]") -> list[str]:
    """One line per kind: name, number of files, size and a description."""
    from wordsight.cli.terminal import human_bytes
    from wordsight.errors import counted

    return [
        f"{entry.kind:12} {counted(entry.num_files, 'file'):>12} {human_bytes(entry.num_bytes):>10}  "
        f"{_CONTENTS[entry.kind]}"
        for entry in usage
    ]


def _describe(usage: "list[CacheUsage]") -> list[str]:
    from wordsight.cache import cache_directory
    from wordsight.cli.terminal import human_bytes
    from wordsight.errors import counted

    num_files, num_bytes = sum(entry.num_files for entry in usage), sum(entry.num_bytes for entry in usage)
    total = f"{'total':12} {counted(num_files, 'file'):>12} {human_bytes(num_bytes):>10}"
    return [str(cache_directory()), *usage_lines(usage), total]


def _describe_deleted(deleted: "list[CacheUsage]") -> list[str]:
    from wordsight.cli.terminal import human_bytes
    from wordsight.errors import counted

    return [
        f"{entry.kind}: {counted(entry.num_files, 'file')} deleted, {human_bytes(entry.num_bytes)}" for entry in deleted
    ]
