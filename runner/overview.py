"""What `python -m runner` shows: the ladder, the plans and the recipes, and what to type next."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from conf.errors import UsageError
from runner.messages import say, warn
from stages.arithmetic import Ladder
from stages.ladder import Stage, group_files, read_ladder
from stages.plans import read_plan, read_recipe

COMMANDS = {
    "python -m runner +stage=step07": "trains one stage, with the changes of all before it",
    "python -m runner -m '+stage=glob(step*)'": "trains them all and writes the report",
    "python -m reports outputs/ladder": "writes the report again, from the records",
}


def show_ladder(console: Console, folders: Sequence[Path]) -> None:
    """Print the stages, those in `folders` included, and the commands to type next."""
    say(console, "The ladder: each stage trains with its own change and all before it.", "bold")
    problems: list[str] = []
    stages = read_ladder(folders, problems)
    guide, beyond = ([s for s in stages if s.beyond is after] for after in (False, True))
    trunk = [stage.name for stage in Ladder(stages, {}).chain(guide[-1].name)]
    console.print(_stages(guide, trunk), highlight=False)
    say(console, "Beyond the guide, each on the stage that is named:", "bold")
    console.print(_stages(beyond, trunk), highlight=False)
    say(console, "Type next:", "bold")
    _show_commands(console, COMMANDS)
    say(console, "Plans of many runs; dry_run=true lists them, and how long they take:", "bold")
    _show_choices(console, "plan", folders, lambda file: read_plan(file).about.question, problems)
    say(console, "Recipes, each one long run:", "bold")
    _show_choices(console, "recipe", folders, lambda file: read_recipe(file).title, problems)
    for problem in problems:
        warn(console, f"Left out: {problem}")
    console.print(
        "Any value can be set: seed=2 device=cpu scale=smoke data=text data.path=FILE "
        "experiment=NAME (--cfg job shows them all, --hydra-help the flags).",
        highlight=False,
    )


def _stages(stages: Sequence[Stage], trunk: Sequence[str]) -> Table:
    """A row a stage: its place on the trunk, or its parent, and what it changes."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in ("place", "stage", "what it changes"):
        table.add_column(overflow="fold")
    for stage in stages:
        branches = stage.parent and stage.name not in trunk
        place = f"on {stage.parent}" if branches else str(stage.number)
        changes = ", ".join(_as_typed(key, value) for key, value in stage.changes.items())
        about = Text(f"{stage.about.title} ({stage.about.aim.name})")
        table.add_row(place, stage.name, about.append(f"\n{changes}" if changes else "", "dim"))
    return table


def _show_choices(
    console: Console,
    group: str,
    folders: Sequence[Path],
    meaning: Callable[[Path], str],
    problems: list[str],
) -> None:
    """Print a group's choices and their meanings; an invalid file's error joins `problems`."""
    meanings = {}
    for name, file in group_files(group, folders, "*.y*ml").items():
        try:
            meanings[f"+{group}={name}"] = meaning(file)
        except UsageError as mistake:
            problems.append(str(mistake))
    _show_commands(console, meanings)


def _show_commands(console: Console, meanings: Mapping[str, str]) -> None:
    """Each command and its meaning, side by side if the terminal is wide enough for both."""
    widest = max(map(len, meanings))
    side_by_side = widest + max(map(len, meanings.values())) + 4 <= console.width
    for command, meaning in meanings.items():
        if side_by_side:
            say(console, f"  {command:<{widest}}  {meaning}")
        else:
            say(console, f"  {command}")
            console.print(Padding(Text(meaning), (0, 0, 0, 6)))


def _as_typed(key: str, value: object) -> str:
    """A stage's change as an override; `by the scale` stands for values that refer to it."""
    if "${" in str(value):
        return f"{key} by the scale"
    return f"{key}={str(value).lower() if isinstance(value, bool) else value}"
