"""Synthetic records for the tests: curves drawn from formulas, never trained, and labelled so."""

from __future__ import annotations

import math
import os
import platform
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.files import file_sha256, seal

# name -> (title, aim, changes, floor of the loss, milliseconds a step)
LADDER: dict[str, tuple[str, str, dict[str, list[Any]], float, float]] = {
    "step01": ("Flow check", "flow", {}, 9.0, 300.0),
    "step02": ("Baseline", "baseline", {}, 7.4, 900.0),
    "step03": ("Initialisation", "loss", {"model.init": ["torch", "gpt2"]}, 6.5, 900.0),
    "step04": ("Layer norm", "loss", {"model.norm": ["none", "layer"]}, 6.15, 950.0),
    "step05": ("Residual stream", "loss", {"model.residual": [False, True]}, 6.04, 960.0),
    "step06": (
        "TF32, compile, round numbers",
        "speed",
        {"model.pad_vocab": [False, True], "train.compile": [False, True]},
        6.04,
        400.0,
    ),
    "step07": ("Flash attention", "speed", {"model.attention": ["manual", "flash"]}, 6.04, 330.0),
    "step08": (
        "Gradient clipping",
        "stability",
        {"train.clip_grad_norm": [None, 1.0]},
        5.87,
        333.0,
    ),
    "step09": (
        "AdamW groups and schedule",
        "loss",
        {"train.weight_decay": [0.01, 0.1]},
        5.84,
        325.0,
    ),
    "step10": (
        "Gradient accumulation",
        "loss",
        {"train.total_batch_tokens": [None, 2048]},
        5.6,
        2600.0,
    ),
}
ORDER = list(LADDER)
WINDOWS = 64  # of held-out text, the same for every synthetic run


def write_run(experiment: Path, stage: str = "step02", seed: int = 1, **given: Any) -> Path:
    """Write one synthetic run and return its folder.

    given: `floor`, `step_ms`, `steps`, `losses`, `noise`, `repeat`, `status`, `label`, `started`,
    `parent`, `variant`, `every` (steps between evaluations) and `old` (written as format 2 was)
    shape the run; any other key is a dotted path into run.json, with __ for the dots. `all_steps`
    are the steps without a stage. Rounds, seed and repeat, follow each other.
    """
    title, aim, changes, floor, step_ms = LADDER.get(stage, (stage, "loss", {}, 6.0, 300.0))
    number = ORDER.index(stage) + 1 if stage in LADDER else len(ORDER) + 1
    floor, step_ms = given.pop("floor", floor), given.pop("step_ms", step_ms)
    steps = given.pop("steps", 5 if stage == "step01" else 50)
    status, repeat = given.pop("status", "finished"), given.pop("repeat", 1)
    label = given.pop("label", f"seed{seed}-{repeat}-0a0b0c0d")
    noise, variant, old = (
        given.pop("noise", 0.03),
        given.pop("variant", []),
        given.pop("old", False),
    )
    tokens = 2048 if stage == "step10" else 64 if stage == "step01" else 256
    at = np.arange(steps)
    batches = np.random.default_rng(seed).normal(0, 0.12 if tokens == 256 else 0.05, steps)
    own = np.random.default_rng(seed * 1000 + number).normal(0, noise, steps)
    losses = floor + (10.95 - floor) * np.exp(-at / 8) + (batches + own) * np.minimum(1, at / 4)
    losses = np.asarray(given.pop("losses", losses), dtype=float)
    norms = 1.4 * np.exp(-at[: len(losses)] / 15) + 0.4
    times = step_ms * (1 + 0.02 * np.abs(np.random.default_rng(number).normal(size=len(losses))))

    config: dict[str, Any] = {
        "seed": seed,
        "repeat": repeat,
        "device": "auto",
        "model": {
            "name": "synthetic-gpt2",
            "n_layer": 12,
            "n_head": 12,
            "n_embd": 768,
            "context_length": 1024,
            "vocab_size": 50257,
            "pad_vocab": False,
            "norm": "none",
            "residual": False,
            "attention": "manual",
            "init": "torch",
            "gain": 1.0,
        },
        "data": {"name": "synthetic"},
        "scale": {"name": "cpu"},
        "train": {
            "steps": steps,
            "micro_batch_size": 4,
            "context": 64,
            "total_batch_tokens": None,
            "clip_grad_norm": None,
            "warmup_steps": 0,
            "learning_rate": 6e-4,
            "compile": False,
            "weight_decay": 0.01,
        },
    }
    settings = {"scale.name": "cpu"} | {
        f"{group}.{key}": value
        for group in ("model", "train")
        for key, value in config[group].items()
    }
    settings |= dict(_typed(override) for override in variant)
    for below in ORDER[:number]:
        for path, (_, after) in LADDER[below][2].items():
            group, key = path.split(".")
            config[group][key] = after
    for path, value in map(_typed, variant):
        group, key = path.split(".")
        config[group][key] = value

    begun = datetime(2026, 11, 22, tzinfo=timezone.utc) + timedelta(hours=2 * seed + 24 * repeat)
    folder = experiment / stage / label
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["step,loss,grad_norm,lr,step_ms,tokens"]
    lines += [
        f"{i},{losses[i]!r},{norms[i]!r},0.0006,{times[i]!r},{tokens}".replace(
            "np.float64(", ""
        ).replace(")", "")
        for i in range(len(losses))
    ]
    (folder / "steps.csv").write_text("\n".join(lines) + "\n")
    windows = np.random.default_rng(7).normal(0, 0.3, WINDOWS)
    windows += np.random.default_rng(seed * 1000 + number).normal(0, noise, WINDOWS)
    spread = windows - windows.mean()
    windows = spread + floor + 0.15
    every, rows = given.pop("every", None), ["step,first_token,tokens,loss"]
    for step in range(every, len(losses), every) if every else ():
        level = float(np.nanmean(losses[max(0, step - 50) : step])) + 0.15
        rows += [f"{step},{64 * i},64,{level + float(w)!r}" for i, w in enumerate(spread)]
    if status == "finished":
        rows += [f"{steps},{64 * i},64,{float(loss)!r}" for i, loss in enumerate(windows)]
    (folder / "held_out.csv").write_text("\n".join(rows) + "\n")
    finite = losses[np.isfinite(losses)]
    median = float(np.median(times[3:])) if len(times) > 3 else math.nan
    results = (
        {
            "steps": len(losses),
            "worst": float(finite.max()),
            "best": float(finite.min()),
            "first": float(losses[0]),
            "last": float(losses[-1]),
            "mean": float(finite.mean()),
            "held_out": float(floor + 0.15),
            "held_out_error": float(windows.std(ddof=1) / WINDOWS**0.5),
            "tokens_per_second": 1000 * tokens / median,
            "step_ms": median,
            "tokens_per_step": tokens,
            "mfu": 0.35 * 330 / step_ms,
            "peak_flops": 8e11,
            "flops_before": 7.9e11,
            "flops_after": 7.8e11,
            "peak_flops_dtype": "bfloat16",
            "peak_memory_bytes": 2.6e9,
        }
        if status == "finished"
        else {}
    )
    record: dict[str, Any] = {
        "format": 4,
        "status": status,
        "message": None,
        "diverged_at": None,
        "stage": {
            "name": stage,
            "number": number,
            "title": title,
            "aim": aim,
            "guide": f"synthetic words on {stage}",
            "parent": given.pop("parent", ORDER[number - 2] if 2 < number <= len(ORDER) else None),
            "changes": changes,
        },
        "experiment": experiment.name,
        "label": label,
        "fingerprint": f"{seed:08x}",
        "code": "c0de",
        "command": f"python -m runner +stage={stage}",
        "variant": variant,
        "recipe": " ".join([stage, *variant]),
        "conditions": settings | {"train.steps": given.pop("all_steps", 50)},
        "resumed_at": [],
        "config": config,
        "data": {
            "name": "synthetic",
            "sha256": "5a" * 32,
            "bytes": 1_000_000,
            "tokens": 300_000,
            "train_tokens": 270_000,
            "held_out_tokens": 30_000,
            "windows_sha256": "c0" * 32,
            "fallback": None,
        },
        "model": {"parameters": 124_439_808, "flops_per_token": 8.5e8},
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "platform": "Synthetic",
            "device": "cpu",
            "device_name": "Synthetic CPU",
            "threads": 2,
            "commit": "abc1234",
            "dirty": False,
        },
        "process": {"host": platform.node(), "pid": os.getpid()},
        "steps_sha256": file_sha256(folder / "steps.csv") if status == "finished" else None,
        "held_out_sha256": file_sha256(folder / "held_out.csv") if status == "finished" else None,
        "compile_cache": "warm" if number >= 6 else None,
        "started": (begun + timedelta(minutes=number)).isoformat(),
        "ended": (begun + timedelta(minutes=number, seconds=50)).isoformat(),
        "applied": ["bf16 autocast", "torch.compile"] if number >= 6 else [],
        "not_applied": {"TF32": "it needs an NVIDIA GPU from Ampere on"} if number >= 6 else {},
        "checks": [{"name": "no token sees the future", "passed": True, "detail": "exactly zero"}]
        if stage == "step01"
        else [],
        "timings": {
            "setup_s": 3.1,
            "compile_s": 41.0 if number >= 6 else 0.0,
            "train_s": float(times.sum() / 1000),
            "evaluation_s": 2.0,
        },
        "results": results,
        "samples": [{"prompt": "The king", "seed": 1, "text": f"synthetic text of {stage}"}]
        if status == "finished" and stage != "step01"
        else [],
    }
    if "started" in given:
        record |= {"started": given.pop("started"), "ended": None}
    for path, value in given.items():
        *parents, key = path.split("__")
        node = record
        for parent in parents:
            node = node[parent]
        node[key] = value
    if old:
        record["format"] = 2
        record["stage"]["claim"] = None
        del record["recipe"], record["conditions"], record["held_out_sha256"]
        del record["config"]["repeat"]
        (folder / "held_out.csv").unlink()
        if status == "failed":  # before its model was known
            del record["model"]
    (folder / "run.json").write_bytes(seal(record))
    return folder


def _typed(override: str) -> tuple[str, Any]:
    path, value = override.split("=")
    return path, {"true": True, "false": False}.get(value, value)


def write_ladder(experiment: Path, seeds: tuple[int, ...] = (1,), **given: Any) -> Path:
    """Write all ten synthetic stages for each seed and return the experiment's folder."""
    for seed in seeds:
        for stage in LADDER:
            write_run(experiment, stage, seed, **dict(given))
    return experiment


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    """An experiment of ten synthetic stages, one seed."""
    return write_ladder(tmp_path / "ladder")
