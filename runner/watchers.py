"""Who watches a run: what a folder gets is handed on as numbers and texts by step."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from statistics import fmean

from rich.console import Console

from conf.schema import Logger
from runner.folder import RunFolder, Written
from runner.messages import warn
from runner.observations import Accuracy, DrawnText
from runner.record import Run
from runner.rows import Step, Window


class Watcher(ABC):
    """Shows a run elsewhere. If it cannot, it warns once and is silent from then on.

    A resumed run goes on after the steps of its checkpoint, with what was measured at it.
    """

    def __init__(self, name: Logger, folder: RunFolder, console: Console) -> None:
        self._name, self._console = name, console
        self._failed = False
        self.write(folder)

    def write(self, what: Written | RunFolder) -> None:
        """Show a row of the folder; the folder itself is the beginning, and the run the end."""
        if self._failed:
            return
        try:
            self._show(what)
        except Exception as error:  # of any type, and none ends the run
            self._failed = True
            said = f"logger={self._name.value} stopped writing: {error}; the run goes on."
            warn(self._console, said)

    def _show(self, what: Written | RunFolder) -> None:
        match what:
            case RunFolder(run=run):
                done = len(what.steps)
                self.begin(what, done)
                self._show([window for window in what.windows if window.step == done])
                rows: list[Accuracy | DrawnText] = [*run.hellaswag, *run.samples]
                for row in rows:
                    if row.step == done:
                        self._show(row)
            case Step():
                names = ("loss", "grad_norm", "lr", "tokens_per_second")
                self.numbers(what.step, {f"train/{name}": getattr(what, name) for name in names})
            case [Window(step=step), *_]:
                self.numbers(step, {"held_out/loss": fmean(window.loss for window in what)})
            case Accuracy():
                self.numbers(what.step, {"hellaswag/acc_norm": what.acc_norm})
            case DrawnText(step=int(step)):
                self.text(step, "sample", what.text)
            case Run():
                self.end(what)

    @abstractmethod
    def begin(self, folder: RunFolder, done: int) -> None:
        """The run begins, or goes on after `done` steps."""

    @abstractmethod
    def numbers(self, step: int, found: Mapping[str, float]) -> None:
        """What was measured at a step."""

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """What was drawn at a step."""

    @abstractmethod
    def end(self, run: Run) -> None:
        """The run has ended."""
