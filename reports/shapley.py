"""What the steps of a factorial are worth, and which of them interact.

A factorial holds the loss of every set of n steps: `losses` has a row a seed and 2^n columns.
Column m is the set whose steps are the bits of m: step i is in it where m has bit i.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from math import factorial

import numpy as np

from reports.read import Floats


@dataclass(frozen=True)
class Factorial:
    """The held-out losses of all sets of some steps, in nats/token, for some seeds."""

    steps: list[str]
    seeds: list[int]
    losses: Floats

    def values(self, step: int) -> Floats:
        """A seed's mean change of the loss when a step is added, over all orders of the steps.

        The Shapley value (Shapley 1953): a set S that lacks the step comes just before it in
        |S|! (n - |S| - 1)! of the n! orders.
        """
        n = len(self.steps)
        weights = [factorial(k) * factorial(n - k - 1) / factorial(n) for k in range(n)]
        found = np.zeros(len(self.seeds))
        for before in self._sets_without(step):
            after = before | 1 << step
            found += weights[before.bit_count()] * (self.losses[:, after] - self.losses[:, before])
        return found

    def interaction(self, one: int, other: int) -> Floats:
        """A seed's mean of what two steps change together beyond the sum of what each changes.

        The Shapley interaction index (Grabisch and Roubens 1999). Below zero they help each other;
        above zero they do the same work, or harm each other.
        """
        n = len(self.steps)
        weights = [factorial(k) * factorial(n - k - 2) / factorial(n - 1) for k in range(n - 1)]
        found = np.zeros(len(self.seeds))
        for before in self._sets_without(one, other):
            sets = before, before | 1 << one, before | 1 << other, before | 1 << one | 1 << other
            none, first, second, both = (self.losses[:, each] for each in sets)
            found += weights[before.bit_count()] * (both - first - second + none)
        return found

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.steps)), 2))

    @cached_property
    def greedy(self) -> list[int]:
        """The steps in the order of a greedy search, which adds the one with the lowest mean loss.

        An ablation path (Fawcett and Hoos 2016), from no step to all.
        """
        mean, members = self.losses.mean(axis=0), 0
        path: list[int] = []
        while len(path) < len(self.steps):
            left = [step for step in range(len(self.steps)) if step not in path]
            path.append(min(left, key=lambda step: mean[members | 1 << step]))
            members |= 1 << path[-1]
        return path

    def along(self, order: list[int]) -> Floats:
        """The mean loss before the first step of an order and after each."""
        members = np.cumsum([0, *(1 << step for step in order)])
        return self.losses.mean(axis=0)[members]

    def _sets_without(self, *steps: int) -> list[int]:
        gone = sum(1 << step for step in steps)
        return [members for members in range(2 ** len(self.steps)) if not members & gone]
