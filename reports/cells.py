"""Runs found by what they train: a stage with steps taken back or added, or at other settings.

Records name no plan. What a plan asks for is worked out from the settings that all stages of a
group share, and looked up among the runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.reading import register
from reports import formats
from reports.compare import StageRuns, newest_of_each
from reports.read import ReadRun
from runner.record import Conditions
from stages.arithmetic import Ablation, Ladder
from stages.ladder import Stage, flatten, nest
from stages.plans import Plan, expand, parse


@dataclass(frozen=True)
class Cell:
    """What a run trains: a stage and its arithmetic, and typed settings, by dotted key."""

    ablation: Ablation
    typed: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        words = [self.ablation.stage]
        for word, entries in (("without", self.ablation.without), ("plus", self.ablation.plus)):
            words += [f"{word} {', '.join(entries)}"] if entries else []
        return " ".join([*words, *(f"{key}={formats.setting(value)}" for key, value in self.typed)])


class Bank:
    """The runs that differ from a group's conditions in no more than a cell can name.

    `member` is one of the group's runs, and `by_hand` are the settings that were typed for all of
    them: no stage changes those. `config_dirs` hold the user's own stages, which a plan may name
    by a pattern.
    """

    def __init__(
        self,
        runs: Sequence[ReadRun],
        conditions: Conditions,
        stages: Sequence[Stage],
        config_dirs: Sequence[Path] = (),
    ) -> None:
        self.conditions = conditions
        self.stages = stages
        self.base: dict[str, Any] = json.loads(conditions.settings)
        self._config_dirs = config_dirs
        self._cells: dict[tuple[str, str], list[Cell]] = {}
        self._choices: dict[str, Any] = {}
        self._found: dict[str, StageRuns] = {}
        self._runs: dict[str, list[ReadRun]] = defaultdict(list)
        members = [run.record for run in runs if Conditions.of(run.record) == conditions]
        by_hand = set.intersection(*(set(parse(record.variant)) for record in members))
        self.member = members[0]
        self.by_hand = {key: self.base[key] for key in sorted(by_hand & self.base.keys())}
        for run in runs:
            if Conditions.of(run.record).same_but_for_settings(conditions):
                flat = flatten(run.record.config)
                own = {key: flat.get(key) for key in self.base}
                self._runs[_as_key(own)].append(run)
                self._choices = {group: flat.get(f"{group}.name") for group in ("model", "data")}

    def find(self, cell: Cell) -> StageRuns | None:
        """The runs of a cell, one for each seed and repeat.

        None where there are none, and where the cell cannot be made under these conditions.
        """
        try:
            settings = self.ladder(cell.typed).settings(cell.ablation)
        except UsageError:
            return None
        key = _as_key({key: settings[key] for key in self.base})
        if key in self._runs and key not in self._found:
            self._found[key] = StageRuns(newest_of_each(self._runs[key]))
        return self._found.get(key)

    def ladder(self, typed: tuple[tuple[str, Any], ...] = ()) -> Ladder:
        """The stages over the group's settings, with typed ones."""
        by_hand = {**self.by_hand, **dict(typed)}
        return Ladder(self.stages, {**self.base, **by_hand}, by_hand.keys())

    def names_below(self, stage: str) -> list[str]:
        """A stage and those that it stands on, the lowest first; empty for one not known here."""
        known = any(stage == each.name for each in self.stages)
        return [each.name for each in self.ladder().chain(stage)] if known else []

    @cached_property
    def plain_runs(self) -> list[ReadRun]:
        """The runs of the stages as they are, whatever command trained them.

        A run is trained once. Where two commands asked for it, as for step 9 at the rate that it
        has anyway, its record has the conditions of the first.
        """
        found = (self.find(Cell(Ablation(stage.name))) for stage in self.stages)
        return [run for runs in found if runs for run in runs.rounds]

    @cached_property
    def in_ladder(self) -> set[str]:
        """The names of the runs of the stages as they are."""
        return {run.name for run in self.plain_runs}

    def cells(self, plan: Plan, stage: str = "") -> list[Cell]:
        """What a plan's runs train, without their seeds and repeats; of another stage, if named.

        What was typed under these conditions replaces a value that the plan does not vary. Runs
        that choose another model or text are left out. Raises UsageError.
        """
        asked = plan.name, stage
        if asked not in self._cells:
            params = {**plan.params, **({"+stage": stage} if stage else {})}
            self._cells[asked] = list(dict.fromkeys(self._expanded(plan.name, params)))
        return self._cells[asked]

    def _expanded(self, name: str, params: Mapping[str, str]) -> Iterator[Cell]:
        register()
        settings = OmegaConf.create({**nest(self.base), "params": dict(params)})
        try:
            resolved: Any = OmegaConf.to_container(settings.params, resolve=True)
        except OmegaConfBaseException:  # an older record lacks settings that the plan refers to
            return
        runs = [parse(run) for run in expand(resolved, config_dirs=self._config_dirs)]
        varied = {key for key in self.by_hand for run in runs if run.get(key) != runs[0].get(key)}
        typed = {key: value for key, value in self.by_hand.items() if key not in varied}
        for values in runs:
            if "stage" not in values:
                raise UsageError(f"The plan {name} names no +stage.")
            if any(values.get(group, mine) != mine for group, mine in self._choices.items()):
                continue
            asked = Ablation.read(str(values["stage"]), values)
            own = {key: typed.get(key, values[key]) for key in values if key in self.base}
            yield Cell(asked, tuple((key, _as_tuple(value)) for key, value in own.items()))


def _as_key(settings: Mapping[str, Any]) -> str:
    return json.dumps({key: _as_number(v) for key, v in settings.items()}, sort_keys=True)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_number(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    if isinstance(value, list | tuple):
        return [_as_number(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
