"""What a run observes besides its losses: checks, inspections, findings, texts, accuracy."""

import math
from dataclasses import dataclass, field
from enum import Enum


@dataclass
class FlowCheck:
    """One flow check: whether it passed, and what was measured."""

    name: str
    passed: bool
    detail: str
    seconds: float = 0.0


@dataclass
class DrawnText:
    """Text drawn from the model after so many steps; older records have only the last one."""

    prompt: str
    seed: int
    text: str
    step: int | None = None


@dataclass
class Accuracy:
    """HellaSwag after so many steps: the share of items whose right ending is the most likely.

    `acc` uses the sum of the losses of an ending's tokens, and `acc_norm` uses their mean.
    """

    step: int
    items: int
    acc: float
    acc_norm: float

    @property
    def error(self) -> float:
        """The standard error of `acc_norm`, as the items are a sample."""
        return math.sqrt(self.acc_norm * (1 - self.acc_norm) / self.items)

    def __str__(self) -> str:
        by_mean = f"{self.acc_norm:.1%} ± {self.error:.1%} of {self.items:,} items"
        return f"{by_mean} (by the sum of losses {self.acc:.1%})"


@dataclass
class Layer:
    """The signal after one layer, in one look; null if a number is not finite."""

    name: str
    activation: float | None  # standard deviation over the positions, RMS over the channels
    gradient: float | None  # RMS of the loss's gradient with respect to it


@dataclass
class Inspection:
    """What one sequence shows about a model before a step, and about the step: training.diagnosis.

    A number is null if it is not finite, or if the model or the step has none.
    """

    step: int
    layers: list[Layer] = field(default_factory=list)
    dead_units: float | None = None  # largest share of a linear layer's inputs that are constant
    grad_norm: float | None = None  # L2 norm of the sequence's gradient
    later: float | None = None  # gradient at tokens after the last target over that before it
    batch: str = ""  # checksum of the tokens
    shifted: float = 0.0  # share of the targets that are the next token
    copied: float = 0.0  # share of the targets that are the token itself
    update: float | None = None  # a weight matrix's update over its weights, RMS, median
    frozen: list[str] = field(default_factory=list)  # parameters that the step did not change
    step_norm: float | None = None  # L2 norm of the step's gradient
    weight: float | None = None  # sum of the weights of the micro batches' losses in the step's


class Severity(str, Enum):
    """How much a finding matters: worth knowing, likely to cost loss, or certainly wrong."""

    note = "note"
    warning = "warning"
    error = "error"

    @property
    def rank(self) -> int:
        """0 for a note, and more for what matters more."""
        return list(Severity).index(self)


@dataclass
class Finding:
    """Something that went wrong in a run, or is worth knowing: see runner.findings."""

    name: str
    severity: Severity
    numbers: dict[str, float | None]
    sentence: str
    advice: str
