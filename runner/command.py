"""What a command asks for: the stage, `without` and `plus`, and what the run is compared with."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from conf.errors import UsageError
from conf.keys import role_of
from conf.schema import Aim, Role
from runner.identity import conditions, inert_keys, measured, resolved, short_hash
from runner.overrides import override_key, parse
from runner.record import StageInfo
from runner.rows import Asked
from stages.arithmetic import Ablation, Entry, Ladder
from stages.ladder import Stage, flatten


@dataclass(frozen=True)
class Command:
    """The stage that was asked for, all overrides, and their `runner.identity.conditions`.

    `notes` tell the user what could not be taken back. `asked` is the part of the command that the
    record keeps. `changed_by` gives the lowest stage that changes a setting and that the run lacks.
    """

    stage: StageInfo
    overrides: list[str]
    conditions: dict[str, Any]
    notes: list[str]
    asked: Asked
    changed_by: dict[str, str]


@dataclass(frozen=True)
class Request:
    """What the overrides of one run ask for, and the configuration that all stages share.

    `shared` are the overrides except the stage, `without`, `plus` and the plan. `base` is composed
    from them without the round, so that a sweep composes it once; a recipe chooses its stage in it.
    """

    shared: list[str]
    ablation: Ablation
    base: DictConfig
    ladder: Ladder

    @classmethod
    def read(cls, overrides: Sequence[str], stages: Sequence[Stage]) -> "Request":
        """Raises UsageError."""
        typed = parse(overrides)
        shared = [word for word in overrides if not _is_asked(override_key(word))]
        common = [word for word in shared if role_of(override_key(word)) is not Role.round]
        stage, without_stage = typed.get("stage"), common
        if "recipe" in typed:
            if typed.keys() & {"without", "plus"}:
                raise UsageError(
                    "A recipe is one run as it is; without and plus are for a stage: write "
                    "+stage=NAME and the settings instead of +recipe."
                )
            without_stage = [*common, "~stage"]
            common = [*common, *([] if stage is None else [f"stage={stage}"])]
            stage = _chosen_stage(*common)
        if stage is None:
            raise UsageError("No stage was named: add one, such as +stage=step07.")

        def of_stage(name: str) -> dict[str, Any]:
            return _settings(composed(*common, f"+stage={name}"))

        by_hand = flatten(parse(shared)).keys()
        ladder = Ladder(stages, _settings(composed(*without_stage)), by_hand, of_stage)
        return cls(shared, Ablation.read(str(stage), typed), composed(*common), ladder)

    @property
    def stage(self) -> Stage:
        """The stage of the ladder that trains exactly the same, or else the requested one."""
        return self.ladder.named(self.ladder.plain_stage(self.ablation) or self.ablation.stage)

    @property
    def same_as(self) -> str | None:
        """`StageInfo.same_as`."""
        return self.ladder.same_but_for(self.ablation, inert_keys(self.ladder.base))

    def configuration(self) -> DictConfig:
        """The configuration of the run, without the round and the stage's description."""
        if self.base.recipe is not None:
            return self.base
        values = self.ladder.settings(self.ablation)
        base = self.ladder.base
        return _with_values(self.base, {k: v for k, v in values.items() if v != base.get(k)})

    @property
    def words(self) -> list[str]:
        """The overrides of a command for this request."""
        return [*self.shared, f"+stage={self.ablation.stage}", *self.ablation.overrides]


@cache
def composed(*overrides: str) -> DictConfig:
    """A configuration; the jobs of a sweep share the one without a stage."""
    return hydra.compose("config", list(overrides))


@cache
def _chosen_stage(*overrides: str) -> str | None:
    """The stage that a recipe among the overrides chooses."""
    cfg = hydra.compose("config", list(overrides), return_hydra_config=True)
    return cfg.hydra.runtime.choices.get("stage")


def read_command(
    cfg: DictConfig, overrides: Sequence[str], stages: Sequence[Stage]
) -> tuple[DictConfig, Command]:
    """The configuration of the run, with `without` and `plus` applied, and the command.

    `cfg` is what Hydra composed from the overrides. A run that trains exactly as a stage of the
    ladder counts as that stage. Raises UsageError.
    """
    request = Request.read(overrides, stages)
    asked, ladder, stage = request.ablation, request.ladder, request.stage
    words, below, notes = [*request.shared, f"+stage={stage.name}"], stage.parent, []
    if stage.name != asked.stage:
        cfg = composed(*words)
    elif not asked.is_plain:
        entries = {"without": list(asked.without), "plus": list(asked.plus)}
        cfg, below = _with_values(cfg, {**ladder.touched(asked), **entries}), stage.name
        words += asked.overrides
        for entry in map(Entry.read, asked.without):
            for key, later in ladder.set_again(asked, entry).items():
                notes.append(f"{key} of {entry.step} is not taken back: {later} sets it again.")
    if cfg.recipe:
        words = list(overrides)
    if not below:
        before = ladder.base
    elif cfg.recipe:
        before = _settings(composed(*request.shared, f"stage={below}"))
    else:
        before = ladder.settings(Ablation(below))
    trained = flatten(resolved(cfg))
    about = StageInfo(
        name=stage.name,
        number=stage.number,
        beyond=stage.beyond,
        parent=stage.parent,
        title=stage.about.title,
        aim=stage.about.aim,
        guide=stage.about.guide,
        changes={
            key: (before.get(key), value)
            for key, value in measured(trained).items()
            if role_of(key) is not Role.round and value != before.get(key)
        },
        same_as=request.same_as,
    )
    common = conditions(ladder.base)
    kept = {key for other in stages for key in other.changes}.intersection(common, ladder.typed)
    own, by_hand = conditions(trained), flatten(parse(words))
    reference = _reference(request, cfg.plan)
    question = Asked(
        stage=asked.stage,
        without=",".join(asked.without),
        plus=",".join(asked.plus),
        typed=json.dumps({key: own[key] for key in by_hand if key in own}, sort_keys=True),
        plan=str(parse(overrides).get("plan", "")),
        settings=short_hash(own),
        base=short_hash([common, sorted(kept)]),
        reference=short_hash(conditions(resolved(reference.configuration()))) if reference else "",
        reference_command=f"python -m runner {shlex.join(reference.words)}" if reference else "",
    )
    built_on = {below.name: below.changes for below in ladder.chain(asked.stage)}
    decided = {key for changes in built_on.values() for key in changes}
    changed_by = {
        key: other.name
        for other in reversed(stages)
        for key, value in other.changes.items()
        if (other.name not in built_on or asked.takes_back(other.name, key))
        and value != trained.get(key)
        # A layer norm that is there needs no other norm.
        and not (other.beyond and key in decided)
        # Step 9 takes its rate from the scale: "lower it (step09)" is no advice.
        and "${" not in str(value)
    }
    return cfg, Command(about, words, common, notes, question, changed_by)


def _reference(request: Request, plan: DictConfig | None) -> Request | None:
    """What a run is compared with: the plan's choice, itself without plus, its stage or parent."""
    asked, stage = request.ablation, request.ladder.named(request.ablation.stage)
    if stage.about.aim is Aim.flow or request.base.recipe:
        return None
    if plan is not None and plan.reference:
        given = {"stage": asked.stage, **resolved(plan.reference)}
        kept = [
            word for word in (*request.shared, *asked.overrides) if override_key(word) not in given
        ]
        named = [
            f"{key}={json.dumps(value, ensure_ascii=False)}"
            for key, value in given.items()
            if value is not None
        ]
        return Request.read([*kept, *named], request.ladder.stages)
    if asked.plus:
        return replace(request, ablation=Ablation(asked.stage, asked.without))
    if asked.without:
        return replace(request, ablation=Ablation(asked.stage))
    return replace(request, ablation=Ablation(stage.parent)) if stage.parent else None


def _settings(cfg: DictConfig) -> dict[str, Any]:
    """All values of a configuration by dotted key, without those of `Role.asked`."""
    flat = flatten(resolved(cfg))
    return {key: value for key, value in flat.items() if role_of(key) is not Role.asked}


def _is_asked(key: str) -> bool:
    """Whether an override belongs to this request alone, and not to all stages."""
    return role_of(key) is Role.asked or key == "plan"


def _with_values(cfg: DictConfig, values: Mapping[str, Any]) -> DictConfig:
    """A copy of a configuration with these values and the same types."""
    changed = cfg.copy()
    for key, value in values.items():
        # A custom model may be given arguments that the configuration does not know.
        OmegaConf.update(changed, key, value, merge=False, force_add=True)
    return changed
