"""The recipes in conf/recipe and in folders of the user's own: each is one long run."""

from collections.abc import Iterable
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf.errors import UsageError, did_you_mean
from conf.files import read_yaml
from conf.schema import RecipeConf
from stages.ladder import group_files


def find_recipe(name: str, config_dirs: Iterable[Path] = ()) -> RecipeConf:
    """The recipe of this name. Raises UsageError where there is none."""
    files = group_files("recipe", config_dirs, "*.y*ml")
    if name not in files:
        near = did_you_mean(name, files)
        raise UsageError(f"There is no recipe {name!r}.{near} There are {', '.join(files)}.")
    return read_recipe(files[name])


def read_recipe(file: Path) -> RecipeConf:
    """Raises UsageError for a file that is not a recipe."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(RecipeConf), read_yaml(file))
        recipe = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UsageError(f"{file}: {str(error).splitlines()[0]}.") from None
    assert isinstance(recipe, RecipeConf)
    if recipe.name != file.stem:
        raise UsageError(f"{file}: its name is {recipe.name}; name it as the file, {file.stem}.")
    return recipe
