"""Curves as small inline SVG that takes its colours from the page.

Matplotlib writes fixed colours into the file. It draws with placeholder colours here, which are then replaced by the
CSS variables of the page, so that one plot works in light and dark mode. The page itself sets all text except for the
numbers on the axes. Equal plots give equal bytes. pyplot is not used, because it keeps global state.
"""

import io
import re
from typing import Any

from wordsight.errors import MissingExtraError
from wordsight.report.blocks import Plot

_SERIES = tuple(f"#00010{number}" for number in range(1, 9))
_LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)))  # as in page.css
_INK, _RULE, _LEVEL = "#000201", "#000202", "#000203"
_VARIABLES = {
    **{colour: f"var(--series-{number})" for number, colour in enumerate(_SERIES, start=1)},
    _INK: "var(--muted)",
    _RULE: "var(--rule)",
    _LEVEL: "var(--muted)",
}
_SIZE_INCHES = (5.8, 2.7)
_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # keep numbers as text, which is smaller and uses the font of the page
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.unicode_minus": True,
    "text.usetex": False,
    "path.simplify": True,
}


def draw(plot: Plot, number: int) -> str:
    """Draw a plot as an `<svg>` element.

    Args:
        plot: the curves and labels.
        number: the number of the plot on its page, which keeps ids unique.

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
        for number, curve in enumerate(plot.curves):
            colour, line = _SERIES[number % len(_SERIES)], _LINES[number // len(_SERIES)]
            is_point = len(curve.x) == 1
            if len(curve.low):
                axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.13, linewidth=0)
                if is_point:
                    axes.vlines(curve.x, curve.low, curve.high, color=colour, linewidth=1.2)
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.8, linestyle=line, marker="o" if is_point else "")
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
    return _minify(content.getvalue())


def _are_counts(plot: Plot) -> bool:
    return all(float(x).is_integer() for curve in plot.curves for x in curve.x)


def _minify(svg: str) -> str:
    """Return the `<svg>` element with coordinates to a tenth of a point, CSS variables for colours, and no unused ids.

    Matplotlib's style sheet is removed because it would apply to the whole page, and its numbered ids (`patch_2`)
    because they would repeat.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", svg)
    svg = re.sub(r' (?:d|x|y|width|height)="[^"]*"', lambda match: re.sub(r"(\d+\.\d)\d+", r"\1", match[0]), svg)
    svg = re.sub(r' transform="rotate\(-0 [^"]*"|<g/>|<defs>\s*</defs>', "", svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg
