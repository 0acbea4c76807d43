"""The answer first: a few sentences, made from the figures and from nothing else."""

from __future__ import annotations

import math

from reports.compare import NOISE_WIDTHS, Group, Stage
from reports.words import loss, together


def answer(group: Group) -> list[str]:
    """Sentences on what the ladder bought, and how sure that is."""
    baseline, last = group.baseline, group.last
    if last is None:
        return [_unfinished(group)]
    if baseline is None:
        return [
            f"{_name(last)} ended at {loss(last.mean['held_out'])} held-out loss. No baseline has "
            "finished under the same conditions, so nothing says what that is worth: train one "
            "with `python -m runner +stage=step02`.",
            *_untrained(group),
        ]
    if last is baseline:
        return [
            f"The baseline ended at {loss(baseline.mean['held_out'])} held-out loss. No later "
            "stage has finished yet, so there is nothing to compare with it.",
            *_untrained(group),
        ]
    return [
        _whole(baseline, last),
        *_largest(group),
        *_untold(group),
        *_worse(group),
        *_untrained(group),
        _certainty(group),
    ]


def _name(stage: Stage) -> str:
    return f"{stage.title} ({stage.name})"


def _names(stages: list[Stage]) -> str:
    return together([_name(stage) for stage in stages])


def _whole(baseline: Stage, last: Stage) -> str:
    found = last.loss_vs_baseline
    speed = last.speed_vs_baseline
    if found is None:
        words = f"{_name(last)} has no run of the baseline's seed, so the two cannot be paired"
        return f"{words}."
    before, after = loss(baseline.mean["held_out"]), loss(last.mean["held_out"])
    words = f"From {before} to {after} held-out loss, the baseline to {last.name}"
    if not found.told:
        words += ", a difference this data cannot tell from none"
    if speed is not None:
        words += f", at {speed.value:.1f} times the tokens per second"
        if not speed.told:
            words += ", which the step times cannot tell from no change"
    per_step = last.mean["tokens_per_step"] / baseline.mean["tokens_per_step"]
    if math.isfinite(per_step) and abs(per_step - 1) > 0.01:
        words += f", having seen {per_step:.3g} times the tokens a step"
    return f"{words}."


def _largest(group: Group) -> list[str]:
    gains = [s for s in group.ladder if s.loss_vs_previous and s.loss_vs_previous.down]
    speeds = [s for s in group.ladder if s.speed_vs_previous and s.speed_vs_previous.up]
    parts = []
    if gains:
        stage = min(gains, key=lambda s: s.loss_vs_previous.value if s.loss_vs_previous else 0.0)
        assert stage.loss_vs_previous is not None
        parts.append(
            f"the largest gain in loss came from {_name(stage)}, "
            f"{-stage.loss_vs_previous.value:.2f} below {stage.previous}"
        )
    if speeds:
        stage = max(speeds, key=lambda s: s.speed_vs_previous.value if s.speed_vs_previous else 0.0)
        assert stage.speed_vs_previous is not None
        parts.append(
            f"the largest in speed from {_name(stage)}, {stage.speed_vs_previous.value:.2f} times "
            f"{stage.previous}"
        )
    if not parts:
        return ["No stage's gain over the one before it stands out from the noise."]
    sentence = "; ".join(parts)
    return [f"{sentence[0].upper()}{sentence[1:]}."]


def _untold(group: Group) -> list[str]:
    found = [
        stage
        for stage in group.ladder
        if stage.aim != "speed"
        and (lost := stage.loss_vs_previous)
        and not lost.told
        and not math.isnan(lost.low)
    ]
    if not found:
        return []
    return [f"{_names(found)} made no difference in loss that this data can show."]


def _worse(group: Group) -> list[str]:
    found = [s for s in group.ladder if s.loss_vs_previous and s.loss_vs_previous.up]
    return [f"{_names(found)} made the loss worse."] if found else []


def _untrained(group: Group) -> list[str]:
    sentences = []
    for status, words in (
        ("diverged", "diverged"),
        ("failed", "failed"),
        ("interrupted", "did not get to the end"),
        ("running", "still running"),
    ):
        found = [stage for stage in group.stages if stage.status == status]
        if found:
            verb = ("are " if len(found) > 1 else "is ") if status == "running" else ""
            sentences.append(f"{_names(found)} {verb}{words}.")
    return sentences


def _unfinished(group: Group) -> str:
    if group.ladder:
        return "No stage has finished yet, so there is nothing to compare."
    return (
        "Only the flow has been checked; train the baseline with `python -m runner +stage=step02`."
    )


def _certainty(group: Group) -> str:
    compared = [stage.loss_vs_previous for stage in group.ladder if stage.loss_vs_previous]
    if compared and all(estimate.seeds > 1 for estimate in compared):
        return (
            "Differences are means over seeds, paired by seed, with 95% confidence intervals; "
            "where an interval holds zero, the difference cannot be told from none."
        )
    widths = sorted(
        (estimate.high - estimate.low) / 2
        for estimate in compared
        if estimate.seeds == 1 and not math.isnan(estimate.low)
    )
    if not widths:
        return "The runs are too short to know their noise, so no difference can be called real."
    middle = widths[len(widths) // 2]
    return (
        f"With one seed, a difference smaller than the run's own noise (here about {middle:.2f}, "
        f"{NOISE_WIDTHS:.0f} standard deviations of the step-to-step scatter) cannot be told from "
        "none, and a larger one may still be particular to this seed."
    )
