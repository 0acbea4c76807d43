"""A matplotlib figure as inline SVG that the page colours, as an SVG file and as PNG."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from reports.palette import THEME
from reports.read import Floats

VARIABLES = {light: name for name, (light, _) in THEME.items()}
FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    `inline` is SVG for the page, coloured by its CSS variables; `svg` and `png` are whole files.
    `plot` tells the page where the curves are, so that it can name the point under the pointer.
    """

    name: str
    alt: str
    inline: str
    svg: str
    png: bytes
    plot: dict[str, Any]


def picture(
    figure: Figure,
    name: str,
    alt: str,
    axes: Axes | None = None,
    curves: Mapping[int, tuple[Floats, Floats]] | None = None,
) -> Picture:
    """Render a figure. `curves` are the x and y drawn in `axes` for each stage's index.

    An artist with the gid `stage-<index>-...` becomes part of that stage in the page.
    """
    raw, png = io.StringIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
        FigureCanvasAgg(figure)
        figure.savefig(png, format="png", facecolor="white", pil_kwargs={"compress_level": 4})
    body = _body(raw.getvalue())
    inline = _tags(body, lambda tag: _inline_tag(tag, name))
    alone = _tags(body, lambda tag: re.sub(r"font-family: [^;]+;", f"font-family: {FONTS};", tag))
    width, height = (72 * size for size in figure.get_size_inches())
    box = f'viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(alt)}"'
    return Picture(
        name=name,
        alt=alt,
        inline=f'<svg class="picture" {box}>{inline}</svg>',
        svg=(
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'{box} width="{width:g}" height="{height:g}" '
            f'style="background: #fff; stroke-linejoin: round">{alone}</svg>\n'
        ),
        png=png.getvalue(),
        plot=_plot(axes, curves, width, height) if axes is not None and curves else {},
    )


def _body(svg: str) -> str:
    """What matplotlib drew, without prologue, metadata and the sheet that would style the page."""
    inner = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    inner = re.sub(r"<metadata>.*?</metadata>", "", inner, count=1, flags=re.DOTALL)
    return re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", inner, count=1, flags=re.DOTALL)


def _tags(svg: str, change: Callable[[str], str]) -> str:
    """Rewrite tags only: a title that looks like a style stays as it is."""
    return re.sub(r"<[^>]+>", lambda tag: change(tag[0]), svg)


def _inline_tag(tag: str, name: str) -> str:
    """A tag with the page's colours and font, and with ids that are unique in the page."""
    stage = re.match(r'<g id="stage-(\d+)-', tag)
    if stage:
        return f'<g class="stage" data-stage="{stage[1]}">'
    tag = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda colour: f"var(--{VARIABLES[colour[0]]})" if colour[0] in VARIABLES else colour[0],
        tag,
    )
    tag = re.sub(r"font-family: [^;]+; ?", "", tag)
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    return re.sub(r'xlink:href="#', f'href="#{name}-', tag)


def _plot(
    axes: Axes, curves: Mapping[int, tuple[Floats, Floats]], width: float, height: float
) -> dict[str, Any]:
    """Where the axes are in the SVG, what they span, and the points of the curves."""
    box = axes.get_position()
    corners = (box.x0 * width, (1 - box.y1) * height, box.x1 * width, (1 - box.y0) * height)
    return {
        "box": [round(corner, 2) for corner in corners],
        "x": [*axes.get_xlim(), axes.get_xscale() == "log"],
        "y": [*axes.get_ylim(), axes.get_yscale() == "log"],
        "words": [label.split(",")[0] for label in (axes.get_xlabel(), axes.get_ylabel())],
        "curves": {index: [_rounded(x), _rounded(y)] for index, (x, y) in curves.items()},
    }


def _rounded(values: Floats) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
