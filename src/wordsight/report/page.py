"""Sections and the page, rendered to one HTML file."""

import base64
import dataclasses
import hashlib
import importlib.resources
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.errors import ImageError, MissingExtraError, printable
from wordsight.files import write_atomic
from wordsight.report import plots
from wordsight.report.blocks import Block, Plot
from wordsight.report.image_grid import ImageGrid

_SIGNATURES = ((b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"))


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A heading, text, and blocks below it.

    Attributes:
        title: the heading, also shown in the table of contents.
        text: plain text; a blank line starts a new paragraph.
        blocks: from top to bottom.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()

    @property
    def paragraphs(self) -> list[str]:
        """The text, split into paragraphs."""
        return _paragraphs(self.text)


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A complete page.

    Attributes:
        title: the heading of the page and the title of its window.
        lead: one or two sentences below the title.
        sections: from top to bottom.
        notes: small print at the end, such as the source and licence of images.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()

    def render(self) -> str:
        """Render the page as HTML; equal pages give equal text.

        Raises:
            MissingExtraError: Jinja2 is not installed, or the page has plots and Matplotlib is not installed.
            ImageError: an image is not PNG, JPEG, GIF or WebP.
        """
        try:
            import jinja2
        except ImportError as error:
            raise MissingExtraError("the report", "report") from error
        directory = importlib.resources.files("wordsight.report")
        environment = jinja2.Environment(
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_printable,
        )
        environment.filters |= {"number": _number, "image": _data_uri, "paragraphs": _paragraphs}
        environment.tests["finite"] = math.isfinite
        template = environment.from_string((directory / "page.html").read_text("utf-8"))
        has_grid = any(isinstance(block, ImageGrid) for section in self.sections for block in section.blocks)
        script = (directory / "image_grid.js").read_text("utf-8") if has_grid else ""
        html: str = template.render(
            page=self,
            style=(directory / "page.css").read_text("utf-8"),
            script=script,
            script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode('ascii')}",
            draw=_plotter(),
        )
        return html

    def write(self, path: Path) -> None:
        """Write the page atomically.

        Raises:
            OutputError: the path is not writable.
            MissingExtraError: as for `render`.
            ImageError: as for `render`.
        """
        write_atomic(path, self.render().encode())


def _printable(value: Any) -> Any:
    """Escape control characters in text of the page, except for line breaks; text that is already HTML is unchanged."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "\n".join(map(printable, value.split("\n")))


def _plotter() -> Any:
    """Return a function that draws the plots of one page and numbers them."""
    count = 0

    def draw(plot: Plot) -> str:
        nonlocal count
        count += 1
        return plots.draw(plot, count)

    return draw


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _number(value: str | int | float) -> str:
    """Format a table cell: separators in integers, four significant digits for floats, a dash if not finite."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if math.isfinite(value) else "\u2013"


def _data_uri(image: bytes) -> str:
    for signature, subtype in _SIGNATURES:
        if image.startswith(signature) and (subtype != "webp" or image[8:12] == b"WEBP"):
            return f"data:image/{subtype};base64,{base64.b64encode(image).decode('ascii')}"
    raise ImageError("an image of the report is not PNG, JPEG, GIF or WebP; encode it as one of these")
