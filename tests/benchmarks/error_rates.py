"""How often the report's rules err, by resampling real runs, as docs/statistics.md and .json.

A bank of runs at the smoke scale: step05 as it is, and with the gain of its initialisation 0.3%
higher and lower, which does next to nothing; and two runs judged on the whole held-out text. All
else is resampled from it, so that thousands of comparisons cost minutes.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

import reports
from conf.schema import ReportConf
from reports.curves import holds_from
from reports.read import Floats
from reports.rules import read_rules
from reports.statistics import Estimate, mean_difference, mean_over_windows
from reports.verdicts import Outcome, correct_family, decide
from runner.training.device import device_name
from tests.benchmarks.ours import NO_REPORT, ROOT, CommandFailed
from tests.benchmarks.pages import DOCS, save, write

PAGE = DOCS / "statistics.md"
BANK = "statistics"  # the experiment that holds the runs
SEEDS = 64
GAINS = (1.0, 1.003, 0.997)
RATE = "train.learning_rate=3e-4"  # at which the bank was measured
FAMILY = 6  # loss and stability stages with a parent, from step03 to step10
SIZES = (5, 10)  # seeds of a resampled comparison
REDRAWN = "other draws and another order of the data"
CHANGES = 200
RESAMPLES = 4000
WINDOWS = 64
NOISE = 0.1  # standard deviation of a single training loss about its trend, nats/token
WHOLE = 1_000_000  # more tokens than the held-out text has


@dataclass(frozen=True)
class Bank:
    """Held-out losses by gain, an entry a seed; and the losses of two models on all windows."""

    losses: dict[float, Floats]
    windows: tuple[Floats, Floats]


def train_bank() -> None:
    """Train what the bank lacks; a finished run is not trained again."""
    gains = ",".join(map(str, GAINS))
    seeds = f"seed=range(1,{SEEDS + 1})"
    for sweep in (
        ("+stage=step05", f"model.gain={gains}", seeds, "evaluation.every=null"),
        ("+stage=step02,step05", f"evaluation.tokens={WHOLE}", "evaluation.every=null"),
    ):
        words = ["scale=smoke", RATE, f"experiment={BANK}", NO_REPORT, *sweep]
        command = ["-m", "runner", "-m", *words]
        if subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
            raise CommandFailed(f"python {' '.join(command)} failed")


def read_bank(experiment: Path) -> Bank:
    """The bank from its records."""
    records = reports.load(experiment)
    losses: dict[float, list[float]] = {gain: [] for gain in GAINS}
    windows: list[Floats] = []
    for run in records.rows:  # by stage and seed
        if run.config["evaluation"]["tokens"] == WHOLE:
            windows.append(records.final_windows(run.run))
        elif run.stage == "step05":
            losses[run.config["model"]["gain"]].append(run.held_out)
    first, second = windows
    return Bank({gain: np.array(each) for gain, each in losses.items()}, (first, second))


Draw = Callable[[np.random.Generator, int], Floats]


def do_nothing(bank: Bank) -> dict[str, tuple[Draw, float]]:
    """Kinds of changes that do nothing: how to draw paired differences, and their long-run mean."""
    plain = bank.losses[1.0]
    kinds: dict[str, tuple[Draw, float]] = {}
    for gain in GAINS[1:]:
        differences = bank.losses[gain] - plain
        kinds[f"gain {gain:g} instead of 1"] = (
            lambda draws, n, d=differences: draws.choice(d, n),
            float(differences.mean()),
        )

    def redraw(draws: np.random.Generator, n: int) -> Floats:
        return draws.choice(plain, n) - draws.choice(plain, n)

    kinds[REDRAWN] = (redraw, 0.0)
    return kinds


def rates(
    draw: Draw, mean: float, seeds: int, rules: ReportConf, draws: np.random.Generator
) -> dict[str, float]:
    """What becomes of a change that does nothing, judged as a report judges a family of changes.

    Shares of all comparisons, of families with a wrong outcome, and of intervals with the mean.
    """
    families = [
        [mean_difference(draw(draws, seeds), rules) for _ in range(FAMILY)]
        for _ in range(RESAMPLES // FAMILY)
    ]
    outcomes = pd.DataFrame([outcomes_of(family, rules) for family in families])
    shares = outcomes.stack().value_counts(normalize=True)
    return {
        "seeds": seeds,
        **{name: shares.get(Outcome[name], 0.0) for name in ("lower", "higher", "equivalent")},
        "family": outcomes.isin([Outcome.lower, Outcome.higher]).any(axis=1).mean(),
        "coverage": np.mean([each.low <= mean <= each.high for f in families for each in f]),
    }


def outcomes_of(family: list[Estimate], rules: ReportConf) -> list[Outcome]:
    """The outcomes of one family of tests, where all runs finished."""
    return [decide(each, (False, False), rules)[0] for each in correct_family(family)]


def two_hundred(
    kinds: dict[str, tuple[Draw, float]], rules: ReportConf, draws: np.random.Generator
) -> int:
    """Of CHANGES do-nothing changes of all kinds, each tested alone, how many became an outcome."""
    found = 0
    for draw, _ in islice(cycle(kinds.values()), CHANGES):
        one = mean_difference(draw(draws, rules.minimum_seeds), rules)
        found += outcomes_of([one], rules)[0] in (Outcome.lower, Outcome.higher)
    return found


def false_turns(seeds: int, rules: ReportConf, draws: np.random.Generator) -> float:
    """How often a step is named from which a difference is said to hold, where it is constant.

    It is none, or ten margins large. The batches' noise is drawn, with the standard deviation of a
    training loss; the outcome is the sign of the difference's mean.
    """
    found = 0
    for i in range(RESAMPLES // 4):
        size = 10 * rules.margin * (i % 2)
        pairs = [(_noisy(0, draws), _noisy(size, draws)) for _ in range(seeds)]
        mean = np.mean([after.loss.mean() - before.loss.mean() for before, after in pairs])
        found += holds_from(pairs, bool(mean < 0), rules) is not None
    return found / (RESAMPLES // 4)


def _noisy(size: float, draws: np.random.Generator) -> pd.DataFrame:
    return pd.DataFrame({"step": range(50), "loss": 7 + draws.normal(size, NOISE, 50)})


def power(
    bank: Bank, seeds: int, effect: float, rules: ReportConf, draws: np.random.Generator
) -> dict[str, float]:
    """How often a planted lower loss is found when it is tested alone, and how often it should.

    The effect is in standard deviations.
    """
    draw, _ = do_nothing(bank)[REDRAWN]
    deviation = np.std(bank.losses[1.0]) * 2**0.5
    found = [
        mean_difference(draw(draws, seeds) - effect * deviation, rules) for _ in range(RESAMPLES)
    ]
    critical = stats.t.ppf((1 + rules.confidence) / 2, seeds - 1)
    return {
        "seeds": seeds,
        "effect": effect,
        "expected": stats.nct.sf(critical, seeds - 1, effect * seeds**0.5),
        "found": np.mean([one.p < 1 - rules.confidence and one.value < 0 for one in found]),
    }


def window_coverage(bank: Bank, rules: ReportConf, draws: np.random.Generator) -> float:
    """How often the bootstrap interval of WINDOWS windows holds the difference on all windows."""
    differences = bank.windows[1] - bank.windows[0]
    held = 0
    for _ in range(RESAMPLES // 4):
        found = mean_over_windows(draws.choice(differences, WINDOWS, replace=False), rules)
        held += found.low <= differences.mean() <= found.high
    return held / (RESAMPLES // 4)


def main() -> None:
    """Train the bank, resample it, and write docs/statistics.md and .json."""
    train_bank()
    bank, rules = read_bank(ROOT / "outputs" / BANK), read_rules()
    draws = np.random.default_rng(12)
    kinds = do_nothing(bank)
    changes = {gain: pd.Series(bank.losses[gain] - bank.losses[1.0]) for gain in GAINS[1:]}
    found = {
        "processor": device_name(torch.device("cpu")),
        "seeds": SEEDS,
        "deviation": pd.Series(bank.losses[1.0]).std(),
        "gains": {
            f"{gain:g}": {"mean": each.mean(), "deviation": each.std()}
            for gain, each in changes.items()
        },
        "two_hundred": two_hundred(kinds, rules, draws),
        "rates": [
            {"kind": kind, **rates(draw, mean, n, rules, draws)}
            for kind, (draw, mean) in kinds.items()
            for n in SIZES
        ],
        "power": [
            power(bank, n, effect, rules, draws) for n in SIZES for effect in (0.5, 1, 1.5, 2)
        ],
        "false_turns": {n: false_turns(n, rules, draws) for n in SIZES},
        "window_coverage": window_coverage(bank, rules, draws),
        "all_windows": len(bank.windows[0]),
    }
    render(save(PAGE, found), rules)


def render(found: dict[str, Any], rules: ReportConf) -> None:
    """Write docs/statistics.md from the measurements."""
    sizes = {"family": FAMILY, "changes": CHANGES, "resamples": RESAMPLES, "windows": WINDOWS}
    write(PAGE, **found, **sizes, rules=rules)
