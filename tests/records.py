"""A record for tests that need one without training."""

from typing import Any

from conf.schema import Aim
from runner.record import DataInfo, Environment, Process, Run, StageInfo

CONFIG: dict[str, Any] = {
    "seed": 1,
    "repeat": 1,
    "without": [],
    "plus": [],
    "recipe": None,
    "model": {"name": "synthetic"},
    "scale": {"name": "synthetic"},
    "train": {
        "steps": 50,
        "micro_batch_size": 4,
        "context": 64,
        "learning_rate": 3e-4,
        "clip_grad_norm": None,
    },
}


def synthetic_run(**given: Any) -> Run:
    """A run that has measured nothing; `given` are fields of it."""
    fields: dict[str, Any] = {
        "stage": StageInfo(name="test", number=2, title="Test", aim=Aim.loss, guide="", changes={}),
        "experiment": "ladder",
        "label": "seed1-test",
        "fingerprint": "test",
        "code": "test",
        "command": "python -m runner +stage=test",
        "variant": [],
        "conditions": {},
        "config": CONFIG,
        "data": DataInfo(name="text", sha256="test"),
        "environment": Environment(python="3", torch="2", platform="test"),
        "process": Process(host="test", pid=1),
        "started": "2026-11-24T00:00:00+00:00",
    }
    return Run(**{**fields, **given})
