"""`logger=wandb`: a run's numbers at Weights & Biases, or with WANDB_MODE=offline in its folder."""

import hashlib
import html
import os
import socket
from collections.abc import Mapping

import wandb

from runner.folder import RunFolder
from runner.record import Run, Status
from runner.watchers import Watcher


class Wandb(Watcher):
    """Logs to a project called like the experiment, in which stages are groups."""

    def begin(self, folder: RunFolder, done: int) -> None:
        about = folder.run
        place = f"{socket.gethostname()}:{folder.path.resolve()}"
        self._run = wandb.init(
            project=folder.path.parents[1].name,
            group=folder.path.parent.name,
            name="/".join(folder.path.parts[-2:]),
            # A run that starts over replaces what it logged, and one that goes on adds to it.
            id=hashlib.sha256(os.fsencode(place)).hexdigest()[:16],
            resume="allow" if done else None,
            config=about.config,
            dir=folder.path,
            settings=wandb.Settings(console="off"),
        )

    def numbers(self, step: int, found: Mapping[str, float]) -> None:
        self._run.log(dict(found), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def end(self, run: Run) -> None:
        self._run.finish(exit_code=0 if run.status is Status.finished else 1)
