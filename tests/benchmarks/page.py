"""docs/performance.md and its picture, from the measurements."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
from matplotlib.figure import Figure

import reports
from conf.schema import Aim
from reports.palette import THEME
from stages.ladder import read_ladder
from tests.benchmarks.ours import GIB
from tests.benchmarks.plan import Axis, Plan, Point

Entry = dict[str, Any]
HERE = Path(__file__).parent

CONTENDERS = {
    "step07": "ours, step 7",
    "step09": "ours, step 9",
    "huggingface": "transformers, eager",
    "huggingface-compiled": "transformers, compiled",
    "plain": "plain script, eager",
}
OURS = ("step07", "step09")
# How many times a peer's tokens/s ours are to be.
TARGETS = {"huggingface": 2.0, "huggingface-compiled": 1.5, "plain": 2.0}
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

    `ratios` are our stages' tokens/s over a peer's, round by round; the target is for either.
    """

    name: str
    precision: str
    tokens_per_second: Spread
    ratios: dict[str, Spread]
    target: float | None
    memory_gib: float
    memory_ratio: float
    loss_difference: float | None
    first_step_s: float

    @property
    def best(self) -> float:
        """The median ratio of the better one of our stages."""
        return max(ratio.median for ratio in self.ratios.values())

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return f"{self.target} {'reached' if self.best >= self.target else 'missed'}"


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
        return f"{bound}: {'reached' if reached else 'missed'}"


class Measured:
    """What was measured, found by what it is of."""

    def __init__(self, data: Entry, plan: Plan) -> None:
        self.data = data
        self.plan = plan
        self.entries: dict[str, Entry] = data["measured"]
        self.limits = self.entries["limits"]
        self.precision: str = self.limits["precision"]

    def limit(self, name: str, precision: str) -> float:
        """FLOP/s of a matrix product."""
        (found,) = (
            product["flops_per_second"]
            for product in self.limits["matrix_products"]
            if product["name"] == name and product["precision"] == precision
        )
        return found

    def rows(self, size: str) -> list[Row]:
        """Ours and the peers at one size, in the runner's precision first."""
        found: dict[tuple[str, str], dict[str, Entry]] = {}
        for name, entry in self.entries.items():
            if name.startswith(f"peers/{size}/"):
                number, contender = name.split("/")[2:4]
                found.setdefault((contender, entry["precision"]), {})[number] = entry
        own = {stage: found[stage, self.precision] for stage in OURS}
        order = list(CONTENDERS)
        keys = sorted(found, key=lambda k: (k[1] != self.precision, order.index(k[0])))
        return [_row(contender, found[contender, p], p, own) for contender, p in keys]

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

    def ceiling(self, point: Point) -> float:
        """Tokens/s if step 7 were nothing but matrix products at the large square's rate."""
        entry = self.point(point)
        assert entry is not None, f"{point.name} was not measured"
        return self.limit("large square", self.precision) / entry["flops_per_token"]

    def growth(self, axis: Axis) -> list[Entry]:
        """The points of an axis that were measured, with what a table and a figure say of them."""
        limit = self.limit("large square", self.precision)
        found = []
        for point in axis.points:
            entry = self.point(point)
            if entry is not None:
                flops = entry["flops_per_token"] * entry["tokens_per_second"]
                found.append(
                    {
                        "value": getattr(point, axis.field),
                        "tokens_per_second": entry["tokens_per_second"],
                        "memory_gib": entry["peak_memory_bytes"] / GIB,
                        "of_limit": flops / limit,
                        "parameters": entry["parameters"],
                    }
                )
        return found

    def ladder(self) -> list[Entry]:
        """The stages of the sweep, each against the baseline and the stage before it."""
        found: list[Entry] = []
        measured = self.entries.get("around/sweep", {"stages": {}})["stages"]
        for stage in read_ladder():
            entry = measured.get(stage.name)
            if entry is None or stage.about.aim is Aim.flow:
                continue
            rate = entry["tokens_per_second"]
            first, before = (found[0], found[-1]) if found else (None, None)
            found.append(
                {
                    "number": stage.number,
                    "title": stage.about.title,
                    "tokens_per_second": rate,
                    "of_baseline": rate / first["tokens_per_second"] if first else None,
                    "of_before": rate / before["tokens_per_second"] if before else None,
                    "memory_gib": entry["peak_memory_bytes"] / GIB,
                }
            )
        return found

    def around(self) -> list[Around]:
        """What the time around the steps comes to, where all of it was measured."""
        found = {
            name.removeprefix("around/"): entry
            for name, entry in self.entries.items()
            if name.startswith("around/")
        }
        if not {"line", "text", "compilation", "sweep", "smoke"} <= found.keys():
            return []
        sweep, text = found["sweep"], found["text"]
        step_us = min(stage["step_ms"] for stage in found["smoke"]["stages"].values()) * 1e3
        return [
            Around(
                "a whole sweep / its optimizer steps and evaluations",
                sweep["seconds"] / (sweep["train_s"] + sweep["evaluation_s"]), 1.15, 2, "times",
            ),
            Around("the sweep's report", sweep["report_s"], 5, 1, "s"),
            Around("compiling, with an empty cache", found["compilation"]["cold_s"], 15, 1, "s"),
            Around("compiling, with a warm cache", found["compilation"]["warm_s"], 5, 1, "s"),
            Around(
                f"the line of a step / the smoke scale's fastest step, {step_us / 1e3:.1f} ms",
                100 * found["line"]["line_us"] / step_us, 1, 2, "%",
            ),
            Around(
                f"tokenizing a text of {text['bytes'] / 1e6:,.0f} MB",
                text["bytes"] / text["tokenized_s"] / 1e6, 15, 1, "MB/s", at_least=True,
            ),
            Around("its most memory", text["peak_memory_bytes"] / 1e9, 1, 2, "GB"),
            Around("opening it once it was checked", text["opened_s"] * 1e3, 10, 1, "ms"),
        ]  # fmt: skip

    def profiles(self) -> dict[str, Entry]:
        """By size, where a step's time goes."""
        return {
            size.name: self.entries[f"profile/{size.name}"]
            for size in self.plan.sizes
            if f"profile/{size.name}" in self.entries
        }


def _row(
    contender: str, rounds: dict[str, Entry], precision: str, own: dict[str, dict[str, Entry]]
) -> Row:
    # Memory is the most of any round, and a ratio is between two runs of one round.
    rates = {number: entry["tokens_per_second"] for number, entry in rounds.items()}
    ratios = {
        stage: Spread([ours[n]["tokens_per_second"] / rate for n, rate in rates.items()])
        for stage, ours in own.items()
    }
    differences = [e["loss_difference"] for e in rounds.values() if "loss_difference" in e]
    memory = _most_memory(rounds)
    return Row(
        name=CONTENDERS[contender],
        precision=precision,
        tokens_per_second=Spread(list(rates.values())),
        ratios=ratios if contender in TARGETS else {},
        target=TARGETS.get(contender),
        memory_gib=memory / GIB,
        memory_ratio=_most_memory(own["step07"]) / memory,
        loss_difference=max(differences, default=None),
        first_step_s=max(e["step_seconds"][0] + e.get("compile_s", 0.0) for e in rounds.values()),
    )


def _most_memory(rounds: dict[str, Entry]) -> int:
    return max(entry["peak_memory_bytes"] for entry in rounds.values())


def write(data: Entry, plan: Plan, folder: Path) -> None:
    """Write performance.md and performance.png into a folder, from the measurements in `data`."""
    measured = Measured(data, plan)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    sizes = {size.name.replace("x", " x "): size for size in plan.sizes}
    not_applied: dict[str, str] = {}
    for name, entry in data["measured"].items():
        if name.endswith("/step07"):
            not_applied |= entry["not_applied"]
    text = environment.get_template("performance.md.j2").render(
        data=data,
        machine=measured.limits["machine"],
        limits=measured.limits,
        plan=plan,
        precision=measured.precision,
        sizes={name: measured.rows(size.name) for name, size in sizes.items()},
        ceilings={name: measured.ceiling(size.point) for name, size in sizes.items()},
        growth={AXES[axis.field]: measured.growth(axis) for axis in plan.axes},
        ladder=measured.ladder(),
        around=measured.around(),
        profiles=measured.profiles(),
        kinds=_kinds(measured.profiles()),
        not_applied=not_applied,
        limit=measured.limit("large square", measured.precision),
        GIB=GIB,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "performance.md").write_text(text, encoding="utf-8")
    draw(measured, folder / "performance.png")


def _kinds(profiles: dict[str, Entry]) -> list[str]:
    """The kinds of work, the largest first, the rest last."""
    seconds: dict[str, float] = {}
    for profile in profiles.values():
        for kind, spent in profile["seconds"].items():
            share = spent / profile["step_seconds"]
            seconds[kind] = max(seconds.get(kind, 0.0), share)
    return sorted(seconds, key=lambda kind: (kind == "rest", -seconds[kind]))


def draw(measured: Measured, file: Path) -> None:
    """Tokens/s above and memory below, along the four axes."""
    style = Path(reports.__file__).with_name("style.mplstyle")
    light = {"figure.facecolor": "white", "savefig.facecolor": "white"}  # readable on any page
    with matplotlib.style.context([style, light]):
        figure = Figure(figsize=(11, 5), layout="constrained")
        grid = figure.subplots(2, len(measured.plan.axes), sharex="col", squeeze=False)
        for column, axis in zip(grid.T, measured.plan.axes, strict=True):
            points = measured.growth(axis)
            places = range(len(points))
            labels = [str(point["value"]).replace("_", "\n") for point in points]
            for ax, key, colour in zip(
                column,
                ("tokens_per_second", "memory_gib"),
                (THEME["stage-0"][0], THEME["stage-1"][0]),
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
                if axis.field == "model":  # they differ by more than a linear scale can show
                    ax.set_yscale("log")
                    ax.set_ylim(min(heights) / 2, max(heights) * 3)
                else:
                    ax.set_ylim(0, max(heights) * 1.2)
                ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.10g}")
                ax.yaxis.set_minor_formatter("")
            column[1].set_xticks(places, labels)
            column[1].set_xlabel(AXES[axis.field])
        grid[0, 0].set_title("tokens/s")
        grid[1, 0].set_title("peak memory, GiB")
        figure.savefig(file, dpi=144)
