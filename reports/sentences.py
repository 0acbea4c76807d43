"""What the report says in sentences, made from the figures and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from conf.schema import ReportConf
from reports import formats
from reports.alternatives import Alternatives
from reports.compare import Group, StageRuns
from reports.curves import (
    FALL_AFTERWARDS,
    MOST_POINTS,
    PLATEAU_NATS,
    PLATEAU_SHARE,
    SMOOTHED_STEPS,
    SPIKE_WIDTHS,
)
from reports.formats import count, loss, together
from reports.reference import guide_log
from reports.statistics import POWER, Sample
from reports.verdicts import Verdict
from runner.record import Environment, Run
from runner.record import Sample as DrawnText


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
    ours = group.runs[0]
    said = differences(ours, main.runs[0])
    if group.variant:
        said.append(group.variant)
    if not said:  # steps taken back or added, of no plan that is known here
        said.append(" ".join(ours.ablation.overrides))
    number = sum(len(stage.rounds) for stage in group.stages)
    repeated = number > len(group.runs)
    repeats = f" (seed {together(list(map(str, group.seeds)))}, repeated)" if repeated else ""
    runs = f"{number} run{'s' if number > 1 else ''}{repeats}"
    where = f" of {group.experiment}" if group.experiment != main.experiment else ""
    return f"{runs}{where}{f' with {together(said)}' if any(said) else ''}"


SIDE_BY_SIDE = (
    "The same stage in several experiments or at several settings, on an equal footing. The lowest "
    "loss is marked, and the others are compared with it over the seeds that both have, where "
    "text, device and code are the same. It was chosen by these numbers, so it may look a little "
    "better than it is."
)


def lowest(found: Sequence[Alternatives]) -> list[str]:
    """Which of a stage's alternatives has the lowest held-out loss, a sentence a stage."""
    said = []
    for stage in found:
        if stage.lowest is not None and len([row for row in stage.rows if row.runs.finished]) > 1:
            seeds = len(stage.lowest.runs.finished)
            said.append(
                f"{stage.title} ({stage.name}) has its lowest held-out loss, "
                f"{loss(stage.lowest.runs.mean.held_out)}, with {stage.lowest.what} "
                f"({seeds} seed{'s' if seeds > 1 else ''})."
            )
    return said


def differences(ours: Run, theirs: Run) -> list[str]:
    """In what the conditions of a run differ from those of another."""
    new, usual = (
        {
            "data": run.data.name,
            "device": run.environment.machine,
            "torch": run.environment.torch,
            "scale": run.settings.scale,
            "matrix products": run.products.precisions if run.products else "not measured",
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
    return said


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
        "Processes": each(lambda r: _processes(r.environment)),
        "Scale": each(lambda r: r.settings.scale),
        "Recipe": each(lambda r: r.settings.recipe),
        "Seeds": ", ".join(map(str, group.seeds)),
        "Python": each(lambda r: r.environment.python),
        "PyTorch": each(lambda r: r.environment.torch),
        "System": each(lambda r: r.environment.platform),
        "Commit": each(lambda r: r.environment.commit),
        "Uncommitted changes": each(lambda r: "yes" if r.environment.dirty else "no"),
        "Overrides": each(lambda r: " ".join(r.variant)),
        "Date": " to ".join(dict.fromkeys((dates[0], dates[-1]))),
    }


def _processes(on: Environment) -> str:
    """How many trained a run together, and whether each had a part of the model."""
    return f"{on.processes} ({on.sharding})" if on.sharding else str(on.processes)


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
    note += f" The machine's own matrix-product peak was measured as {together(said)}."
    quoted = max((f for r in results if math.isfinite(f := r.datasheet_flops)), default=None)
    if quoted is None:
        return note
    return f"{note} The GPU's datasheet says {quoted / 1e12:.0f} TFLOP/s in bfloat16."


def thinning_note(group: Group) -> str:
    """How curves are drawn that have more steps than points; empty where none has."""
    steps = max((len(run.curve.step) for stage in group.ladder for run in stage.runs), default=0)
    if steps <= MOST_POINTS:
        return ""
    return (
        f"Of up to {count(steps)} steps about {MOST_POINTS} points are drawn: each is the mean of "
        "the steps since the one before it, with the lowest and the highest of them shaded, so "
        "that a spike of one step is seen."
    )


def evaluations_note(group: Group) -> str:
    """What is evaluated, and HellaSwag's accuracy at the end of each stage."""
    note = "The held-out loss is of the same windows at every evaluation of every stage."
    scored = [stage for stage in group.ladder if stage.newest.hellaswag]
    if not scored:
        return note
    said = []
    for stage in scored:
        last = stage.newest.hellaswag[-1]
        seeds = len(stage.finished)
        means = stage.mean.hellaswag_acc_norm, stage.mean.hellaswag_acc
        by_mean, by_sum = means if seeds > 1 else (last.acc_norm, last.acc)
        over = f"mean of {seeds} seeds" if seeds > 1 else f"± {last.error:.1%} by the items"
        said.append(f"{stage.name} {by_mean:.1%} ({over}; by the sum {by_sum:.1%})")
    return (
        f"{note} HellaSwag asks which of four endings continues a text, {count(last.items)} times; "
        "the ending whose tokens have the lowest mean loss is the answer, and chance is right in "
        f"25%: {'; '.join(said)}."
    )


# The samples of a shorter run are introduced as not good yet.
FEW_STEPS = 1000


def samples_note(group: Group) -> str:
    """What the samples show."""
    note = "Text that each stage’s model drew, always from the same seed."
    if max(run.settings.steps for run in group.runs) < FEW_STEPS:
        note += " After so few steps none of it is good; it shows what each model has learned."
    return note


def drawn(shown: Sequence[DrawnText], total: int) -> str:
    """From which prompt a run's samples were drawn, and how many of them are shown."""
    prompt = f"Prompt “{shown[0].prompt}”, seed {shown[0].seed}"
    if len(shown) == total:
        return prompt
    return f"{prompt}; {len(shown)} of {total} samples, all of which are in the run’s run.json"


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
    log = guide_log()
    seconds, steps = log["step_ms"].mean() / 1000, stage.mean.steps
    shown = f" Of its {count(steps)} steps the first {len(log)} are shown."
    return (
        "The guide's log is of GPT-2 on a smaller dataset, which it does not name; nor does it "
        "state the batch, the data's size or the machine, only that a step took about "
        f"{seconds:.0f} s. {stage.name} here is {conditions}, {count(stage.mean.step_ms)} ms a "
        "step. With so much unknown the shapes can be compared; the losses cannot be ranked."
        f"{shown if steps > len(log) else ''}"
    )


SIGNAL_NOTE = (
    "One sequence of the text in each layer: how much the outputs differ between the positions "
    "(solid), and how large the loss's gradient is (dashed); means over the runs. Flat lines are "
    "healthy. Where the solid line falls, later layers cannot tell tokens apart; where the dashed "
    "line is low, early layers learn nothing. docs/findings.md explains the names."
)


def in_runs(count: int, stage: StageRuns) -> str:
    """In how many of a stage's runs a finding was made."""
    return f"in {count} of {len(stage.runs)} runs" if len(stage.runs) > 1 else "in its run"


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
        "only at the same number of threads and processes. They are compared seed by seed: for one "
        "seed every stage draws the same weights where it shares parameters, and sees the same "
        "tokens in the same order. Repeats of a seed are not seeds; they count for speed alone.",
        f"With one seed, an interval is the {confidence} bootstrap interval over the held-out "
        "windows, and nothing is claimed. With several, it is Student's t interval of the "
        "differences paired by seed.",
        f"An outcome needs at least {rules.minimum_seeds} seeds. Each loss and stability stage is "
        "tested against the stage it stands on; these tests are one family, corrected by Holm's "
        f"method at {1 - rules.confidence:.0%}. `equivalent` means that two one-sided tests, "
        f"corrected as well, place the difference within {margin} nats/token, and wins over "
        "`lower` and `higher`; the intervals that are shown are not corrected. A difference in "
        "training loss that clearly had another sign in the last half of the run, or was clearly "
        "twice as large (its interval over seeds wholly there, and beyond the margin), depends on "
        "when you stop and is inconclusive. A stage with a seed that did not finish is "
        "never `lower` or `equivalent`. The number of seeds that would decide is for a power of "
        f"{POWER:.0%}: choose it once, and do not look in between. Differences to the baseline, "
        "at equal tokens and at equal seconds are descriptive. docs/statistics.md says how often "
        "these rules err.",
        f"A speed-up is a claim with at least {rules.minimum_rounds} rounds that were interleaved "
        "and did not share the machine, if its interval leaves out 1; speed-ups are not corrected "
        "for their number. Seconds are without compilation.",
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
