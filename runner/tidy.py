"""python -m runner.tidy: what the output folder and the cache hold; remove=[weights] removes it.

Records are never removed, links are never followed, and what is being trained is left alone.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hydra
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from conf.errors import UsageError, did_you_mean
from conf.schema import TidierConfig
from runner.entry import errors_in_a_sentence
from runner.folder import LOCK
from runner.messages import fail, say, sentence, warn
from runner.record import CHECKPOINT, EVENTS, WEIGHTS, UnreadableRecord, read_run
from runner.settings import typed

SHA256, SHORT_HASH = "[0-9a-f]" * 64, "[0-9a-f]" * 32

# The kinds of what can be removed, each with the patterns that find it.
IN_A_RUN = {
    "checkpoints": [CHECKPOINT],
    "weights": [WEIGHTS],
    "events": [EVENTS],
    "leftovers": ["*.damaged", ".tmp*", ".*.part"],
}
# An unfinished run's weights are the best so far, and belong to its checkpoint.
IN_AN_UNFINISHED_RUN = {**IN_A_RUN, "checkpoints": [CHECKPOINT, WEIGHTS], "weights": []}
# Nothing but the project's own files may match here, whatever folder was given as the cache.
IN_THE_CACHE = {
    "text": [f"text/{SHA256}.txt*", "text/pydoc-*.txt*"],
    "tokens": [f"tokens/{SHA256}*", f"tokens/.{SHA256}.uint16*", f"shards/{SHA256}*"],
    "kernels": ["inductor/*"],
    "products": [f"products/{SHORT_HASH}.json"],
    "hashes": [f"hashes/{SHORT_HASH}.json"],
}
# What each kind is for, or what becomes of it when it is needed.
ABOUT = {
    "checkpoints": "to resume runs from",
    "weights": "of finished runs",
    "events": "logger=tensorboard",
    "leftovers": "damaged, half written",
    "reports": "written again",
    "text": "fetched again",
    "tokens": "made again",
    "kernels": "compiled again",
    "products": "measured again",
    "hashes": "computed again",
}


@errors_in_a_sentence()
@hydra.main(version_base="1.3", config_path="../conf", config_name="tidier")
def task(cfg: DictConfig) -> None:
    """List or remove, and exit: 0 success, 2 a user's error."""
    try:
        tidy(typed(cfg, TidierConfig), Console())
    except (UsageError, OmegaConfBaseException, OSError) as mistake:
        fail(sentence(mistake))


@dataclass(frozen=True)
class Item:
    """A file, or a folder with all its files, that can be removed; `size` is in bytes.

    `resumed` says whether an unfinished run would resume from it.
    """

    kind: str
    path: Path
    files: int
    size: int
    resumed: bool

    @classmethod
    def at(cls, kind: str, path: Path, resumed: bool = False) -> "Item":
        """What is at `path` now."""
        below = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
        sizes = [file.lstat().st_size for file in (below if path.is_dir() else [path])]
        return cls(kind, path, len(sizes), sum(sizes), resumed)

    def remove(self) -> None:
        """Raises OSError."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def tidy(config: TidierConfig, console: Console) -> None:
    """List what the folders hold, or remove what is named. Raises UsageError and OSError."""
    for name in config.remove:
        if name not in ABOUT:
            near, kinds = did_you_mean(name, ABOUT), ", ".join(ABOUT)
            raise UsageError(f"remove=[{name}]: there is no {name}.{near} There are {kinds}.")
    output_dir, cache_dir = (
        Path(folder).expanduser().resolve() for folder in (config.output_dir, config.cache_dir)
    )
    items: list[Item] = []
    in_use: list[Path] = []
    runs = [record.parent for record in _matches(output_dir, ["*/*/*/run.json"])]
    for run in runs:
        with _unless_in_use(run) as free:
            items += _taken(in_a_run(run), config.remove, free)
        in_use += [] if free else [run]
    shared = [*reports(output_dir), *in_the_cache(cache_dir)]
    items += _taken(shared, config.remove, free=not in_use)

    if items and config.remove:
        say(console, "Removed:", "bold")
        _print_table(items, config.remove, console)
    elif config.remove:
        found = "" if in_use else f": there are no {', no '.join(config.remove)}"
        say(console, f"Nothing was removed{found}.")
    else:
        say(console, f"{output_dir}: {len(runs) or 'no'} run{'s' * (len(runs) != 1)}", "bold")
        _print_table(items, [kind for kind in ABOUT if kind not in IN_THE_CACHE], console)
        say(console, f"{cache_dir}:", "bold")
        _print_table(items, list(IN_THE_CACHE), console)
        say(console, "'remove=[reports,kernels]' removes what it names; records always stay.")
    stopped = {item.path.parent for item in items if item.resumed}.difference(in_use)
    _name("Without their checkpoints these runs start over:", sorted(stopped), console)
    _name("Being trained, and left alone, as are reports and the cache:", in_use, console)


def in_a_run(folder: Path) -> Iterator[Item]:
    """What a run's folder holds beside its record."""
    try:
        finished = read_run(folder).status.is_final
    except UnreadableRecord:
        finished = False
    for kind, patterns in (IN_A_RUN if finished else IN_AN_UNFINISHED_RUN).items():
        for path in _matches(folder, patterns):
            yield Item.at(kind, path, resumed=kind == "checkpoints" and not finished)


def reports(output_dir: Path) -> Iterator[Item]:
    """The folders of reports, those on several experiments included."""
    for values in _matches(output_dir, ["*/report/report.json", "*/report.json"]):
        if not any(values.parent.rglob("run.json")):  # --output can be an experiment's own folder
            yield Item.at("reports", values.parent)


def in_the_cache(cache_dir: Path) -> Iterator[Item]:
    """What the cache holds; a run makes all of it again."""
    for kind, patterns in IN_THE_CACHE.items():
        for path in _matches(cache_dir, patterns):
            yield Item.at(kind, path)


def _matches(folder: Path, patterns: Iterable[str]) -> Iterator[Path]:
    """What the patterns find below a resolved folder, but for links and what is behind them."""
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.resolve() == path)


@contextmanager
def _unless_in_use(run: Path) -> Iterator[bool]:
    """Hold a run's lock; gives False where the process that trains it holds it."""
    try:
        with FileLock(run / LOCK, blocking=False):
            yield True
    except Timeout:
        yield False


def _taken(found: Iterable[Item], asked: Sequence[str], free: bool) -> list[Item]:
    """What is to be listed: all that was found, or what was asked for, which is removed."""
    if not asked:
        return list(found)
    taken = [item for item in found if free and item.kind in asked]
    for item in taken:
        item.remove()
    return taken


def _name(said: str, runs: Sequence[Path], console: Console) -> None:
    """Warn of runs by their experiment, stage and label."""
    if runs:
        warn(console, "\n  ".join([said, *("/".join(run.parts[-3:]) for run in runs)]))


def _print_table(items: Sequence[Item], kinds: Sequence[str], console: Console) -> None:
    """A row a kind: how many files, their size, and what they are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("files", justify="right", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("")
    for kind in kinds:
        held = [item for item in items if item.kind == kind]
        files, size = (sum(getattr(item, part) for item in held) for part in ("files", "size"))
        table.add_row(kind, f"{files:,}", decimal(size), f"[dim]{ABOUT[kind]}")
    console.print(table, highlight=False)


if __name__ == "__main__":
    task()
