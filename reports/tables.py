"""What the report shows in rows: each table once, for page, Markdown and terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conf.schema import Aim
from reports.arm import Versus
from reports.compare import Comparison, shown
from reports.formats import (
    NONE,
    bounds,
    change,
    count,
    interval,
    loss,
    number,
    signed,
    times,
    times_bounds,
    together,
)
from reports.palette import Look
from reports.report import PlanRuns, Report
from reports.side_by_side import Alternatives
from reports.speed import SpeedUp
from reports.verdicts import Verdict
from reports.worth import Way

Say = Callable[..., str]  # a macro of templates/words.jinja, by its name


@dataclass(frozen=True)
class Cell:
    """A text with notes below it, and what can be opened: lines by what is above them."""

    text: str
    notes: Sequence[str] = ()
    tone: str = ""
    look: Look | None = None
    more: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """Columns, each a title and a kind, and rows of as many cells."""

    columns: list[tuple[str, str]]
    rows: list[list[Cell]]
    title: str = ""
    kind: str = ""


def ladder(r: Report, look: Mapping[str, Look], say: Say) -> Table:
    """The main ladder: what each stage changes, its interval, losses, speed and verdict."""
    columns = [
        ("Stage", ""), ("Interval", "number"), ("Held-out loss", "number"),
        ("Difference", "number"), ("To the baseline", "number"), ("Tokens/s", "number"),
        ("×baseline", "number"), ("Peak memory", "number"), ("Verdict", "judged"),
    ]  # fmt: skip
    known: dict[str, str] = {}
    rows = []
    for s in r.main.stages:
        arm, verdict = s.arm, r.verdicts[s.name]
        run, seeds = arm.newest, len(arm.finished)
        changes = run.changes if run.stage == s.stage else {}
        notes = [s.title, *(f"{k} {shown(a)} → {shown(b)}" for k, (a, b) in changes.items())]
        notes += arm.notes
        again = [what for what, why in arm.not_applied.items() if known.get(what) == why]
        notes += [f"Not applied: {w}: {y}" for w, y in arm.not_applied.items() if w not in again]
        notes += [f"Still not applied: {together(again)}"] if again else []
        known |= arm.not_applied
        spread, error = arm.spread("held_out"), arm.mean("held_out_error")
        beside = [f"sd {loss(spread)}"] if spread == spread else []
        if not beside and error == error:
            beside = [f"± {loss(error)} by the text"]
        compiled = f"{number(run.compile_s, '.1f', ' s')} to compile, {run.compile_cache}"
        at = s.versus.at_tokens if s.versus.takes_more else None
        equal = [f"{signed(at.loss.value)} at equal tokens"] if at else []
        rows.append([
            Cell(s.name, notes, look=look.get(s.stage)),
            Cell(interval(arm.mean("worst"), arm.mean("best"))),
            Cell(loss(arm.mean("held_out")), beside),
            _difference(s.versus, seeds, equal),
            _difference(s.baseline, seeds),
            Cell(count(arm.mean("tokens_per_second")), [compiled] if run.compile_cache else []),
            _speed_up(s.baseline.speed),
            Cell(number(arm.mean("peak_memory_bytes") / 2**30, ".2f", " GiB")),
            Cell(
                say("verdict", s, verdict), _judged(s, verdict, say),
                verdict.tone.value, more=_more(s, changes),
            ),
        ])  # fmt: skip
    return Table(columns, rows, kind="ladder")


def _judged(s: Comparison, verdict: Verdict, say: Say) -> list[str]:
    """What is said below a verdict."""
    run, needed = s.arm.newest, verdict.seeds_needed
    notes = [f"about {needed} seeds would decide"] if needed else []
    notes += [say("claimed", s)] if s.claimed and s.versus.speed else []
    said = run.message and run.status not in ("finished", "failed")
    return [*notes, run.message] if said else notes


def _more(s: Comparison, changes: Mapping[str, Any]) -> dict[str, list[str]]:
    """What can be opened below a verdict: the guide's words, findings, and checks."""
    arm = s.arm
    more = {"The guide": [arm.newest.guide]} if changes or s.aim is Aim.baseline else {}
    if arm.findings:
        more[", ".join(arm.findings)] = [
            f"{f.severity.value}, in {n} of {len(arm.runs)} runs: {f.sentence} {f.advice}"
            for n, f in arm.findings.values()
        ]
    if arm.newest.checks:
        more["The checks"] = [
            f"{'✓' if c.passed else '✗'} {c.name}: {c.detail}" for c in arm.newest.checks
        ]
    return more


def _difference(versus: Versus, seeds: int, more: Sequence[str] = ()) -> Cell:
    """A difference in loss, with its interval, and over what it is where that is not all seeds."""
    found = versus.loss
    if found is None:
        return Cell(NONE)
    notes = [bounds(found)] if found.known else []
    notes += [f"{found.n} {found.over.value}"] if found.n != seeds and found.known else []
    return Cell(signed(found.value), [*notes, *more])


def _speed_up(speed: SpeedUp | None) -> Cell:
    return Cell(times(speed), [times_bounds(speed) or "no claim"] if speed else [])


def side_by_side(found: Sequence[Alternatives]) -> Table:
    """A row an alternative, with its difference from the lowest."""
    columns = [
        ("Stage", ""), ("With", ""), ("Seeds", "number"), ("Interval", ""),
        ("Held-out loss", "number"), ("From the lowest", "number"), ("Tokens/s", "number"),
    ]  # fmt: skip
    return Table(columns, [
        [
            Cell(stage.name, [stage.title]), Cell(settings(row.differs)),
            Cell(", ".join(f"{n} {status}" for status, n in arm.statuses.items())),
            Cell(interval(arm.mean("worst"), arm.mean("best"))), Cell(loss(arm.mean("held_out"))),
            Cell("lowest" if row is stage.lowest else change(row.more)),
            Cell(count(arm.mean("tokens_per_second"))),
        ]
        for stage in found for row in stage.rows for arm in [row.found.arm]
    ])  # fmt: skip


def settings(differs: Mapping[str, Any]) -> str:
    """What tells an alternative from others, as one would type it."""
    return ", ".join(v if k == "experiment" else f"{k}={shown(v)}" for k, v in differs.items())


def worth(r: Report) -> Table:
    """A step by every way to say what it is worth."""
    columns = [("Step", ""), *((way.value.capitalize(), "number") for way in Way)]
    return Table(columns, [
        [Cell(s.stage.name, [s.stage.about.title]), *(Cell(change(s.ways.get(w))) for w in Way)]
        for s in (r.worth.steps if r.worth else [])
    ])  # fmt: skip


def rates(r: Report) -> Table:
    """A stage at the ladder's learning rate, and at its own best one."""
    columns = [
        ("Stage", ""), ("Rate on the ladder", "number"), ("Best rate", "number"), ("Against", ""),
        ("At the ladder's rates", "number"), ("At the best rates", "number"),
    ]  # fmt: skip
    return Table(columns, [
        [
            Cell(s.stage.name, [s.stage.about.title]), Cell(shown(s.fixed)),
            Cell(shown(s.best), ["at the grid's edge"] * s.at_edge),
            *(Cell(text) for text in (s.below or NONE, change(s.at_fixed), change(s.at_best))),
        ]
        for s in r.rates
    ])  # fmt: skip


def rows(found: Sequence[Comparison], plan: PlanRuns | None = None, title: str = "") -> Table:
    """Comparisons, a row each, with the outcomes of a plan's."""
    columns = [
        ("Run", ""), ("Against", ""), ("Seeds", "number"), ("Held-out loss", "number"),
        ("Difference", "number"), ("Speed-up", "number"), ("Outcome", ""),
    ]  # fmt: skip
    outcomes = [v.outcome for v in plan.verdicts] if plan else [None] * len(found)
    cells = []
    for row, outcome in zip(found, outcomes, strict=True):
        arm, what, against = row.arm, row.what, row.against
        found_loss, speed, more = row.versus.loss, row.versus.speed, row.versus.times_the_tokens
        if row.is_plain and not row.is_on_parent and row.versus.other:
            # What a plan names as its reference is shown less the plan's runs.
            arm, what, against, more = row.versus.other, row.against, row.what, 1 / more
            found_loss, outcome = found_loss and found_loss.flipped, outcome and outcome.flipped
            speed = speed and SpeedUp(speed.estimate.flipped, speed.doubt)
        speed_up = _speed_up(speed)
        if row.claimed and speed:
            speed_up = replace(speed_up, notes=[*speed_up.notes, f"guide: {row.claimed:.2f}×"])
        cells.append([
            Cell(what),
            Cell(against or NONE, [f"{more:.3g} times the tokens"] if more > 1.01 else []),
            Cell(", ".join(f"{n} {status}" for status, n in arm.statuses.items())),
            Cell(loss(arm.mean("held_out"))),
            Cell(change(found_loss)),
            speed_up,
            Cell(outcome.value if outcome else NONE),
        ])  # fmt: skip
    return Table(columns, cells, title)
