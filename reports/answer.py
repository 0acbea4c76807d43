"""The answer a person came for, as decisions: which stages to take, and which are undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf.schema import Aim, ReportConf
from reports.claims import over_seeds
from reports.compare import Comparison
from reports.ladders import Group
from reports.side_by_side import Alternatives
from reports.speed import Pace
from reports.verdicts import Kind, Outcome, Verdict, keeps_loss
from runner.record import Status

# A stage that is not for speed is named for it where its gain is surely more than this.
WORTHWHILE = 1.01


@dataclass(frozen=True)
class Untested:
    """Stages that lowered the loss on `below`, which raised it: `command` tests them without."""

    stages: list[Comparison]
    below: list[Comparison]
    command: str


@dataclass(frozen=True)
class Answer:
    """The stages of a ladder by what was decided of them.

    `lower` are those that took no more tokens, `with_more` those that did. `faster` are the claimed
    speed-ups that keep the loss or are of stages that lowered it, `costly` the other ones.
    `lowest` is a stage that ended below the last one, `tops` are the ends of the ladder's branches,
    `sweeps` the settings of one stage that were compared.
    """

    lower: list[Comparison]
    with_more: list[Comparison]
    untested: list[Untested]
    faster: list[Comparison]
    costly: list[Comparison]
    higher: list[Comparison]
    slower: list[Comparison]
    equivalent: list[Comparison]
    undecided: list[Comparison]
    undecided_speed: list[Comparison]
    no_reference: list[Comparison]
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
    by = {outcome: _with_outcome(main, verdicts, outcome) for outcome in Outcome}
    with_more = [s for s in by[Outcome.lower] if s.versus.takes_more]
    lower = [s for s in by[Outcome.lower] if not s.versus.takes_more]
    paced = [s for s in main.ladder if s.versus.speed and not s.same_as]
    pace = {s.name: s.versus.speed.pace for s in paced if s.versus.speed}
    gained = [
        stage
        for stage in paced
        if (speed := stage.versus.speed) and speed.pace is Pace.faster
        if stage.aim is Aim.speed or speed.estimate.low > WORTHWHILE
    ]
    faster = [s for s in gained if keeps_loss(s.versus.loss, rules) or s in by[Outcome.lower]]
    speeds = [s for s in paced if verdicts[s.name].kind is Kind.speed]
    rounds = max((s.versus.speed.estimate.n for s in paced if s.versus.speed), default=0)
    several = len(main.seeds) > 1
    ones = [s for s in main.ladder if verdicts[s.name].kind in (Kind.one_seed, Kind.no_seed)]
    unfinished = [s for s in main.stages if not s.arm.finished]
    return Answer(
        lower=lower,
        with_more=with_more,
        untested=_untested(main, [*lower, *with_more], by[Outcome.higher], rules),
        faster=faster,
        costly=[s for s in gained if s not in faster],
        higher=by[Outcome.higher],
        slower=[s for s in speeds if pace[s.name] is Pace.slower],
        equivalent=by[Outcome.equivalent],
        undecided=[*by[Outcome.inconclusive], *(ones if several else [])],
        undecided_speed=[s for s in speeds if pace[s.name] in (Pace.even, Pace.undecided)]
        if several
        else [],
        claims_speed=rounds >= rules.minimum_rounds,
        no_reference=[s for s in main.ladder if verdicts[s.name].kind is Kind.no_reference],
        unfinished={
            status: found
            for status in Status
            if (found := [s for s in unfinished if s.arm.status is status])
        },
        lowest=_lowest(main, rules),
        tops=[top for top in main.tops if top is not main.baseline],
        sweeps=[each for each in sweeps if any(row.more for row in each.rows)],
        decides=several,
    )


def _with_outcome(
    main: Group, verdicts: Mapping[str, Verdict], outcome: Outcome
) -> list[Comparison]:
    return [stage for stage in main.ladder if verdicts[stage.name].outcome is outcome]


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
