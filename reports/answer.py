"""The answer a person came for: which stages to take, and which are undecided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import nan
from statistics import fmean

from conf.schema import Aim, ReportConf
from reports import formats
from reports.compare import Comparison, Group, StageRuns
from reports.formats import count, loss, together
from reports.sentences import facts
from reports.verdicts import FAMILY, UNDECIDED, Outcome, Verdict, keeps_loss
from runner.record import Status

Verdicts = Mapping[str, Verdict]


def answer(
    group: Group, verdicts: Verdicts, control: Comparison | None, rules: ReportConf
) -> list[str]:
    """Which steps to take, which made no difference, and which are undecided.

    `control` compares a stage of more tokens with the one below it, trained for as many.
    """
    baseline, last = group.baseline, group.last
    command = group.runs[-1].baseline_command
    if baseline is None and group.runs[-1].settings.recipe:
        return [*map(_long_run, group.ladder), *_unfinished(group)]
    if last is None:
        return [f"Nothing can be compared until a stage has finished: train one with {command}"]
    held_out = f"{_name(last)} ended at {loss(last.mean.held_out)} held-out loss."
    if baseline is None:
        first = [
            f"{held_out} No baseline has finished under the same conditions, so no stage is "
            f"compared with it: train one with {command}"
        ]
    elif last is baseline:
        first = [f"{held_out} No later stage has finished yet, so nothing is compared with it."]
    else:
        lead, *rest = [*_decided(group, verdicts, control, rules), _whole(baseline, last)]
        first = [lead, scope(group), *_not_the_best(group, last, rules), *rest]
    return [*first, *_unfinished(group)]


def _long_run(stage: StageRuns) -> str:
    """How far a recipe's runs came, which are compared with nothing."""
    run, mean = stage.newest, stage.mean
    name = f"{_name(stage)} by the recipe {run.settings.recipe}"
    done, tokens = count(mean.steps), count(mean.steps * mean.tokens_per_step)
    if stage.finished:
        said = (
            f"{name} ended at {loss(mean.held_out)} held-out loss after {done} steps, {tokens} "
            "tokens."
        )
    else:
        evaluated = stage.measured[0].held_out.curve
        last = loss(evaluated.iloc[-1] if len(evaluated) else nan)
        said = (
            f"{name} has taken {done} of {count(run.settings.steps)} steps, {tokens} tokens; its "
            f"last held-out loss is {last}."
        )
    return " ".join([said, *(f"HellaSwag: {found}." for found in run.hellaswag[-1:])])


def scope(group: Group) -> str:
    """What the answer is for: steps, tokens, model, text, machine and seeds."""
    by_size: dict[str, list[str]] = defaultdict(list)
    for stage in group.ladder:
        if stage.finished:
            by_size[count(stage.mean.tokens_per_step)].append(stage.name)
    (usual, _), *others = sorted(by_size.items(), key=lambda item: -len(item[1]))
    tokens = "".join(f" ({size} in {together(names)})" for size, names in others)
    seeds = max(len(stage.finished) for stage in group.ladder)
    found = facts(group)
    return (
        f"All of this is for {found['Steps']} steps of {usual} tokens{tokens}, with "
        f"{_models(group)} on {group.runs[0].data.name}, on {found['Device']}, over "
        f"{'one seed' if seeds == 1 else f'{seeds} seeds'}; each stage is compared with the one "
        "that it stands on."
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


def _decided(
    group: Group, verdicts: Verdicts, control: Comparison | None, rules: ReportConf
) -> list[str]:
    """The stages by what was decided of them."""
    judged = [s for s in group.ladder if s.aim in FAMILY and s.vs_previous.loss]
    judged = [s for s in judged if not s.newest.stage.same_as]
    lower, higher, equivalent, inconclusive = (
        [s for s in judged if verdicts[s.name].outcome is outcome] for outcome in Outcome
    )
    with_more = [s for s in lower if s.vs_previous.times_the_tokens > 1.01]
    take = [s for s in lower if s not in with_more]
    speeds = [s for s in group.ladder if s.aim is Aim.speed and s.vs_previous.speed]
    faster = [s for s in speeds if s.vs_previous.speed and s.vs_previous.speed.faster]
    slower = [s for s in speeds if s.vs_previous.speed and s.vs_previous.speed.slower]
    kept = [s for s in faster if s.vs_previous.loss and keeps_loss(s.vs_previous.loss, rules)]
    said = []
    if take:
        on = [f"{_name(s)} on {s.vs_previous.other}" for s in take]
        said.append(f"Take {together(on)}: {_it(take)} lowered the held-out loss.")
    said += [_with_more_tokens(stage, control) for stage in with_more]
    if kept:
        gains = [f"{_name(s)}, {_gain(s)}" for s in kept]
        said.append(f"Take for speed {together(gains)}, at the same loss.")
    said += [
        f"{_name(s)} was faster, {_gain(s)}, but its loss was not shown to be the same: "
        f"{formats.change(s.vs_previous.loss)}."
        for s in faster
        if s not in kept
    ]
    if higher:
        said.append(f"Leave out {_names(higher)}: {_it(higher)} raised the held-out loss here.")
    if slower:
        said.append(f"{_names(slower)} made training slower here.")
    if equivalent:
        said.append(
            f"{_names(equivalent)} made no difference that matters: less than "
            f"{rules.margin:g} nats/token."
        )
    rounds = max((s.vs_previous.speed.estimate.n for s in speeds if s.vs_previous.speed), default=0)
    stops = [s for s in inconclusive if s.vs_previous.stop]
    if stops:
        depend = "depends" if len(stops) == 1 else "depend"
        said.append(
            f"{_names(stops)} {depend} on when you stop: some steps earlier the difference was "
            "another."
        )
    undecided = [f"{_name(s)}: {_open(verdicts[s.name])}" for s in inconclusive if s not in stops]
    if len(group.seeds) > 1:
        one = [s for s in judged if verdicts[s.name].outcome is None]
        undecided += [f"{_name(s)}: {verdicts[s.name].text.partition(';')[0]}" for s in one]
    if rounds >= rules.minimum_rounds:
        undecided += [
            f"{_name(s)}: {verdicts[s.name].text.partition(';')[0]}"
            for s in speeds
            if s not in faster and s not in slower
        ]
    if undecided:
        said.append(f"Undecided: {'; '.join(undecided)}.")
    if len(group.seeds) == 1:
        seeds = ",".join(map(str, range(1, rules.minimum_seeds + 1)))
        speed = " and no speed" if rounds < rules.minimum_rounds else ""
        said.append(
            f"One seed decides no loss{speed}. Its differences are below, with the text's "
            f"sampling error only; a sweep with seed={seeds} can decide."
        )
    return said


def _names(stages: Sequence[StageRuns]) -> str:
    return together([_name(stage) for stage in stages])


def _it(stages: Sequence[StageRuns]) -> str:
    return "it" if len(stages) == 1 else "they"


def _gain(stage: StageRuns) -> str:
    """A speed-up with its interval."""
    speed = stage.vs_previous.speed
    return f"{formats.times(speed)} ({formats.times_bounds(speed)})"


def _with_more_tokens(stage: StageRuns, control: Comparison | None) -> str:
    """A lower loss that more tokens bought, at equal steps and at equal tokens."""
    versus = stage.vs_previous
    said = (
        f"{_name(stage)} changed the held-out loss by {formats.change(versus.loss)} at equal "
        f"steps, with {versus.times_the_tokens:.3g} times the tokens"
    )
    if versus.at_tokens:
        at_tokens = formats.change(versus.at_tokens.loss)
        said += f"; at equal tokens its training loss differs by {at_tokens}"
    if control and control.pairs[0][1].record.stage.name == stage.name:
        steps = control.pairs[0][0].record.settings.steps
        said += (
            f"; from {control.other} for as many tokens, {count(steps)} steps, its held-out loss "
            f"differs by {formats.change(control.loss)}"
        )
    return f"{said}."


def _open(verdict: Verdict) -> str:
    """Why a stage is undecided, or how many seeds would decide it."""
    if verdict.seeds_needed:
        return f"about {verdict.seeds_needed} seeds would decide"
    if verdict.why == UNDECIDED:
        return f"{verdict.why}; a thousand would not decide"
    return verdict.why


def _not_the_best(group: Group, last: StageRuns, rules: ReportConf) -> list[str]:
    """That a stage below the last ended lower, where the stages have the same seeds."""
    finished = [stage for stage in group.ladder if stage.measurable]
    best = min(finished, key=lambda stage: stage.mean.held_out, default=last)
    seeds = {tuple(run.record.seed for run in stage.measurable) for stage in finished}
    if len(seeds) > 1 or last.mean.held_out - best.mean.held_out <= rules.margin:
        return []
    return [
        f"The lowest held-out loss is that of {_name(best)}, {loss(best.mean.held_out)}, and not "
        f"that of the whole ladder, {loss(last.mean.held_out)}: each stage is judged on those "
        "below it, and not alone."
    ]


def _whole(baseline: StageRuns, last: StageRuns) -> str:
    versus = last.vs_baseline
    if not versus.pairs:
        return f"{_name(last)} has no run of the baseline's seed, so the two cannot be paired."
    before, after = (
        loss(fmean([pair[i].record.results.held_out for pair in versus.pairs])) for i in (0, 1)
    )
    seeds = len(versus.pairs)
    over = "one seed" if seeds == 1 else f"{seeds} seeds"
    words = f"Together, from the baseline to {last.name}: {before} to {after} held-out loss"
    if versus.speed is not None:
        claim = "" if versus.speed.claims else " (no claim)"
        words += f", at {versus.speed.estimate.value:.2f} times the tokens per second{claim}"
    per_step = last.mean.tokens_per_step / baseline.mean.tokens_per_step
    if abs(per_step - 1) > 0.01:
        words += f", having seen {per_step:.3g} times the tokens"
    return f"{words}, over {over}."


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
