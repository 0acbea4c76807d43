"""The source of a custom model: found and read without importing it."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from conf import PACKAGES
from conf.errors import UsageError, did_you_mean


def source_files(target: str) -> list[Path]:
    """The file of a target package.module:name, and what it imports from its folder or package.

    For an installed package, only the files of that package. Raises UsageError if the module is not
    found, or cannot be read as Python.
    """
    return _read(target)[0]


def package_versions(target: str) -> dict[str, str]:
    """The versions of the installed packages that the files of a target import by their own name.

    Raises UsageError as `source_files`.
    """
    versions = {}
    for name in sorted({_top(module) for module in _read(target)[1]}):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _read(target: str) -> tuple[list[Path], set[str]]:
    """The files of a target, and all dotted names that may be modules in them."""
    find_here()
    module = target.partition(":")[0]
    top = _top(module)
    spec = importlib.util.find_spec(top)
    place = spec and next(iter(spec.submodule_search_locations or ()), spec.origin)
    if not place:
        raise UsageError(
            f"model.target={target}: there is no module {top} in {Path.cwd()} or among the "
            f"installed packages.{did_you_mean(top, (f.stem for f in Path.cwd().glob('*.py')))}"
        )
    root = Path(place).parent
    installed = "site-packages" in root.parts or root == Path(os.__file__).parent
    files: set[Path] = set()
    names: set[str] = set()
    left = {module}
    while left:
        name = left.pop()
        names.add(name)
        if installed and _top(name) != top:
            continue
        other = _file(Path.cwd(), name) if _top(name) in PACKAGES else None
        if other and Path.cwd() != Path(__file__).resolve().parents[1]:
            raise UsageError(f"{other}: this project has a package of this name; rename it.")
        if file := _file(root, name):
            files.add(file)
            left.update(set(_imported(file, name, target)) - names)
    if _file(root, module) is None:
        raise UsageError(f"model.target={target}: there is no module {module} in {root}.")
    return sorted(files), names


def _top(module: str) -> str:
    return module.partition(".")[0]


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
    package = parts if file.name == "__init__.py" else parts[:-1]
    try:
        tree = ast.parse(file.read_bytes(), file.name)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"model.target={target}: {file} is not valid Python: {error}.") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
            if base:
                yield ".".join(base)
