"""What the runs of plans say: a table for each plan, found among the records by what it trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.schema import ReportConf, register
from reports import formats
from reports.cells import Bank, Cell
from reports.compare import Comparison, StageRuns, compared
from reports.curves import earlier_stop
from reports.speed import against_itself
from reports.verdicts import Outcome, correct_family, decide, several_seeds
from stages.arithmetic import Ablation, Entry
from stages.ladder import nest
from stages.plans import Plan, expand, parse


@dataclass(frozen=True)
class Row:
    """The runs of a cell against those of another cell, or of speeds against themselves.

    `versus` is None where there is nothing to compare with, `outcome` where nothing is claimed.
    """

    cell: Cell
    what: str
    against: str
    runs: StageRuns
    versus: Comparison | None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Table:
    """A plan: a row for each of its cells that has finished, and how many cells have not.

    `bank` holds the conditions under which it ran, `names` its runs, finished or not.
    """

    plan: Plan
    rows: list[Row]
    missing: int
    bank: Bank
    names: set[str]

    @property
    def cells(self) -> set[Cell]:
        """The cells that have finished."""
        return {row.cell for row in self.rows}

    @property
    def seeds(self) -> int:
        """The most seeds that a row has."""
        return max(len(row.runs.finished) for row in self.rows)


def find_table(
    plan: Plan, banks: Sequence[Bank], shared: set[str], rules: ReportConf
) -> Table | None:
    """A plan's table, from the bank that has most of its cells; None where none has two."""
    best: tuple[Bank, list[Cell], dict[Cell, StageRuns]] | None = None
    most = 0
    for bank in banks:
        cells = cells_of(plan, bank)
        started = {cell: runs for cell in cells if (runs := bank.find(cell))}
        finished = sum(bool(runs.finished) for runs in started.values())
        if finished > max(1, most):
            best, most = (bank, cells, started), finished
    if best is None:
        return None
    bank, cells, started = best
    found = {cell: runs for cell, runs in started.items() if runs.finished}
    if all(cell.ablation.is_plain and not cell.typed for cell in found):
        return None  # the ladder itself
    references = dict(_references(cells, bank))
    rows = []
    for cell, runs in found.items():
        what, reference = references[cell]
        other = bank.find(reference) if reference else None
        if other is None or not other.finished:
            rows.append(Row(cell, what, "", runs, None))
            continue
        versus = compared(other, runs, shared, rules)
        versus = replace(versus, stop=earlier_stop(versus.pairs, rules))
        rows.append(Row(cell, what, str(reference), runs, versus))
    rows = _with_outcomes(rows, rules)
    for cell, runs in found.items():
        again = against_itself([run for run in runs.rounds if run.finished], shared, rules)
        if again:
            versus = Comparison(str(cell), speed=again)
            rows.append(Row(cell, str(cell), "itself, a round later", runs, versus))
    names = {run.name for runs in started.values() for run in runs.rounds}
    return Table(plan, rows, len(cells) - len(found), bank, names)


def cells_of(plan: Plan, bank: Bank) -> list[Cell]:
    """What a plan's runs train, without their seeds and repeats. Raises UsageError."""
    register()
    settings = OmegaConf.create({**nest(bank.base), "params": plan.params})
    try:
        params: Any = OmegaConf.to_container(settings.params, resolve=True)
    except OmegaConfBaseException:  # an older record lacks settings that the plan refers to
        return []
    cells: dict[Cell, None] = {}
    for run in expand(params):
        values = parse(run)
        if "stage" not in values:
            raise UsageError(f"The plan {plan.name} names no +stage.")
        asked = Ablation.read(str(values["stage"]), values)
        typed = tuple((key, value) for key, value in values.items() if key in bank.base)
        cells[Cell(asked, typed)] = None
    return list(cells)


def _references(
    cells: Sequence[Cell], bank: Bank
) -> Iterator[tuple[Cell, tuple[str, Cell | None]]]:
    """Each cell in words, and the cell that it is compared with.

    A stage is compared with the one that it stands on, a stage with steps taken back or added with
    itself as it is, and one part of a step alone with the stage without the whole step.
    """
    parts = _parts(cells, bank)
    ladder = bank.ladder()
    for cell in cells:
        asked, parent = cell.ablation, ladder.chain(cell.ablation.stage)[-1].parent
        if cell in parts:
            step, alone = parts[cell]
            said = f"{asked.stage} with only {formats.together(alone)} of {step}"
            yield cell, (said, Cell(Ablation(asked.stage, (step,)), cell.typed))
        elif not asked.is_plain:
            yield cell, (str(cell), Cell(Ablation(asked.stage), cell.typed))
        else:
            yield cell, (str(cell), Cell(Ablation(parent), cell.typed) if parent else None)


def _parts(cells: Sequence[Cell], bank: Bank) -> dict[Cell, tuple[str, list[str]]]:
    """The cells in which one part of a step is left alone: the step, and the keys of the part.

    A plan tells a part from the rest of its step by size: parts are the smallest sets of keys that
    it takes back, none of which share a key, and whose rest it takes back too.
    """
    taken: dict[tuple[str, str], dict[frozenset[str], Cell]] = {}
    for cell in cells:
        entries = [Entry.read(text) for text in cell.ablation.without]
        if entries and all(e.key and e.step == entries[0].step for e in entries):
            family = taken.setdefault((cell.ablation.stage, entries[0].step), {})
            family[frozenset(e.key for e in entries)] = cell
    alone: dict[Cell, tuple[str, list[str]]] = {}
    for (_, step), family in taken.items():
        changes = next(s.changes for s in bank.stages if s.name == step)
        used: set[str] = set()
        for keys in sorted(family, key=len):
            rest = frozenset(changes) - keys
            if rest in family and not keys & used:
                used |= keys
                alone[family[rest]] = step, [key for key in changes if key in keys]
    return alone


def _with_outcomes(rows: Sequence[Row], rules: ReportConf) -> list[Row]:
    """The rows, their outcomes decided as one family."""
    losses = {
        str(i): row.versus.loss for i, row in enumerate(rows) if row.versus and row.versus.loss
    }
    tested = correct_family({name: loss for name, loss in losses.items() if several_seeds(loss)})
    decided = []
    for i, row in enumerate(rows):
        outcome = None
        if str(i) in tested and row.versus:
            lost = bool(row.versus.lost_before), bool(row.versus.lost_after)
            outcome, _ = decide(tested[str(i)], row.versus.stop, lost, rules)
        decided.append(replace(row, outcome=outcome))
    return decided
