"""The guide's published run, carried along: 50 losses, norms and step times."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

SOURCE = (
    "the log at the end of the guide by v1k22, which follows "
    "https://www.youtube.com/watch?v=l8pRSuU81PU"
)


@dataclass(frozen=True)
class Reference:
    """The guide's log. Its data, batch, model and machine are not stated with it.

    loss in nats/token, grad_norm the global L2 norm, step_ms in milliseconds; one value a step.
    """

    step: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    grad_norm: npt.NDArray[np.float64]
    step_ms: npt.NDArray[np.float64]


def guide_log() -> Reference:
    """The published log, from guide_log.csv beside this file."""
    with Path(__file__).with_name("guide_log.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return Reference(
        **{
            column: np.array([float(line[column]) for line in lines])
            for column in ("step", "loss", "grad_norm", "step_ms")
        }
    )
