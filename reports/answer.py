"""What the report says of the ladder as a whole, beside the verdict on each stage."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from conf.schema import ReportConf
from reports.commands import over_seeds
from reports.comparison import Comparison
from reports.ladders import Group
from reports.side_by_side import Alternatives
from reports.verdicts import Outcome, Verdict


@dataclass(frozen=True)
class Untested:
    """Stages that lowered the loss on `below`, which raised it: `command` tests them without."""

    stages: list[Comparison]
    below: tuple[Comparison, ...]
    command: str


@dataclass(frozen=True)
class Answer:
    """What is said of a ladder as a whole.

    `lowest` is a stage that ended below the last one, `tops` are the ends of the ladder's branches,
    `sweeps` the settings of one stage that were compared. `decides` says whether there are several
    seeds, `claims_speed` whether there are enough rounds for a claim.
    """

    untested: list[Untested]
    lowest: Comparison | None
    tops: list[Comparison]
    sweeps: list[Alternatives]
    decides: bool
    claims_speed: bool


def find_answer(
    main: Group, verdicts: Mapping[str, Verdict], sweeps: Sequence[Alternatives], rules: ReportConf
) -> Answer:
    """The answer on the main ladder, given the verdicts on its stages."""
    lower, higher = (
        [s for s in main.ladder if verdicts[s.name].outcome is outcome]
        for outcome in (Outcome.lower, Outcome.higher)
    )
    speeds = [s.versus.speed for s in main.ladder if s.versus.speed and not s.same_as]
    return Answer(
        _untested(main, lower, higher, rules),
        _lowest(main, rules),
        [top for top in main.tops if top is not main.baseline],
        [each for each in sweeps if any(row.more for row in each.rows)],
        len(main.seeds) > 1,
        any(speed.estimate.n >= rules.minimum_rounds for speed in speeds),
    )


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
    """A stage that ended below the ladder's last one, of those with the same seeds."""
    seeds = {s: tuple(run.seed for run in s.arm.measurable) for s in main.ladder}
    of_tops = {seeds[top] for top in main.tops}
    done = [stage for stage in main.ladder if seeds[stage] and {seeds[stage]} == of_tops]
    if not done:
        return None
    losses = {stage: stage.arm.mean("held_out") for stage in main.ladder}
    best, end = min(done, key=losses.__getitem__), min(losses[top] for top in main.tops)
    return best if end - losses[best] > rules.margin else None
