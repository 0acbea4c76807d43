"""The answer a person came for, as decisions: which stages to take, and which are undecided."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from conf.schema import Aim, ReportConf
from reports.commands import over_seeds
from reports.compare import Comparison
from reports.ladders import Group
from reports.side_by_side import Alternatives
from reports.speed import Pace
from reports.verdicts import Kind, Outcome, Verdict, keeps_loss
from runner.record import Status

# A stage that is not for speed is named for it where its gain is surely more than this.
WORTHWHILE = 1.01


class Advice(Enum):
    """What to do with a stage, or why that is not known; a stage may have one for its speed too."""

    lower = "lower"  # take it for its loss
    with_more = "with_more"  # its loss is lower, with more tokens a step
    higher = "higher"  # leave it out
    equivalent = "equivalent"
    undecided = "undecided"
    no_reference = "no_reference"
    faster = "faster"  # take it for speed: it keeps the loss, or lowers it
    costly = "costly"  # it is faster, but was not shown to keep the loss
    slower = "slower"
    undecided_speed = "undecided_speed"


@dataclass(frozen=True)
class Untested:
    """Stages that lowered the loss on `below`, which raised it: `command` tests them without."""

    stages: list[Comparison]
    below: list[Comparison]
    command: str


@dataclass(frozen=True)
class Answer:
    """The stages of a ladder by what was decided of them, named as in `Advice`.

    `lowest` is a stage that ended below the last one, `tops` are the ends of the ladder's branches,
    `sweeps` the settings of one stage that were compared.
    """

    advice: dict[str, list[Comparison]]
    untested: list[Untested]
    unfinished: dict[Status, list[Comparison]]
    lowest: Comparison | None
    tops: list[Comparison]
    sweeps: list[Alternatives]
    decides: bool  # whether there are several seeds, so that something can be decided
    claims_speed: bool  # whether there are enough rounds for a claim


def find_answer(
    main: Group,
    verdicts: Mapping[str, Verdict],
    sweeps: Sequence[Alternatives],
    rules: ReportConf,
) -> Answer:
    """What was decided of the main ladder's stages."""
    several = len(main.seeds) > 1
    advice: dict[str, list[Comparison]] = {each.value: [] for each in Advice}
    for stage in main.ladder:
        for each in _advice(stage, verdicts[stage.name], several, rules):
            advice[each.value].append(stage)
    unfinished = defaultdict(list)
    for stage in main.stages:
        if not stage.arm.finished:
            unfinished[stage.arm.status].append(stage)
    speeds = [s.versus.speed for s in main.ladder if s.versus.speed and not s.same_as]
    return Answer(
        advice,
        _untested(main, advice["lower"] + advice["with_more"], advice["higher"], rules),
        {status: unfinished[status] for status in Status if status in unfinished},
        _lowest(main, rules),
        [top for top in main.tops if top is not main.baseline],
        [each for each in sweeps if any(row.more for row in each.rows)],
        several,
        any(speed.estimate.n >= rules.minimum_rounds for speed in speeds),
    )


def _advice(
    stage: Comparison, verdict: Verdict, several: bool, rules: ReportConf
) -> Iterator[Advice]:
    """What is said of a stage; with one seed nothing is undecided, since nothing is decided."""
    match verdict.outcome:
        case Outcome.lower:
            yield Advice.with_more if stage.versus.takes_more else Advice.lower
        case Outcome.inconclusive:
            yield Advice.undecided
        case Outcome():
            yield Advice(verdict.outcome.value)
    if several and verdict.kind in (Kind.one_seed, Kind.no_seed):
        yield Advice.undecided
    if verdict.kind is Kind.no_reference:
        yield Advice.no_reference
    speed = stage.versus.speed
    if speed is None or stage.same_as:
        return
    is_for_speed = verdict.kind is Kind.speed
    if speed.pace is Pace.faster:
        if stage.aim is Aim.speed or speed.estimate.low > WORTHWHILE:
            keeps = keeps_loss(stage.versus.loss, rules) or verdict.outcome is Outcome.lower
            yield Advice.faster if keeps else Advice.costly
    elif is_for_speed and speed.pace is Pace.slower:
        yield Advice.slower
    elif is_for_speed and several:
        yield Advice.undecided_speed


def _untested(
    main: Group, helps: Sequence[Comparison], harms: Sequence[Comparison], rules: ReportConf
) -> list[Untested]:
    """The stages that help and stand on those that harm, unless they were tested without them."""
    found: dict[tuple[str, ...], Untested] = {}
    for stage in helps:
        below = [each for each in harms if each.stage in stage.chain[1:]]
        names = tuple(each.stage for each in below)
        tested = any(c.stage == stage.stage and {*c.without} >= {*names} for c in main.comparisons)
        if below and not tested:
            stages = [*(found[names].stages if names in found else []), stage]
            seeds = main.seeds if len(main.seeds) > 1 else range(1, rules.minimum_seeds + 1)
            words = [f"+stage={','.join(each.stage for each in stages)}"]
            words.append(f"without=[],[{','.join(names)}]")
            found[names] = Untested(
                stages, below, over_seeds(stage.arm.newest.command, seeds, words)
            )
    return list(found.values())


def _lowest(main: Group, rules: ReportConf) -> Comparison | None:
    """A stage that ended below the ladder's last one, where the stages have the same seeds."""
    done = [stage for stage in main.ladder if stage.arm.measurable]
    seeds = {tuple(run.seed for run in stage.arm.measurable) for stage in done}
    if len(seeds) != 1 or not main.tops:
        return None
    best = min(done, key=lambda stage: stage.arm.mean("held_out"))
    ends = min(top.arm.mean("held_out") for top in main.tops)
    return best if ends - best.arm.mean("held_out") > rules.margin else None
