"""All measurements of docs/performance.md, each saved as soon as it is made.

Every measurement has a name, such as peers/4x64/1/huggingface/fp32, and runs in a process of its
own. Its result is saved in performance.json under its machine and that name, and is not measured
again.
"""

import json
import math
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from runner.identity import code_hash, commit
from runner.training.device import find_device
from tests.benchmarks import machine, ours, page, surroundings
from tests.benchmarks.plan import TEXTS, Plan, Size, plan_for

# The stage that is profiled, and the stage that has each peer's optimizer.
STAGE = "step07"
COUNTERPART = {
    "huggingface": "step07",
    "huggingface-compiled": "step07",
    "plain": "step09",
    "plain-compiled": "step09",
}

# How far a peer's loss may be from ours, as a part of the loss. In fp32 a forward pass agrees to a
# few roundings (2^-23). AdamW divides a gradient by its own size, so that the rounding of tiny ones
# moves weights, and the difference grows with the steps: a hundred roundings is room for ten of
# them, and no more are compared. In bfloat16 it is one rounding of the loss itself, 2^-9: products
# are rounded more often, and the mean over a micro batch's tokens evens it out.
ALLOWED = {"fp32": 100 * 2**-23, "bf16": 2**-9}
COMPARED_STEPS = 10

SURROUNDINGS = surroundings.__name__

Entry = dict[str, Any]
Job = tuple[str, Callable[[], Entry]]


class LossesDiffer(Exception):
    """A peer's training differs from ours, so that the speeds cannot be compared."""


class Store:
    """What was measured on a machine, by name, on disk after every measurement.

    The file holds a part for every machine. This one's begins empty where it is of other code or of
    another number of cores; the others are left alone. Raises ValueError for a damaged file, which
    may hold what cannot be measured again here.
    """

    def __init__(self, file: Path, key: str, identity: Entry) -> None:
        self.file = file
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        self.fields: Entry = {"machines": {}, **found}
        machines = self.fields["machines"]
        self.is_outdated = machines.get(key, {}).get("identity", identity) != identity
        if key in machines and not self.is_outdated:
            self.part: Entry = machines[key]
        else:
            self.part = {"identity": identity, "measured": {}}
        self.key = key

    def __contains__(self, name: str) -> bool:
        return name in self.part["measured"]

    def __getitem__(self, name: str) -> Entry:
        return self.part["measured"][name]

    def add(self, name: str, entry: Entry) -> None:
        """Keep a measurement, with the day and the commit of the code."""
        head, dirty = commit()
        self.part["commit"] = f"{head}{', changed since' if dirty else ''}" if head else None
        self.part["date"] = datetime.now(timezone.utc).date().isoformat()
        self.part["measured"][name] = entry
        self.fields["machines"][self.key] = self.part
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.fields, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.file)


class Bench:
    """The measurements of a plan; the records of its runs are in the folder `runs`."""

    def __init__(self, plan: Plan, runs: Path) -> None:
        self.plan = plan
        self.runs = runs

    def jobs(self, own_precision: str) -> Iterator[Job]:
        """Every measurement but the limits, in the order in which they are made."""
        for size in self.plan.sizes:
            yield from self.comparison(size, own_precision)
        for size in self.plan.sizes:
            if size.name in self.plan.profile_steps:
                yield f"profile/{size.name}", partial(self.profile, size)
        yield from self.around(self.plan.around)

    def around(self, names: Iterable[str]) -> Iterator[Job]:
        """What is spent around the steps."""
        start = self.plan.sizes[0].setup
        works = {
            "line": partial(in_own_process, SURROUNDINGS, "line"),
            **{
                name: partial(
                    in_own_process, SURROUNDINGS, "text", str(self.plan.text_bytes), f".{name}"
                )
                for name in TEXTS
            },
            "compilation": partial(
                surroundings.compilation, self.runs / "compilation", STAGE, *start
            ),
            "sweep": partial(surroundings.sweep, self.runs / "sweep", *self.plan.sweep),
            "smoke": partial(surroundings.sweep, self.runs / "smoke", "scale=smoke"),
            "busy": partial(surroundings.busy, self.runs / "busy", "scale=smoke", "train.steps=60"),
            "busy at the first size": partial(
                surroundings.busy, self.runs / "busy", *start, "train.steps=8"
            ),
        }
        for name in names:
            yield f"around/{name}", works[name]

    def comparison(self, size: Size, own_precision: str) -> Iterator[Job]:
        """Rounds of ours and of every peer, one after the other, in the runner's own precision.

        Where the runner has fp32, every peer has one turn in bf16 at the first size, and no other:
        it is not what the runner is compared with.
        """
        prefix = f"peers/{size.name}"
        for n in range(1, size.rounds + 1):
            for stage in dict.fromkeys(COUNTERPART.values()):
                yield f"{prefix}/{n}/{stage}", partial(self.own, size, n, stage)
            for peer in COUNTERPART:
                yield (
                    f"{prefix}/{n}/{peer}/{own_precision}",
                    partial(self.peer, size, peer, own_precision),
                )
        if own_precision == "fp32" and size is self.plan.sizes[0]:
            for peer in COUNTERPART:
                yield f"{prefix}/1/{peer}/bf16", partial(self.peer, size, peer, "bf16")

    def own(self, size: Size, number: int, stage: str) -> Entry:
        """The command line at a size, its record kept for the peers to follow."""
        return entry_of(self._train(size, number, stage))

    def peer(self, size: Size, peer: str, precision: str) -> Entry:
        """A peer with the weights and the tokens of our run. Raises LossesDiffer."""
        stage = COUNTERPART[peer]
        folder = self._folder(size, 1, stage)
        try:
            reference = ours.read(folder)
        except ours.CommandFailed:  # it was cleared away or cut off in an earlier half
            reference = self._train(size, 1, stage)
        found = in_own_process(
            "tests.benchmarks.peers", peer, precision, str(reference.folder), str(ours.CACHE)
        )
        padded = not peer.startswith("plain")  # ours is, and the peer is not
        padding = padding_share(reference.record.config["model"]) if padded else 0.0
        coarser = "bf16" if reference.bf16 else precision
        difference = check_losses(reference.losses, found["losses"], coarser, padding)
        seconds = ours.steady_seconds(found["step_seconds"])
        return {
            **found,
            "precision": precision,
            "tokens_per_second": size.micro_batch_size * size.context / seconds,
            "loss_difference": difference,
        }

    def profile(self, size: Size) -> Entry:
        """One step of ours by kind of work."""
        steps = f"train.steps={self.plan.profile_steps[size.name]}"
        folder = f"output_dir={self.runs / 'profile' / size.name}"
        given = (f"+stage={STAGE}", *ours.BRIEF_ENDING, *size.setup, steps, folder, ours.NO_REPORT)
        return in_own_process("tests.benchmarks.profile_step", *given, "force=true")

    def _train(self, size: Size, number: int, stage: str) -> ours.Run:
        folder = self._folder(size, number, stage)
        return ours.train(folder, stage, *size.overrides)

    def _folder(self, size: Size, number: int, stage: str) -> Path:
        return self.runs / "peers" / size.name / str(number) / stage


def entry_of(run: ours.Run) -> Entry:
    """What is kept of a run of ours."""
    record = run.record
    tokens = record.results.tokens_per_step
    return {
        "step_seconds": run.step_seconds,
        "losses": run.losses,
        "peak_memory_bytes": record.results.peak_memory_bytes,
        "precision": "bf16" if run.bf16 else "fp32",
        "tokens_per_second": tokens / ours.steady_seconds(run.step_seconds),
        "compile_s": record.timings.compile_s,
        "flops_per_token": record.model.flops_per_token,
        "not_applied": record.not_applied,
    }


def check_losses(
    own: list[float], theirs: list[float], precision: str, padding: float = 0.0
) -> float:
    """The largest difference of two runs' first losses; raises LossesDiffer if it is not rounding.

    `padding` is what rows of the vocabulary that only we have may add to our loss, in nats.
    """
    differences = [a - b for a, b in zip(own, theirs, strict=True)][:COMPARED_STEPS]
    for step, (difference, loss) in enumerate(zip(differences, own, strict=False)):
        rounding = ALLOWED[precision] * loss
        if not -rounding <= difference <= padding + rounding:
            raise LossesDiffer(
                f"At step {step} our loss is {loss:.6f}, {difference:+.6f} from the peer's; "
                f"{precision} explains {rounding:.6f} of it and the padded vocabulary "
                f"{padding:.6f}."
            )
    return max(map(abs, differences))


def padding_share(model: Entry) -> float:
    """What the padded rows may add to the loss of a model that was hardly trained, in nats.

    At first their logits are as large as the others': ln(50304 / 50257) = 0.0009. Over the first
    steps their share grew to 1.5 times that; twice is allowed.
    """
    rows = model["vocab_size"]
    return 2 * math.log(-(-rows // 128) * 128 / rows) if model["pad_vocab"] else 0.0


def in_own_process(module: str, *arguments: str) -> Entry:
    """Run a module that writes JSON into the file named by its last argument, and read it."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        ours.python(module, *arguments, str(result))
        return json.loads(result.read_text(encoding="utf-8"))


def measure(
    store: Store, jobs_in: Callable[[str], Iterable[Job]], keep_going: bool = False
) -> list[str]:
    """Make every measurement that is not in the store, and print the progress.

    `jobs_in` has them by the precision that the runner trains in here. With `keep_going` one that
    fails is left out, and what is returned says why. Out of time, the rest is left for another day.
    """
    started = time.perf_counter()
    failures = []

    def take(name: str, work: Callable[[], Entry], place: str) -> None:
        if name in store:
            return
        began = time.perf_counter()
        entry = work()
        store.add(name, entry)
        now = time.perf_counter()
        rate = ""
        if "tokens_per_second" in entry:
            memory = entry["peak_memory_bytes"] / ours.GIB
            rate = f"{entry['tokens_per_second']:,.0f} tokens/s, {memory:.1f} GiB; "
        spent = f"{now - began:.0f} s, {(now - started) / 60:.1f} min so far"
        print(f"[{place}] {name}: {rate}{spent}", flush=True)

    try:
        take("limits", lambda: in_own_process("tests.benchmarks.limits"), "limits")
        jobs = list(jobs_in(store["limits"]["precision"]))
        for number, (name, work) in enumerate(jobs, start=1):
            try:
                take(name, work, f"{number}/{len(jobs)}")
            except (ours.CommandFailed, LossesDiffer) as error:
                if not keep_going:
                    raise
                failures.append(f"{name}: {error}")
                print(f"[{number}/{len(jobs)}] {failures[-1]}", flush=True)
    except ours.OutOfTime:
        print("The time is over; the same command goes on.", flush=True)
    return failures


def here(quick: bool = False) -> tuple[Store, Bench]:
    """What was measured on this machine, and its measurements."""
    found = machine.describe(find_device("auto"))
    plan = plan_for(found["device"], quick)
    identity = {"code": code_hash(), "machine": platform.machine(), "cores": os.cpu_count()}
    file = folder_of(quick) / "performance.json"
    try:
        store = Store(file, machine.key(found), identity)
    except ValueError:
        sys.exit(f"{file} is damaged; restore it, or delete it to start all machines over.")
    # Relative, as records keep the command that they were made by.
    runs = Path("outputs", "benchmarks", "quick" if quick else "full")
    if store.is_outdated:
        shutil.rmtree(ours.ROOT / runs, ignore_errors=True)
    return store, Bench(plan, runs)


def folder_of(quick: bool) -> Path:
    """Where the page is."""
    return ours.ROOT / ("outputs/performance" if quick else "docs")


def render(quick: bool = False) -> None:
    """Write the page from what was measured, and print its name."""
    folder = folder_of(quick)
    file = folder / "performance.json"
    if not file.exists():
        sys.exit(f"{file}: nothing was measured yet; leave --render out.")
    page.write(json.loads(file.read_text(encoding="utf-8")), folder, quick)
    print(folder / "performance.md")


def main(*arguments: str) -> None:
    """`performance [--quick] [--render]`. Raises CommandFailed and LossesDiffer."""
    if unknown := set(arguments) - {"--quick", "--render"}:
        sys.exit(f"No such option: {', '.join(unknown)}; there are --quick and --render.")
    quick = "--quick" in arguments
    if "--render" not in arguments:
        store, bench = here(quick)
        measure(store, bench.jobs)
    render(quick)
