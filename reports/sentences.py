"""What the report says in sentences, made from the figures and from nothing else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from conf.schema import Aim, ReportConf
from reports import formats
from reports.compare import Group, StageRuns
from reports.curves import (
    FALL_AFTERWARDS,
    PLATEAU_NATS,
    PLATEAU_SHARE,
    SMOOTHED_STEPS,
    SPIKE_WIDTHS,
)
from reports.formats import count, loss, together
from reports.reference import guide_log
from reports.statistics import Sample
from reports.verdicts import FAMILY, Outcome, Verdict
from runner.record import Run, Status

Verdicts = Mapping[str, Verdict]


def answer(group: Group, verdicts: Verdicts, rules: ReportConf) -> list[str]:
    """Which steps to take, which made no difference, and which are undecided."""
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
        first = [scope(group), *_decided(group, verdicts, rules), _whole(baseline, last)]
    return [*first, *_unfinished(group)]


def scope(group: Group) -> str:
    """What the answer is for: steps, tokens, model, text, machine and seeds."""
    found = facts(group)
    sizes = {count(s.mean.tokens_per_step): s.name for s in reversed(group.ladder) if s.finished}
    usual, *others = reversed(sizes.items())
    tokens = "".join(f" ({size} from {name} on)" for size, name in others)
    seeds = len(group.seeds)
    return (
        f"This holds for {found['Steps']} steps of {usual[0]} tokens{tokens}, with "
        f"{_models(group)} on {group.runs[0].data.name}, on {found['Device']}, over "
        f"{'one seed' if seeds == 1 else f'{seeds} seeds'}; each stage is compared with the one "
        "below it."
    )


def _models(group: Group) -> str:
    """The models by name, with their parameters in millions."""
    named = {
        run.settings.model: formats.number(run.model.parameters / 1e6, ".3g", " million")
        for run in group.runs
    }
    return together([f"{name} ({size} parameters)" for name, size in named.items()])


def _name(stage: StageRuns) -> str:
    return f"{stage.title} ({stage.name})"


def _decided(group: Group, verdicts: Verdicts, rules: ReportConf) -> list[str]:
    """The stages by what was decided of them."""
    by_outcome: dict[Outcome | None, list[StageRuns]] = defaultdict(list)
    for stage in group.ladder:
        by_outcome[verdicts[stage.name].outcome].append(stage)
    speeds = [s for s in group.ladder if s.finished and s.aim is Aim.speed and s.vs_previous.speed]
    faster = [s for s in speeds if s.vs_previous.speed and s.vs_previous.speed.faster]
    slower = [s for s in speeds if s.vs_previous.speed and s.vs_previous.speed.slower]
    lower, higher, equivalent = (
        by_outcome[outcome] for outcome in (Outcome.lower, Outcome.higher, Outcome.equivalent)
    )
    said = []
    if lower:
        said.append(f"Take {_names(lower)}: {_it(lower)} lowered the held-out loss.")
    if faster:
        gains = [f"{_name(s)}, {formats.times(s.vs_previous.speed)}" for s in faster]
        said.append(f"Take for speed {together(gains)}.")
    if higher:
        said.append(f"Leave out {_names(higher)}: {_it(higher)} raised the held-out loss here.")
    if slower:
        said.append(f"{_names(slower)} made training slower here.")
    if equivalent:
        said.append(
            f"{_names(equivalent)} made no difference that matters: less than "
            f"{rules.margin:g} nats/token."
        )
    undecided = [f"{_name(s)}: {_open(verdicts[s.name])}" for s in by_outcome[Outcome.inconclusive]]
    one_seed = [
        s
        for s in group.ladder
        if s.aim in FAMILY and s.vs_previous.loss and not verdicts[s.name].outcome
    ]
    if len(group.seeds) > 1:
        undecided += [f"{_name(s)}: one seed only" for s in one_seed]
    undecided += [
        f"{_name(s)}: {verdicts[s.name].text.partition(';')[0]}"
        for s in speeds
        if s not in faster and s not in slower and len(group.seeds) > 1
    ]
    if undecided:
        said.append(f"Undecided: {'; '.join(undecided)}.")
    if len(group.seeds) == 1:
        seeds = ",".join(map(str, range(1, rules.minimum_seeds + 1)))
        said.append(
            "One seed decides no loss and no speed. Its differences are below, with the text's "
            f"sampling error only; a sweep with seed={seeds} decides."
        )
    return said


def _names(stages: Sequence[StageRuns]) -> str:
    return together([_name(stage) for stage in stages])


def _it(stages: Sequence[StageRuns]) -> str:
    return "it" if len(stages) == 1 else "they"


def _open(verdict: Verdict) -> str:
    """Why a stage is undecided, and how many seeds would decide it."""
    why = verdict.text.removeprefix("inconclusive: ").partition("; ")[0]
    if why.startswith("depends on when you stop"):
        return f"{why}; more steps decide it, not more seeds"
    needed = verdict.seeds_needed
    return f"about {needed} seeds would decide" if needed else f"{why}, and a thousand may, too"


def _whole(baseline: StageRuns, last: StageRuns) -> str:
    found, speed = last.vs_baseline.loss, last.vs_baseline.speed
    if found is None:
        return f"{_name(last)} has no run of the baseline's seed, so the two cannot be paired."
    before, after = loss(baseline.mean.held_out), loss(last.mean.held_out)
    words = f"Together, from the baseline to {last.name}: {before} to {after} held-out loss"
    if speed is not None:
        words += f", at {speed.estimate.value:.1f} times the tokens per second"
    per_step = last.mean.tokens_per_step / baseline.mean.tokens_per_step
    if abs(per_step - 1) > 0.01:
        words += f", having seen {per_step:.3g} times the tokens"
    return f"{words}."


def _unfinished(group: Group) -> list[str]:
    """The stages that did not finish."""
    found = {
        "diverged": Status.diverged,
        "failed": Status.failed,
        "did not reach the end": Status.interrupted,
        "had not ended when this was written": Status.running,
    }
    by_words = {
        words: [s for s in group.stages if s.status is status] for words, status in found.items()
    }
    return [f"{_names(stages)} {words}." for words, stages in by_words.items() if stages]


def certainty(group: Group, rules: ReportConf) -> str:
    """What the intervals of the differences are."""
    compared = [stage.vs_previous.loss for stage in group.ladder if stage.vs_previous.loss]
    said = []
    if any(estimate.over is Sample.seeds and estimate.n > 1 for estimate in compared):
        said.append(
            f"With several seeds, an interval is the {rules.confidence:.0%} confidence interval of "
            "the mean difference, paired by seed."
        )
    if any(estimate.over is Sample.windows for estimate in compared):
        said.append(
            "With one seed, an interval is over the held-out windows: it is the text's sampling "
            "error on this seed, and says nothing of other seeds."
        )
    return " ".join(said) or "The runs are too few to estimate how sure a difference is."


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


def disturbed_note(disturbed: Mapping[str, str], shared: Collection[str], runs: int) -> str:
    """Whether the machine was busy, throttled or shared; empty where it was not."""
    said = []
    if disturbed:
        examples = [f"{name}: {what}" for name, what in list(disturbed.items())[:3]]
        said.append(
            f"The machine was busy or throttled during {len(disturbed)} of {runs} runs "
            f"({'; '.join(examples)}{'; ...' if len(disturbed) > 3 else ''})."
        )
    if shared:
        said.append(
            f"{len(shared)} of {runs} runs shared the machine with another, so their speeds are "
            "figures without a claim."
        )
    return " ".join(said)


def speed_note(group: Group, rules: ReportConf) -> str:
    """How speeds were measured, and the machine's own peak."""
    note = (
        "Tokens per second are the median over the warm steps. A speed-up is the geometric mean "
        "over interleaved rounds, the runs of each seed and repeat, with its "
        f"{rules.confidence:.0%} interval; with fewer than {rules.minimum_rounds} rounds it is a "
        "figure without a claim. Compilation happens once a run and is counted in no other figure: "
        "cold where kernels were compiled, warm where the compiler's cache held them."
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
    results = [run.results for run in group.runs if math.isfinite(run.results.peak_flops)]
    peaks = sorted((str(result.peak_flops_dtype), result.peak_flops) for result in results)
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


INTERVAL = (
    "The interval is the guide's: the highest and the lowest training loss of a run's steps. It is "
    "mostly the first step's loss and the luckiest batch; held-out loss says more."
)


def method(group: Group, rules: ReportConf) -> list[str]:
    """How the numbers were made, for readers who want to check them."""
    confidence, margin = f"{rules.confidence:.0%}", f"{rules.margin:g}"
    notes = [
        f"{INTERVAL} Held-out loss is measured on text that was never trained on, at the same "
        "windows for every stage, during training and at the end; differences are of the last.",
        "Runs are compared only where all that decides losses is equal: data, held-out windows, "
        "device, training code, torch's version, and the settings without the stage's own; speeds "
        "only at the same number of threads. They are compared seed by seed: for one seed every "
        "stage draws the same weights where it shares parameters, and sees the same tokens in the "
        "same order. Repeats of a seed are not seeds; they count for speed alone.",
        f"With one seed, an interval is the {confidence} bootstrap interval over the held-out "
        "windows, and nothing is claimed. With several, it is Student's t interval of the "
        "differences paired by seed.",
        f"An outcome needs at least {rules.minimum_seeds} seeds. Each loss and stability stage is "
        "tested against the stage it stands on; these tests are one family, corrected by Holm's "
        f"method at {1 - rules.confidence:.0%}. `equivalent` means that two one-sided tests place "
        f"the difference within {margin} nats/token, and wins over `lower` and `higher`. A "
        "difference that had another sign in the last half of the run, or was twice as large, "
        "depends on when you stop and is inconclusive. A seed that did not finish rules out "
        "`lower` and `equivalent`. Differences to the baseline, at equal tokens and at equal "
        "seconds are descriptive. docs/statistics.md says how often these rules err.",
        f"A speed-up is a claim with at least {rules.minimum_rounds} rounds that were interleaved "
        "and did not share the machine, if its interval leaves out 1.",
        f"A spike is a loss more than {SPIKE_WIDTHS:.0f} standard deviations of the run's scatter "
        f"above the median of the {SMOOTHED_STEPS} steps before it. A plateau is at least "
        f"{PLATEAU_SHARE:.0%} of the steps in which the smoothed loss stays within "
        f"{PLATEAU_NATS:g}, before it falls by more than {FALL_AFTERWARDS:g}.",
    ]
    if any("model.pad_vocab" in stage.newest.stage.changes for stage in group.stages):
        notes.append(
            "Where the vocabulary is padded, the added rows are never a target and get no "
            "probability at evaluation or in samples; in training they change the loss by no more "
            "than the softmax over the added logits does."
        )
    return notes


def readout(stage: StageRuns, verdict: Verdict) -> str:
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
    return " · ".join([f"{stage.name} {stage.title}", *known, verdict.text])
