"""What the report says of plans, made from the figures and from nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from conf.schema import ReportConf
from reports import formats, sentences
from reports.compare import Group
from reports.plans import LEAST, Table
from reports.rates import StageRates
from reports.statistics import Estimate
from reports.worth import Interaction, StepWorth, Way, Worth
from runner.record import Run


def worth(found: Worth, rules: ReportConf) -> list[str]:
    """What the steps are worth, where the ways disagree, which steps interact, in which order."""
    said = [_averages(found, rules), *_contexts(found, rules)]
    significant = significant_interactions(found, rules)
    if significant:
        pairs = [
            f"{i.one} and {i.other} {formats.change(i.change)}"
            for i in sorted(significant, key=lambda i: -abs(i.change.value))
        ]
        said.append(
            f"Significant interactions, what two steps change beyond the sum of both: "
            f"{formats.together(pairs)}. Below zero they help each other; above zero they do the "
            "same work, or harm each other."
        )
    elif found.interactions and found.interactions[0].change.n >= rules.minimum_seeds:
        said.append("No interaction of two steps is significant.")
    said += [_order(found, rules), _without_loss(found.lost)]
    return [each for each in said if each]


def _without_loss(lost: Mapping[str, Sequence[Run]]) -> str:
    """The runs that are left out, by what they train; empty where there are none."""
    said = [
        f"{name} ({formats.together([f'seed {run.seed} {run.status.value}' for run in runs])})"
        for name, runs in lost.items()
    ]
    return f"Left out, because they have no loss: {formats.together(said)}." if said else ""


def significant_interactions(found: Worth, rules: ReportConf) -> list[Interaction]:
    """By Holm's method over all pairs of steps."""
    return [each for each in found.interactions if each.p < 1 - rules.confidence]


def _averages(found: Worth, rules: ReportConf) -> str:
    finished, sets = found.sets
    if found.factorial is None:
        return (
            f"{finished} of the {sets} sets of steps have finished in some seed; without all sets "
            "of a seed there is no average over orders."
            if sets and finished >= LEAST * sets
            else ""
        )
    averages = [(step, step.ways[Way.average]) for step in found.steps if Way.average in step.ways]
    averages.sort(key=lambda pair: pair[1].value)
    n, seeds = len(found.factorial.steps), len(found.factorial.seeds)
    each = [f"{step.title} {formats.change(estimate)}" for step, estimate in averages]
    return (
        f"On average over all {math.factorial(n)} orders of {n} steps, from the {sets} sets of "
        f"{seeds} seed{'s' if seeds > 1 else ''}, a step changes the held-out loss by: "
        f"{formats.together(each)}."
    )


def _contexts(found: Worth, rules: ReportConf) -> list[str]:
    """The steps whose worth depends on the others."""
    tested = [step for step in found.steps if not math.isnan(step.p)]
    depends = [step for step in tested if step.p < 1 - rules.confidence]
    if not tested:
        return []
    if not depends:
        return ["No step is shown to be worth more or less alone than when it is missing."]
    said = [_both_ways(step) for step in depends]
    return [f"What a step is worth depends on the others: {'; '.join(said)}."]


def _both_ways(step: StepWorth) -> str:
    ways = Way.alone, Way.missing
    values = [f"{formats.signed(step.ways[way].value)} {way.value}" for way in ways]
    return f"{step.title} {', '.join(values)}"


def _order(found: Worth, rules: ReportConf) -> str:
    factorial = found.factorial
    if factorial is None:
        return ""
    names, greedy = factorial.steps, factorial.greedy
    along = factorial.along(greedy)
    said = f"A greedy search would add them in the order {', '.join(names[i] for i in greedy)}"
    if greedy == list(range(len(names))):
        said = "A greedy search would add them in the guide's order"
    lowest = int(along.argmin())
    if along[-1] - along[lowest] > rules.margin:
        few = formats.together([names[i] for i in greedy[:lowest]]) if lowest else "no step"
        said += f"; with {few} the loss is {along[lowest]:.3f}, with all {along[-1]:.3f}"
    return f"{said}. It chooses and reports on the same text, so its losses are a little too low."


WAYS = [(way.value, "number") for way in Way]


def way(step: StepWorth, name: str) -> Estimate | None:
    """What a step is worth by a way of WAYS."""
    return step.ways.get(Way(name))


def worth_note(found: Worth, rules: ReportConf) -> str:
    """How to read the picture of what each step is worth."""
    more = [
        f"{step.name} takes {step.times_the_tokens:.3g} times the tokens a step"
        for step in found.steps
        if step.times_the_tokens > 1.01
    ]
    return (
        f"The held-out loss with a step less the one without it. In place: on the stage that it "
        f"stands on. Alone: on {found.baseline}. When missing: {found.top} less the same without "
        "the step. On average: its Shapley value, the mean over all orders of the factorial’s "
        f"steps. Intervals are {rules.confidence:.0%} intervals over seeds (where there is one "
        "seed, over the windows of the text), each for itself; what is called significant is "
        f"corrected by Holm’s method.{f' {formats.together(more)}.' if more else ''}"
    )


def rates(found: Sequence[StageRates]) -> list[str]:
    """Where the common rate and the best one disagree, and which best rates are at an edge."""
    said = []
    turned = [
        stage
        for stage in found
        if stage.at_fixed and stage.at_best and _sign(stage.at_fixed) != _sign(stage.at_best)
    ]
    for stage in turned:
        assert stage.at_fixed is not None
        said.append(
            f"{stage.name} ({stage.title}) against {stage.below}: "
            f"{formats.change(stage.at_fixed)} at the ladder’s rates, "
            f"{formats.change(stage.at_best)} where both have their best rate."
        )
    compared = [stage for stage in found if stage.at_fixed and stage.at_best]
    if compared and not turned:
        said.append("No stage’s difference changes its sign where each stage has its best rate.")
    if compared and max(stage.seeds for stage in compared) == 1:
        said.append("There is one seed: the intervals are over the windows of the text.")
    edges = [stage.name for stage in found if stage.at_edge]
    if edges:
        many = len(edges) > 1
        said.append(
            f"The best rate{'s' if many else ''} of {formats.together(edges)} "
            f"{'are' if many else 'is'} at the edge of the grid: a rate outside of it may be "
            "better, and the difference another."
        )
    lost = {f"{s.name} at {rate:g}": runs for s in found for rate, runs in s.lost.items()}
    return [each for each in [*said, _without_loss(lost)] if each]


def _sign(estimate: Estimate) -> int:
    """-1, 1, or 0 where the interval holds zero or is unknown."""
    return int(estimate.above) - int(estimate.below)


RATES_NOTE = (
    "The best rate of a stage is the one with the lowest mean held-out loss on every second "
    "window; the differences are on the other windows, of the same runs. The ladder’s rate is the "
    "one that the stage has there."
)


def table_note(table: Table, main: Group) -> str:
    """Under which conditions a plan ran, and what of it is missing."""
    said = table.plan.about.question
    if table.bank.conditions != main.conditions:
        different = sentences.differences(table.bank.member, main.runs[0])
        said += f" It did not run as the ladder above: {formats.together(different)}."
    steps = {row.runs.newest.settings.steps for row in table.rows}
    usual = {stage.newest.settings.steps for stage in main.ladder}
    if steps != usual:
        long, ladder = (
            formats.together([f"{number:,}" for number in sorted(each)]) for each in (steps, usual)
        )
        said += (
            f" Its runs take {long} steps, the ladder’s {ladder}: what the one says of the other "
            "is a question of its own."
        )
    if table.seeds == 1:
        said += " It has one seed, which decides no loss."
    if table.missing:
        said += (
            f" {table.missing} of its {table.missing + len(table.cells)} cells have not finished."
        )
    return said
