"""The guide's published run, carried along: 50 losses, norms and step times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reports.read import Floats

SOURCE = (
    "the log at the end of the guide by v1k22, which follows "
    "https://www.youtube.com/watch?v=l8pRSuU81PU"
)


@dataclass(frozen=True)
class Reference:
    """The guide's log. Its data, batch, model and machine are not stated with it.

    loss in nats/token, grad_norm the global L2 norm, step_ms in milliseconds; one value a step.
    """

    step: Floats
    loss: Floats
    grad_norm: Floats
    step_ms: Floats


def guide_log() -> Reference:
    """The published log, from guide_log.csv beside this file."""
    table = pd.read_csv(Path(__file__).with_name("guide_log.csv"), dtype=np.float64)
    return Reference(**{str(column): values.to_numpy() for column, values in table.items()})
