"""Whether the report written anew says the same numbers as the one before it.

1. With the code before (c230c41) train the plans ladder (with a stage of one's own, step07b),
   leave_one_out, learning_rate and factorial at scale=smoke, and write their report.
2. `python -m tests.benchmarks.same_numbers convert outputs/oracle` makes records of this format.
3. Type the same commands again: every run is found finished, and what was asked is noted.
4. Write the report, and `python -m tests.benchmarks.same_numbers compare OLD_REPORT NEW_REPORT`.
"""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from runner.files import seal, unseal

Pair = tuple[str, Any, Any]
RESULTS = (
    "worst", "best", "first", "last", "mean", "held_out", "held_out_error", "tokens_per_second",
    "step_ms", "mfu", "peak_flops", "peak_memory_bytes", "tokens_per_step", "held_out_spread",
    "setup_s", "compile_s", "train_s",
)  # fmt: skip
PARTS = ("value", "low", "high", "p", "n")
ENDS = dict(zip(PARTS, ("", "_low", "_high", "_p", "_n"), strict=True))


def convert(experiment: Path) -> None:
    """Records of format 4 as records of format 1, which name no settings' hash."""
    for file in experiment.glob("*/*/run.json"):
        record = unseal(file.read_bytes())
        record["format"] = 1
        record.pop("settings_sha256", None)
        file.write_bytes(seal(record))


def pairs(old: Path, new: Path) -> Iterator[Pair]:
    """Every number that both reports have: what it is, then, now."""
    before, now = (json.loads((each / "report.json").read_text()) for each in (old, new))
    rows = {(row["what"], row["against"]): row for row in reversed(now["comparisons"])}
    main = {
        r["stage"]: r for r in now["comparisons"] if r["group"] == 0 and r["what"] == r["stage"]
    }
    stages = pd.read_csv(old / "stages.csv").query("group == 0")
    for _, row in stages.iterrows():
        mine = main[row.stage]
        yield from ((f"{row.stage} {name}", row[name], mine[name]) for name in RESULTS)
        for other, versus in (("previous", "reference"), ("baseline", "baseline")):
            found = mine[versus]
            estimates = {
                "loss": found.get("loss"),
                "speed": (found.get("speed") or {}).get("estimate"),
                "loss_at_equal_tokens": (found.get("at_tokens") or {}).get("loss"),
            }
            for name, estimate in estimates.items():
                for part, end in ENDS.items():
                    then = row[f"{name}_vs_{other}{end}"]
                    yield f"{row.stage} {name} vs {other} {part}", then, (estimate or {}).get(part)
        for then, name in (("outcome", "outcome"), ("p_holm", "p"), ("seeds_needed",) * 2):
            yield f"{row.stage} {name}", row[then], mine.get(name)
    tables = {table["plan"]: table for table in now["tables"]}
    for table in before["plans"]:
        verdicts = {row["what"]: row for row in tables.get(table["plan"], {"rows": []})["rows"]}
        for row in table["rows"]:
            name = f"{table['plan']}: {row['cell']}"
            if (verdict := verdicts.get(row["cell"])) is None:
                yield name, row["cell"], None
                continue
            mine = rows[row["cell"], verdict["against"]]
            yield f"{name} outcome", row["outcome"], verdict["outcome"]
            yield f"{name} held_out", row["held_out"], mine["held_out"]
            yield from _estimates(f"{name} loss", row["loss"], mine["reference"].get("loss"))
            speed = mine["reference"].get("speed")
            yield from _estimates(f"{name} speed", row["speed"], speed and speed["estimate"])
    worth = {step["stage"]: step for step in now["worth"]["steps"]}
    for step in before["worth"]:
        mine = worth[step["stage"]]
        for way in ("in place", "alone", "when missing", "on average"):
            yield from _estimates(
                f"worth {step['stage']} {way}", step.get(way), mine["ways"].get(way)
            )
        yield f"worth {step['stage']} p", step["alone_less_missing_p_holm"], mine["p"]
    for then, mine in zip(before["learning_rates"], now["rates"], strict=True):
        for name in ("rates", "losses", "seeds", "fixed", "best", "below", "at_edge"):
            yield f"rates {then['name']} {name}", then[name], mine[name]
        for name in ("at_fixed", "at_best"):
            yield from _estimates(f"rates {then['name']} {name}", then[name], mine[name])


def _estimates(what: str, then: Any, now: Any) -> Iterator[Pair]:
    for part in (*PARTS, "p_equivalent", "deviation"):
        yield f"{what} {part}", (then or {}).get(part), (now or {}).get(part)


def same(then: Any, now: Any) -> bool:
    """Whether two values are printed alike."""
    then, now = (None if isinstance(v, float) and math.isnan(v) else v for v in (then, now))
    if isinstance(then, int | float) and isinstance(now, int | float):
        return math.isclose(then, now, rel_tol=1e-12, abs_tol=1e-15)
    return bool(then == now)


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]))
    else:
        found = list(pairs(Path(sys.argv[2]), Path(sys.argv[3])))
        differ = [pair for pair in found if not same(*pair[1:])]
        print(f"{len(found)} values compared, {len(differ)} differ")
        print(*differ, sep="\n")
