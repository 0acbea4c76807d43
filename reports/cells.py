"""Runs found by what they train: a stage with steps taken back or added, or at other settings.

Records name no plan. What a plan asks for is worked out from the settings that all stages of a
group share, and looked up among the runs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conf.errors import UsageError
from reports import formats
from reports.compare import StageRuns, newest_of_each
from reports.read import ReadRun
from runner.record import Conditions
from stages.arithmetic import Ablation, Ladder
from stages.ladder import Stage, flatten


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
    """The runs that differ from a group's conditions in no more than a cell can name."""

    def __init__(
        self, runs: Sequence[ReadRun], conditions: Conditions, stages: Sequence[Stage]
    ) -> None:
        self.conditions = conditions
        self.stages = stages
        self.base: dict[str, Any] = json.loads(conditions.settings)
        self._found: dict[str, StageRuns] = {}
        self._runs: dict[str, list[ReadRun]] = defaultdict(list)
        for run in runs:
            if Conditions.of(run.record)._replace(settings=conditions.settings) == conditions:
                flat = flatten(run.record.config)
                own = {key: flat.get(key) for key in self.base}
                self._runs[_as_key(own)].append(run)

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
        return Ladder(self.stages, {**self.base, **dict(typed)}, [key for key, _ in typed])


def _as_key(settings: Mapping[str, Any]) -> str:
    return json.dumps({key: _as_number(v) for key, v in settings.items()}, sort_keys=True)


def _as_number(value: Any) -> Any:
    """1 and 1.0 are the same setting."""
    if isinstance(value, list):
        return [_as_number(entry) for entry in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
