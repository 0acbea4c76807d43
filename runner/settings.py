"""A composed configuration, typed and checked: every error in it is found before torch loads."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from conf.elsewhere import called_elsewhere
from conf.errors import UsageError
from conf.keys import by_name
from conf.schema import CompileMode, Config, Logger, Schedule, Sharding, validator
from gpt2.config import KNOBS, CustomConfig, GPTConfig, Norm, Positions
from runner import world
from runner.mistakes import no_such_key
from runner.overrides import override_key

Typed = TypeVar("Typed")

CONSTANT = "train.schedule=constant keeps one learning rate"

# What to do about a value outside its range, by the type of pydantic's error.
ADVICE = {
    "greater_than": "give a value above {gt}",
    "greater_than_equal": "give {ge} or more",
    "less_than": "give a value below {lt}",
    "less_than_equal": "give {le} or less",
    "missing": "give a value here too",
    "predicate_failed": "give a plain name, which becomes a folder in output_dir",
    "too_long": "give {max_length} values",
    "string_too_short": "give a text of at least {min_length} character",
}


def read_settings(cfg: DictConfig) -> Config:
    """The typed configuration. Raises UsageError that names the key, its value and what to do."""
    config = typed(cfg, Config)
    _check_ranges(type(config.model), cfg.model, "model.")
    model, train = config.model, config.train
    if isinstance(model, GPTConfig):
        width, rest = divmod(model.n_embd, model.n_head)
        if rest:
            raise UsageError(
                f"model.n_embd={model.n_embd} cannot be split among model.n_head={model.n_head} "
                "heads; make it a multiple."
            )
        if model.positions is Positions.rotary and width % 2:
            raise UsageError(
                f"model.positions=rotary turns pairs of channels, but a head has {width} "
                f"(model.n_embd={model.n_embd} / model.n_head={model.n_head}); make it even."
            )
    if isinstance(model, CustomConfig):
        _check_custom(model)
    if train.schedule is Schedule.wsd and train.cooldown_fraction is None:
        raise UsageError(
            "train.schedule=wsd needs train.cooldown_fraction, the part of the steps in which the "
            "rate falls: add train.cooldown_fraction=0.2."
        )
    if train.context > model.context_length:
        raise UsageError(
            f"train.context={train.context} is longer than the model's "
            f"model.context_length={model.context_length}; lower the one or raise the other."
        )
    total, micro = train.total_batch_tokens, train.micro_batch_tokens
    if total is not None and total % micro:
        below = total - total % micro
        nearest = [below, below + micro] if below else [micro]
        raise UsageError(
            f"train.total_batch_tokens={total} is not divisible by "
            f"micro batch x context = {train.micro_batch_size} x {train.context} = {micro} tokens; "
            f"the nearest that are divisible: {' and '.join(map(str, nearest))}."
        )
    sequences, processes = train.micro_batch_size * train.grad_accum_steps, world.size()
    if sequences % processes:
        raise UsageError(
            f"A batch of {sequences} sequences, {train.grad_accum_steps} x "
            f"train.micro_batch_size={train.micro_batch_size}, cannot be divided among {processes} "
            "processes; start a number of processes that divides it, or change "
            "train.micro_batch_size or train.total_batch_tokens."
        )
    if isinstance(model, GPTConfig) and model.norm is Norm.batch and processes > 1:
        raise UsageError(
            f"model.norm=batch needs the statistics of a whole batch, but each of the "
            f"{processes} processes has only a part; train on one process, or use another norm."
        )
    if train.clip_grad_norm is not None and train.clip_grad_norm < train.eps:
        raise UsageError(
            f"train.clip_grad_norm={train.clip_grad_norm:g} leaves gradients smaller than AdamW's "
            f"train.eps={train.eps:g}, so that nothing is learned; GPT-2 is clipped at 1."
        )
    graphs = train.compile and train.compile_mode is CompileMode.reduce_overhead
    if graphs and train.grad_accum_steps > 1:
        raise UsageError(
            "train.compile_mode=reduce_overhead uses CUDA graphs, in which a micro batch "
            "overwrites the gradients that accumulation adds up; give default or max_autotune to "
            "a stage that accumulates."
        )
    logger = config.logger.name
    package = None if logger is Logger.none else find_spec(logger.value)
    # A folder called wandb, which W&B makes, is found too, and has no origin.
    if logger is not Logger.none and not (package and package.origin):
        raise UsageError(
            f"logger={logger.value} needs a package that is not installed: "
            f"pip install 'gpt2-ladder[{logger.value}]'."
        )
    return config


def _check_custom(model: CustomConfig) -> None:
    """Raises UsageError for what cannot be a custom model, before its code is looked for."""
    module, _, name = model.target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise UsageError(
            f"model.target={model.target}: name a class or a function of a module "
            "that returns a model: model.target=package.module:name."
        )
    for key in ("arguments", "knobs"):
        if not isinstance(value := getattr(model, key), dict):
            raise UsageError(f"model.{key}={value}: write names and values, {{NAME: VALUE}}.")
    given = (*KNOBS, "vocab_size", "context_length")
    for knob, argument in model.knobs.items():
        if knob not in given:
            raise UsageError(
                f"model.knobs: there is no model.{knob} to give to a model; there are "
                f"{', '.join(given)}."
            )
        if not isinstance(argument, str) or argument in model.arguments:
            raise UsageError(
                f"model.knobs: {knob} is given to {argument!r}; name an argument of {model.target} "
                "that model.arguments does not give another value."
            )


def remarks(config: Config) -> list[str]:
    """The settings that have no effect, or an odd one, as sentences."""
    train, found = config.train, []
    constant = train.schedule is Schedule.constant
    if constant and train.warmup_steps:
        found.append(f"train.warmup_steps={train.warmup_steps} has no effect: {CONSTANT}.")
    elif train.warmup_steps > train.steps:
        found.append(
            f"train.warmup_steps={train.warmup_steps} does not end within the run's {train.steps} "
            f"steps, so the learning rate never reaches {train.learning_rate:g}."
        )
    if not constant and train.min_lr_ratio == 1:
        found.append(
            f"train.schedule={train.schedule.name} lowers no rate: train.min_lr_ratio is 1; give "
            "0.1, as step09 does."
        )
    if constant and train.min_lr_ratio != 1:
        found.append(f"train.min_lr_ratio={train.min_lr_ratio:g} has no effect: {CONSTANT}.")
    if train.cooldown_fraction is not None and train.schedule is not Schedule.wsd:
        found.append(
            f"train.cooldown_fraction={train.cooldown_fraction:g} has no effect: "
            f"train.schedule is {train.schedule.name}, and not wsd."
        )
    elif train.cooldown_fraction and train.warmup_steps > train.steps - train.cooldown_steps:
        found.append(
            f"train.warmup_steps={train.warmup_steps} leaves {train.steps - train.warmup_steps} of "
            f"the cooldown's {train.cooldown_steps} steps."
        )
    if isinstance(config.model, GPTConfig) and config.model.zero_init and not config.model.residual:
        found.append(
            "model.zero_init without model.residual: the blocks put out zeros, so that no token "
            "changes the logits and hardly anything is learned."
        )
    if train.decay_matrices_only and not train.weight_decay:
        found.append("train.decay_matrices_only has no effect: train.weight_decay is 0.")
    if train.compile_mode is not CompileMode.default and not train.compile:
        found.append(f"train.compile_mode={train.compile_mode.name} has no effect without compile.")
    evaluation = config.evaluation
    if evaluation.samples and evaluation.every is None:
        found.append("evaluation.samples has no effect: evaluation.every is null.")
    if evaluation.hellaswag_items is not None and evaluation.hellaswag is None:
        found.append("evaluation.hellaswag_items has no effect without evaluation.hellaswag=FILE.")
    if train.sharding is not Sharding.none and world.size() == 1:
        found.append(
            f"train.sharding={train.sharding.name} has no effect: one process trains, and torchrun "
            "starts several."
        )
    return found


def typed(cfg: DictConfig, kind: type[Typed]) -> Typed:
    """A composed configuration as its dataclass, each value within the range beside its type."""
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UsageError(f"{key} has no value here; add {key}=VALUE.")
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, kind)
    for key in _unknown(config):  # +key=value adds it, whatever the types say
        raise UsageError(no_such_key(key, list(cfg.get("model", ()))))
    _check_ranges(kind, cfg)
    return config


def refuse_unknown(override: str) -> None:
    """Raises UsageError for a setting by the name that it has elsewhere."""
    key = override_key(override)
    if called_elsewhere(key) and key not in by_name():
        raise UsageError(no_such_key(key))


def _unknown(section: Any, prefix: str = "") -> Iterator[str]:
    """The keys of a section that its type does not have, dotted."""
    known = {entry.name for entry in fields(section)}
    for name, value in vars(section).items():
        if name not in known:
            yield f"{prefix}{name}"
        elif is_dataclass(value):
            yield from _unknown(value, f"{prefix}{name}.")


def _check_ranges(kind: type, cfg: DictConfig, prefix: str = "") -> None:
    """Raises UsageError for the first value outside its range."""
    from pydantic import ValidationError

    try:
        validator(kind).validate_python(OmegaConf.to_container(cfg, resolve=True))
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"])
        key = prefix + "".join(parts).lstrip(".")
        value = "" if first["type"] == "missing" else f"={first['input']}"
        limits = first.get("ctx", {})
        advice = ADVICE.get(first["type"], first["msg"]).format(**limits)
        raise UsageError(f"{key}{value}: {advice[0].lower()}{advice[1:]}.") from None
