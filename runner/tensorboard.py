"""`logger=tensorboard`: a run's numbers as TensorBoard's event files, in the run's folder."""

import textwrap
import threading
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runner.folder import RunFolder, Written
from runner.identity import measured
from runner.messages import warn
from runner.observations import Accuracy, DrawnText
from runner.record import Run
from runner.rows import Step, Window


class TensorBoard:
    """Writes for TensorBoard what is written into a run's folder.

    A resumed run goes on after the steps of its checkpoint. If it cannot write, it warns once and
    stops writing.
    """

    def __init__(self, folder: RunFolder, console: Console) -> None:
        self._console = console
        self._failed = False
        self._writer: Any = None
        threading.excepthook = _print_unless_it_is_the_writers
        self.write(folder)

    def write(self, what: Written | RunFolder) -> None:
        """Write a row of the folder; the folder itself begins the file, and the run ends it."""
        if self._failed:
            return
        try:
            self._write(what)
        except Exception as error:  # file systems raise errors of any type, and none ends the run
            self._failed = True
            warn(self._console, f"logger=tensorboard stopped writing: {error}; the run goes on.")

    def _begin(self, folder: RunFolder) -> None:
        done, run = len(folder.steps), folder.run
        # TensorBoard forgets what an earlier start wrote of this step and those after it.
        self._writer = SummaryWriter(str(folder.path), purge_step=done)
        self._write([window for window in folder.windows if window.step == done])
        rows: list[Accuracy | DrawnText] = [*run.hellaswag, *run.samples]
        for row in rows:
            if row.step == done:
                self._write(row)
        self._write_text("configuration", yaml.safe_dump(run.config, sort_keys=False), done)
        plain = (bool, int, float, str)
        settings = measured(run.config).items()
        table = {key: value if isinstance(value, plain) else str(value) for key, value in settings}
        _, session, _ = hparams(table, {})  # type: ignore[no-untyped-call]
        self._writer.file_writer.add_summary(session)

    def _write(self, what: Written | RunFolder) -> None:
        match what:
            case RunFolder():
                self._begin(what)
            case Step():
                for name in ("loss", "grad_norm", "lr", "tokens_per_second"):
                    self._writer.add_scalar(f"train/{name}", getattr(what, name), what.step)
            case [Window(step=step), *_]:
                loss = fmean(window.loss for window in what)
                self._writer.add_scalar("held_out/loss", loss, step)
            case Accuracy():
                self._writer.add_scalar("hellaswag/acc_norm", what.acc_norm, what.step)
            case DrawnText(step=int(step)):
                self._write_text("sample", what.text, step)
            case Run():
                self._writer.close()

    def _write_text(self, name: str, text: str, step: int) -> None:
        # Indented, Markdown leaves it as it is.
        self._writer.add_text(name, textwrap.indent(text, " " * 4, lambda line: True), step)


def _print_unless_it_is_the_writers(failed: threading.ExceptHookArgs) -> None:
    """Print the error that ended a thread, except the writer's: that thread hands it on."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
