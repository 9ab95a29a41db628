"""`wordsight models`: list published weights, print a card, or download weights."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import JsonOption, MirrorOption, QuietOption, published_names

if TYPE_CHECKING:
    from wordsight.weights.hub.catalogue import PublishedCard

_COLUMNS = ("name", "file", "px", "weights", "licence", "ImageNet", "source")
_RIGHT_ALIGNED = {"file", "px", "weights", "ImageNet"}
_IMAGENET = "ImageNet zero-shot top-1"
_MB = 10**6


def models(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Print the card of this model.", autocompletion=published_names, show_default=False
        ),
    ] = "",
    fetch: Annotated[bool, typer.Option("--fetch", help="Download NAME and print its path.")] = False,
    mirror: MirrorOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """List published weights, print a card, or download weights.

    The list shows each model's file size, image size, number of weights, licence and published zero-shot accuracy on
    ImageNet, with the source; a dash means that no public figure was found. NAME may also be an open_clip name
    (MODEL/TAG) or an OpenAI name (ViT-B/32). With --fetch it may be hf-hub:ORG/NAME.

    \b
    Example:
      wordsight models
      wordsight models openai/ViT-B-32
    """
    from wordsight.cli.terminal import print_json
    from wordsight.config import plain
    from wordsight.errors import ConfigError
    from wordsight.weights.hub.catalogue import CARDS_DIRECTORY, published_card, published_cards

    if fetch and not name:
        raise ConfigError("--fetch requires the NAME of the model to download; 'wordsight models' lists them")
    if mirror and not fetch:
        raise ConfigError("--mirror has no effect without --fetch; add --fetch or leave out --mirror")
    if fetch:
        _fetch(name, mirror, as_json, quiet)
    elif name and as_json:
        print_json(plain(published_card(name)))
    elif name:
        print((CARDS_DIRECTORY / f"{published_card(name).name.replace('/', '-')}.toml").read_text("utf-8"), end="")
    elif as_json:
        print_json({name: plain(card) for name, card in published_cards().items()})
    else:
        _print_table([_row(card) for card in published_cards().values()])


def _fetch(name: str, mirror: str | None, as_json: bool, quiet: bool) -> None:
    from wordsight.cli.terminal import print_json, print_lines, show_byte_progress
    from wordsight.weights.hub.download import resolve

    with show_byte_progress(quiet) as progress:
        path = resolve(name, mirror, progress)
    print_json({"name": name, "path": str(path)}) if as_json else print_lines(str(path))


def _row(card: "PublishedCard") -> tuple[str, ...]:
    score = next((score for score in card.scores if score.metric == _IMAGENET), None)
    return (
        card.name,
        f"{card.size_bytes / _MB:,.0f} MB" if card.size_bytes else "-",
        str(card.resolution_px),
        f"{card.million_parameters:,.0f} M" if card.million_parameters else "-",
        card.licence or "-",
        f"{score.value:.1f} %" if score else "-",
        score.source if score else "-",
    )


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print a table with numbered sources below it on a terminal, and tab-separated lines elsewhere."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [_COLUMNS, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    sources = list(dict.fromkeys(source for *_, source in rows if source != "-"))
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS[:-1]:
        table.add_column(
            column,
            justify="right" if column in _RIGHT_ALIGNED else "left",
            no_wrap=column != "licence",
            overflow="fold",
        )
    for *row, source in rows:
        reference = f" ({sources.index(source) + 1})" if source in sources else "    "
        table.add_row(*row[:-1], row[-1] + reference)
    console = Console(highlight=False)
    console.print(table)
    for number, source in enumerate(sources, 1):
        console.print(f"({number}) {source}", markup=False)
