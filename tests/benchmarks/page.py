"""docs/performance.md and its pictures, from the measurements: a part for every machine."""

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
from matplotlib.figure import Figure

import reports
from conf.schema import Aim
from reports.palette import STAGES, THEME
from runner.training.device import DATASHEET_FLOPS
from stages.ladder import Stage, read_ladder
from tests.benchmarks import machine
from tests.benchmarks.ours import GIB
from tests.benchmarks.plan import Axis, Plan, Point, Size, plan_for

Entry = dict[str, Any]
HERE = Path(__file__).parent

CONTENDERS = {
    "step07": "ours, step 7",
    "step09": "ours, step 9",
    "huggingface": "transformers, eager",
    "huggingface-compiled": "transformers, compiled",
    "plain": "plain script, eager",
    "plain-compiled": "plain script, compiled",
}
OURS = ("step07", "step09")
# How many times a peer's tokens/s ours are to be.
TARGETS = {"huggingface": 2.0, "huggingface-compiled": 2.0, "plain": 1.7, "plain-compiled": 1.7}
# Which part of the measured peak of matrix products step 7 is to reach at the largest size.
PEAK_SHARE_TARGET = 0.65
AXES = {
    "micro_batch_size": "sequences in a micro batch",
    "context": "tokens in a sequence",
    "model": "model",
    "grad_accum_steps": "micro batches in a step",
}


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def shown(self, digits: int) -> str:
        """The median, and the least and the most where they differ from it."""
        if len(self.values) == 1:
            return f"{self.median:,.{digits}f}"
        low, high = min(self.values), max(self.values)
        return f"{self.median:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


@dataclass(frozen=True)
class Row:
    """A contender at one size, in one precision.

    `ratios` are our stages' tokens/s over a peer's, round by round.
    """

    contender: str
    precision: str
    tokens_per_second: Spread
    ratios: dict[str, Spread]
    memory_gib: float
    memory_ratio: float
    loss_difference: float | None
    first_step_s: float

    @property
    def name(self) -> str:
        return CONTENDERS[self.contender]

    @property
    def best(self) -> float:
        """The median ratio of the better one of our stages."""
        return max(ratio.median for ratio in self.ratios.values())


@dataclass(frozen=True)
class Around:
    """Something that is not a step, what it took, and what it may take."""

    name: str
    value: float
    target: float
    digits: int
    unit: str
    at_least: bool = False

    @property
    def shown(self) -> str:
        return f"{self.value:,.{self.digits}f} {self.unit}"

    @property
    def verdict(self) -> str:
        bound = f"at {'least' if self.at_least else 'most'} {self.target:g} {self.unit}"
        reached = self.value >= self.target if self.at_least else self.value <= self.target
        return f"{bound}: {judged(reached)}"


def judged(reached: bool) -> str:
    """A verdict in one word."""
    return "reached" if reached else "missed"


class Measured:
    """What was measured on one machine, found by what it is of.

    `estimates` are traced bytes by stage and sequences in a micro batch, of a GPU's memory.
    """

    def __init__(
        self, key: str, part: Entry, quick: bool = False, estimates: Entry | None = None
    ) -> None:
        self.key = key
        self.part = part
        self.entries: dict[str, Entry] = part["measured"]
        self.limits = self.entries["limits"]
        self.machine: Entry = self.limits["machine"]
        self.title = machine.title(self.machine)
        self.precision: str = self.limits["precision"]
        self.on_gpu = self.machine["device"] != "cpu"
        self.plan: Plan = plan_for(self.machine["device"], quick)
        self.estimates = estimates or {}

    @property
    def peak(self) -> float:
        """FLOP/s of the large square in the runner's precision."""
        return self.limit(self.precision)

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

    @property
    def has_onednn(self) -> bool:
        return any("oneDNN" in product["precision"] for product in self.limits["matrix_products"])

    @property
    def tried_bf16(self) -> bool:
        """Whether peers ran in bf16 where our runner does not."""
        rows = [row for size in self.plan.sizes for row in self.rows(size.name)]
        return self.precision == "fp32" and any(row.precision == "bf16" for row in rows)

    @property
    def not_applied(self) -> dict[str, str]:
        """What our step 7 left out, and why."""
        found: dict[str, str] = {}
        for name, entry in self.entries.items():
            if name.endswith("/step07"):
                found |= entry["not_applied"]
        return found

    def sizes(self) -> list[Size]:
        """Those at which ours were compared."""
        return [size for size in self.plan.sizes if self.rows(size.name)]

    def rows(self, size: str) -> list[Row]:
        """Ours and the peers at one size, in the runner's precision first.

        Left out are rounds in which one of ours is missing.
        """
        found: dict[tuple[str, str], dict[str, Entry]] = {}
        own: dict[str, dict[str, Entry]] = {stage: {} for stage in OURS}
        for name, entry in self.entries.items():
            if name.startswith(f"peers/{size}/"):
                number, contender = name.split("/")[2:4]
                if all(f"peers/{size}/{number}/{stage}" in self.entries for stage in OURS):
                    found.setdefault((contender, entry["precision"]), {})[number] = entry
                    if contender in OURS:
                        own[contender][number] = entry
        order = list(CONTENDERS)
        keys = sorted(found, key=lambda k: (k[1] != self.precision, order.index(k[0])))
        return [_row(contender, found[contender, p], p, own) for contender, p in keys]

    def compared(self, size: str) -> dict[str, Row]:
        """Ours, and the peers in the runner's precision, by contender."""
        rows = reversed(self.rows(size))  # the runner's precision comes last, and stays
        return {
            r.contender: r for r in rows if r.contender in OURS or r.precision == self.precision
        }

    def targets(self) -> dict[str, list[str]]:
        """By target, what came of it at every size; "" where it was not measured."""
        sizes = [self.compared(size.name) for size in self.sizes()]
        found = {}
        for peer, target in TARGETS.items():
            name = f"tokens/s at least {target} times {CONTENDERS[peer]}"
            found[name] = [
                f"{rows[peer].best:.2f}: {judged(rows[peer].best >= target)}"
                if peer in rows
                else ""
                for rows in sizes
            ]
        found["most memory of ours at most the lowest of the peers'"] = [
            _memory_verdict(rows) for rows in sizes
        ]
        if share := self.peak_share():
            name = f"step 7 at least {PEAK_SHARE_TARGET:.0%} of the peak at the largest size"
            reached = judged(share >= PEAK_SHARE_TARGET)
            found[name] = [""] * (len(sizes) - 1) + [f"{share:.0%}: {reached}"]
        return {name: cells for name, cells in found.items() if any(cells)}

    def peak_share(self) -> float | None:
        """The part of the measured peak that step 7 reaches at the plan's largest size."""
        size = self.plan.sizes[-1]
        return self.share(self.point(size.point)) if self.rows(size.name) else None

    def share(self, entry: Entry | None) -> float | None:
        """The part of the measured peak that a run reaches in its own precision."""
        if entry is None:
            return None
        flops: float = entry["flops_per_token"] * entry["tokens_per_second"]
        return flops / self.limit(entry["precision"])

    def point(self, point: Point) -> Entry | None:
        """Step 7 at a point of the growth: measured there, or as one of the sizes compared."""
        for size in self.plan.sizes:
            if size.point == point:
                rounds = [
                    entry
                    for name, entry in self.entries.items()
                    if name.startswith(f"peers/{size.name}/") and name.endswith("/step07")
                ]
                if rounds:
                    rate = statistics.median(entry["tokens_per_second"] for entry in rounds)
                    memory = max(entry["peak_memory_bytes"] for entry in rounds)
                    return {**rounds[0], "tokens_per_second": rate, "peak_memory_bytes": memory}
        return self.entries.get(f"growth/{point.name}")

    def ceilings(self) -> list[Entry]:
        """By size, tokens/s if step 7 were nothing but matrix products at the peak's rate."""
        found = []
        for size in self.sizes():
            entry = self.point(size.point)
            slowest = self.compared(size.name).get("huggingface")
            if entry and slowest:
                rate = self.peak / entry["flops_per_token"]
                ratio = rate / slowest.tokens_per_second.median
                found.append({"size": spaced(size), "tokens_per_second": rate, "ratio": ratio})
        return found

    def growth(self, axis: Axis) -> list[Entry]:
        """The points of an axis that were measured, with what a table and a figure say of them."""
        found = []
        for point in axis.points:
            entry = self.point(point)
            if entry is not None:
                found.append(
                    {
                        "value": getattr(point, axis.field),
                        "tokens_per_second": entry["tokens_per_second"],
                        "memory_gib": entry["peak_memory_bytes"] / GIB,
                        "of_limit": self.share(entry),
                        "parameters": entry["parameters"],
                    }
                )
        return found

    def axes(self) -> dict[str, list[Entry]]:
        """By field, the points of the axes of which any was measured."""
        found = {axis.field: self.growth(axis) for axis in self.plan.axes}
        return {field: points for field, points in found.items() if points}

    def swept(self) -> list[tuple[Stage, Entry]]:
        """The stages of the sweep, without the flow check."""
        measured = self.entries.get("around/sweep", {"stages": {}})["stages"]
        return [
            (stage, measured[stage.name])
            for stage in read_ladder()
            if stage.name in measured and stage.about.aim is not Aim.flow
        ]

    def ladder(self) -> list[Entry]:
        """The stages of the sweep, each against the baseline and the stage before it."""
        found: list[Entry] = []
        for stage, entry in self.swept():
            rate = entry["tokens_per_second"]
            first, before = (found[0], found[-1]) if found else (None, None)
            found.append(
                {
                    "number": stage.number,
                    "title": stage.about.title,
                    "tokens_per_second": rate,
                    "tokens_per_step": round(rate * entry["step_ms"] / 1e3),
                    "of_baseline": rate / first["tokens_per_second"] if first else None,
                    "of_before": rate / before["tokens_per_second"] if before else None,
                    "memory_gib": entry["peak_memory_bytes"] / GIB,
                }
            )
        return found

    def memory(self) -> list[Entry]:
        """The sweep's stages whose memory on a GPU was estimated, with both."""
        found = []
        for stage, entry in self.swept() if self.on_gpu else []:
            sequences = entry["micro_batch_size"]
            estimate = self.estimates.get(stage.name, {}).get(str(sequences))
            if estimate is not None:
                found.append(
                    {
                        "number": stage.number,
                        "title": stage.about.title,
                        "sequences": sequences,
                        "measured_gib": entry["peak_memory_bytes"] / GIB,
                        "estimated_gib": estimate / GIB,
                        "ratio": entry["peak_memory_bytes"] / estimate,
                    }
                )
        return found

    def around(self) -> list[Around]:
        """What was measured of the time around the steps."""
        found = {
            name.removeprefix("around/"): entry
            for name, entry in self.entries.items()
            if name.startswith("around/")
        }
        lines = []
        if sweep := found.get("sweep"):
            working = sweep["train_s"] + sweep["evaluation_s"]
            if sweep["seconds"]:  # one that was interrupted has none
                name = "a whole sweep / its optimizer steps and evaluations"
                lines.append(Around(name, sweep["seconds"] / working, 1.15, 2, "times"))
            lines.append(Around("the sweep's report", sweep["report_s"], 5, 1, "s"))
        if compilation := found.get("compilation"):
            lines += [
                Around("compiling, with an empty cache", compilation["cold_s"], 15, 1, "s"),
                Around("compiling, with a warm cache", compilation["warm_s"], 5, 1, "s"),
            ]
        if "line" in found and "smoke" in found:
            step_ms = min(stage["step_ms"] for stage in found["smoke"]["stages"].values())
            name = f"the line of a step / the smoke scale's fastest step, {step_ms:.1f} ms"
            share = found["line"]["line_us"] / (step_ms * 1e3)
            lines.append(Around(name, 100 * share, 1, 2, "%"))
        for key, where in (("busy", "smoke scale"), ("busy at the first size", "first size")):
            if busy := found.get(key):
                name = f"a step beside a process that keeps a core busy / alone, {where}"
                lines.append(Around(name, busy["beside_ms"] / busy["alone_ms"], 2, 2, "times"))
        if text := found.get("text"):
            size = text["bytes"] / 1e6
            lines += [
                Around(
                    f"tokenizing a text of {size:,.0f} MB",
                    size / text["tokenized_s"], 15, 1, "MB/s", at_least=True,
                ),
                Around("its most memory", text["peak_memory_bytes"] / 1e9, 1, 2, "GB"),
                Around("opening it once it was checked", text["opened_s"] * 1e3, 10, 1, "ms"),
            ]  # fmt: skip
        return lines

    def profiles(self) -> dict[str, Entry]:
        """By size, where a step's time goes."""
        return {
            spaced(size): self.entries[f"profile/{size.name}"]
            for size in self.plan.sizes
            if f"profile/{size.name}" in self.entries
        }

    def kinds(self) -> list[str]:
        """The kinds of work, the largest first, the rest last."""
        shares: dict[str, float] = {}
        for profile in self.profiles().values():
            for kind, seconds in profile["seconds"].items():
                share = seconds / profile["step_seconds"]
                shares[kind] = max(shares.get(kind, 0.0), share)
        return sorted(shares, key=lambda kind: (kind == "rest", -shares[kind]))

    @property
    def tests(self) -> Entry | None:
        """How the tests that need a GPU ended, where they ran."""
        return self.entries.get("tests/gpu")

    @property
    def picture(self) -> str:
        return f"performance-{self.key}.png"


def spaced(size: Size) -> str:
    """A size as the page writes it."""
    return size.name.replace("x", " x ")


def _memory_verdict(rows: dict[str, Row]) -> str:
    own = max((rows[stage].memory_gib for stage in OURS if stage in rows), default=None)
    peers = [rows[peer].memory_gib for peer in TARGETS if peer in rows]
    if own is None or not peers:
        return ""
    return f"{own:.2f} GiB against {min(peers):.2f}: {judged(own <= min(peers))}"


def _row(
    contender: str, rounds: dict[str, Entry], precision: str, own: dict[str, dict[str, Entry]]
) -> Row:
    # Memory is the most of any round, and a ratio is between two runs of one round.
    rates = {number: entry["tokens_per_second"] for number, entry in rounds.items()}
    ratios = {
        stage: Spread([ours[n]["tokens_per_second"] / rate for n, rate in rates.items()])
        for stage, ours in own.items()
        if contender in TARGETS
    }
    differences = [e["loss_difference"] for e in rounds.values() if "loss_difference" in e]
    memory = _most_memory(rounds)
    return Row(
        contender=contender,
        precision=precision,
        tokens_per_second=Spread(list(rates.values())),
        ratios=ratios,
        memory_gib=memory / GIB,
        memory_ratio=_most_memory(own["step07"]) / memory,
        loss_difference=max(differences, default=None),
        first_step_s=max(e["step_seconds"][0] + e.get("compile_s", 0.0) for e in rounds.values()),
    )


def _most_memory(rounds: dict[str, Entry]) -> int:
    return max(entry["peak_memory_bytes"] for entry in rounds.values())


def overview(machines: list[Measured]) -> dict[str, list[str]]:
    """The table of all machines: by the name of a row a cell for each, "" if not measured there."""
    table = {
        "measured on": [each.part["date"] for each in machines],
        "precision": [each.precision for each in machines],
    }
    sizes = {size.name: size for each in machines for size in each.plan.sizes}
    for name, size in sizes.items():
        compared = [each.compared(name) for each in machines]
        for peer in TARGETS:
            table[f"{spaced(size)}: ours / {CONTENDERS[peer]}"] = [
                f"{rows[peer].best:.2f}" if peer in rows else "" for rows in compared
            ]
        table[f"{spaced(size)}: step 7, tokens/s"] = [
            f"{rows['step07'].tokens_per_second.median:,.0f}" if "step07" in rows else ""
            for rows in compared
        ]
    table["share of the peak, largest size"] = [
        f"{share:.0%}" if (share := each.peak_share()) is not None else "" for each in machines
    ]
    ladders = [{entry["number"]: entry for entry in each.ladder()} for each in machines]
    for number, entry in sorted({n: e for ladder in ladders for n, e in ladder.items()}.items()):
        table[f"ladder, {number} {entry['title']}: tokens/s"] = [
            f"{ladder[number]['tokens_per_second']:,.0f} ({ladder[number]['tokens_per_step']:,})"
            if number in ladder
            else ""
            for ladder in ladders
        ]
    return {name: cells for name, cells in table.items() if any(cells)}


def write(data: Entry, folder: Path, quick: bool = False) -> None:
    """Write performance.md and a picture for every machine into a folder, from the measurements."""
    file = folder / "memory.json"
    estimates = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    machines = [
        Measured(key, part, quick, estimates)
        for key, part in data["machines"].items()
        if "limits" in part["measured"]
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals.update(head=_head, AXES=AXES, GIB=GIB)
    environment.filters["spaced"] = spaced
    text = environment.get_template("performance.md.j2").render(
        machines=machines, overview=overview(machines)
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "performance.md").write_text(text, encoding="utf-8")
    for each in machines:
        if each.axes():
            draw(each, folder / each.picture)


def _head(titles: list[str]) -> str:
    """The first two lines of a table in Markdown."""
    return f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}"


def draw(measured: Measured, file: Path) -> None:
    """Tokens/s above and memory below, along the axes that were measured."""
    axes = measured.axes()
    style = Path(reports.__file__).with_name("style.mplstyle")
    light = {"figure.facecolor": "white", "savefig.facecolor": "white"}  # readable on any page
    with matplotlib.style.context([style, light]):
        figure = Figure(figsize=(max(5, 2.75 * len(axes)), 5), layout="constrained")
        grid = figure.subplots(2, len(axes), sharex="col", squeeze=False)
        for column, (field, points) in zip(grid.T, axes.items(), strict=True):
            places = range(len(points))
            labels = [str(point["value"]).replace("_", "\n") for point in points]
            for ax, key, colour in zip(
                column,
                ("tokens_per_second", "memory_gib"),
                STAGES[:2],
                strict=True,
            ):
                heights = [point[key] for point in points]
                ax.plot(places, heights, marker="o", markersize=4, color=colour)
                for place, height in zip(places, heights, strict=True):
                    shown = f"{height:,.0f}" if height >= 100 else f"{height:,.1f}"
                    ax.annotate(
                        shown, (place, height), (0, 5), textcoords="offset points",
                        ha="center", fontsize=8, color=THEME["muted"][0],
                    )  # fmt: skip
                ax.margins(x=0.15)
                if field == "model":  # they differ by more than a linear scale can show
                    ax.set_yscale("log")
                    ax.set_ylim(min(heights) / 2, max(heights) * 3)
                else:
                    ax.set_ylim(0, max(heights) * 1.2)
                ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
                ax.yaxis.set_minor_formatter("")
            column[1].set_xticks(places, labels)
            column[1].set_xlabel(AXES[field])
        grid[0, 0].set_title("tokens/s")
        grid[1, 0].set_title("peak memory, GiB")
        figure.savefig(file, dpi=144)
