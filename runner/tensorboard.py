"""`logger=tensorboard`: a run's numbers as TensorBoard's event files, in the run's folder."""

import textwrap
import threading
from collections.abc import Mapping

import yaml
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from runner.folder import RunFolder
from runner.identity import measured
from runner.record import Run
from runner.watchers import Watcher


class TensorBoard(Watcher):
    """Writes for TensorBoard what is written into a run's folder."""

    def begin(self, folder: RunFolder, done: int) -> None:
        threading.excepthook = _print_unless_it_is_the_writers
        # TensorBoard forgets what an earlier start wrote of this step and those after it.
        self._writer = SummaryWriter(str(folder.path), purge_step=done)
        config = folder.run.config
        self.text(done, "configuration", yaml.safe_dump(config, sort_keys=False))
        plain = (bool, int, float, str)
        settings = measured(config).items()
        table = {key: value if isinstance(value, plain) else str(value) for key, value in settings}
        _, session, _ = hparams(table, {})  # type: ignore[no-untyped-call]
        self._writer.file_writer.add_summary(session)  # type: ignore[attr-defined]

    def numbers(self, step: int, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        # Indented, Markdown leaves it as it is.
        self._writer.add_text(name, textwrap.indent(text, " " * 4, lambda line: True), step)

    def end(self, run: Run) -> None:
        self._writer.close()


def _print_unless_it_is_the_writers(failed: threading.ExceptHookArgs) -> None:
    """Print the error that ended a thread, except the writer's: that thread hands it on."""
    if not type(failed.thread).__module__.startswith("tensorboard."):
        threading.__excepthook__(failed)
