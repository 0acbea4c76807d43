"""The report's pictures by matplotlib: drawn once each, given as inline SVG, SVG file and PNG."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from reports.compare import Curves, Floats, Group, Stage
from reports.palette import THEME, Look
from reports.records import WARMUP_STEPS
from reports.reference import Reference

STYLE = Path(__file__).with_name("style.mplstyle")
VARIABLES = {light: name for name, (light, _) in THEME.items()}
INK, MUTED, LINE, BAD, GREY = (
    THEME[name][0] for name in ("ink", "muted", "line", "bad", "baseline")
)
# More panels than this help nobody; the tables and files still hold every stage.
MOST_STAGES = 24
MOST_POINTS = 400
WIDTH = 5.0
FONTS = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Picture:
    """A figure of the report.

    `inline` is SVG for the page, coloured by its CSS variables; `svg` and `png` stand alone.
    `plot` tells the page where the curves lie, so that it can say what the pointer is at.
    """

    name: str
    title: str
    alt: str
    inline: str
    svg: str
    png: bytes
    plot: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """A stage's curve: the mean over its runs, and their lowest and highest."""

    x: Floats
    y: Floats
    low: Floats
    high: Floats

    @property
    def has_band(self) -> bool:
        return bool(np.any(self.high > self.low))


class Painter:
    """Draws the figures of one group of comparable runs."""

    def __init__(self, group: Group, curves: Curves, look: dict[str, Look]) -> None:
        self.group = group
        self.curves = curves
        self.look = look
        self.stages = [
            stage
            for stage in group.ladder
            if any(len(curves[run["run"]]["step"]) for run in stage.runs)
        ][:MOST_STAGES]
        numbers = [stage.number for stage in self.stages]
        self.numbered = len(set(numbers)) == len(numbers) and not any(map(math.isnan, numbers))

    def short(self, stage: Stage) -> str:
        return f"{stage.number:.0f}" if self.numbered else _cut(stage.name, 8)

    def long(self, stage: Stage, length: int = 23) -> str:
        return _cut(f"{self.short(stage)} {stage.title}" if self.numbered else stage.name, length)

    def curve(self, stage: Stage, x: str, y: str) -> Curve:
        """`y` against `x`, averaged over the runs step by step."""
        runs = [self.curves[run["run"]] for run in stage.finished or stage.runs]
        runs = [run for run in runs if len(run["step"])]
        length = min(len(run["step"]) for run in runs)
        stacked = np.stack([run[y][:length] for run in runs])
        xs = np.stack([run[x][:length] for run in runs]).mean(axis=0)
        keep = _thin(length)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a step where every run diverged
            return Curve(
                xs[keep],
                np.nanmean(stacked, axis=0)[keep],
                np.nanmin(stacked, axis=0)[keep],
                np.nanmax(stacked, axis=0)[keep],
            )

    def loss_limits(self) -> tuple[float, float]:
        """One axis for all, from the best loss to the worst, but no higher than 1.3 x the first."""
        stages = self.stages
        low = min((s.mean["best"] for s in stages if math.isfinite(s.mean["best"])), default=0.0)
        first = [s.mean["first"] for s in stages if math.isfinite(s.mean["first"])]
        worst = [s.mean["worst"] for s in stages if math.isfinite(s.mean["worst"])]
        high = min(max(worst, default=low + 1), 1.3 * max(first, default=math.inf))
        margin = 0.06 * max(high - low, 0.1)
        return low - margin, high + margin

    def stage_panels(self) -> list[Picture]:
        """A panel a stage on common axes: its loss, the baseline's behind, intervals, spikes."""
        baseline = self.group.baseline
        limits = self.loss_limits()
        steps = max(
            (
                self.curves[r["run"]]["step"][-1]
                for s in self.stages
                for r in s.runs
                if len(self.curves[r["run"]]["step"])
            ),
            default=1.0,
        )
        return [self._panel(stage, baseline, limits, max(steps, 1.0)) for stage in self.stages]

    def _panel(
        self, stage: Stage, baseline: Stage | None, limits: tuple[float, float], steps: float
    ) -> Picture:
        look = self.look[stage.name]
        with _figure(2.9) as figure:
            axes = figure.add_axes((0.095, 0.17, 0.80, 0.68))
            if baseline is not None and baseline is not stage:
                behind = self.curve(baseline, "step", "loss")
                axes.plot(behind.x, behind.y, color=GREY, linewidth=1.3)
                _interval(axes, steps * 1.045, baseline, GREY)
            curve = self.curve(stage, "step", "loss")
            self._draw(axes, stage, curve)
            _interval(axes, steps * 1.085, stage, look.hex)
            marks = self._marks(axes, stage, limits)
            axes.set_xlim(-0.02 * steps, steps * 1.11)
            axes.set_ylim(*limits)
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            axes.set_xlabel("step")
            axes.set_ylabel("loss, nats/token")
            axes.set_title(self.long(stage, 30), color=INK, fontweight="bold")
            worst, best = stage.mean["worst"], stage.mean["best"]
            axes.set_title(f"{worst:.2f} → {best:.2f}", loc="right", color=MUTED)
            alt = (
                f"Loss of {stage.name} ({stage.title}) against steps: "
                f"interval {worst:.3f} to {best:.3f}"
            )
            if baseline is not None and baseline is not stage:
                alt += (
                    f"; the baseline's behind it in grey: {baseline.mean['worst']:.3f} to "
                    f"{baseline.mean['best']:.3f}"
                )
            alt += "".join(f"; {mark}" for mark in marks) + "."
            return _picture(
                figure,
                f"stage-{slug(stage.name)}",
                f"{stage.name}: {stage.title}",
                alt,
                axes,
                {look.index: curve},
            )

    def _draw(self, axes: Axes, stage: Stage, curve: Curve) -> None:
        look = self.look[stage.name]
        if curve.has_band:
            axes.fill_between(
                curve.x,
                curve.low,
                curve.high,
                color=look.hex,
                alpha=0.16,
                linewidth=0,
                gid=f"stage-{look.index}-band",
            )
        dash: Any = look.dash
        axes.plot(curve.x, curve.y, color=look.hex, linestyle=dash, gid=f"stage-{look.index}-curve")

    def _marks(self, axes: Axes, stage: Stage, limits: tuple[float, float]) -> list[str]:
        """Spikes as triangles and divergence as a cross, each said in words too."""
        said = []
        for run in stage.runs:
            curve = self.curves[run["run"]]
            for step in stage.spikes.get(run["run"], []):
                loss = float(curve["loss"][curve["step"] == step][0])
                axes.plot(step, min(loss, limits[1]), "v", color=BAD, markersize=6, clip_on=False)
                said.append(f"spike to {loss:.2f} at step {step}")
            if run["status"] == "diverged":
                at = run["diverged_at"]
                if math.isnan(at):
                    at = float(curve["step"][-1]) if len(curve["step"]) else 0.0
                axes.plot(at, limits[1], "X", color=BAD, markersize=9, clip_on=False)
                axes.annotate(
                    f"diverged at step {at:.0f}",
                    (at, limits[1]),
                    (8, -4),
                    textcoords="offset points",
                    color=BAD,
                    va="top",
                )
                said.append(f"diverged at step {at:.0f}")
        return said

    def loss_against(self, x: str) -> Picture:
        """All stages' losses against `step`, `tokens_seen` or `seconds`."""
        label, per = {
            "step": ("optimizer step", "steps"),
            "tokens_seen": ("tokens seen", "tokens"),
            "seconds": ("seconds of training, compilation apart", "seconds"),
        }[x]
        return self._all(x, "loss", f"loss-{per}", f"Loss against {per}", label, log_x=x != "step")

    def gradient_norms(self) -> Picture:
        return self._all(
            "step",
            "grad_norm",
            "gradient-norms",
            "Gradient norm before clipping",
            "optimizer step",
            log_y=True,
            threshold=self._threshold(),
        )

    def _all(
        self,
        x: str,
        y: str,
        name: str,
        title: str,
        label: str,
        log_x: bool = False,
        log_y: bool = False,
        threshold: float = math.nan,
    ) -> Picture:
        with _figure(4.1) as figure:
            axes = figure.add_axes((0.105, 0.125, 0.835, 0.785))
            drawn: dict[int, Curve] = {}
            ends: list[tuple[float, float, str, str, int]] = []
            for stage in self.stages:
                curve = self.curve(stage, x, y)
                if log_x and not np.all(curve.x > 0):
                    continue
                if log_y and not np.any(curve.y > 0):
                    continue
                self._draw(axes, stage, curve)
                look = self.look[stage.name]
                drawn[look.index] = curve
                finite = np.flatnonzero(np.isfinite(curve.y))
                if len(finite):
                    at = finite[-1]
                    ends.append((curve.x[at], curve.y[at], self.short(stage), look.hex, look.index))
            if log_x:
                axes.set_xscale("log")
                _plain_log(axes.xaxis)
            else:
                axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if log_y:
                axes.set_yscale("log")
                _plain_log(axes.yaxis)
            else:
                axes.set_ylim(*self.loss_limits())
            if not math.isnan(threshold):
                axes.axhline(threshold, color=BAD, linewidth=1, linestyle=(0, (3, 2)))
                axes.annotate(
                    f"clipped above {threshold:g}",
                    (0.01, threshold),
                    (0, 4),
                    xycoords=axes.get_yaxis_transform(),
                    textcoords="offset points",
                    color=BAD,
                )
            _end_labels(axes, ends)
            axes.set_xlabel(label)
            axes.set_title(title, color=INK, fontweight="bold")
            axes.set_ylabel("loss, nats/token" if y == "loss" else "L2 norm")
            alt = (
                f"{title}, a curve a stage. At the end: "
                + "; ".join(f"{stage.name} {self._final(stage, y)}" for stage in self.stages)
                + "."
            )
            return _picture(figure, name, title, alt, axes, drawn)

    def _final(self, stage: Stage, y: str) -> str:
        values = self.curve(stage, "step", y).y
        values = values[np.isfinite(values)]
        return f"{values[-1]:.3g}" if len(values) else "nothing"

    def speed(self) -> list[Picture]:
        """Tokens per second, step times, compilation apart, and use of the machine's peak."""
        finished = [stage for stage in self.stages if stage.finished]
        if not finished:
            return []
        found = [self._throughput(finished), self._step_times(finished), self._times(finished)]
        if any(math.isfinite(stage.mean["mfu"]) for stage in finished):
            found.append(self._mfu(finished))
        return found

    def _throughput(self, stages: Sequence[Stage]) -> Picture:
        values = [stage.mean["tokens_per_second"] for stage in stages]
        labels = [
            f"{value:,.0f}"
            + (f"  ({s.speed_vs_baseline.value:.2f}×)" if s.speed_vs_baseline else "")
            for s, value in zip(stages, values, strict=True)
        ]
        return self._bars(
            "speed-tokens",
            "Tokens per second, and times the baseline's",
            stages,
            values,
            labels,
            "tokens/s, median of the steady steps",
        )

    def _mfu(self, stages: Sequence[Stage]) -> Picture:
        # One machine has one ceiling: the highest product measured in any of the runs.
        peak = np.nanmax([stage.mean["peak_flops"] for stage in stages])
        values = [100 * s.mean["mfu"] * s.mean["peak_flops"] / peak for s in stages]
        labels = [f"{value:.0f}%" if math.isfinite(value) else "not measured" for value in values]
        return self._bars(
            "speed-mfu",
            "Model FLOPs use",
            stages,
            values,
            labels,
            "% of the highest matrix-product rate measured",
        )

    def _times(self, stages: Sequence[Stage]) -> Picture:
        values = [stage.mean["compile_s"] for stage in stages]
        labels = [
            f"{value:,.1f} s" if value > 0 else "none" if value == 0 else "not recorded"
            for value in values
        ]
        return self._bars(
            "speed-compile",
            "Compilation, once a run",
            stages,
            values,
            labels,
            "seconds, in no other figure",
        )

    def _bars(
        self,
        name: str,
        title: str,
        stages: Sequence[Stage],
        values: Sequence[float],
        labels: Sequence[str],
        axis: str,
    ) -> Picture:
        with _figure(0.95 + 0.26 * len(stages)) as figure:
            axes = _rows(figure, title, [self.long(stage) for stage in stages])
            top = max((value for value in values if math.isfinite(value)), default=0.0) or 1.0
            for at, (stage, value, text) in enumerate(zip(stages, values, labels, strict=True)):
                look = self.look[stage.name]
                if math.isfinite(value):
                    axes.barh(
                        at, value, height=0.62, color=look.hex, gid=f"stage-{look.index}-bar{at}"
                    )
                axes.annotate(
                    text,
                    (value if math.isfinite(value) else 0, at),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    color=INK,
                )
            axes.set_xlim(0, top * 1.42)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.set_xlabel(axis)
            alt = (
                f"{title}: "
                + "; ".join(
                    f"{stage.name} {text}" for stage, text in zip(stages, labels, strict=True)
                )
                + "."
            )
            return _picture(figure, name, title, alt)

    def _step_times(self, stages: Sequence[Stage]) -> Picture:
        return self._spread(
            "speed-steps",
            "Step time: median, and 5 to 95% of the steps",
            stages,
            "step_ms",
            WARMUP_STEPS,
            "milliseconds a step",
            "ms",
        )

    def norm_spread(self) -> Picture:
        return self._spread(
            "norm-spread",
            "Its median, and 5 to 95% of the steps",
            self.stages,
            "grad_norm",
            0,
            "L2 norm",
            "",
            self._threshold(),
        )

    def _threshold(self) -> float:
        """The lowest norm to which any stage clips; NaN where none does."""
        set_to = {run["clip_grad_norm"] for run in self.group.runs}
        return min((norm for norm in set_to if not math.isnan(norm)), default=math.nan)

    def _spread(
        self,
        name: str,
        title: str,
        stages: Sequence[Stage],
        column: str,
        skip: int,
        axis: str,
        unit: str,
        threshold: float = math.nan,
    ) -> Picture:
        with _figure(0.95 + 0.26 * len(stages)) as figure:
            axes = _rows(figure, title, [self.long(stage) for stage in stages])
            said = []
            for at, stage in enumerate(stages):
                look = self.look[stage.name]
                values = np.concatenate(
                    [self.curves[run["run"]][column][skip:] for run in stage.finished or stage.runs]
                )
                values = values[values > 0]
                if not len(values):
                    continue
                low, middle, high = np.percentile(values, [5, 50, 95])
                axes.plot(
                    [low, high],
                    [at, at],
                    color=look.hex,
                    linewidth=5,
                    alpha=0.45,
                    solid_capstyle="butt",
                    gid=f"stage-{look.index}-range{at}",
                )
                axes.plot(
                    middle,
                    at,
                    "o",
                    color=look.hex,
                    markersize=6,
                    gid=f"stage-{look.index}-middle{at}",
                )
                said.append(f"{stage.name} {middle:,.3g} {unit} ({low:,.3g} to {high:,.3g})")
            axes.set_xscale("log")
            _plain_log(axes.xaxis)
            if not math.isnan(threshold):
                axes.axvline(threshold, color=BAD, linewidth=1, linestyle=(0, (3, 2)))
            axes.set_xlabel(axis)
            return _picture(figure, name, title, f"{title}: {'; '.join(said)}.")

    def against_reference(self, stage: Stage, reference: Reference, y: str) -> Picture:
        """The guide's published losses or norms, over this stage's."""
        name, title = {
            "loss": ("guide-loss", "Loss"),
            "grad_norm": ("guide-norm", "Gradient norm before clipping"),
        }[y]
        look = self.look[stage.name]
        theirs = reference.loss if y == "loss" else reference.grad_norm
        with _figure(3.4) as figure:
            axes = figure.add_axes((0.105, 0.15, 0.835, 0.74))
            axes.plot(
                reference.step,
                theirs,
                color=INK,
                linewidth=1.3,
                linestyle=(0, (3, 1.5)),
                label="the guide's published run",
            )
            curve = self.curve(stage, "step", y)
            self._draw(axes, stage, curve)
            axes.plot([], [], color=look.hex, label=f"{stage.name} here")
            if y == "grad_norm":
                axes.set_yscale("log")
                _plain_log(axes.yaxis)
            axes.legend(frameon=False, labelcolor=INK)
            axes.set_xlabel("optimizer step")
            axes.set_ylabel("loss, nats/token" if y == "loss" else "L2 norm")
            axes.set_title(title, color=INK, fontweight="bold")
            alt = (
                f"{title} of the guide's published run, ending at {theirs[-1]:.3f}, and of "
                f"{stage.name} here, ending at {self._final(stage, y)}."
            )
            return _picture(figure, name, title, alt, axes, {look.index: curve})


def slug(name: str) -> str:
    """A stage's name as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:60] or "stage"


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """An empty figure of the page's width and this height in inches, in the report's style."""
    with matplotlib.rc_context(fname=STYLE):
        yield Figure(figsize=(WIDTH, height))


def _rows(figure: Figure, title: str, labels: Sequence[str]) -> Axes:
    """Axes with one row a label, the first on top, under a title."""
    height = figure.get_figheight()
    figure.text(0.02, 1 - 0.2 / height, title, fontweight="bold", fontsize=10.5, va="center")
    axes = figure.add_axes((0.36, 0.55 / height, 0.61, (height - 0.95) / height))
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return axes


def _interval(axes: Axes, x: float, stage: Stage, colour: str) -> None:
    """The interval from worst to best loss as a capped line at the right."""
    worst, best = stage.mean["worst"], stage.mean["best"]
    if math.isfinite(worst) and math.isfinite(best):
        axes.plot(
            [x, x],
            [worst, best],
            color=colour,
            linewidth=2.6,
            marker="_",
            markersize=7,
            solid_capstyle="butt",
        )


def _end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str, int]]) -> None:
    """The stages' numbers at the ends of their curves, pushed apart where they would overlap."""
    gap = 0.042
    to_axes = axes.transData + axes.transAxes.inverted()
    axes.autoscale_view()
    placed = sorted(
        (
            float(to_axes.transform((x, y))[1]),
            float(to_axes.transform((x, y))[0]),
            text,
            colour,
            index,
        )
        for x, y, text, colour, index in ends
    )
    heights = [min(max(entry[0], 0.02), 0.98) for entry in placed]
    for _ in range(60):
        for below in range(len(heights) - 1):
            overlap = gap - (heights[below + 1] - heights[below])
            near = abs(placed[below + 1][1] - placed[below][1]) < 0.06
            if overlap > 0 and near:
                heights[below] = max(heights[below] - overlap / 2, 0.02)
                heights[below + 1] = heights[below + 1] + overlap / 2
    for height, (_, x, text, colour, index) in zip(heights, placed, strict=True):
        axes.annotate(
            text,
            (x, height),
            (5, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=9,
            gid=f"stage-{index}-end",
            annotation_clip=False,
        )


def _plain_log(axis: Any) -> None:
    """10, 100, 1k instead of powers; 2 and 5 between them where the axis spans little."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low) if low > 0 else math.inf
    subs = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else tuple(range(1, 10))
    axis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e3:
        return f"{value / 1e3:g}k"
    return f"{value:g}"


def _cut(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _thin(length: int) -> Floats | slice:
    """Every n-th point and the last, so that a long run does not swell the page."""
    if length <= MOST_POINTS:
        return slice(None)
    return np.unique(np.linspace(0, length - 1, MOST_POINTS).astype(int))


def _picture(
    figure: Figure,
    name: str,
    title: str,
    alt: str,
    axes: Axes | None = None,
    curves: dict[int, Curve] | None = None,
) -> Picture:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        raw = io.StringIO()
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None})
        FigureCanvasAgg(figure)
        png = io.BytesIO()
        figure.savefig(png, format="png", facecolor="white", pil_kwargs={"compress_level": 4})
    body = _body(raw.getvalue())
    inline = _tags(body, lambda tag: _inline_tag(tag, name))
    alone = _tags(body, lambda tag: re.sub(r"font-family: [^;]+;", f"font-family: {FONTS};", tag))
    width, height = (72 * size for size in figure.get_size_inches())
    box = f'viewBox="0 0 {width:g} {height:g}"'
    label = html.escape(alt)
    return Picture(
        name=name,
        title=title,
        alt=alt,
        inline=f'<svg class="picture" {box} role="img" aria-label="{label}">{inline}</svg>',
        svg=(
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'{box} width="{width:g}" height="{height:g}" role="img" aria-label="{label}" '
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
    """Rewrite tags only: a title that looks like a style is left as it is."""
    return re.sub(r"<[^>]+>", lambda tag: change(tag[0]), svg)


def _inline_tag(tag: str, name: str) -> str:
    tag = re.sub(
        r"#[0-9a-f]{6}\b",
        lambda colour: f"var(--{VARIABLES[colour[0]]})" if colour[0] in VARIABLES else colour[0],
        tag,
    )
    tag = re.sub(r"font-family: [^;]+; ?", "", tag)
    stage = re.match(r'<g id="stage-(\d+)-', tag)
    if stage:
        return f'<g class="stage" data-stage="{stage[1]}">'
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    return re.sub(r'xlink:href="#', f'href="#{name}-', tag)


def _plot(axes: Axes, curves: dict[int, Curve], width: float, height: float) -> dict[str, Any]:
    box = axes.get_position()
    return {
        "box": [
            round(box.x0 * width, 2),
            round((1 - box.y1) * height, 2),
            round(box.x1 * width, 2),
            round((1 - box.y0) * height, 2),
        ],
        "x": [*axes.get_xlim(), axes.get_xscale() == "log"],
        "y": [*axes.get_ylim(), axes.get_yscale() == "log"],
        "words": [label.split(",")[0] for label in (axes.get_xlabel(), axes.get_ylabel())],
        "curves": {
            index: [_rounded(curve.x), _rounded(curve.y)] for index, curve in curves.items()
        },
    }


def _rounded(values: Floats) -> list[float | None]:
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values]
