"""The plans and recipes in conf/ and in the user's folders: which runs each asks for."""

from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError
from conf.files import read_yaml
from conf.schema import PlanConf, RecipeConf

# What a plan's file may hold: every value that it sets is one of its sweeper's parameters.
SECTIONS = {"defaults", "hydra", "plan"}


@dataclass(frozen=True)
class Plan:
    """A plan: what it is about, and its `hydra.sweeper.params`."""

    name: str
    about: PlanConf
    params: dict[str, str]


def read_plan(file: Path) -> Plan:
    """Raises UsageError for a file that is not a plan."""
    content = read_yaml(file)
    params = isinstance(content, DictConfig) and OmegaConf.select(content, "hydra.sweeper.params")
    if not isinstance(params, DictConfig):
        raise UsageError(f"{file} has no hydra.sweeper.params; a plan names its runs there.")
    if wrong := {str(key) for key in content} - SECTIONS:
        raise UsageError(
            f"{file} sets {', '.join(sorted(wrong))}; a plan sets every value under "
            "hydra.sweeper.params."
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(PlanConf), content.get("plan") or {})
        about = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, ValueError) as error:  # ValueError for a single word
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"{file}: plan has a title, a question and maybe a reference ({reason})."
        ) from None
    assert isinstance(about, PlanConf)
    about.title = about.title or file.stem
    swept = {str(key): str(value) for key, value in params.items_ex(resolve=False)}
    return Plan(file.stem, about, swept)


def read_recipe(file: Path) -> RecipeConf:
    """What a recipe is about. Raises UsageError for a file that is not a recipe."""
    content = read_yaml(file)
    about = isinstance(content, DictConfig) and content.get("recipe")
    if not isinstance(about, DictConfig) or about.keys() != {"name", "title"}:
        raise UsageError(f"{file} has no recipe: {{name: NAME, title: TITLE}}; write that first.")
    return RecipeConf(name=str(about.name), title=str(about.title))
