"""What a person sees of a run: a live bar on a terminal, a line a step when piped."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class StepProgress:
    """Shows steps as they are done; use as a context manager around the loop."""

    def __init__(self, console: Console, title: str, steps: int) -> None:
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
        self.task = self.bar.add_task(title, total=steps, figures="")

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

    def step(self, line: str, loss: float, grad_norm: float, tokens_per_second: float) -> None:
        """One more step is done; `line` is its line in the guide's form."""
        if self.console.is_terminal:
            figures = f"loss {loss:.3f}  norm {grad_norm:.2f}  {tokens_per_second:,.0f} tokens/s"
            self.bar.update(self.task, advance=1, figures=figures)
        else:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
