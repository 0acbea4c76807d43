"""What a rule knows about a run, and how its measurement becomes a finding."""

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from typing import TypeVar

from runner.observations import Finding, Inspection, Severity
from runner.record import Run
from runner.rows import Step, Window


@dataclass(frozen=True)
class Evidence:
    """What is known about a run when it ends."""

    run: Run
    steps: Sequence[Step]
    windows: Sequence[Window]

    @cached_property
    def trained(self) -> list[Inspection]:
        """The inspections during which a step was taken."""
        return [look for look in self.run.looks if look.step_norm is not None]

    @cached_property
    def held_out(self) -> list[float]:
        """The held-out loss of each evaluation."""
        rounds = groupby(self.windows, key=lambda window: window.step)
        return [statistics.fmean(w.loss for w in windows) for _, windows in rounds]

    @property
    def vocabulary(self) -> int:
        return int(self.run.config["model"]["vocab_size"])

    @property
    def passes(self) -> float:
        """Passes over the training text."""
        return sum(step.tokens for step in self.steps) / (self.run.data.train_tokens or math.inf)


Facts = Mapping[str, float | str] | None  # None if nothing is wrong
Measure = TypeVar("Measure", bound=Callable[..., Facts])
RULES: list[Callable[[Evidence], Finding | None]] = []
SETTING = re.compile(r"\b(?:model|train)\.\w+")


def rule(
    severity: Severity, sentence: str, advice: str, name: str | None = None
) -> Callable[[Measure], Measure]:
    """Make a rule of a function that measures; its finding has the function's name, or `name`.

    `sentence` is a format string for what the function returns; the record keeps its numbers. After
    a setting in the `advice` comes the stage that changes it, if the run lacks that change.
    """

    def register(measure: Measure) -> Measure:
        def judge(e: Evidence) -> Finding | None:
            if (facts := measure(e)) is None:
                return None
            known = {key: fact for key, fact in facts.items() if not isinstance(fact, str)}
            numbers = {key: fact if math.isfinite(fact) else None for key, fact in known.items()}
            stages = {key: f"{key} ({stage})" for key, stage in e.run.changed_by.items()}
            where = SETTING.sub(lambda key: stages.get(key[0], key[0]), advice)
            title = name or measure.__name__
            return Finding(title, severity, numbers, sentence.format(**facts), where)

        RULES.append(judge)
        return measure

    return register


error, warning, note = (partial(rule, s) for s in (Severity.error, Severity.warning, Severity.note))
