"""The answer a person came for, as decisions: which stages to take, and which are undecided."""

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
    below: tuple[Comparison, ...]
    command: str


@dataclass(frozen=True)
class Answer:
    """The stages of a ladder by what was decided of them.

    `lowest` is a stage that ended below the last one, `tops` are the ends of the ladder's branches,
    `sweeps` the settings of one stage that were compared. `decides` says whether there are several
    seeds, `claims_speed` whether there are enough rounds for a claim.
    """

    advice: dict[str, list[Comparison]]
    untested: list[Untested]
    unfinished: dict[Status, list[Comparison]]
    lowest: Comparison | None
    tops: list[Comparison]
    sweeps: list[Alternatives]
    decides: bool
    claims_speed: bool


def find_answer(
    main: Group, verdicts: Mapping[str, Verdict], sweeps: Sequence[Alternatives], rules: ReportConf
) -> Answer:
    """What was decided of the main ladder's stages."""
    several = len(main.seeds) > 1
    advice: dict[str, list[Comparison]] = {each.value: [] for each in Advice}
    for stage in main.ladder:
        for each in _advice(stage, verdicts[stage.name], several, rules):
            advice[each.value].append(stage)
    ends = [end for end in Status if end is not Status.finished]
    by_end = {end: [s for s in main.stages if s.arm.status is end] for end in ends}
    speeds = [s.versus.speed for s in main.ladder if s.versus.speed and not s.same_as]
    return Answer(
        advice,
        _untested(main, advice["lower"] + advice["with_more"], advice["higher"], rules),
        {end: stages for end, stages in by_end.items() if stages},
        _lowest(main, rules),
        [top for top in main.tops if top is not main.baseline],
        [each for each in sweeps if any(row.more for row in each.rows)],
        several,
        any(speed.estimate.n >= rules.minimum_rounds for speed in speeds),
    )


def _advice(
    stage: Comparison, verdict: Verdict, several: bool, rules: ReportConf
) -> Iterator[Advice]:
    """The advice on a stage; with one seed none is `undecided`, since nothing is decided."""
    kind, outcome, speed = verdict.kind, verdict.outcome, stage.versus.speed
    if outcome is Outcome.lower:
        yield Advice.with_more if stage.versus.takes_more else Advice.lower
    elif outcome is Outcome.inconclusive or (several and kind in (Kind.one_seed, Kind.no_seed)):
        yield Advice.undecided
    elif outcome:
        yield Advice(outcome.value)
    elif kind is Kind.no_reference:
        yield Advice.no_reference
    if speed is None or stage.same_as:
        return
    if speed.pace is Pace.faster:
        if stage.aim is Aim.speed or speed.estimate.low > WORTHWHILE:
            keeps = keeps_loss(stage.versus.loss, rules) or outcome is Outcome.lower
            if keeps or outcome is not Outcome.higher:
                yield Advice.faster if keeps else Advice.costly
    elif kind is Kind.speed and speed.pace is Pace.slower:
        yield Advice.slower
    elif kind is Kind.speed and several:
        yield Advice.undecided_speed


def _untested(
    main: Group, helps: Sequence[Comparison], harms: Sequence[Comparison], rules: ReportConf
) -> list[Untested]:
    """The stages that help and are built on those that harm, if not tested without them."""
    found: dict[tuple[Comparison, ...], list[Comparison]] = defaultdict(list)
    for stage in helps:
        below = tuple(each for each in harms if each.stage in stage.chain[1:])
        names = {each.stage for each in below}
        tested = any(c.stage == stage.stage and names <= {*c.without} for c in main.comparisons)
        if below and not tested:
            found[below].append(stage)
    seeds = main.seeds if len(main.seeds) > 1 else range(1, rules.minimum_seeds + 1)
    untested = []
    for below, stages in found.items():
        test, gone = (",".join(each.stage for each in some) for some in (stages, below))
        command, words = stages[-1].arm.newest.command, [f"+stage={test}", f"without=[],[{gone}]"]
        untested.append(Untested(stages, below, over_seeds(command, seeds, words)))
    return untested


def _lowest(main: Group, rules: ReportConf) -> Comparison | None:
    """A stage that ended below the ladder's last one, where the stages have the same seeds."""
    done = [stage for stage in main.ladder if stage.arm.measurable]
    seeds = {tuple(run.seed for run in stage.arm.measurable) for stage in done}
    if len(seeds) != 1 or not main.tops:
        return None
    losses = {stage: stage.arm.mean("held_out") for stage in main.ladder}
    best, end = min(done, key=losses.__getitem__), min(losses[top] for top in main.tops)
    return best if end - losses[best] > rules.margin else None
