"""What the report shows in rows: each table once, for page, Markdown and terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import Aim
from reports.arm import Arm, Versus
from reports.compare import Comparison, shown
from reports.formats import NONE, bounds, change, count, loss, number, signed, times, together
from reports.palette import Look
from reports.report import PlanRuns, Report
from reports.side_by_side import Alternatives
from reports.speed import SpeedUp
from reports.verdicts import Verdict
from reports.worth import Way

Say = Callable[..., str]  # a macro of templates/words.jinja, by its name
# The columns that hold no numbers, and how they are set.
KINDS = dict.fromkeys(("Stage", "Step", "Run", "With", "Against", "Outcome"), "")
KINDS |= {"Verdict": "judged"}


@dataclass(frozen=True)
class Cell:
    """A text with notes below it, and what can be opened: lines by what is above them."""

    text: str
    notes: Sequence[str] = ()
    tone: str = ""
    look: Look | None = None
    more: Mapping[str, Sequence[str]] = field(default_factory=dict)


Cells = Mapping[str, Cell | str]


class Table:
    """Rows of cells, or of their texts, by the title of the column; `columns` adds its kind."""

    def __init__(self, found: Sequence[Cells], title: str = "", kind: str = "") -> None:
        self.title, self.kind = title, kind
        self.columns = [(name, KINDS.get(name, "number")) for row in found[:1] for name in row]
        self.rows = [[Cell(c) if isinstance(c, str) else c for c in row.values()] for row in found]


def ladder(r: Report, look: Mapping[str, Look], say: Say) -> Table:
    """The main ladder: what each stage changes, its interval, losses, speed and verdict."""
    known: dict[str, str] = {}
    found: list[Cells] = []
    for s in r.main.stages:
        arm, run, why = s.arm, s.arm.newest, s.arm.not_applied
        changes = run.changes if run.stage == s.stage else {}
        again = [what for what in why if known.get(what) == why[what]]
        notes = [s.title, *(f"{k} {shown(a)} → {shown(b)}" for k, (a, b) in changes.items())]
        notes += [*arm.notes, *(f"Not applied: {w}: {why[w]}" for w in why if w not in again)]
        notes += [f"Still not applied: {together(again)}"] if again else []
        known |= why
        speed = count(arm.mean("tokens_per_second"))
        spread, error = arm.spread("held_out"), arm.mean("held_out_error")
        by_text = [] if math.isnan(error) else [f"± {loss(error)} by the text"]
        beside = by_text if math.isnan(spread) else [f"sd {loss(spread)}"]
        compiled = f"{number(run.compile_s, '.1f', ' s')} to compile, {run.compile_cache}"
        at = s.versus.at_tokens if s.versus.takes_more else None
        equal = [f"{signed(at.loss.value)} at equal tokens"] if at else []
        found.append({
            "Stage": Cell(s.name, notes, look=look.get(s.stage)),
            "Interval": _interval(arm),
            "Held-out loss": Cell(loss(arm.mean("held_out")), beside),
            "Difference": _difference(s.versus, equal),
            "To the baseline": _difference(s.baseline),
            "Tokens/s": Cell(speed, [compiled] if run.compile_cache else []),
            "×baseline": _speed_up(s.baseline.speed),
            "Peak memory": number(arm.mean("peak_memory_bytes") / 2**30, ".2f", " GiB"),
            "Verdict": _verdict(s, r.verdicts[s.name], changes, say),
        })  # fmt: skip
    return Table(found, kind="ladder")


def _verdict(s: Comparison, verdict: Verdict, changes: Mapping[str, Any], say: Say) -> Cell:
    """A verdict; below it the guide's words, findings and checks can be opened."""
    run, needed, findings = s.arm.newest, verdict.seeds_needed, s.arm.findings
    notes = [f"about {needed} seeds would decide"] if needed else []
    notes += [say("claimed", s)] if s.claimed and s.versus.speed else []
    notes += [run.message] if run.message and run.status not in ("finished", "failed") else []
    more = {
        "The guide": [run.guide] if changes or s.aim is Aim.baseline else [],
        ", ".join(findings): [
            f"{f.severity.value}, in {n} of {len(s.arm.runs)} runs: {f.sentence} {f.advice}"
            for n, f in findings.values()
        ],
        "The checks": [f"{'✓' if c.passed else '✗'} {c.name}: {c.detail}" for c in run.checks],
    }
    opened = {summary: lines for summary, lines in more.items() if lines}
    return Cell(say("verdict", s, verdict), notes, verdict.tone.value, more=opened)


def _interval(arm: Arm) -> str:
    """The guide's interval."""
    worst, best = arm.mean("worst"), arm.mean("best")
    return f"[{worst:.2f}, {best:.2f}]" if math.isfinite(worst) else NONE


def _seeds(arm: Arm) -> str:
    """How many seeds ended how."""
    return ", ".join(f"{n} {status}" for status, n in arm.statuses.items())


def _difference(versus: Versus, more: Sequence[str] = ()) -> Cell:
    """A difference in loss, with its interval, and over what it is where that is not all seeds."""
    found = versus.loss
    if found is None:
        return Cell(NONE)
    within = [bounds(found), *_over(versus)] if found.known else []
    return Cell(signed(found.value), [*within, *more])


def _over(versus: Versus) -> list[str]:
    """Over what a difference is, where that is not all seeds of both sides."""
    found, arms = versus.loss, (versus.arm, versus.other)
    if found is None or {len(arm.finished) for arm in arms if arm} == {found.n}:
        return []
    return [f"{found.n} {found.over.value}"]


def _speed_up(speed: SpeedUp | None, more: Sequence[str] = ()) -> Cell:
    if speed is None:
        return Cell(NONE)
    return Cell(times(speed), ["no claim" if speed.doubt else bounds(speed.estimate), *more])


def side_by_side(found: Sequence[Alternatives]) -> Table:
    """A row an alternative, with its difference from the lowest."""
    return Table([
        {
            "Stage": Cell(stage.name, [stage.title]),
            "With": settings(row.differs),
            "Seeds": _seeds(arm),
            "Interval": _interval(arm),
            "Held-out loss": loss(arm.mean("held_out")),
            "From the lowest": "lowest" if row is stage.lowest else change(row.more),
            "Tokens/s": count(arm.mean("tokens_per_second")),
        }
        for stage in found for row in stage.rows for arm in [row.found.arm]
    ])  # fmt: skip


def settings(differs: Mapping[str, Any]) -> str:
    """What tells an alternative from others, as one would type it."""
    return ", ".join(v if k == "experiment" else f"{k}={shown(v)}" for k, v in differs.items())


def worth(r: Report) -> Table:
    """A step by every way to say what it is worth."""
    return Table([
        {
            "Step": Cell(s.stage.name, [s.stage.about.title]),
            **{way.value.capitalize(): change(s.ways.get(way)) for way in Way},
        }
        for s in (r.worth.steps if r.worth else [])
    ])  # fmt: skip


def rates(r: Report) -> Table:
    """A stage at the ladder's learning rate, and at its own best one."""
    return Table([
        {
            "Stage": Cell(s.stage.name, [s.stage.about.title]),
            "Rate on the ladder": shown(s.fixed),
            "Best rate": Cell(shown(s.best), ["at the grid's edge"] * s.at_edge),
            "Against": s.below or NONE,
            "At the ladder's rates": change(s.at_fixed),
            "At the best rates": change(s.at_best),
        }
        for s in r.rates
    ])  # fmt: skip


def rows(
    found: Sequence[Comparison], say: Say, plan: PlanRuns | None = None, title: str = ""
) -> Table:
    """Comparisons, a row each, with the outcomes of a plan's."""
    verdicts = plan.verdicts if plan else [None] * len(found)
    cells: list[Cells] = []
    for row, verdict in zip(found, verdicts, strict=True):
        outcome = verdict and verdict.outcome
        why = [say("reason", row, verdict)] if verdict and verdict.reason else []
        versus, what, against = row.versus, row.what, row.against
        if row.is_plain and not row.is_on_parent and versus.other:
            # What a plan names as its reference is shown less the plan's runs.
            versus, what, against = versus.swapped, row.against, row.what
            outcome = outcome and outcome.flipped
        claim = [f"guide: {row.claimed:.2f}×"] if row.claimed else []
        more = f"{versus.times_the_tokens:.3g} times the tokens"
        tokens = [more] if versus.takes_more else []
        cells.append({
            "Run": what,
            "Against": Cell(against or NONE, tokens),
            "Seeds": _seeds(versus.arm),
            "Held-out loss": loss(versus.arm.mean("held_out")),
            "Difference": Cell(change(versus.loss), _over(versus)),
            "Speed-up": _speed_up(versus.speed, claim),
            "Outcome": Cell(outcome.value if outcome else NONE, why),
        })  # fmt: skip
    return Table(cells, title)
