"""The progress of a long job: a live bar on a terminal, plain lines when piped."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from runner.messages import say
from runner.rows import Step

# How often a long job prints a line when piped.
QUIET_SECONDS = 10.0


@contextmanager
def text_progress(console: Console) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function to call with the bytes tokenized so far and the bytes of the whole text.

    The latter are None if they are not known.
    """
    with _bar(console, DownloadColumn(), transient=True) as bar:
        task = bar.add_task("Tokenizing", total=None, visible=False)
        print_line = item_progress(console, "Tokenizing", quiet=not bar.disable, unit="MB")

        def show(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total, visible=True)
            print_line(done / 1e6, None if total is None else total / 1e6)

        yield show


def item_progress(
    console: Console, what: str, quiet: bool = False, unit: str = "items"
) -> Callable[[float, float | None], None]:
    """A function to call with the amount done so far and, if known, the total.

    It prints a line every `QUIET_SECONDS`, above the bar of the steps if there is one, and nothing
    if `quiet` is true.
    """
    shown = time.monotonic()

    def show(done: float, total: float | None) -> None:
        nonlocal shown
        if not quiet and time.monotonic() - shown > QUIET_SECONDS:
            shown = time.monotonic()
            of = "" if total is None else f" of {total:,.0f}"
            say(console, f"{what}: {done:,.0f}{of} {unit}")

    return show


@contextmanager
def run_progress(console: Console, runs: int) -> Iterator[Callable[[str], None]]:
    """Yields a function to call with the name of each run of a sweep before it begins."""
    with _bar(console, MofNCompleteColumn()) as bar:
        task = bar.add_task("", total=runs)
        begun = 0

        def show(name: str) -> None:
            nonlocal begun
            bar.update(task, completed=begun, description=name)
            begun += 1
            if bar.disable:
                say(console, f"Run {begun} of {runs}: {name}", "bold")

        yield show
        bar.update(task, completed=begun)


@contextmanager
def step_progress(
    console: Console, title: str, steps: int, done: int, quiet: bool = False
) -> Iterator[Callable[[Step], None]]:
    """Yields a function to call after each optimizer step; `done` steps are already complete.

    When piped, the first and the last step are printed, and one every `QUIET_SECONDS`; nothing if
    `quiet` is true.
    """
    if quiet:
        yield lambda step: None
        return
    with _bar(console, MofNCompleteColumn(), TextColumn("{task.fields[figures]}")) as bar:
        task = bar.add_task(title, total=steps, completed=done, figures="")
        shown = -math.inf

        def show(step: Step) -> None:
            nonlocal shown
            rate = f"{step.tokens_per_second:,.0f} tokens/s"
            figures = f"loss {step.loss:.3f}  norm {step.grad_norm:.2f}  {rate}"
            bar.update(task, advance=1, figures=figures)
            due = time.monotonic() - shown >= QUIET_SECONDS or step.step + 1 == steps
            if bar.disable and due:
                shown = time.monotonic()
                with suppress(OSError):  # the reader of the output may have ended
                    print(step.line(), end="", file=console.file, flush=True)

        yield show


def _bar(console: Console, *figures: ProgressColumn, transient: bool = False) -> Progress:
    """A live bar with these figures; disabled if the output cannot be redrawn."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), *figures)
    # A notebook has a bar with ipywidgets only, and lines without.
    live = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
    return Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not live, transient=transient
    )
