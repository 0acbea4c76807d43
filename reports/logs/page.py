"""The report on logs: its tables, figures and files, and the table for a pull request."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.text import Text

from reports.curves import Band, thin
from reports.drawing import Curve, Picture, Row, curves, rows
from reports.formats import bounds, count, markdown, number, p_value, signed, slug
from reports.logs.arms import Logs, Result
from reports.page import Line, Section, assemble
from reports.palette import Look, looks
from reports.statistics import Estimate
from reports.tables import Cell, Say, Table
from reports.values import as_frame, dumped, plain
from reports.verdicts import Outcome
from reports.wording import sentences, words

# Columns of an estimate that say nothing of logs, or nothing of a mean.
LEFT_OUT = re.compile(r"(_n|_over|_neutral|_p_equivalent)$|^(loss|seconds|seconds_difference)_p$")
LABEL = 12  # characters of an arm's name at the end of its curve
START = 0.6  # of a curve: above the losses until there the axis is cut off
TONES = {Outcome.lower: "good", Outcome.higher: "bad", Outcome.equivalent: "even"}


def frame(logs: Logs) -> pd.DataFrame:
    """A row an arm in full precision, with columns such as loss_difference_low."""
    about = {"measure": logs.measure, "paired": logs.paired}
    found = as_frame([about | plain(each) for each in logs.results])
    found = found[[name for name in found if not LEFT_OUT.search(str(name))]]
    return found.fillna(math.nan).infer_objects()


def build(logs: Logs) -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    say = words(logs.rules)
    names = enumerate(logs.counted)
    style = looks([(name, i + 2, "" if i else "baseline") for i, name in names])
    measure = say("measure", logs)
    first = _curves(logs, style, "step", "optimizer step", measure)
    more = _curves(logs, style, "seconds", "seconds of training", measure)
    arms = Section("arms", [_table(logs, say)], _rows(logs, style, measure))
    context = {
        "heading": say("arms_heading"),
        "experiments": ", ".join(logs.counted),
        "from_python": "reports.compare({...})",
        "scope": say("arms_scope", logs),
        "facts": {},
        "notices": {say("problems"): logs.problems},
        "lines": [
            Line(slug(r.arm), r.arm, r.arm, style[r.arm], say("arm_verdict", logs, r), _tone(r),
                 say("arm_evidence", r))
            for r in logs.results
        ],
        "legend": say("arms_legend", logs),
        "answer": sentences(say("arms_answer", logs)),
    }  # fmt: skip
    sections = [
        replace(s, title=say("arms_title", s.id), notes=sentences(say(f"arms_{s.id}", logs)))
        for s in [arms, Section("curves", pictures=more)] if s.tables or s.pictures
    ]  # fmt: skip
    values = {"rules": logs.rules, "arms": logs.results, "problems": logs.problems}
    frames = {"arms": frame(logs), "runs": logs.runs, "steps": logs.steps}
    frames |= {"held_out": logs.evaluations}
    return assemble(context, first, sections, dumped(values), frames)


def show(logs: Logs, page: Path, console: Console) -> None:
    """Print the table for a pull request, what it says, and the page's path."""
    say = words(logs.rules)
    table = _table(logs, say)
    rows = [[title for title, _ in table.columns], ["---" for _ in table.columns]]
    rows += [[markdown(cell) for cell in row] for row in table.rows]
    console.print(Text("\n".join(f"| {' | '.join(row)} |" for row in rows)), soft_wrap=True)
    for r in logs.results:
        console.print(Text(f"{r.arm}: {say('arm_verdict', logs, r)}, {say('arm_evidence', r)}."))
    for sentence in [say("arms_legend", logs), *sentences(say("arms_answer", logs))]:
        console.print(Text(sentence, "dim"))
    for problem in logs.problems:
        console.print(Text(problem, "yellow"))
    console.print(Text(f"Report: {page}"), soft_wrap=True)


def _table(logs: Logs, say: Say) -> Table:
    """A row an arm, which opens to its runs."""
    found, more, target, improvement = [], [], logs.target, logs.improvement
    for r in logs.results:
        loss, time = r.loss_difference, r.seconds_difference
        p = [f"p {p_value(loss.p)}"] if loss.known else []
        cells: dict[str, Cell | str] = {
            "Arm": r.arm,
            "Runs": f"{r.runs} of {r.runs + r.lost}" if r.lost else str(r.runs),
            "Steps": " to ".join(map(count, sorted({r.fewest_steps, r.most_steps}))),
            say("measure", logs).capitalize(): _mean(r.loss),
            "Difference": Cell(signed(loss.value, 4), [bounds(loss, 4), *p] if p else []),
            "Outcome": Cell(say("arm_verdict", logs, r), tone=_tone(r)),
        }
        if target > 0:
            seconds = f" at {r.first_seconds:,.1f} s" if r.first_seconds >= 0 else ""
            first = [f"from step {count(r.first_step)}{seconds}"] if r.first_step >= 0 else []
            notes = [*([f"p {p_value(r.p_target)}"] if r.p_target >= 0 else []), *first]
            cells[f"At {target:g}"] = Cell(f"{r.passed} of {r.runs + r.lost}", notes)
        if improvement > 0:
            cells[f"p, {improvement:g} lower"] = p_value(r.p_improvement)
        if logs.has_times:
            cells["Seconds"] = _mean(r.seconds)
            interval = [bounds(time, 4)] if time.known else []
            cells["Difference in seconds"] = Cell(signed(time.value, 4), interval)
        found.append(cells)
        runs = logs.runs[logs.runs["arm"] == r.arm].itertuples()
        more.append({"Runs": [say("run", run) for run in runs]})
    return Table(found, more=more, ids=[slug(arm) for arm in logs.counted])


def _tone(r: Result) -> str:
    return TONES.get(r.outcome or Outcome.inconclusive, "none")


def _mean(found: Estimate) -> Cell:
    return Cell(_four(found.value), [f"sd {_four(found.deviation)}"] * found.known)


def _four(value: float) -> str:
    return number(value, ",.4f")


def _rows(logs: Logs, style: Mapping[str, Look], measure: str) -> list[Picture]:
    """The mean of each arm, and its difference from the first."""
    means = [
        Row(r.arm, r.arm, r.loss, style[r.arm].hex, _four(r.loss.value))
        for r in logs.results if r.loss.n
    ]  # fmt: skip
    differences = [
        Row(r.arm, r.arm, e, style[r.arm].hex, signed(e.value, 4), r.outcome in TONES)
        for r in logs.results if (e := r.loss_difference).n
    ]  # fmt: skip
    axis = "mean and interval" + "; dashed: the target" * (logs.target > 0)
    found = rows("arms", (measure.capitalize(), axis), means, level=logs.target)
    labels = f"Difference from {logs.results[0].arm}", "← lower is better; hollow: undecided"
    return found + rows("difference", labels, differences)


def _curves(
    logs: Logs, style: Mapping[str, Look], x: str, axis: str, measure: str
) -> list[Picture]:
    """The loss against a column: every run, and each arm's mean where all of its runs have one."""
    drawn, ends, table = [], [], logs.evaluations
    table = table[np.isfinite(table["loss"]) & table[x].notna()]
    for name, counted in logs.counted.items():
        found = table[(table["arm"] == name) & table["run"].isin(counted["run"])]
        if found.empty:
            continue
        runs = [_band(run[x], *[run["loss"]] * 3) for _, run in found.groupby("run")]
        by_step = found.assign(at=found["step"]).groupby("at")
        means = by_step[[x]].mean().join(by_step["loss"].agg(["mean", "min", "max"]))
        means = means[by_step.size() == len(runs)] if by_step.size().max() == len(runs) else means
        band = _band(*(means[column] for column in means))
        drawn.append(Curve(name, style[name], band, name[:LABEL], runs))
        early = band.x >= band.x[0] + START * (band.x[-1] - band.x[0])
        ends += [band.y[early].max(), *(run.y.min() for run in runs)]
    if not drawn:
        return []
    margin = 0.06 * (max(ends) - min(ends)) or 0.1
    labels = f"{measure.capitalize()} by {axis}", axis, measure
    limits = min(ends) - margin, max(ends) + margin
    return curves(f"loss-{x}", labels, drawn, limits=limits, level=logs.target)


def _band(*columns: pd.Series) -> Band:
    x, y, low, high = (column.to_numpy(float) for column in columns)
    return thin(Band(x, y, low, high))
