"""What the report shows in rows: each table once, for page, Markdown and terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.schema import Aim
from reports.arm import Arm, Versus
from reports.comparison import Comparison, shown
from reports.formats import (
    NONE,
    bounds,
    change,
    count,
    loss,
    number,
    signed,
    slug,
    times,
    together,
)  # fmt: skip
from reports.palette import Look
from reports.report import PlanRuns, Report
from reports.side_by_side import Alternatives
from reports.speed import SpeedUp
from reports.worth import Way, Worth

Say = Callable[..., str]  # a macro of templates/words.jinja, by its name
# The columns that hold no numbers, and how they are set.
KINDS = dict.fromkeys(
    ("Arm", "Stage", "Step", "Run", "With", "Against", "Outcome", "Verdict", "Term", "Meaning"), ""
)
MOST_ROWS = 12  # up to which the terminal prints a plan's table, and the page has its figure


@dataclass(frozen=True)
class Cell:
    """A text with notes below it."""

    text: str
    notes: Sequence[str] = ()
    tone: str = ""
    look: Look | None = None

    def __str__(self) -> str:
        return f"{self.text} ({'; '.join(self.notes)})" if self.notes else self.text


Cells = Mapping[str, Cell | str]
More = Mapping[str, Sequence[str]]


class Table:
    """Rows of cells, or of their texts, by the title of the column; `columns` adds its kind.

    Below a row `more` can be opened: lines by what they are about. `ids` are those of its rows.
    """

    def __init__(
        self, found: Sequence[Cells], title: str = "", more: Sequence[More] = (),
        ids: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.title, self.more, self.ids = title, more, ids
        self.columns = [(name, KINDS.get(name, "number")) for row in found[:1] for name in row]
        self.rows = [[Cell(c) if isinstance(c, str) else c for c in row.values()] for row in found]


def ladder(r: Report, look: Mapping[str, Look], say: Say) -> Table:
    """The main ladder: the range, losses, speed and verdict of each stage, and all else to open."""
    found: list[Cells] = []
    for s in r.main.stages:
        arm, verdict = s.arm, r.verdicts[s.name]
        skipped = [f"not applied: {together(list(arm.not_applied))}"] if arm.not_applied else []
        found.append({
            "Stage": Cell(s.name, [s.title, *skipped], look=look.get(s.stage)),
            "Range": _range(arm),
            "Held-out loss": loss(arm.mean("held_out")),
            "Difference": _difference(s.versus),
            "Tokens/s": count(arm.mean("tokens_per_second")),
            "Speed-up": _speed_up(s.versus.speed),
            "Verdict": Cell(say("verdict", s, verdict), tone=verdict.tone.value),
        })  # fmt: skip
    more = [_more(r, s, say) for s in r.main.stages]
    return Table(found, more=more, ids=[slug(s.name) for s in r.main.stages])


def _more(r: Report, s: Comparison, say: Say) -> More:
    """What is known of a stage besides its row in the ladder."""
    arm, run = s.arm, s.arm.newest
    changes = run.changes if run.stage == s.stage else {}
    # A ladder has it on its first screen.
    evidence = "" if r.is_ladder else say("evidence", s, r.verdicts[s.name])
    spread, error = arm.spread("held_out"), arm.mean("held_out_error")
    memory = arm.mean("peak_memory_bytes") / 2**30
    deviations = {"over the seeds": spread, "by the sampling of the text": error}
    of_loss = [f"{loss(value)} {what}" for what, value in deviations.items() if value > 0]
    found = {
        "Changes": [f"{key}: {shown(a)} → {shown(b)}" for key, (a, b) in changes.items()],
        "Source" if s.beyond else "The guide": (
            [run.guide] if run.guide and (changes or s.aim is Aim.baseline) else []
        ),
        "Verdict": [evidence] if evidence else [],
        "The guide's claim": [say("claimed", s)] if s.claimed and s.versus.speed else [],
        "To the baseline": [say("to_baseline", s.baseline)] if s.baseline.loss else [],
        "Clipping": [say("clipping", s)] if s.aim is Aim.stability and arm.clipped else [],
        "Message": [run.message] if run.message and run.status != "finished" else [],
        "Standard deviation of the loss": of_loss,
        "Peak memory": [f"{memory:.2f} GiB"] if math.isfinite(memory) else [],
        "Compilation": [f"{number(run.compile_s, '.1f', ' s')}, {run.compile_cache}"]
        if run.compile_cache else [],
        "Attention kernel": [run.attention_kernel] if run.attention_kernel else [],
        "Not applied": [f"{what}: {why}" for what, why in arm.not_applied.items()],
        "Notes": arm.notes,
        "Findings": [
            f"{name} ({f.severity.value}, {n} of {len(arm.runs)} runs): {f.sentence} {f.advice}"
            for name, (n, f) in arm.findings.items()
        ],
        "Checks": [f"{'✓' if c.passed else '✗'} {c.name}: {c.detail}" for c in run.checks],
    }  # fmt: skip
    return {about: lines for about, lines in found.items() if lines}


def terms(names: Sequence[str], say: Say) -> Table:
    """What the report's words mean."""
    return Table([{"Term": Cell(name), "Meaning": say("term", name)} for name in names])


def _range(arm: Arm) -> str:
    """The guide's interval: the highest and the lowest training loss."""
    worst, best = arm.mean("worst"), arm.mean("best")
    return f"{worst:.2f} to {best:.2f}" if math.isfinite(worst) else NONE


def _seeds(arm: Arm) -> str:
    """How many seeds ended how."""
    return ", ".join(f"{n} {status}" for status, n in arm.statuses.items())


def _difference(versus: Versus) -> Cell:
    """A difference in loss, with its interval, and over what it is where that is not all seeds."""
    found = versus.loss
    if found is None:
        return Cell(NONE)
    return Cell(signed(found.value), [bounds(found), *_over(versus)] if found.known else [])


def _over(versus: Versus) -> list[str]:
    """Over what a difference is, where that is not all seeds of both sides."""
    found, arms = versus.loss, (versus.arm, versus.other)
    if found is None or {len(arm.finished) for arm in arms if arm} == {found.n}:
        return []
    return [f"{found.n} {found.over.value}"]


def _speed_up(speed: SpeedUp | None, more: Sequence[str] = ()) -> Cell:
    if speed is None:
        return Cell(NONE)
    return Cell(times(speed), ["undecided" if speed.doubt else bounds(speed.estimate), *more])


def side_by_side(found: Sequence[Alternatives]) -> Table:
    """A row an alternative, with its difference from the lowest."""
    return Table([
        {
            "Stage": Cell(stage.name, [stage.title]),
            "With": settings(row.differs),
            "Seeds": _seeds(arm),
            "Range": _range(arm),
            "Held-out loss": loss(arm.mean("held_out")),
            "From the lowest": "lowest" if row is stage.lowest else change(row.more),
            "Tokens/s": count(arm.mean("tokens_per_second")),
        }
        for stage in found for row in stage.rows for arm in [row.found.arm]
    ])  # fmt: skip


def settings(differs: Mapping[str, Any]) -> str:
    """What tells an alternative from others, as one would type it."""
    return ", ".join(v if k == "experiment" else f"{k}={shown(v)}" for k, v in differs.items())


def worth(of: Worth) -> Table:
    """A step by every way to say what it is worth."""
    return Table([
        {
            "Step": Cell(s.stage.name, [s.stage.about.title]),
            **{way.value.capitalize(): change(s.ways.get(way)) for way in Way},
        }
        for s in of.steps
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
            "Against": Cell(against if versus.other else NONE, tokens),
            "Seeds": _seeds(versus.arm),
            "Held-out loss": loss(versus.arm.mean("held_out")),
            "Difference": Cell(change(versus.loss), _over(versus)),
            "Speed-up": _speed_up(versus.speed, claim),
            "Outcome": Cell(say("outcome", outcome) if outcome else NONE, why),
        })  # fmt: skip
    return Table(cells, title)
