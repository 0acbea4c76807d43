"""What a person sees of a run: a live bar on a terminal, plain lines when piped."""

import os
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from runner.record import Step

# Piped, a long job is heard of this often.
QUIET_SECONDS = 10.0


class TextProgress:
    """Shows how far a text is tokenized; use as a context manager. A short text shows nothing."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("Tokenizing"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task("", total=None, visible=False)
        self.told = time.monotonic()

    def __enter__(self) -> "TextProgress":
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, traceback)

    def say(self, text: str) -> None:
        """A sentence above the bar."""
        self.console.print(text, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def update(self, done: int, total: int) -> None:
        """So many bytes of the text are done."""
        self.bar.update(self.task, completed=done, total=total, visible=True)
        if not self.console.is_terminal and time.monotonic() - self.told > QUIET_SECONDS:
            self.told = time.monotonic()
            self.console.print(
                f"tokenized {done / 1e6:,.0f} of {total / 1e6:,.0f} MB", highlight=False
            )


class StepProgress:
    """Shows steps as they are done; use as a context manager around the loop."""

    def __init__(self, console: Console, title: str, steps: int, done: int) -> None:
        self.console = console
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=steps, completed=done, figures="")

    def __enter__(self) -> "StepProgress":
        self.bar.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.__exit__(kind, error, traceback)

    def step(self, step: Step) -> None:
        """One more step is done."""
        if self.console.is_terminal:
            rate = step.tokens / step.step_ms * 1e3
            figures = f"loss {step.loss:.3f}  norm {step.grad_norm:.2f}  {rate:,.0f} tokens/s"
            self.bar.update(self.task, advance=1, figures=figures)
        else:
            try:
                print(step.line(), end="", file=self.console.file, flush=True)
            except BrokenPipeError:
                # Who read the output has gone; the run is worth more than its lines.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.console.file.fileno())
