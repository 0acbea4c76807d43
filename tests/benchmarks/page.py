"""docs/performance.md, from the measurements: a part for every machine."""

import json
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd

from conf.schema import Aim
from runner.training.device import DATASHEET_FLOPS
from stages.ladder import read_ladder
from tests.benchmarks import machine
from tests.benchmarks.ours import GIB
from tests.benchmarks.pages import rendered, shown, spread
from tests.benchmarks.plan import TEXTS, Plan, plan_for

Entry = dict[str, Any]
Cells = list[list[Any]]

CONTENDERS = {
    "step07": "ours, step 7",
    "step09": "ours, step 9",
    "huggingface": "transformers, eager",
    "huggingface-compiled": "transformers, compiled",
    "plain": "plain script, eager",
    "plain-compiled": "plain script, compiled",
}
OURS = ["step07", "step09"]
PEERS = [contender for contender in CONTENDERS if contender not in OURS]


def judged(reached: bool) -> str:
    """A verdict in one word."""
    return "reached" if reached else "missed"


def beside(
    name: str, value: float, target: float, unit: str, digits: int = 1, *, at_least: bool = False
) -> list[str]:
    """The cells of something that is not a step: what it took, and what it may take."""
    bound = f"at {'least' if at_least else 'most'} {target:g} {unit}"
    reached = value >= target if at_least else value <= target
    return [name, f"{value:,.{digits}f} {unit}", f"{bound}: {judged(reached)}"]


class Measured:
    """What was measured on one machine, found by what it is of.

    `estimates` are traced bytes by stage and sequences in a micro batch, of a GPU's memory.
    """

    def __init__(
        self, key: str, part: Entry, quick: bool = False, estimates: Entry | None = None
    ) -> None:
        self.part = part
        self.entries: dict[str, Entry] = part["measured"]
        self.limits = self.entries["limits"]
        self.machine: Entry = self.limits["machine"]
        self.title = machine.title(self.machine)
        self.precision: str = self.limits["precision"]
        self.on_gpu = self.machine["device"] != "cpu"
        self.plan: Plan = plan_for(self.machine["device"], quick)
        self.estimates = estimates or {}
        self.peak = self.limit(self.precision)
        # How the tests that need a GPU ended, where they ran.
        self.tests = self.entries.get("tests/gpu")

    @property
    def datasheet(self) -> float | None:
        """FLOP/s in dense bf16 by the GPU's datasheet, where it is known and bf16 is used."""
        known = DATASHEET_FLOPS.get(self.machine["device_name"])
        return known if self.precision == "bf16" else None

    def limit(self, precision: str) -> float:
        """FLOP/s of the large square, by the faster of the ways in which a precision was exact."""
        ways = (precision, f"{precision} (oneDNN)")
        return max(
            product["flops_per_second"]
            for product in self.limits["matrix_products"]
            if product["name"] == "large square" and product["precision"] in ways
        )

    def products(self) -> pd.DataFrame:
        """The rates of the matrix products in GFLOP/s."""
        found = pd.DataFrame(self.limits["matrix_products"])
        found["shape"] = [" x ".join(map(str, shape)) for shape in found["shape"]]
        found["rate"] = found["flops_per_second"] / 1e9
        return found[["name", "shape", "precision", "rate"]]

    @property
    def has_onednn(self) -> bool:
        return any("oneDNN" in product["precision"] for product in self.limits["matrix_products"])

    @property
    def not_applied(self) -> dict[str, str]:
        """What our step 7 left out, and why."""
        left_out = [e["not_applied"] for name, e in self.entries.items() if name[-7:] == "/step07"]
        return {name: reason for entry in left_out for name, reason in entry.items()}

    @cached_property
    def runs(self) -> pd.DataFrame:
        """The runs of the comparisons."""
        columns = ["size", "round", "contender", "precision", "rate"]
        columns += ["memory", "loss", "first", "flops"]
        rows = [
            (
                *name.split("/")[1:4],
                entry["precision"],
                entry["tokens_per_second"],
                entry["peak_memory_bytes"] / GIB,
                entry.get("loss_difference"),
                entry["step_seconds"][0] + entry.get("compile_s", 0.0),
                entry.get("flops_per_token"),
            )
            for name, entry in self.entries.items()
            if name.startswith("peers/")
        ]
        return pd.DataFrame(rows, columns=columns)

    @cached_property
    def sizes(self) -> dict[str, pd.DataFrame]:
        """The runs by the size at which ours were compared, without rounds that lack one of ours.

        In step07 and step09 are our tokens/s over each one's in the same round.
        """
        found = {}
        for size in self.plan.sizes:
            runs = self.runs[self.runs["size"] == size.name]
            own = runs.pivot_table("rate", "round", "contender").reindex(columns=OURS).dropna()
            runs = runs.join(own, "round", "inner")
            if len(runs):
                runs[OURS] = runs[OURS].div(runs["rate"], axis=0)
                runs.loc[runs["contender"].isin(OURS), OURS] = None
                runs["contender"] = pd.Categorical(runs["contender"], list(CONTENDERS))
                found[size.spaced] = runs.assign(other=runs["precision"] != self.precision)
        return found

    def compared(self, size: str) -> pd.DataFrame:
        """By contender the medians and the memory at a size, peers in the runner's precision."""
        if size not in self.sizes:
            return pd.DataFrame()
        runs = self.sizes[size]
        what = {"rate": "median", "memory": "max", **dict.fromkeys(OURS, "median")}
        found = runs.groupby(["other", "contender"], observed=True).agg(what).reset_index()
        found["best"] = found[OURS].max(axis=1)
        found = found[~found["other"] | found["contender"].isin(OURS)]
        return found.drop_duplicates("contender").set_index("contender")

    def against_others(self, size: str) -> pd.DataFrame:
        """Ours and the peers, in the runner's precision first; memory is the most of any round."""
        runs = self.sizes[size]
        step07 = runs["memory"][runs["contender"] == "step07"].max()
        groups = runs.groupby(["other", "contender", "precision"], observed=True)
        ratios = {stage: (stage, partial(spread, digits=2)) for stage in OURS}
        most = {name: (name, "max") for name in ("memory", "loss", "first")}
        rates = ("rate", partial(spread, digits=0))
        rows = groups.agg(rate=rates, **ratios, **most).reset_index().drop(columns="other")
        of_memory = (step07 / rows["memory"]).where(rows["contender"].isin(PEERS))
        rows.insert(rows.columns.get_loc("loss"), "of_memory", of_memory)
        return rows.assign(contender=rows["contender"].map(CONTENDERS))

    @property
    def tried_bf16(self) -> bool:
        """Whether peers ran in bf16 where our runner does not."""
        return self.precision == "fp32" and any(
            "bf16" in set(runs["precision"]) for runs in self.sizes.values()
        )

    def targets(self) -> Cells:
        """By target, what came of it at every size; "" where it was not measured."""
        sizes = [self.compared(size) for size in self.sizes]
        found: Cells = []
        for peer, target in self.plan.targets.items():
            ratios = [rows["best"].get(peer) for rows in sizes]
            name = f"tokens/s at least {target} times {CONTENDERS[peer]}"
            found.append([name, *(r and f"{r:.2f}: {judged(r >= target)}" for r in ratios)])
        memory = [(r["memory"][OURS].max(), r["memory"].drop(OURS).min()) for r in sizes]
        name = "most memory of ours at most the lowest of the peers'"
        cells = [
            f"{own:.2f} GiB against {least:.2f}: {judged(own <= least)}" if least > 0 else ""
            for own, least in memory
        ]
        found.append([name, *cells])
        if share := self.peak_share():
            name = f"step 7 at least {self.plan.peak_share:.0%} of the peak at the largest size"
            cell = f"{share:.0%}: {judged(share >= self.plan.peak_share)}"
            found.append([name, *[""] * (len(sizes) - 1), cell])
        return [[cell or "" for cell in cells] for cells in found if any(cells[1:])]

    def peak_share(self) -> float | None:
        """The part of the measured peak that step 7 reaches at the plan's largest size."""
        size = self.plan.sizes[-1].spaced
        if size not in self.sizes:
            return None
        runs = self.sizes[size][self.sizes[size]["contender"] == "step07"]
        flops: float = runs["flops"].iloc[0] * runs["rate"].median()
        return flops / self.limit(runs["precision"].iloc[0])

    @cached_property
    def swept(self) -> pd.DataFrame:
        """The stages of the sweep, without the flow check."""
        stages = self.entries.get("around/sweep", {"stages": {}})["stages"]
        rows = [
            {
                "number": stage.number,
                "title": stage.about.title,
                "estimate": self.estimates.get(stage.name, {}).get(str(e.get("micro_batch_size"))),
                "gib": e["peak_memory_bytes"] / GIB,
                **e,
            }
            for stage in read_ladder()
            if stage.about.aim is not Aim.flow and (e := stages.get(stage.name))
        ]
        return pd.DataFrame(rows)

    def ladder(self) -> pd.DataFrame:
        """The stages of the sweep, each against the baseline and the stage before it."""
        rate = self.swept["tokens_per_second"]
        of_before = rate / rate.shift()
        of_baseline = (rate / rate.iloc[0]).where(of_before.notna())
        tokens = rate * self.swept["step_ms"] / 1e3
        found = self.swept.assign(of_baseline=of_baseline, of_before=of_before, tokens=tokens)
        rates = ["tokens_per_second", "tokens", "of_baseline", "of_before"]
        return found[["number", "title", *rates, "gib"]]

    def memory(self) -> pd.DataFrame:
        """The sweep's stages whose memory on a GPU was estimated, with both."""
        if not self.on_gpu or self.swept.empty:
            return pd.DataFrame()
        found = self.swept[self.swept["estimate"].notna()]
        found = found.assign(estimate=found["estimate"] / GIB)
        found["ratio"] = found["gib"] / found["estimate"]
        return found[["number", "title", "micro_batch_size", "gib", "estimate", "ratio"]]

    def around(self) -> Cells:
        """What was measured of the time around the steps."""
        found = {name[7:]: e for name, e in self.entries.items() if name.startswith("around/")}
        rows = []
        if sweep := found.get("sweep"):
            working = sweep["train_s"] + sweep["evaluation_s"]
            if sweep["seconds"]:  # one that was interrupted has none
                name = "a whole sweep / its optimizer steps and evaluations"
                rows.append(beside(name, sweep["seconds"] / working, 1.15, "times", 2))
            rows.append(beside("the sweep's report", sweep["report_s"], 5, "s"))
        if compilation := found.get("compilation"):
            for cache, key, most in (("an empty", "cold_s", 15), ("a warm", "warm_s", 5)):
                rows.append(beside(f"compiling, with {cache} cache", compilation[key], most, "s"))
        if "line" in found and "smoke" in found:
            step_ms = min(stage["step_ms"] for stage in found["smoke"]["stages"].values())
            name = f"the line of a step / the smoke scale's fastest step, {step_ms:.1f} ms"
            rows.append(beside(name, found["line"]["line_us"] / (step_ms * 10), 1, "%", 2))
        for key, where in (("busy", "smoke scale"), ("busy at the first size", "first size")):
            if busy := found.get(key):
                name = f"a step beside a process that keeps a core busy / alone, {where}"
                rows.append(beside(name, busy["beside_ms"] / busy["alone_ms"], 2, "times", 2))
        for kind in TEXTS:
            if text := found.get(kind):
                size, name = text["bytes"] / 1e6, "tokenizing {:,.0f} MB of .{}"
                rate = size / text["tokenized_s"]
                rows += [
                    beside(name.format(size, kind), rate, 15, "MB/s", at_least=True),
                    beside("its most memory", text["peak_memory_bytes"] / 1e9, 1, "GB", 2),
                    beside("opening it once it was checked", text["opened_s"] * 1e3, 10, "ms"),
                ]
        return rows

    @property
    def profiles(self) -> dict[str, Entry]:
        """By size, where a step's time goes."""
        profiled = {size.spaced: f"profile/{size.name}" for size in self.plan.sizes}
        return {size: self.entries[name] for size, name in profiled.items() if name in self.entries}

    def kinds(self) -> Iterator[list[str]]:
        """A step's time by kind of work, the largest first, the rest last."""
        steps = pd.Series({size: each["step_seconds"] for size, each in self.profiles.items()})
        seconds = pd.DataFrame({size: each["seconds"] for size, each in self.profiles.items()})
        seconds = seconds.fillna(0)
        shares = (seconds / steps).max(axis=1).sort_values(ascending=False, kind="stable")
        for kind in sorted(shares.index, key=lambda kind: kind == "rest"):
            cells = zip(seconds.loc[kind], seconds.loc[kind] / steps, strict=True)
            yield [kind, *(f"{1e3 * s:,.0f} ms, {share:.0%}" for s, share in cells)]
        yield ["**step**", *(f"{1e3 * s:,.0f} ms" for s in steps)]


def overview(machines: list[Measured]) -> Cells:
    """The table of all machines: a row's name, and a cell for each, "–" if not measured there."""
    table: Cells = [
        ["measured on", *(each.part["date"] for each in machines)],
        ["precision", *(each.precision for each in machines)],
    ]
    for size in dict.fromkeys(size.spaced for each in machines for size in each.plan.sizes):
        compared = [each.compared(size) for each in machines]
        cells = [(f"ours / {CONTENDERS[peer]}", "best", peer, "{:.2f}") for peer in PEERS]
        cells.append(("step 7, tokens/s", "rate", "step07", "{:,.0f}"))
        for what, column, contender, form in cells:
            values = [rows[column].get(contender) if len(rows) else None for rows in compared]
            table.append([f"{size}: {what}", *(shown(value, form) for value in values)])
    shares = [shown(each.peak_share(), "{:.0%}") for each in machines]
    table.append(["share of the peak, largest size", *shares])
    return [[cell or "–" for cell in row] for row in table if any(row[1:])]


def write(data: Entry, folder: Path, quick: bool = False) -> None:
    """Write performance.md into a folder, from the measurements."""
    file = folder / "memory.json"
    estimates = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    machines = [
        Measured(key, part, quick, estimates)
        for key, part in data["machines"].items()
        if "limits" in part["measured"]
    ]
    text = rendered("performance.md", machines=machines, overview=overview(machines), GIB=GIB)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "performance.md").write_text(text, encoding="utf-8")
