"""What the report says in sentences, made from the figures and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter

from conf.schema import Aim
from reports import formats
from reports.compare import Group, StageRuns
from reports.formats import count, loss, together
from reports.reference import guide_log
from reports.statistics import NOISE_WIDTHS, SPIKE_WIDTHS, SPIKE_WINDOW
from reports.verdicts import verdict
from runner.record import Run, Status


def answer(group: Group) -> list[str]:
    """What the ladder bought, and how sure that is."""
    baseline, last = group.baseline, group.last
    command = "`python -m runner +stage=step02`"
    if last is None:
        return [f"Nothing can be compared until a stage has finished: train one with {command}."]
    held_out = f"{_name(last)} ended at {loss(last.mean.held_out)} held-out loss."
    if baseline is None:
        first = [
            f"{held_out} No baseline has finished under the same conditions, so it cannot be "
            f"compared: train one with {command}."
        ]
    elif last is baseline:
        first = [f"{held_out} No later stage has finished yet, so nothing is compared with it."]
    else:
        first = [_whole(baseline, last), _largest(group)]
    return [*first, *_lists(group), certainty(group)]


def _name(stage: StageRuns) -> str:
    return f"{stage.title} ({stage.name})"


def _whole(baseline: StageRuns, last: StageRuns) -> str:
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


def _lists(group: Group) -> list[str]:
    """The stages that gained nothing, and those that did not finish."""
    changes = [(s, s.vs_previous.loss) for s in group.ladder if s.vs_previous.loss]
    known = [(s, change) for s, change in changes if not math.isnan(change.low)]
    unchanged = [s for s, change in known if not change.significant and s.aim is not Aim.speed]
    found = {
        "made no significant difference in loss": unchanged,
        "made the loss worse": [s for s, change in known if change.higher],
        "diverged": [s for s in group.stages if s.status is Status.diverged],
        "failed": [s for s in group.stages if s.status is Status.failed],
        "did not reach the end": [s for s in group.stages if s.status is Status.interrupted],
        "had not ended when this was written": [
            s for s in group.stages if s.status is Status.running
        ],
    }
    return [f"{together(list(map(_name, s)))} {words}." for words, s in found.items() if s]


def certainty(group: Group) -> str:
    """What the ± of the differences is, and what it leaves open."""
    compared = [stage.vs_previous.loss for stage in group.ladder if stage.vs_previous.loss]
    widths = [e.half_width for e in compared if e.seeds == 1 and not math.isnan(e.low)]
    said = []
    if any(estimate.seeds > 1 for estimate in compared):
        said.append(
            "With several seeds, ± is the 95% confidence interval of the mean difference, paired "
            "by seed; where it includes zero, the difference is not significant."
        )
    if widths:
        said.append(
            f"With one seed, ± is twice the run's own noise, here {min(widths):.2f} to "
            f"{max(widths):.2f}: a difference smaller than its ± is not distinguishable from zero, "
            "and a larger one may still be particular to this seed."
        )
    return (
        " ".join(said) or "The runs are too short or too few to estimate how sure a difference is."
    )


def apart(group: Group, main: Group) -> str:
    """How many runs a group has, and in what they differ from the main one's."""
    ours, theirs = group.runs[0], main.runs[0]
    new, usual = (
        {
            "data": run.data.name,
            "device": run.environment.machine,
            "torch": run.environment.torch,
            "scale": run.settings.scale,
            "matrix products": run.products.answers if run.products else "not measured",
        }
        for run in (ours, theirs)
    )
    if new["scale"] == usual["scale"]:
        new, usual = new | ours.conditions, usual | theirs.conditions
    said = [
        f"{key} {formats.setting(value)} instead of {formats.setting(usual[key])}"
        for key, value in new.items()
        if key in usual and value != usual[key]
    ]
    if ours.data.name == theirs.data.name and ours.data.sha256 != theirs.data.sha256:
        said.append(f"another text as {ours.data.name}")
    if ours.code != theirs.code:
        said.append("other training code")
    if group.variant:
        said.append(group.variant)
    runs = f"{len(group.runs)} run{'s' if len(group.runs) > 1 else ''}"
    return f"{runs} with {together(said)}"


def headline(group: Group) -> str:
    """What was run, in a line."""
    found, seeds = facts(group), "seeds" if len(group.seeds) > 1 else "seed"
    return " · ".join(
        [
            found["Model"],
            found["Data"],
            f"{found['Tokens a step']} tokens a step",
            found["Device"],
            f"scale {found['Scale']}",
            f"{seeds} {found['Seeds']}",
            found["Date"],
        ]
    )


def facts(group: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the group's runs is named."""

    def each(render: Callable[[Run], str | None], runs: Sequence[Run] = group.runs) -> str:
        found = dict.fromkeys(text for run in runs if (text := render(run)))
        return ", ".join(found) or formats.NONE

    ladder = [run.record for stage in group.ladder for run in stage.runs] or group.runs
    models = dict.fromkeys(run.settings.model for run in group.runs)
    dates = sorted({run.started[:10] for run in group.runs})
    return {
        "Model": ", ".join(_model(group, name) for name in models),
        "Data": each(lambda r: f"{r.data.name}, {count(r.data.tokens)} tokens"),
        "Hash of the data": each(lambda r: r.data.sha256),
        "Instead of other data": each(lambda r: r.data.fallback),
        "Tokens a step": each(lambda r: count(r.results.tokens_per_step), ladder),
        "Steps": each(lambda r: count(r.settings.steps), ladder),
        "Device": each(lambda r: r.environment.machine),
        "CPU threads": each(lambda r: count(r.environment.threads)),
        "Scale": each(lambda r: r.settings.scale),
        "Seeds": ", ".join(map(str, group.seeds)),
        "Python": each(lambda r: r.environment.python),
        "PyTorch": each(lambda r: r.environment.torch),
        "System": each(lambda r: r.environment.platform),
        "Commit": each(lambda r: r.environment.commit),
        "Uncommitted changes": each(lambda r: "yes" if r.environment.dirty else "no"),
        "Overrides": each(lambda r: " ".join(r.variant)),
        "Date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }


def _model(group: Group, name: str) -> str:
    """A model and its parameters, which grow with the stages that add norms or padding."""
    named = [run for run in group.runs if run.settings.model == name]
    sizes = [count(bound([run.model.parameters for run in named])) for bound in (min, max)]
    return f"{name}, {' to '.join(dict.fromkeys(sizes))} parameters"


def speed_note(group: Group) -> str:
    """How speeds were measured, and the machine's own peak."""
    results = [run.results for run in group.runs if math.isfinite(run.results.peak_flops)]
    peaks = sorted((str(result.peak_flops_dtype), result.peak_flops) for result in results)
    note = (
        "Tokens per second are the median over the warm steps. Compilation happens once a run "
        "and is counted in no other figure."
    )
    products = [run.products for run in group.runs if run.products]
    if products:
        measured = products[-1]
        note += (
            " Before training, matrix products of the ladder's shapes were measured, forward and "
            f"backward: {measured.summary}."
        )
        applied = {name for run in group.runs for name in run.applied}
        gains = [f"{name}, {gain}" for name, gain in measured.gains.items() if name in applied]
        note += f" Applied: {together(gains)}." if gains else ""
    if not peaks:
        return f"{note} The machine's matrix-product peak was not measured."
    said = []
    for dtype, found in groupby(peaks, itemgetter(0)):
        rates = [f"{flops / 1e12:.3g}" for _, flops in found]
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


def guide_note(stage: StageRuns, conditions: str) -> str:
    """What is known of the guide's published run, and what of ours beside it."""
    seconds = guide_log()["step_ms"].mean() / 1000
    return (
        "The guide's log is of GPT-2 on a smaller dataset, which it does not name; nor does it "
        "state the batch, the data's size or the machine, only that a step took about "
        f"{seconds:.0f} s. {stage.name} here is {conditions}, {count(stage.mean.step_ms)} ms a "
        "step. With so much unknown the shapes can be compared; the losses cannot be ranked."
    )


def method(group: Group) -> list[str]:
    """How the numbers were made, for readers who want to check them."""
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


def readout(stage: StageRuns) -> str:
    """One line on a stage, for whoever selects it."""
    mean, versus = stage.mean, stage.vs_baseline
    times = f" ({formats.times(versus.speed)})" if versus.speed else ""
    parts = [
        (mean.best, f"interval {formats.interval(mean)}"),
        (mean.held_out, f"held-out {loss(mean.held_out)}"),
        (
            versus.loss.value if versus.loss else math.nan,
            f"{formats.change(versus.loss)} to the baseline",
        ),
        (mean.tokens_per_second, f"{count(mean.tokens_per_second)} tokens/s{times}"),
    ]
    known = [words for value, words in parts if math.isfinite(value)]
    return " · ".join([f"{stage.name} {stage.title}", *known, verdict(stage).text])
