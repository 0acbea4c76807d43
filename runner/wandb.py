"""`logger=wandb`: a run's numbers at Weights & Biases, or with WANDB_MODE=offline in its folder."""

import html
from collections.abc import Mapping

import wandb

from runner.folder import RunFolder
from runner.record import Run, Status
from runner.watchers import Watcher


class Wandb(Watcher):
    """Logs to a project called like the experiment, in which stages are groups."""

    def begin(self, folder: RunFolder, done: int) -> None:
        # A run that goes on adds to what it logged before, which wandb keeps by its id.
        before = sorted(folder.path.glob("wandb/*run-*")) if done else []
        self._run = wandb.init(
            project=folder.path.parents[1].name,
            group=folder.path.parent.name,
            name="/".join(folder.path.parts[-2:]),
            id=before[-1].name.rpartition("-")[2] if before else None,
            resume="allow" if before else None,
            config=folder.run.config,
            dir=folder.path,
            settings=wandb.Settings(console="off", silent=self._console.quiet),
        )

    def numbers(self, step: int, found: Mapping[str, float]) -> None:
        self._run.log(dict(found), step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: wandb.Html(f"<pre>{html.escape(text)}</pre>")}, step=step)

    def end(self, run: Run) -> None:
        self._run.finish(exit_code=0 if run.status is Status.finished else 1)
