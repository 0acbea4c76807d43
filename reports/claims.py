"""The guide's claims, each with its conditions and ours, and whether it held here.

A claim about one change inside a stage is judged on two runs that differ in that change alone.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports import words
from reports.compare import CONDITIONS, Curves, Estimate, Group, Run, Stage, chosen, speed_up
from reports.reference import guide_log

INTERVAL = (11.0, 7.21)
INTERVAL_DISTANCE = 0.5
POWERS_OF_TWO_GAIN = 0.30
ATTENTION_MS = (130.0, 96.0)
# Of a claimed gain in speed, the share that must be there for the claim to have held.
SHARE_OF_GAIN = 0.75
LOG_DISTANCE = 0.1

RULES = (
    f"An interval held when both ends lie within {INTERVAL_DISTANCE} of the guide's; a gain in "
    f"speed when at least {SHARE_OF_GAIN:.0%} of it was measured, and is smaller here when what "
    "was measured is less but more than the step times' own spread; the last loss when it is no "
    f"more than {LOG_DISTANCE} above the guide's."
)


@dataclass(frozen=True)
class Claim:
    """A claim and what was measured for it.

    `verdict` is held, held in part, smaller here, did not hold, cannot be told or not measured;
    `command` makes the run that is missing, and is empty where none is.
    """

    claim: str
    theirs: str
    ours: str
    measured: str
    verdict: str
    command: str = ""


def claims(groups: Sequence[Group], curves: Curves) -> list[Claim]:
    """The guide's claims in its order, judged on the main group and, for pairs, its overrides."""
    main = groups[0]
    return [
        _baseline(main),
        _powers_of_two(groups, curves),
        _attention(groups, curves),
        _accumulation(main),
        _log(main, curves),
    ]


def step10(group: Group) -> Stage | None:
    """The stage to lay beside the guide's published run: its step 10, where it has finished."""
    found = [stage for stage in group.ladder if stage.name == "step10" and stage.finished]
    return found[0] if found else None


def guide_note(stage: Stage) -> str:
    """What is known of the guide's published run, and what of ours beside it."""
    seconds = guide_log().step_ms.mean() / 1000
    return (
        "The guide's log is of GPT-2 on a smaller dataset, which it does not name; nor does it "
        "state the batch, the data's size or the machine, only that a step took about "
        f"{seconds:.0f} s. {stage.name} here is {conditions(stage)}, "
        f"{words.count(stage.mean['step_ms'])} ms a step. With so much unknown the shapes can be "
        "laid side by side; the losses cannot be ranked."
    )


def conditions(stage: Stage) -> str:
    """A stage's own conditions in a line."""
    run = stage.newest
    return (
        f"{run['model']}, {run['data']}, {words.count(stage.mean['tokens_per_step'])} tokens a "
        f"step, {run['steps']} steps, {run['device_name'] or run['device']}"
    )


def _baseline(main: Group) -> Claim:
    claim = f"The baseline's interval is like [{INTERVAL[0]:g}, {INTERVAL[1]:g}]."
    theirs = "50 to 100 epochs; given as an example, with model, data and batch not stated"
    stage = main.baseline
    if stage is None:
        return _missing(claim, theirs, _command(main, "step02"))
    ends = stage.mean["worst"], stage.mean["best"]
    near = all(
        abs(end - said) <= INTERVAL_DISTANCE for end, said in zip(ends, INTERVAL, strict=True)
    )
    return Claim(
        claim,
        theirs,
        conditions(stage),
        f"[{ends[0]:.2f}, {ends[1]:.2f}]",
        "held" if near else "did not hold",
    )


def _powers_of_two(groups: Sequence[Group], curves: Curves) -> Claim:
    claim = f"Sizes that are powers of two alone bring about {POWERS_OF_TWO_GAIN:.0%} speed."
    theirs = "not stated: no machine, model or size is named"
    pair = _pair(groups, "model.pad_vocab", False, True, "step06")
    estimate = pair and speed_up(*pair, curves)
    if not pair or estimate is None:
        return _missing(claim, theirs, _command(groups[0], "step06", "model.pad_vocab=false"))
    return Claim(
        claim,
        theirs,
        f"the vocabulary's padding alone, at {pair[1][0]['stage']}; {_machine(pair[1][0])}",
        f"{_gain(estimate)} tokens/s",
        _held(estimate, 1 + POWERS_OF_TWO_GAIN),
    )


def _attention(groups: Sequence[Group], curves: Curves) -> Claim:
    before, after = ATTENTION_MS
    claim = (
        f"Flash attention takes a step from {before:g} ms to {after:g} ms, "
        f"{before / after:.2f} times the speed."
    )
    theirs = "not stated: no machine, model or batch is named"
    pair = _pair(groups, "model.attention", "manual", "flash", "step07")
    estimate = pair and speed_up(*pair, curves)
    if not pair or estimate is None:
        return _missing(claim, theirs, _command(groups[0], "step07", "model.attention=manual"))
    times = [sum(run["step_ms"] for run in runs) / len(runs) for runs in pair]
    return Claim(
        claim,
        theirs,
        f"attention alone, {_named(pair[0][0])} to {_named(pair[1][0])}; {_machine(pair[1][0])}",
        f"{times[0]:,.0f} ms to {times[1]:,.0f} ms a step; {_gain(estimate)} tokens/s",
        _held(estimate, before / after),
    )


def _accumulation(main: Group) -> Claim:
    claim = "Accumulating gradients slows the step down, but improves the loss."
    theirs = "not stated: its log takes about 32 s a step, and no batch is named"
    stage = next(
        (s for s in main.ladder if "train.total_batch_tokens" in s.newest["changes"]), None
    )
    before = stage and next((s for s in main.ladder if s.name == stage.previous), None)
    if stage is None or before is None or stage.loss_vs_previous is None:
        return _missing(claim, theirs, _command(main, "step10"))
    slower = stage.mean["step_ms"] / before.mean["step_ms"]
    more = stage.mean["tokens_per_step"] / before.mean["tokens_per_step"]
    loss = stage.loss_vs_previous
    good = (slower > 1) + loss.down
    return Claim(
        claim,
        theirs,
        f"{stage.name} after {before.name}, as many steps of {more:.3g} times the tokens; "
        f"{_machine(stage.newest)}",
        f"a step takes {slower:.1f} times as long; held-out loss {words.change(loss)}"
        + ("" if loss.told else ", which cannot be told from none"),
        ("did not hold", "held in part", "held")[good],
    )


def _log(main: Group, curves: Curves) -> Claim:
    log = guide_log()
    end, last = float(log.loss[-1]), int(log.step[-1])
    claim = f"Its run of {last + 1} steps ends at a loss of {end:.3f}."
    theirs = (
        f"a smaller dataset, GPT-2, about {log.step_ms.mean() / 1000:.0f} s a step; "
        "data, batch and machine not stated"
    )
    stage = step10(main)
    if stage is None:
        return _missing(claim, theirs, _command(main, "step10"))
    reached = [
        float(curve["loss"][curve["step"] == last][0])
        for curve in (curves[run["run"]] for run in stage.finished)
        if last in curve["step"]
    ]
    if not reached:
        return Claim(claim, theirs, conditions(stage), "a run of fewer steps", "not measured")
    loss = sum(reached) / len(reached)
    return Claim(
        claim,
        theirs,
        conditions(stage),
        f"{loss:.3f} at step {last}",
        "held" if loss <= end + LOG_DISTANCE else "did not hold",
    )


def _missing(claim: str, theirs: str, command: str) -> Claim:
    return Claim(claim, theirs, "", "no run to judge it by", "not measured", command)


def _command(main: Group, stage: str, override: str = "") -> str:
    """The command of the missing run: like the stage's own, where there is one."""
    own = next((s.newest["command"] for s in main.stages if s.name == stage), "")
    if not own.startswith("python -m runner +stage="):
        own = f"python -m runner +stage={stage}"
    return f"{own} {override}".strip()


def _machine(run: Run) -> str:
    return str(run["device_name"] or run["device"])


def _named(run: Run) -> str:
    return f"{run['stage']} {run['variant']}".strip()


def _gain(estimate: Estimate) -> str:
    percent = 100 * (estimate.value - 1)
    low, high = (100 * (bound - 1) for bound in (estimate.low, estimate.high))
    within = "" if math.isnan(low) else f" ({low:+.0f}% to {high:+.0f}%)"
    return f"{percent:+.0f}%{within}".replace("-", "−")


def _held(estimate: Estimate, claimed: float) -> str:
    if estimate.value - 1 >= SHARE_OF_GAIN * (claimed - 1):
        return "held" if estimate.up else "cannot be told"
    return "smaller here" if estimate.up else "did not hold"


def _pair(
    groups: Sequence[Group], key: str, before: Any, after: Any, wanted: str
) -> tuple[list[Run], list[Run]] | None:
    """Finished runs that differ in `key` alone, one of each a seed; those of `wanted` first."""
    main = groups[0]
    comparable = [
        run
        for group in groups
        if all(
            group.conditions[name] == main.conditions[name]
            for name in CONDITIONS
            if name != "variant"
        )
        for stage in group.ladder
        for run in stage.finished
    ]
    alike: dict[str, dict[Any, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in comparable:
        value, rest = _apart(run, key)
        if value in (before, after) and type(value) is type(before):
            alike[rest][value].append(run)
    pairs = [
        (chosen(values[before]), chosen(values[after]))
        for values in alike.values()
        if before in values and after in values
    ]
    # A pair of the claim's own stage before any other; then the one with most seeds.
    pairs.sort(key=lambda pair: (pair[1][0]["stage"] == wanted, len(pair[1])), reverse=True)
    return pairs[0] if pairs else None


def _apart(run: Run, key: str) -> tuple[Any, str]:
    """The value of a dotted key, and everything else that shapes the training but the seed."""
    section, name = key.split(".")
    config = {
        part: dict(value) if isinstance(value := run["config"].get(part), dict) else value
        for part in ("model", "data", "scale", "train")
    }
    found = config[section]
    value = found.pop(name, None) if isinstance(found, dict) else None
    rest = json.dumps([config, sorted(run["not_applied"])], sort_keys=True, default=str)
    return value if isinstance(value, (bool, str)) else None, rest
