"""What a command asks for: the stage, `without` and `plus`, and the overrides of one run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.errors import UsageError
from gpt2.config import inert
from runner.identity import ARITHMETIC, conditions, override_key, resolved
from runner.record import StageInfo
from stages.arithmetic import Ablation, Entry, Ladder
from stages.ladder import Stage, changes_between, flatten
from stages.plans import parse
from stages.recipes import find_recipe

# What is not part of the configuration that all stages share.
NOT_SHARED = ("stage", "plan", *ARITHMETIC)


@dataclass(frozen=True)
class Command:
    """The stage that was asked for, all overrides, and their `runner.identity.conditions`.

    `typed` are the overrides without those of a recipe; `notes` are for the user: what could not be
    taken back.
    """

    stage: StageInfo
    overrides: list[str]
    typed: list[str]
    conditions: dict[str, Any]
    notes: list[str]


@cache
def composed(*overrides: str) -> DictConfig:
    """A configuration; the jobs of a sweep share the one without a stage."""
    return hydra.compose("config", list(overrides))


def read_command(
    cfg: DictConfig, overrides: Sequence[str], stages: Sequence[Stage]
) -> tuple[DictConfig, Command]:
    """The configuration that trains, with the arithmetic done, and the command.

    `cfg` is what Hydra composed from the overrides. A run that trains exactly what a stage of the
    ladder does is that stage. Raises UsageError.
    """
    others = [override for override in overrides if override_key(override) not in NOT_SHARED]
    asked = read_ablation(overrides)
    plain = composed(*others)
    of_recipe = flatten(resolved(plain.recipe.settings)) if plain.recipe else {}
    if not of_recipe.keys() <= flatten(parse(others)).keys():
        raise UsageError("A recipe is typed as +recipe=NAME; a plan names its settings.")
    ladder = _ladder(plain, others, stages)
    same = ladder.plain_stage(asked)
    name = same or asked.stage
    stage = next((stage for stage in stages if stage.name == name), None)
    if stage is None:
        raise UsageError(
            f"+stage={name}: this stage is in a subfolder of stage/; move its file into stage/."
        )
    overrides, notes = [*others, f"+stage={name}"], []
    if not asked.is_plain:
        cfg = composed(*overrides)
    if asked.is_plain or same:
        before = composed(*others, f"+stage={stage.parent}") if stage.parent else plain
    else:
        entries = {"without": list(asked.without), "plus": list(asked.plus)}
        before, cfg = cfg, _with_settings(cfg, {**ladder.touched(asked), **entries})
        overrides += asked.overrides
        for entry in map(Entry.read, asked.without):
            for key, later in ladder.set_again(asked, entry).items():
                notes.append(f"{key} of {entry.step} is not taken back, as {later} sets it again.")
    without_effect = _inert_keys(plain)
    changes = changes_between(before, cfg)
    about = StageInfo(
        name=name,
        number=stage.number,
        parent=stage.parent,
        title=stage.about.title,
        aim=stage.about.aim,
        guide=stage.about.guide,
        changes={key: both for key, both in changes.items() if key not in without_effect},
        same_as=ladder.same_but_for(asked, without_effect),
    )
    settings = {_override(key, value) for key, value in of_recipe.items()}
    typed = [override for override in overrides if override not in settings]
    return cfg, Command(about, overrides, typed, conditions(resolved(plain)), notes)


def read_ablation(overrides: Sequence[str]) -> Ablation:
    """The stage of one run's overrides, and what is taken back from it and added to it."""
    typed = parse([o for o in overrides if override_key(o) in ("stage", *ARITHMETIC)])
    if "stage" not in typed:
        raise UsageError("No stage was named: add one, such as +stage=step07.")
    return Ablation.read(str(typed["stage"]), typed)


def recipe_as_overrides(overrides: Sequence[str], config_dirs: Sequence[Path]) -> list[str]:
    """The stage and the settings of the recipe that is named, without those that are typed too.

    Empty where no recipe is named, and without a stage where a plan names stages. Raises
    UsageError.
    """
    typed = parse(overrides)
    if "recipe" not in typed:
        return []
    if not isinstance(typed["recipe"], str):
        raise UsageError("+recipe names one recipe, such as +recipe=gpt2_124m.")
    recipe = find_recipe(typed["recipe"], config_dirs)
    stage = [] if typed.keys() & {"stage", "plan"} else [f"+stage={recipe.stage}"]
    settings = flatten(recipe.settings).items()
    by_hand = flatten(typed).keys()
    return [*stage, *(_override(key, value) for key, value in settings if key not in by_hand)]


def arithmetic_as_overrides(overrides: Sequence[str], stages: Sequence[Stage]) -> list[str]:
    """What `without` and `plus` change, as overrides of a single configuration that is shown."""
    others = [override for override in overrides if override_key(override) not in NOT_SHARED]
    ladder = _ladder(composed(*others), others, stages)
    touched = ladder.touched(read_ablation(overrides))
    return [_override(key, value) for key, value in touched.items()]


def _override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def read_quickly(
    overrides: Sequence[str], stages: Sequence[Stage]
) -> tuple[str, str | None, DictConfig]:
    """The stage, `StageInfo.same_as`, and the configuration that trains, without its description.

    The changes are added to the configuration without a stage, which is much quicker than to
    compose every run. Raises UsageError.
    """
    others = [override for override in overrides if override_key(override) not in NOT_SHARED]
    asked = read_ablation(overrides)
    plain = composed(*others)
    ladder = _ladder(plain, others, stages)
    if any(stage.choices for stage in ladder.chain(asked.stage)):
        cfg, command = read_command(composed(*overrides), overrides, stages)
        return command.stage.name, command.stage.same_as, cfg
    values = ladder.settings(asked)
    changed = {key: value for key, value in values.items() if value != ladder.base.get(key)}
    name = ladder.plain_stage(asked) or asked.stage
    same_as = ladder.same_but_for(asked, _inert_keys(plain))
    return name, same_as, _with_settings(plain, changed)


def _with_settings(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a configuration with these values, typed as it is."""
    changed = cfg.copy()
    for key, value in values.items():
        # A model of someone's own may be given arguments that the configuration does not know.
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


def _inert_keys(plain: DictConfig) -> list[str]:
    """The settings that have no effect on a model of someone's own, as it lacks these knobs."""
    if "target" not in plain.model:
        return []
    return [f"model.{knob}" for knob in inert(plain.model.knobs)]


def _ladder(plain: DictConfig, others: Sequence[str], stages: Sequence[Stage]) -> Ladder:
    return Ladder(stages, flatten(resolved(plain)), flatten(parse(others)).keys())
