"""The logger by which a run is watched, by its name; its package is optional."""

from rich.console import Console

from conf.schema import Logger
from runner.folder import RunFolder


def watch(name: Logger, folder: RunFolder, console: Console) -> None:
    """Have a folder watched by a logger, if there is one."""
    if name is Logger.tensorboard:
        from runner.tensorboard import TensorBoard

        folder.watch = TensorBoard(name, folder, console).write
    elif name is Logger.wandb:
        from runner.wandb import Wandb

        folder.watch = Wandb(name, folder, console).write
