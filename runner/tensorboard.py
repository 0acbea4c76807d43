"""`logger=tensorboard`: a run's numbers as TensorBoard's event files, in the run's folder."""

import textwrap
import threading
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runner.folder import RunFolder
from runner.identity import measured
from runner.messages import warn
from runner.observations import Accuracy, DrawnText
from runner.record import Run
from runner.rows import Step, Window


class TensorBoard:
    """Watches a run's folder: `runner.folder.Watcher`.

    A resumed run goes on after the steps of its checkpoint. Where nothing can be written, it warns
    once and writes no more.
    """

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self._console = console
        self._failed = False
        self._writer: Any = None
        threading.excepthook = _print_unless_it_is_the_writers
        self._unless_failed(self._begin, folder)

    def add_step(self, step: Step) -> None:
        """Write what was measured in an optimizer step."""
        self._unless_failed(self._write_step, step)

    def add_windows(self, windows: Sequence[Window]) -> None:
        """Write the held-out loss of an evaluation."""
        self._unless_failed(self._write_windows, windows)

    def add_accuracy(self, found: Accuracy) -> None:
        """Write HellaSwag's accuracy by the mean loss of an ending."""
        self._unless_failed(self._write_accuracy, found)

    def add_sample(self, sample: DrawnText) -> None:
        """Write a text drawn from the model."""
        self._unless_failed(self._write_sample, sample)

    def end(self, run: Run) -> None:
        """Close the file."""
        self._unless_failed(lambda: self._writer.close())

    def _unless_failed(self, write: Callable[..., None], *arguments: Any) -> None:
        if self._failed:
            return
        try:
            write(*arguments)
        except Exception as error:  # file systems raise errors of any type, and none ends the run
            self._failed = True
            warn(self._console, f"logger=tensorboard writes no more: {error}; the run goes on.")

    def _begin(self, folder: RunFolder) -> None:
        done, config = len(folder.steps), folder.run.config
        # TensorBoard forgets what an earlier start wrote of this step and those after it.
        self._writer = SummaryWriter(str(folder.path), purge_step=done)
        if evaluated := [window for window in folder.windows if window.step == done]:
            self._write_windows(evaluated)
        for found in folder.run.hellaswag:
            if found.step == done:
                self._write_accuracy(found)
        for sample in folder.run.samples:
            if sample.step == done:
                self._write_sample(sample)
        self._write_text("configuration", yaml.safe_dump(config, sort_keys=False), done)
        plain = (bool, int, float, str)
        settings = measured(config).items()
        table = {key: value if isinstance(value, plain) else str(value) for key, value in settings}
        _, session, _ = hparams(table, {})  # type: ignore[no-untyped-call]
        self._writer.file_writer.add_summary(session)

    def _write_step(self, step: Step) -> None:
        values = {
            "loss": step.loss,
            "grad_norm": step.grad_norm,
            "lr": step.lr,
            "tokens_per_second": step.tokens_per_second,
        }
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step.step)

    def _write_windows(self, windows: Sequence[Window]) -> None:
        mean = fmean(window.loss for window in windows)
        self._writer.add_scalar("held_out/loss", mean, windows[0].step)

    def _write_text(self, name: str, text: str, step: int) -> None:
        # Indented, Markdown leaves it as it is.
        self._writer.add_text(name, textwrap.indent(text, " " * 4, lambda line: True), step)

    def _write_accuracy(self, found: Accuracy) -> None:
        self._writer.add_scalar("hellaswag/acc_norm", found.acc_norm, found.step)

    def _write_sample(self, sample: DrawnText) -> None:
        assert sample.step is not None  # as in records before samples over time
        self._write_text("sample", sample.text, sample.step)


def _print_unless_it_is_the_writers(failed: threading.ExceptHookArgs) -> None:
    """Print the error that ended a thread, but for the writer's, which hands it on."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
