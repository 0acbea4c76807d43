"""How many seeds tell a difference of a given size, from the spread between seeds seen so far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from conf.schema import ReportConf
from reports.compare import compare
from reports.read import read_records
from reports.speed import find_shared
from reports.statistics import Estimate, seeds_to_decide
from reports.verdicts import FAMILY, several_seeds

SIZES = (1.5, 2.5, 5, 10)  # times the margin


def print_seeds(experiment: Path, rules: ReportConf, console: Console) -> None:
    """Print them, for the main group's stages that are judged by their loss."""
    records = read_records([experiment])
    plain = [run for run in records.found if not run.is_ablation] or records.found
    main, *_ = compare(plain, find_shared(plain), rules)
    losses = [stage.vs_previous.loss for stage in main.ladder if stage.aim in FAMILY]
    known = [e for e in losses if e and several_seeds(e) and e.deviation > 0]
    if not known:
        console.print("How many seeds would decide is not known: no difference has two seeds yet.")
        return
    spread = float(np.median([estimate.deviation for estimate in known]))
    said = []
    for size in (times * rules.margin for times in SIZES):
        seeds = seeds_to_decide(Estimate(size, n=2, deviation=spread), len(known), rules)
        said.append(f"{size:g} nats/token: {seeds or 'more than a thousand'}")
    console.print(
        f"Seeds that would decide a difference, by its size: {'; '.join(said)}. This is from the "
        f"spread between seeds so far: the median standard deviation of a difference is "
        f"{spread:.3f}, with {len(known)} stages in one family.",
        highlight=False,
    )
