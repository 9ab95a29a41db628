"""`wordsight models`: published weights, with what is known of them; `--fetch` brings them here."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wordsight.weights.hub.catalogue import PublishedCard

_HEADS = ("name", "file", "px", "weights", "licence", "ImageNet", "source")
_RIGHT = {"file", "px", "weights", "ImageNet"}
_IMAGENET = "ImageNet zero-shot top-1"
_MB = 10**6


def models(
    name: Annotated[str, typer.Argument(help="Print this card whole.", metavar="[NAME]", show_default=False)] = "",
    fetch: Annotated[bool, typer.Option("--fetch", help="Download NAME and print where it lies.")] = False,
    mirror: Annotated[str, typer.Option(help="With --fetch: a server to ask in place of the usual one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """List published weights, print the card of one, or download it.

    Beside a name stand the size of its file, the side of its images, the number of its weights, its licence and its
    published zero-shot accuracy on ImageNet with the source; a dash where it was not seen in public. open_clip's
    MODEL/TAG and OpenAI's names are understood too, and hf-hub:OWNER/NAME with --fetch.

    \b
    Example:
      wordsight models
      wordsight models openai/ViT-B-32
    """
    from wordsight.config import plain
    from wordsight.errors import ConfigError
    from wordsight.weights.hub.catalogue import CARDS_DIRECTORY, published_card, published_cards

    if fetch and not name:
        raise ConfigError("--fetch needs the NAME of what is to be downloaded; `wordsight models` lists them")
    if mirror and not fetch:
        raise ConfigError("--mirror goes with --fetch, which downloads; add it, or leave both out")
    if fetch:
        _fetch(name, mirror, as_json)
    elif name and as_json:
        print(json.dumps(plain(published_card(name))))
    elif name:
        print((CARDS_DIRECTORY / f"{published_card(name).name.replace('/', '-')}.toml").read_text("utf-8"), end="")
    elif as_json:
        print(json.dumps({known: plain(card) for known, card in published_cards().items()}))
    else:
        _show([_row(card) for card in published_cards().values()])


def _fetch(name: str, mirror: str, as_json: bool) -> None:
    from wordsight.cli.terminal import progress_of_bytes
    from wordsight.weights.hub.download import resolve

    with progress_of_bytes() as progress:
        place = resolve(name, mirror or None, progress)
    print(json.dumps({"name": name, "path": str(place)}) if as_json else place)


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


def _show(rows: list[tuple[str, ...]]) -> None:
    """A table on a terminal, its sources below; elsewhere lines whose fields a tab divides."""
    if not sys.stdout.isatty():
        print("\n".join("\t".join(row) for row in [_HEADS, *rows]))
        return
    from rich.console import Console
    from rich.table import Table

    sources = list(dict.fromkeys(source for *_, source in rows if source != "-"))
    table = Table(box=None, pad_edge=False)
    for head in _HEADS[:-1]:
        table.add_column(
            head, justify="right" if head in _RIGHT else "left", no_wrap=head != "licence", overflow="fold"
        )
    for *row, source in rows:
        note = f" ({sources.index(source) + 1})" if source in sources else "    "
        table.add_row(*row[:-1], row[-1] + note)
    console = Console(highlight=False)
    console.print(table)
    for number, source in enumerate(sources, 1):
        console.print(f"({number}) {source}", markup=False)
