"""The guide's published run, carried along: 50 losses, norms and step times."""

from pathlib import Path

import pandas as pd

SOURCE = (
    "the log at the end of the guide by v1k22, which follows "
    "https://www.youtube.com/watch?v=l8pRSuU81PU"
)


def guide_log() -> pd.DataFrame:
    """The published log, a row a step; its data, batch, model and machine are not stated with it.

    `loss` in nats/token, `grad_norm` the global L2 norm, `step_ms` in milliseconds.
    """
    return pd.read_csv(Path(__file__).with_name("guide_log.csv"))
