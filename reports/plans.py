"""What the runs of plans say: a table for each plan, found among the records by what it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from hydra.errors import HydraException

from conf.errors import UsageError
from conf.schema import ReportConf
from reports import formats
from reports.cells import Bank, Cell
from reports.compare import Comparison, StageRuns, compared
from reports.curves import earlier_stop
from reports.speed import against_itself
from reports.statistics import Estimate
from reports.verdicts import Outcome, correct_family, decide, several_seeds
from stages.arithmetic import Ablation, Entry
from stages.ladder import group_files
from stages.plans import Plan, read_plan

# The part of a plan's cells that must have finished for its section: each run is in some plan.
LEAST = 0.2


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


def usable_plans(
    config_dirs: Sequence[Path], banks: Sequence[Bank], problems: list[str]
) -> list[Plan]:
    """Every plan whose runs can be told; what is wrong with another one joins the problems."""
    plans = []
    for name, file in group_files("plan", config_dirs).items():
        try:
            plan = read_plan(file)
            for bank in banks:
                bank.cells(plan)
        except (UsageError, HydraException) as mistake:
            problems.append(f"The plan {name} has no section: {mistake}")
        else:
            plans.append(plan)
    return plans


def find_table(
    plan: Plan,
    banks: Sequence[Bank],
    ablated: Sequence[str],
    shared: set[str],
    rules: ReportConf,
) -> Table | None:
    """A plan's table, from the bank that has most of its cells.

    None where too few have finished, and where all that is found is the ladder itself. A plan of
    one stage may have been run for another: `ablated` are the stages that steps were taken back
    from or added to. Raises UsageError for a step that is not known.
    """
    best: tuple[Bank, list[Cell], dict[Cell, StageRuns]] | None = None
    most = 0
    of_one = plan.params.get("+stage") in {stage.name for bank in banks for stage in bank.stages}
    for bank, stage in product(banks, ["", *(ablated if of_one else ())]):
        cells = bank.cells(plan, stage)
        started = {cell: runs for cell in cells if (runs := bank.find(cell))}
        finished = sum(bool(runs.finished) for runs in started.values())
        enough = finished > 1 and finished >= LEAST * len(cells)
        if enough and finished > most and not _is_ladder(started, bank):
            best, most = (bank, cells, started), finished
    if best is None:
        return None
    bank, cells, started = best
    found = {cell: runs for cell, runs in started.items() if runs.finished}
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
        more = versus.times_the_tokens
        against = f"{reference}{f', with {more:.3g} times the tokens' if more > 1.01 else ''}"
        rows.append(Row(cell, what, against, runs, versus))
    rows = _with_outcomes(rows, rules)
    for cell, runs in found.items():
        again = against_itself([run for run in runs.rounds if run.finished], shared, rules)
        if again:
            versus = Comparison(str(cell), speed=again)
            rows.append(Row(cell, str(cell), "itself, the repeat before", runs, versus))
    names = {run.name for runs in started.values() for run in runs.rounds}
    return Table(plan, rows, len(cells) - len(found), bank, names)


def _is_ladder(started: Mapping[Cell, StageRuns], bank: Bank) -> bool:
    """Whether these are the runs of the ladder, and not those of a ladder at the plan's settings.

    A ladder holds some cells of many plans: step 9 without itself is step 8.
    """
    if all(cell.typed and dict(cell.typed).keys() <= bank.by_hand.keys() for cell in started):
        return False
    return all(run.name in bank.in_ladder for runs in started.values() for run in runs.rounds)


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
        changes = bank.ladder().chain(step)[-1].changes
        used: set[str] = set()
        for keys in sorted(family, key=len):
            rest = frozenset(changes) - keys
            if rest in family and not keys & used:
                used |= keys
                alone[family[rest]] = step, [key for key in changes if key in keys]
    return alone


def _with_outcomes(rows: Sequence[Row], rules: ReportConf) -> list[Row]:
    """The rows, their outcomes decided as one family; the same two in reverse are not tested."""
    losses: dict[str, Estimate] = {}
    seen: set[frozenset[str]] = set()
    for i, row in enumerate(rows):
        if row.versus and row.versus.loss:
            compared = frozenset(run.name for pair in row.versus.pairs for run in pair)
            if compared not in seen:
                losses[str(i)] = row.versus.loss
            seen.add(compared)
    tested = correct_family({name: loss for name, loss in losses.items() if several_seeds(loss)})
    decided = []
    for i, row in enumerate(rows):
        outcome = None
        if str(i) in tested and row.versus:
            lost = bool(row.versus.lost_before), bool(row.versus.lost_after)
            outcome, _ = decide(tested[str(i)], row.versus.stop, lost, rules)
        decided.append(replace(row, outcome=outcome))
    return decided
