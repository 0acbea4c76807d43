"""Numbers in the reader's words, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from reports.compare import Estimate, Group, Run, Stage

NONE = "–"


def loss(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else NONE


def interval(stage: Stage) -> str:
    """The guide's interval, [worst, best]."""
    worst, best = stage.mean["worst"], stage.mean["best"]
    return f"[{worst:.2f}, {best:.2f}]" if math.isfinite(worst) else NONE


def signed(value: float) -> str:
    if not math.isfinite(value):
        return NONE
    rounded = f"{value:+.3f}"
    return rounded.replace("-", "−") if float(rounded) else "0.000"


def change(estimate: Estimate | None) -> str:
    """A difference in loss, with what it may be off by."""
    if estimate is None:
        return NONE
    if math.isnan(estimate.low):
        return signed(estimate.value)
    return f"{signed(estimate.value)} ± {(estimate.high - estimate.low) / 2:.3f}"


def times(estimate: Estimate | None) -> str:
    return NONE if estimate is None else f"{estimate.value:.2f}×"


def count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else NONE


def memory(value: float) -> str:
    """Bytes as gibibytes."""
    return f"{value / 2**30:.2f} GiB" if math.isfinite(value) else NONE


def seconds(value: float) -> str:
    if not math.isfinite(value):
        return NONE
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%" if math.isfinite(value) else NONE


def setting(value: Any) -> str:
    """A configured value as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(setting(entry) for entry in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def markdown(value: Any) -> str:
    """Text that Markdown and the HTML it becomes show as it is, on one line of a table."""
    text = " ".join(str(value).split())
    for character in "\\`*_{}[]<>|#~$":
        text = text.replace(character, f"&#{ord(character)};")
    return text


FILTERS: dict[str, Callable[..., str]] = {
    "loss": loss,
    "interval": interval,
    "signed": signed,
    "change": change,
    "times": times,
    "count": count,
    "memory": memory,
    "seconds": seconds,
    "percent": percent,
    "setting": setting,
    "markdown": markdown,
}


def together(values: Sequence[str]) -> str:
    """a, b and c"""
    *most, last = values or [""]
    return f"{', '.join(most)} and {last}" if most else last


def seeds(group: Group) -> str:
    numbers = [f"{seed:.0f}" for seed in group.seeds]
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {together(numbers)}"


def facts(group: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the group's runs is named."""

    def each(render: Callable[[Run], str], runs: Sequence[Run] = group.runs) -> str:
        return ", ".join(dict.fromkeys(text for run in runs if (text := render(run)))) or NONE

    proper = [run for stage in group.ladder for run in stage.runs] or group.runs
    dates = sorted(run["started"][:10] for run in group.runs if run["started"])
    return {
        "Model": each(lambda r: f"{r['model']}, {count(r['parameters'])} parameters"),
        "Data": each(lambda r: f"{r['data']}, {count(r['data_tokens'])} tokens"),
        "Hash of the data": each(lambda r: r["data_sha256"]),
        "Instead of other data": each(lambda r: r["data_fallback"]),
        "Tokens a step": each(lambda r: count(r["tokens_per_step"]), proper),
        "Steps": each(lambda r: count(r["steps_planned"]), proper),
        "Device": each(
            lambda r: (
                f"{r['device_name'] or r['device']}"
                + (
                    f", {r['threads']:.0f} threads"
                    if r["threads"] > 0 and r["device"] == "cpu"
                    else ""
                )
            )
        ),
        "Scale": each(lambda r: r["scale"]),
        "Seeds": ", ".join(f"{seed:.0f}" for seed in group.seeds) or NONE,
        "Versions": each(lambda r: f"Python {r['python']}, torch {r['torch']}, {r['platform']}"),
        "Commit": each(lambda r: r["commit"] + (" with changes" if r["dirty"] else "")),
        "Overrides": group.conditions["variant"] or "none",
        "Date": dates[0]
        if dates and dates[0] == dates[-1]
        else " to ".join(dates[:: len(dates) - 1])
        if dates
        else NONE,
    }


def readout(stage: Stage) -> str:
    """One line on a stage, for whoever picks it out."""
    parts = [f"{stage.name} {stage.title}"]
    if math.isfinite(stage.mean["best"]):
        parts.append(f"interval {interval(stage)}")
    if math.isfinite(stage.mean["held_out"]):
        parts.append(f"held-out {loss(stage.mean['held_out'])}")
    if stage.loss_vs_baseline:
        parts.append(f"{change(stage.loss_vs_baseline)} to the baseline")
    if math.isfinite(stage.mean["tokens_per_second"]):
        speed = f"{count(stage.mean['tokens_per_second'])} tokens/s"
        if stage.speed_vs_baseline:
            speed += f" ({times(stage.speed_vs_baseline)})"
        parts.append(speed)
    parts.append(stage.verdict.text)
    return " · ".join(part for part in parts if part)


def interval_axis(group: Group) -> tuple[float, float]:
    """The common axis of the table's bars: (left, right) in nats/token, in whole nats."""
    bounds = [
        stage.mean[end]
        for stage in group.stages
        for end in ("worst", "best")
        if math.isfinite(stage.mean[end])
    ]
    if not bounds:
        return 0.0, 1.0
    left, right = math.floor(min(bounds)), math.ceil(max(bounds))
    return float(left), float(max(right, left + 1))


def stages_table(groups: Sequence[Group]) -> pd.DataFrame:
    """A row a stage of each group: the numbers of the report, full precision."""
    rows = []
    for number, group in enumerate(groups):
        for stage in group.stages:
            row: dict[str, Any] = {
                "group": number,
                **group.conditions,
                "stage": stage.name,
                "number": stage.number,
                "title": stage.title,
                "aim": stage.aim,
                "status": stage.status,
                "seeds": " ".join(f"{seed:.0f}" for seed in stage.seeds),
                "finished_runs": len(stage.finished),
                **stage.mean,
                "held_out_spread": stage.spread["held_out"],
                "best_spread": stage.spread["best"],
                "previous": stage.previous,
            }
            for name in (
                "loss_vs_previous",
                "loss_vs_baseline",
                "best_vs_previous",
                "best_vs_baseline",
                "speed_vs_previous",
                "speed_vs_baseline",
            ):
                estimate: Estimate | None = getattr(stage, name)
                row[name] = estimate.value if estimate else math.nan
                row[f"{name}_low"] = estimate.low if estimate else math.nan
                row[f"{name}_high"] = estimate.high if estimate else math.nan
                row[f"{name}_p"] = estimate.p if estimate else math.nan
            row["spikes"] = sum(len(found) for found in stage.spikes.values())
            row["clipped_steps"] = stage.clipped[0] if stage.clipped else math.nan
            row["not_applied"] = "; ".join(f"{k}: {v}" for k, v in stage.not_applied.items())
            row["verdict"] = stage.verdict.text
            rows.append(row)
    return pd.DataFrame(rows)
