"""The queries of `wordsight find`: those of the command line, and those of `--interactive`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from wordsight.cli.find_output import FindOutput
from wordsight.embed import StoredEmbeddings
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, TextError, printable
from wordsight.search import ExactSearch, QueryPart, build_query, embed_query

_PROMPT = "query> "


def parse_weights(text: str | None) -> list[float] | None:
    """Return the numbers in the value of `--weights`.

    Raises:
        ConfigError: something is not a number.
    """
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--weights {text}: expected numbers with commas between them, such as 1,-0.5") from error


def check_interactive(
    texts: Sequence[str] | None,
    images: Sequence[Path] | None,
    weights: str | None,
    page: Path | None,
    copy_to: Path | None,
) -> None:
    """Refuse what belongs to a single query.

    Raises:
        ConfigError: names what was given.
    """
    given = {"TEXT": texts, "--image": images, "--weights": weights, "--page": page, "--copy-to": copy_to}
    names = [name for name, value in given.items() if value]
    if names:
        raise ConfigError(f"--interactive reads queries from standard input; leave {' and '.join(names)} out")


def answer(
    encoder: DualEncoder, files: Sequence[StoredEmbeddings], parts: Sequence[QueryPart], output: FindOutput
) -> None:
    """Answer one query."""
    search = ExactSearch(files)
    query_E = embed_query(encoder, parts)
    output.write(encoder, search, files, parts, search.find(query_E, output.top))


def answer_lines(encoder: DualEncoder, files: Sequence[StoredEmbeddings], output: FindOutput) -> None:
    """Answer each line of standard input; a line that is no query is reported, and the next one is read."""
    search = ExactSearch(files, keep_copy=True)
    while line := _read_line():
        if not line.strip():
            continue
        try:
            parts = build_query([line], [])
            query_E = embed_query(encoder, parts)
        except (ConfigError, TextError) as error:
            print(printable(error), file=sys.stderr, flush=True)
            continue
        output.write(encoder, search, files, parts, search.find(query_E, output.top))


def _read_line() -> str:
    if sys.stdin.isatty():
        print(_PROMPT, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()
