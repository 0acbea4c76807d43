"""What is printed about a run that has ended."""

import math
from pathlib import Path

from rich.console import Console

from conf.schema import Aim
from runner.folder import RunFolder
from runner.messages import say, warn
from runner.record import Run, Status, find_baseline, speed_conditions
from runner.signals import this_process


def print_outcome(folder: RunFolder, experiment: Path, console: Console) -> None:
    """Print the results of a run in a few lines."""
    run, results = folder.run, folder.run.results
    title = f"{' '.join([run.stage.name, *run.ablation.overrides])} ({run.stage.title})"
    if run.status is Status.failed:
        say(console, f"{title} failed: {run.message}", "red")
        return
    if run.status is Status.diverged:
        warn(console, f"{title} diverged: {run.message}")
    else:
        say(console, f"{title}: {in_numbers(run)}", "bold")

    def tell(line: str, style: str | None = None) -> None:
        say(console, f"  {line}", style)

    if math.isfinite(results.datasheet_mfu):
        of_measured = f"{results.mfu:.0%} of the highest rate measured"
        tell(f"MFU: {of_measured}, {results.datasheet_mfu:.0%} of the datasheet's bf16")
    for accuracy in run.hellaswag[-1:]:
        tell(f"HellaSwag: {accuracy}")
    if run.timings.compile_s:
        cache = f" with a {run.compile_cache} cache" if run.compile_cache else ""
        tell(f"compiled in {run.timings.compile_s:.1f} s{cache}, not counted in the steps")
    gains = run.products.gains if run.products else {}
    if run.applied:
        applied = (f"{name} ({gains[name]})" if name in gains else name for name in run.applied)
        tell(f"applied: {', '.join(applied)}")
    for technique, reason in run.not_applied.items():
        tell(f"not applied: {technique}: {reason}")
    for finding in run.findings:
        words = f"{finding.severity.value}: {finding.name}: {finding.sentence} {finding.advice}"
        tell(words, "yellow" if finding.severity.rank else None)
    if run.stage.same_as:
        tell(f"not applicable: it trains exactly as {run.stage.same_as}")
    if run.status is Status.finished and run.stage.aim not in (Aim.baseline, Aim.flow):
        if baseline := find_baseline(run, experiment):
            tell(f"against the baseline: {_compared(run, baseline)}")
        # A long run needs none, nor does a stage whose parent is what matters.
        elif not (this_process.shares_the_machine or run.settings.recipe or run.stage.beyond):
            of_a_script = run.config["model"].get("target", "").startswith("__main__:")
            again = "step02 in the same way" if of_a_script else f"it: {run.baseline_command}"
            tell(f"there is no baseline yet; train {again}")
    tell(f"record: {folder.path}")


def in_numbers(run: Run) -> str:
    """What was measured, in one line."""
    results = run.results
    return (
        f"range {results.worst:.3f} to {results.best:.3f}, "
        f"held-out loss {results.held_out:.3f}, {results.tokens_per_second:,.0f} tokens/s"
    )


def _compared(run: Run, baseline: Run) -> str:
    """The differences of a finished run from its baseline."""
    ours, theirs = run.results, baseline.results
    losses = f"best {ours.best - theirs.best:+.3f}, held-out {ours.held_out - theirs.held_out:+.3f}"
    alike = speed_conditions(run) == speed_conditions(baseline)
    if this_process.shares_the_machine or not alike:
        return losses
    return f"{losses}, {ours.tokens_per_second / theirs.tokens_per_second:.2f} times the tokens/s"
