"""Put sections and blocks together as one HTML file."""

import base64
import dataclasses
import importlib.resources
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.errors import ImageError, MissingExtraError
from wordsight.files import write_atomic
from wordsight.report import plots
from wordsight.report.blocks import Block, Plot

_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A heading, text, and what is shown below it.

    Attributes:
        title: of the section; also in the list of contents.
        text: plain text; a blank line begins a new paragraph.
        blocks: in this order.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The text's paragraphs."""
        return _paragraphs(self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: of the page and of its window.
        lead: one or two sentences below the title.
        sections: in this order.
        notes: small print at the end, such as where images come from and under which licence.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()

    def render(self) -> str:
        """The page as HTML; equal input gives equal text.

        Raises:
            MissingExtraError: Jinja2 or, where there are plots, Matplotlib is not installed.
            ImageError: a image is not PNG, JPEG, GIF or WebP.
        """
        try:
            import jinja2
        except ImportError as error:
            raise MissingExtraError("the report", "report") from error
        directory = importlib.resources.files("wordsight.report")
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"number": _number, "image": _data_uri, "paragraphs": _paragraphs}
        environment.tests["finite"] = math.isfinite
        template = environment.from_string((directory / "page.html").read_text("utf-8"))
        html: str = template.render(page=self, style=(directory / "page.css").read_text("utf-8"), draw=_plotter())
        return html

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all; characters that UTF-8 has no form for become `?`.

        Raises:
            OutputError: the file cannot be written.
            MissingExtraError, ImageError: as `render`.
        """
        write_atomic(path, self.render().encode("utf-8", "replace"))


def _plotter() -> Any:
    """A function that draws the plots of one page, numbered as they come."""
    count = 0

    def draw(plot: Plot) -> str:
        nonlocal count
        count += 1
        return plots.draw(plot, count)

    return draw


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _number(value: str | int | float) -> str:
    """A table's cell as text: whole numbers in groups of three, others to four digits, what is none as a dash."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if math.isfinite(value) else "\u2013"


def _data_uri(image: bytes) -> str:
    for signature, kind in _SIGNATURES:
        if image.startswith(signature) and (kind != "webp" or image[8:12] == b"WEBP"):
            return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
    raise ImageError("a picture of the report is not PNG, JPEG, GIF or WebP; encode it as one of them")
