"""The source of a custom model: found and read without importing it."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from conf import PACKAGES
from conf.errors import UsageError, did_you_mean
from runner.main_source import imported_names, read_main


@dataclass
class Source:
    """What a custom model is made of.

    `files` are the target's and those that it imports which are not installed; of an installed
    package, its own. `texts` are what a class or function of a script or a notebook is made of.
    `modules` are all dotted names that may be modules in them.
    """

    files: list[Path] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    modules: set[str] = field(default_factory=set)

    @property
    def versions(self) -> dict[str, str]:
        """The versions of the installed packages that are imported by their own name."""
        found = {}
        for name in sorted({_top(module) for module in self.modules}):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found


def read_source(target: str) -> Source:
    """The source of a target package.module:name.

    Raises UsageError if it is not found, or cannot be read as Python.
    """
    find_here()
    module, _, name = target.partition(":")
    if module == "__main__":
        texts, used = read_main(target, name)
        return _follow(target, used, Source(texts=texts))
    top = _top(module)
    root = _root(top)
    if root is None:
        raise UsageError(
            f"model.target={target}: there is no module {top} in {Path.cwd()} or among the "
            f"installed packages.{did_you_mean(top, (f.stem for f in Path.cwd().glob('*.py')))}"
        )
    if _file(root, module) is None:
        raise UsageError(f"model.target={target}: there is no module {module} in {root}.")
    return _follow(target, {module}, Source())


def _follow(target: str, modules: set[str], source: Source) -> Source:
    """The source with the files of these modules, and of all that they import."""
    files: set[Path] = set()
    left = set(modules)
    while left:
        name = left.pop()
        source.modules.add(name)
        top = _top(name)
        root, ours = _root(top), top in PACKAGES
        other = _file(Path.cwd(), name) if ours else None
        if other and Path.cwd() != Path(__file__).resolve().parents[1]:
            raise UsageError(f"{other}: this project has a package of this name; rename it.")
        if root is None or (top != _top(target) and (ours or _is_installed(root))):
            continue
        if file := _file(root, name):
            files.add(file)
            left.update(set(_imported(file, name, target)) - source.modules)
    source.files = sorted(files)
    return source


def _top(module: str) -> str:
    return module.partition(".")[0].partition(":")[0]


def _root(top: str) -> Path | None:
    """The folder that a top-level module is in."""
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that something has made by hand
        return None
    place = spec and next(iter(spec.submodule_search_locations or ()), spec.origin)
    return Path(place).parent if place else None


def _is_installed(root: Path) -> bool:
    packages = {"site-packages", "dist-packages"}
    return bool(packages & {*root.parts}) or root == Path(os.__file__).parent


def find_here() -> None:
    """Let every command find modules in the current folder, as `python -m` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _file(root: Path, name: str) -> Path | None:
    place = root.joinpath(*name.split("."))
    return next((f for f in (place / "__init__.py", place.with_suffix(".py")) if f.is_file()), None)


def _imported(file: Path, name: str, target: str) -> Iterator[str]:
    """The dotted names that may be modules, of all import statements, and the packages above."""
    parts = name.split(".")
    yield from (".".join(parts[:i]) for i in range(1, len(parts)))
    try:
        tree = ast.parse(file.read_bytes(), file.name)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"model.target={target}: {file} is not valid Python: {error}.") from None
    yield from imported_names(tree, parts if file.name == "__init__.py" else parts[:-1])
