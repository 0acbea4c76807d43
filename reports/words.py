"""Numbers in the reader's words, the same in the page, its Markdown twin and the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from reports.compare import (
    NOISE_WIDTHS,
    SPIKE_WIDTHS,
    SPIKE_WINDOW,
    Estimate,
    Group,
    Run,
    Stage,
    differing,
)

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


def give_or_take(estimate: Estimate | None) -> str:
    """What a difference in loss may be off by."""
    if estimate is None or math.isnan(estimate.low):
        return ""
    return f"± {(estimate.high - estimate.low) / 2:.3f}"


def change(estimate: Estimate | None) -> str:
    """A difference in loss, with what it may be off by."""
    if estimate is None:
        return NONE
    return f"{signed(estimate.value)} {give_or_take(estimate)}".strip()


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


MARKDOWN = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;"} | {sign: f"\\{sign}" for sign in "\\`*_[]|~$"}
)


def markdown(value: Any) -> str:
    """Text that Markdown and the HTML it becomes show as it is, on one line of a table."""
    return " ".join(str(value).split()).translate(MARKDOWN)


FILTERS: dict[str, Callable[..., str]] = {
    "loss": loss,
    "interval": interval,
    "signed": signed,
    "change": change,
    "give_or_take": give_or_take,
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


LABELS = {
    "scale": "scale",
    "device": "device",
    "device_name": "device",
    "torch": "torch",
}


def unlike(group: Group, main: Group) -> str:
    """In which conditions a group differs from the main one, with both values where they help."""
    said = []
    for key in differing(group, main):
        value, usual = group.conditions[key], main.conditions[key]
        if key == "data_sha256":
            value, usual = (g.runs[0]["data"] for g in (group, main))
            said.append(
                f"data {value} instead of {usual}" if value != usual else f"another text as {value}"
            )
        elif key == "code":
            said.append("other training code")
        elif key == "variant":
            said.append(f"overrides {value}" if value else f"no overrides (here: {usual})")
        else:
            said.append(f"{LABELS[key]} {value or 'unknown'} instead of {usual or 'unknown'}")
    return together(list(dict.fromkeys(said)))


def seeds(group: Group) -> str:
    numbers = [f"{seed:.0f}" for seed in group.seeds]
    if not numbers:
        return "seed not recorded"
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {together(numbers)}"


def headline(group: Group) -> str:
    """What was run, in a line."""
    found = facts(group)
    step = found["Tokens a step"]
    return " · ".join(
        [
            found["Model"],
            found["Data"],
            f"{step} tokens a step",
            found["Device"],
            f"scale {found['Scale']}",
            seeds(group),
            found["Date"],
        ]
    )


def plus_minus(group: Group) -> str:
    """What the ± of the differences is."""
    compared = [stage.loss_vs_previous for stage in group.ladder if stage.loss_vs_previous]
    several = {estimate.seeds > 1 for estimate in compared}
    interval_words = "the 95% confidence interval of the mean over seeds"
    noise_words = (
        "twice the run's own noise, so a difference smaller than its ± cannot be told from none"
    )
    if several == {True}:
        return interval_words
    if several == {True, False}:
        return f"{interval_words}, or with one seed {noise_words}"
    return noise_words


def speed_note(group: Group) -> str:
    peaks = {
        (run["peak_flops"], run["peak_flops_dtype"])
        for stage in group.ladder
        for run in stage.finished
        if math.isfinite(run["peak_flops"])
    }
    note = (
        "Tokens per second are the median over the steady steps. Compilation is paid once a run "
        "and is counted in no other figure."
    )
    if not peaks:
        return f"{note} The machine's matrix-product peak was not measured."
    by_type: dict[str, list[float]] = {}
    for flops, dtype in peaks:
        by_type.setdefault(dtype or "type not recorded", []).append(flops)
    said = []
    for dtype, values in sorted(by_type.items()):
        low, high = (f"{value / 1e12:.3g}" for value in (min(values), max(values)))
        spread = "" if low == high else f" (runs measured {low} to {high})"
        said.append(f"{high} TFLOP/s in {dtype}{spread}")
    return f"{note} The machine's own matrix-product peak was measured as {together(said)}."


def clipping_note(group: Group) -> str:
    clipping = [stage for stage in group.ladder if stage.clipped is not None]
    if not clipping:
        return "No stage here clips."
    first = clipping[0]
    counts = ", ".join(
        f"{stage.name} {stage.clipped[0]} of {stage.clipped[1]}"
        for stage in clipping
        if stage.clipped is not None and stage.clipped[1]
    )
    return (
        f"From {first.name} on, what lies above {first.newest['clip_grad_norm']:g} (dashed) is "
        f"scaled down to it: {counts} steps."
    )


def method(group: Group) -> list[str]:
    """How the numbers were made, for whoever wants to doubt them."""
    notes = [
        "The interval is the guide's: the highest and the lowest training loss of a run's steps, "
        "each a mean over one step's tokens. Held-out loss is measured once at the end, on text "
        "that was never trained on, and is what differences are taken of.",
        "Runs are compared only where data, scale, device, training code, torch's version and "
        "overrides are the same, and only seed by seed: for one seed every stage draws the same "
        "weights where it shares parameters, and sees the same tokens in the same order.",
        "A run's own noise is the scatter of its loss about a smooth trend over the second half "
        "of the steps, from second differences; for two runs on the same batches it is the "
        f"scatter of their difference. With one seed ± is {NOISE_WIDTHS:.0f} of its standard "
        "deviations. It says nothing of other seeds: for that, run several (seed=1,2,3), and ± "
        "becomes a confidence interval of the differences paired by seed (Student's t).",
        "Each stage is judged against the stage before it, by its own aim. A loss stage is to "
        "lower the held-out loss, a speed stage to be faster and leave the loss alone, and a "
        "stability stage to keep steps in bounds without harming the loss. A speed-up counts when "
        "it is larger than the spread of the step times.",
        f"A spike is a loss more than {SPIKE_WIDTHS:.0f} standard deviations of the run's scatter "
        f"above the median of the {SPIKE_WINDOW} steps before it.",
    ]
    if any("model.pad_vocab" in stage.newest["changes"] for stage in group.stages):
        notes.append(
            "Where the vocabulary is padded, the added rows are never a target and get no "
            "probability at evaluation or in samples; in training they change the loss by no more "
            "than the softmax over the added logits does."
        )
    return notes


def facts(group: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the group's runs is named."""

    def each(render: Callable[[Run], str], runs: Sequence[Run] = group.runs) -> str:
        return ", ".join(dict.fromkeys(text for run in runs if (text := render(run)))) or NONE

    proper = [run for stage in group.ladder for run in stage.runs] or group.runs
    tokens = list(
        dict.fromkeys(count(run["tokens_per_step"]) for run in proper if run["tokens_per_step"] > 0)
    )
    dates = sorted(run["started"][:10] for run in group.runs if run["started"])
    return {
        "Model": each(lambda r: f"{r['model']}, {_sizes(group.runs, r['model'])} parameters"),
        "Data": each(lambda r: f"{r['data']}, {count(r['data_tokens'])} tokens"),
        "Hash of the data": each(lambda r: r["data_sha256"]),
        "Instead of other data": each(lambda r: r["data_fallback"]),
        "Tokens a step": together(tokens) if tokens else NONE,
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


def _sizes(runs: Sequence[Run], model: str) -> str:
    """The parameters of one model, which grow with the stages that add norms or padding."""
    sizes = [run["parameters"] for run in runs if run["model"] == model]
    low, high = count(min(sizes)), count(max(sizes))
    return low if low == high else f"{low} to {high}"


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
