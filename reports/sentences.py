"""What the report says in sentences, made from the figures and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from conf.schema import Aim
from reports import formats
from reports.compare import Group, Stage
from reports.formats import count, loss, together
from reports.reference import guide_log
from reports.statistics import NOISE_WIDTHS, SPIKE_WIDTHS, SPIKE_WINDOW, Estimate
from reports.verdicts import verdict
from runner.record import Run, Status

TRAIN_BASELINE = "train one with `python -m runner +stage=step02`"


def answer(group: Group) -> list[str]:
    """What the ladder bought, and how sure that is."""
    baseline, last = group.baseline, group.last
    if last is None and group.ladder:
        return ["No stage has finished yet, so there is nothing to compare."]
    if last is None:
        return [f"Only the flow has been checked; no baseline is there yet: {TRAIN_BASELINE}."]
    if baseline is None:
        return [
            f"{_name(last)} ended at {loss(last.mean.held_out)} held-out loss. No baseline has "
            f"finished under the same conditions, so it cannot be compared: {TRAIN_BASELINE}.",
            *_not_finished(group),
        ]
    if last is baseline:
        return [
            f"The baseline ended at {loss(baseline.mean.held_out)} held-out loss. No later "
            "stage has finished yet, so there is nothing to compare with it.",
            *_not_finished(group),
        ]
    return [
        _whole(baseline, last),
        _largest(group),
        *_not_significant(group),
        *_worse(group),
        *_not_finished(group),
        _certainty(group),
    ]


def _name(stage: Stage) -> str:
    return f"{stage.title} ({stage.name})"


def _names(stages: Sequence[Stage]) -> str:
    return together([_name(stage) for stage in stages])


def _whole(baseline: Stage, last: Stage) -> str:
    found, speed = last.vs_baseline.loss, last.vs_baseline.speed
    if found is None:
        return f"{_name(last)} has no run of the baseline's seed, so the two cannot be paired."
    before, after = loss(baseline.mean.held_out), loss(last.mean.held_out)
    words = f"From {before} to {after} held-out loss, the baseline to {last.name}"
    if not found.significant:
        words += ", a difference that is not distinguishable from zero"
    if speed is not None:
        words += f", at {speed.value:.1f} times the tokens per second"
        if not speed.significant:
            words += ", which is within the spread of the step times"
    per_step = last.mean.tokens_per_step / baseline.mean.tokens_per_step
    if abs(per_step - 1) > 0.01:
        words += f", having seen {per_step:.3g} times the tokens a step"
    return f"{words}."


def _largest(group: Group) -> str:
    """The stages that significantly gained most over the one before them."""
    gains = [(s.vs_previous.loss, s) for s in group.ladder]
    speeds = [(s.vs_previous.speed, s) for s in group.ladder]
    parts = []
    if lower := [(e.value, s) for e, s in gains if e and e.lower]:
        value, stage = min(lower, key=lambda found: found[0])
        parts.append(
            f"the largest gain in loss came from {_name(stage)}, {-value:.2f} below "
            f"{stage.vs_previous.other}"
        )
    if faster := [(e.value, s) for e, s in speeds if e and e.higher]:
        value, stage = max(faster, key=lambda found: found[0])
        parts.append(
            f"the largest in speed from {_name(stage)}, {value:.2f} times {stage.vs_previous.other}"
        )
    sentence = "; ".join(parts) or "no stage gained significantly over the one before it"
    return f"{sentence[0].upper()}{sentence[1:]}."


def _not_significant(group: Group) -> list[str]:
    found = [
        stage
        for stage in group.ladder
        if stage.aim is not Aim.speed
        and (change := stage.vs_previous.loss)
        and not change.significant
        and not math.isnan(change.low)
    ]
    words = "made no significant difference in loss"
    return [f"{_names(found)} {words}."] if found else []


def _worse(group: Group) -> list[str]:
    found = [s for s in group.ladder if s.vs_previous.loss and s.vs_previous.loss.higher]
    return [f"{_names(found)} made the loss worse."] if found else []


def _not_finished(group: Group) -> list[str]:
    sentences = []
    for status, words in (
        (Status.diverged, "diverged"),
        (Status.failed, "failed"),
        (Status.interrupted, "did not reach the end"),
        (Status.running, "still running"),
    ):
        found = [stage for stage in group.stages if stage.status is status]
        if found:
            verb = ("are " if len(found) > 1 else "is ") if status is Status.running else ""
            sentences.append(f"{_names(found)} {verb}{words}.")
    return sentences


def _compared(group: Group) -> list[Estimate]:
    """The differences in loss, each to the stage before."""
    return [stage.vs_previous.loss for stage in group.ladder if stage.vs_previous.loss]


def _certainty(group: Group) -> str:
    compared = _compared(group)
    if compared and all(estimate.seeds > 1 for estimate in compared):
        return (
            "Differences are means over seeds, paired by seed, with 95% confidence intervals; "
            "where an interval holds zero, the difference is not significant."
        )
    widths = [e.half_width for e in compared if e.seeds == 1 and not math.isnan(e.low)]
    if not widths:
        return "The runs are too short to estimate their noise, so no difference is significant."
    return (
        f"With one seed, a difference smaller than the run's own noise (here about "
        f"{np.median(widths):.2f}, {NOISE_WIDTHS:.0f} standard deviations of the step-to-step "
        "scatter) is not distinguishable from zero, and a larger one may still be particular to "
        "this seed."
    )


def plus_minus(group: Group) -> str:
    """What the ± of the differences is."""
    several = {estimate.seeds > 1 for estimate in _compared(group)}
    confidence = "the 95% confidence interval of the mean over seeds"
    noise = (
        "twice the run's own noise, so a difference smaller than its ± is not distinguishable from "
        "zero"
    )
    if several == {True, False}:
        return f"{confidence}, or with one seed {noise}"
    return confidence if several == {True} else noise


def apart(group: Group, main: Group) -> str:
    """How many runs a group has, and in what they differ from the main one's."""
    ours, theirs = group.conditions, main.conditions
    said = []
    if ours.data_sha256 != theirs.data_sha256:
        a, b = (one.runs[0].data.name for one in (group, main))
        said.append(f"data {a} instead of {b}" if a != b else f"another text as {a}")
    if ours.code != theirs.code:
        said.append("other training code")
    for what in ("device", "device_name", "torch"):
        a, b = getattr(ours, what), getattr(theirs, what)
        if a != b:
            said.append(f"{what.split('_')[0]} {a or 'unknown'} instead of {b or 'unknown'}")
    a, b = (one.runs[0].settings.scale for one in (group, main))
    if a != b:
        said.append(f"scale {a} instead of {b}")
    elif ours.settings != theirs.settings:
        new, usual = (one.runs[0].conditions for one in (group, main))
        said += [
            f"{key} {formats.setting(value)} instead of {formats.setting(usual.get(key))}"
            for key, value in new.items()
            if usual.get(key) != value
        ]
    if group.variant:
        said.append(f"overrides {group.variant}")
    runs = f"{len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
    return f"{runs} with {together(list(dict.fromkeys(said)) or ['fewer overrides'])}"


def seeds(group: Group) -> str:
    words = "seeds" if len(group.seeds) > 1 else "seed"
    return f"{words} {together([str(seed) for seed in group.seeds])}"


def headline(group: Group) -> str:
    """What was run, in a line."""
    found = facts(group)
    return " · ".join(
        [
            found["Model"],
            found["Data"],
            f"{found['Tokens a step']} tokens a step",
            found["Device"],
            f"scale {found['Scale']}",
            seeds(group),
            found["Date"],
        ]
    )


def facts(group: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the group's runs is named."""

    def each(render: Callable[[Run], str | None], runs: Sequence[Run] = group.runs) -> str:
        found = dict.fromkeys(text for run in runs if (text := render(run)))
        return ", ".join(found) or formats.NONE

    ladder = [run.record for stage in group.ladder for run in stage.runs] or group.runs
    dates = sorted({run.started[:10] for run in group.runs})
    return {
        "Model": each(lambda r: _model(group, r.settings.model)),
        "Data": each(lambda r: f"{r.data.name}, {count(r.data.tokens)} tokens"),
        "Hash of the data": each(lambda r: r.data.sha256),
        "Instead of other data": each(lambda r: r.data.fallback),
        "Tokens a step": each(lambda r: count(r.results.tokens_per_step), ladder),
        "Steps": each(lambda r: count(r.settings.steps), ladder),
        "Device": each(_device),
        "Scale": each(lambda r: r.settings.scale),
        "Seeds": ", ".join(map(str, group.seeds)),
        "Versions": each(
            lambda r: (
                f"Python {r.environment.python}, torch {r.environment.torch}, "
                f"{r.environment.platform}"
            )
        ),
        "Commit": each(
            lambda r: (
                (r.environment.commit or "") + (" with changes" if r.environment.dirty else "")
            )
        ),
        "Overrides": each(lambda r: " ".join(r.variant)),
        "Date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }


def _model(group: Group, name: str) -> str:
    """A model and its parameters, which grow with the stages that add norms or padding."""
    named = [run for run in group.runs if run.settings.model == name]
    sizes = [count(bound([run.model.parameters for run in named])) for bound in (min, max)]
    return f"{name}, {' to '.join(dict.fromkeys(sizes))} parameters"


def _device(run: Run) -> str:
    machine = run.environment
    threads = f", {machine.threads} threads" if machine.threads and machine.device == "cpu" else ""
    return f"{machine.device_name or machine.device or 'unknown'}{threads}"


def speed_note(group: Group) -> str:
    """How speeds were measured, and the machine's own peak."""
    results = [run.results for run in group.runs if math.isfinite(run.results.peak_flops)]
    note = (
        "Tokens per second are the median over the warm steps. Compilation happens once a run "
        "and is counted in no other figure."
    )
    if not results:
        return f"{note} The machine's matrix-product peak was not measured."
    said = []
    results.sort(key=lambda result: (str(result.peak_flops_dtype), result.peak_flops))
    for dtype, found in groupby(results, lambda result: result.peak_flops_dtype):
        rates = [f"{result.peak_flops / 1e12:.3g}" for result in found]
        spread = "" if rates[0] == rates[-1] else f" (runs measured {rates[0]} to {rates[-1]})"
        said.append(f"{rates[-1]} TFLOP/s in {dtype}{spread}")
    return f"{note} The machine's own matrix-product peak was measured as {together(said)}."


def clipping_note(group: Group) -> str:
    """From which stage on gradients are clipped, and how many were."""
    clipping = [(stage, stage.clipped) for stage in group.ladder if stage.clipped]
    if not clipping:
        return "No stage here clips."
    first = clipping[0][0].newest
    counts = ", ".join(f"{stage.name} {over} of {steps}" for stage, (over, steps) in clipping)
    return (
        f"From {first.stage.name} on, a norm above {first.settings.clip_grad_norm:g} "
        f"(dashed) is scaled down to it: {counts} steps."
    )


def guide_note(stage: Stage, conditions: str) -> str:
    """What is known of the guide's published run, and what of ours beside it."""
    seconds = guide_log().step_ms.mean() / 1000
    return (
        "The guide's log is of GPT-2 on a smaller dataset, which it does not name; nor does it "
        "state the batch, the data's size or the machine, only that a step took about "
        f"{seconds:.0f} s. {stage.name} here is {conditions}, {count(stage.mean.step_ms)} ms a "
        "step. With so much unknown the shapes can be compared; the losses cannot be ranked."
    )


def method(group: Group) -> list[str]:
    """How the numbers were made, for whoever wants to doubt them."""
    notes = [
        "The interval is the guide's: the highest and the lowest training loss of a run's steps, "
        "each a mean over one step's tokens. Held-out loss is measured once at the end, on text "
        "that was never trained on; differences are of held-out losses.",
        "Runs are compared only where all that decides losses is equal: data, device, training "
        "code, torch's version, and the settings without the stage's own; speeds only at the same "
        "number of threads. They are compared seed by seed: for one seed every stage draws the "
        "same weights where it shares parameters, and sees the same tokens in the same order.",
        "A run's own noise is the scatter of its loss about a smooth trend over the second half "
        "of the steps, from second differences; for two runs on the same batches it is the "
        f"scatter of their difference. With one seed ± is {NOISE_WIDTHS:.0f} of its standard "
        "deviations. It does not cover other seeds: for that, run several (seed=1,2,3), and ± "
        "becomes a confidence interval of the differences paired by seed (Student's t).",
        "Each stage is judged against the stage before it, by its own aim. A loss stage should "
        "lower the held-out loss, a speed stage should be faster and leave the loss unchanged, and "
        "a stability stage should keep steps in bounds without harming the loss. A speed-up counts "
        "when it is larger than the spread of the step times.",
        f"A spike is a loss more than {SPIKE_WIDTHS:.0f} standard deviations of the run's scatter "
        f"above the median of the {SPIKE_WINDOW} steps before it.",
    ]
    if any("model.pad_vocab" in stage.newest.stage.changes for stage in group.stages):
        notes.append(
            "Where the vocabulary is padded, the added rows are never a target and get no "
            "probability at evaluation or in samples; in training they change the loss by no more "
            "than the softmax over the added logits does."
        )
    return notes


def readout(stage: Stage) -> str:
    """One line on a stage, for whoever selects it."""
    versus = stage.vs_baseline
    speed = f" ({formats.times(versus.speed)})" if versus.speed else ""
    parts = {
        f"interval {formats.interval(stage.mean)}": math.isfinite(stage.mean.best),
        f"held-out {loss(stage.mean.held_out)}": math.isfinite(stage.mean.held_out),
        f"{formats.change(versus.loss)} to the baseline": versus.loss is not None,
        f"{count(stage.mean.tokens_per_second)} tokens/s{speed}": math.isfinite(
            stage.mean.tokens_per_second
        ),
        verdict(stage).text: True,
    }
    return " · ".join([f"{stage.name} {stage.title}", *(p for p, known in parts.items() if known)])
