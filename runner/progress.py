"""The progress of a long job: a live bar on a terminal, plain lines when piped."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

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
    """Gives a function to call with the bytes tokenized so far and those of the whole text.

    The latter are None where they are not known.
    """
    with _bar(console, TextColumn("Tokenizing"), DownloadColumn(), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)
        shown = time.monotonic()

        def show(done: int, total: int | None) -> None:
            nonlocal shown
            bar.update(task, completed=done, total=total, visible=True)
            if not console.is_terminal and time.monotonic() - shown > QUIET_SECONDS:
                shown = time.monotonic()
                of = "" if total is None else f" of {total / 1e6:,.0f}"
                say(console, f"tokenized {done / 1e6:,.0f}{of} MB")

        yield show


def item_progress(console: Console, what: str, quiet: bool = False) -> Callable[[int, int], None]:
    """A function to call with the items done so far and how many there are.

    It prints a line every `QUIET_SECONDS`, above the bar of the steps where there is one; nothing
    where `quiet` is true.
    """
    shown = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal shown
        if not quiet and time.monotonic() - shown > QUIET_SECONDS:
            shown = time.monotonic()
            say(console, f"{what}: {done:,} of {total:,} items")

    return show


@contextmanager
def step_progress(
    console: Console, title: str, steps: int, done: int, quiet: bool = False
) -> Iterator[Callable[[Step], None]]:
    """Gives a function to call after each optimizer step; `done` steps are already complete.

    When piped, the first and the last step are printed, and one every `QUIET_SECONDS`; nothing
    where `quiet` is true.
    """
    if quiet:
        yield lambda step: None
        return
    columns = (MofNCompleteColumn(), TextColumn("{task.fields[figures]}"))
    with _bar(console, TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task(title, total=steps, completed=done, figures="")

        shown = -math.inf

        def show(step: Step) -> None:
            nonlocal shown
            if _is_live(console):
                rate = f"{step.tokens_per_second:,.0f} tokens/s"
                figures = f"loss {step.loss:.3f}  norm {step.grad_norm:.2f}  {rate}"
                bar.update(task, advance=1, figures=figures)
                return
            if time.monotonic() - shown < QUIET_SECONDS and step.step + 1 != steps:
                return
            shown = time.monotonic()
            with suppress(OSError):  # in a program that only calls the runner, its reader may end
                print(step.line(), end="", file=console.file, flush=True)

        yield show


def _bar(
    console: Console, first: ProgressColumn, *rest: ProgressColumn, transient: bool = False
) -> Progress:
    columns = (first, BarColumn(bar_width=24), *rest, TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not _is_live(console), transient=transient)


def _is_live(console: Console) -> bool:
    """Whether a bar can be drawn again and again."""
    return console.is_terminal or console.is_jupyter
