"""How many seeds tell a difference of a given size, from the spread between seeds seen so far."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from reports import formats
from reports.compare import compare
from reports.read import read_records
from reports.rules import read_rules
from reports.speed import find_shared
from reports.statistics import Estimate, seeds_to_decide
from reports.verdicts import FAMILY, several_seeds

SIZES = (0.03, 0.05, 0.1, 0.2)  # nats/token


def print_seeds(experiment: Path, console: Console) -> None:
    """Print them, for the main group's stages that are judged by their loss."""
    records, rules = read_records([experiment]), read_rules()
    plain = [run for run in records.found if not run.is_ablation] or records.found
    main, *_ = compare(plain, find_shared(plain), rules)
    losses = [stage.vs_previous.loss for stage in main.ladder if stage.aim in FAMILY]
    known = [e for e in losses if e and several_seeds(e) and e.deviation > 0]
    if not known:
        console.print("How many seeds would decide is not known: no difference has two seeds yet.")
        return
    spread = float(np.median([estimate.deviation for estimate in known]))
    needed = [
        (size, seeds_to_decide(Estimate(size, n=2, deviation=spread), len(known), rules))
        for size in SIZES
        if size > rules.margin
    ]
    said = [f"{size:g} nats/token by {n or 'more than a thousand'} seeds" for size, n in needed]
    console.print(
        f"From the spread between seeds so far (median standard deviation of a difference "
        f"{spread:.3f}, {len(known)} stages in one family), a difference is decided of "
        f"{formats.together(said)}.",
        highlight=False,
    )
