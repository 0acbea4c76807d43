"""What a command asks for: the stage, `without` and `plus`, and the overrides of one run."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.errors import UsageError
from conf.schema import Aim
from runner.expansion import parse
from runner.identity import ARITHMETIC, conditions, inert_keys, override_key, resolved, short_hash
from runner.record import StageInfo
from runner.rows import Asked
from stages.arithmetic import Ablation, Entry, Ladder
from stages.ladder import Stage, changes_between, flatten
from stages.recipes import find_recipe

# What is not part of the configuration that all stages share.
NOT_SHARED = ("stage", "plan", *ARITHMETIC)


@dataclass(frozen=True)
class Command:
    """The stage that was asked for, all overrides, and their `runner.identity.conditions`.

    `typed` are the overrides without those of a recipe; `notes` are for the user: what could not be
    taken back; `asked` is what the record keeps of the command; `changed_by` is the lowest stage of
    the ladder that changes a setting.
    """

    stage: StageInfo
    overrides: list[str]
    typed: list[str]
    conditions: dict[str, Any]
    notes: list[str]
    asked: Asked
    changed_by: dict[str, str]


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
    others, asked, plain, ladder = _read(overrides, stages)
    shared, plan, named = resolved(plain), cfg.plan, str(parse(overrides).get("plan", ""))
    of_recipe = flatten(shared["recipe"]["settings"]) if shared["recipe"] else {}
    if not of_recipe.keys() <= {*ladder.typed}:
        raise UsageError("A recipe is typed as +recipe=NAME; a plan names its settings.")
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
    without_effect = inert_keys(shared)
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
    own, common, by_hand = conditions(resolved(cfg)), conditions(shared), flatten(parse(typed))
    kept = {key for each in stages for key in each.changes}.intersection(common, ladder.typed)
    reference, command = ("", "") if shared["recipe"] else _reference(asked, plan, others, ladder)
    question = Asked(
        stage=asked.stage,
        without=",".join(asked.without),
        plus=",".join(asked.plus),
        typed=json.dumps({key: own[key] for key in by_hand if key in own}, sort_keys=True),
        plan=named,
        settings=short_hash(own),
        base=short_hash([common, sorted(kept)]),
        reference=reference,
        reference_command=command,
    )
    changed_by = {key: stage.name for stage in reversed(stages) for key in stage.changes}
    return cfg, Command(about, overrides, typed, common, notes, question, changed_by)


def _reference(
    asked: Ablation, plan: DictConfig | None, others: Sequence[str], ladder: Ladder
) -> tuple[str, str]:
    """`Asked.reference` and `Asked.reference_command` of a run with these `others` typed."""
    stage = next(stage for stage in ladder.stages if stage.name == asked.stage)
    if stage.about.aim is Aim.flow:
        return "", ""
    if plan is not None and plan.reference:
        given = {"stage": asked.stage, **resolved(plan.reference)}
        words = [word for word in (*others, *asked.overrides) if override_key(word) not in given]
        words += [_override(key, value) for key, value in given.items() if value is not None]
        others, asked, _, ladder = _read(words, ladder.stages)
    elif asked.plus:
        asked = Ablation(asked.stage, asked.without)
    elif asked.without:
        asked = Ablation(asked.stage)
    elif stage.parent:
        asked = Ablation(stage.parent)
    else:
        return "", ""
    same = ladder.plain_stage(asked)
    cfg = composed(*others, f"+stage={same or asked.stage}")
    if not (asked.is_plain or same):
        cfg = _with_settings(cfg, ladder.touched(asked))
    words = [*others, f"+stage={asked.stage}", *asked.overrides]
    return short_hash(conditions(resolved(cfg))), f"python -m runner {shlex.join(words)}"


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
    _, asked, _, ladder = _read(overrides, stages)
    return [_override(key, value) for key, value in ladder.touched(asked).items()]


def _override(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def read_quickly(
    overrides: Sequence[str], stages: Sequence[Stage]
) -> tuple[str, str | None, DictConfig]:
    """The stage, `StageInfo.same_as`, and the configuration that trains, without its description.

    The changes are added to the configuration without a stage, which is much quicker than to
    compose every run. Raises UsageError.
    """
    _, asked, plain, ladder = _read(overrides, stages)
    if any(stage.choices for stage in ladder.chain(asked.stage)):
        cfg, command = read_command(composed(*overrides), overrides, stages)
        return command.stage.name, command.stage.same_as, cfg
    values = ladder.settings(asked)
    changed = {key: value for key, value in values.items() if value != ladder.base.get(key)}
    name = ladder.plain_stage(asked) or asked.stage
    same_as = ladder.same_but_for(asked, inert_keys(resolved(plain)))
    return name, same_as, _with_settings(plain, changed)


def _with_settings(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a configuration with these values, typed as it is."""
    changed = cfg.copy()
    for key, value in values.items():
        # A model of someone's own may be given arguments that the configuration does not know.
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed


def _read(
    overrides: Sequence[str], stages: Sequence[Stage]
) -> tuple[list[str], Ablation, DictConfig, Ladder]:
    """The overrides that all stages share, what is asked for, and what that stands on.

    These are the configuration without a stage, and the ladder over it. Raises UsageError.
    """
    others = [override for override in overrides if override_key(override) not in NOT_SHARED]
    asked, plain = read_ablation(overrides), composed(*others)
    ladder = Ladder(stages, flatten(resolved(plain)), flatten(parse(others)).keys())
    return others, asked, plain, ladder
