"""Curves as small inline SVG whose colours follow the page.

Matplotlib writes colours into the file. Here it draws with stand-in colours, which are then replaced by the style
variables of the page, so that one plot serves light and dark. Texts other than the numbers at the axes are set by
the page. Equal input gives equal bytes. No pyplot, so no state outlives a call.
"""

import io
import re
from typing import Any

from wordsight.errors import MissingExtraError
from wordsight.report.blocks import Plot

_SERIES = tuple(f"#00010{number}" for number in range(1, 6))
_INK, _RULE, _LEVEL = "#000201", "#000202", "#000203"
_VARIABLES = {
    **{color: f"var(--series-{number})" for number, color in enumerate(_SERIES, start=1)},
    _INK: "var(--quiet)",
    _RULE: "var(--rule)",
    _LEVEL: "var(--quiet)",
}
_SIZE_INCHES = (5.8, 2.7)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # numbers stay text: small, and in the page's font
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "path.simplify": True,
}


def draw(plot: Plot, number: int) -> str:
    """The curves as an `<svg>` element.

    Args:
        plot: what to draw.
        number: of the plot on its page, so that the names inside differ from those of other plots.

    Raises:
        MissingExtraError: Matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator, PercentFormatter
    except ImportError as error:
        raise MissingExtraError("the report", "report") from error
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": f"wordsight-{number}"}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for color, curve in zip(_SERIES, plot.curves, strict=False):
            is_point = len(curve.x) == 1
            axes.plot(curve.x, curve.y, color=color, linewidth=1.8, marker="o" if is_point else "")
        if plot.level is not None:
            axes.axhline(plot.level, color=_LEVEL, linewidth=1.2, linestyle=(0, (4, 3)))
        if plot.is_share:
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
            axes.set_ylim(bottom=0)
        axes.margins(x=0.015)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=_are_counts(plot)))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", color=_RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(_RULE)
        axes.tick_params(colors=_INK, length=0, pad=6)
        axes.patch.set_visible(False)
        figure.patch.set_visible(False)
        content = io.StringIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _made_small(content.getvalue())


def _are_counts(plot: Plot) -> bool:
    return all(float(x).is_integer() for curve in plot.curves for x in curve.x)


def _made_small(svg: str) -> str:
    """The `<svg>` element alone, coordinates to a tenth of a point, colours by variable, no unused names.

    Matplotlib's style sheet would reach the whole page, and the names that it counts up (`patch_2`) would repeat.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r' (?:d|x|y|width|height)="[^"]*"', lambda match: re.sub(r"(\d+\.\d)\d+", r"\1", match[0]), svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|<g/>|<defs>\s*</defs>', "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    return svg
