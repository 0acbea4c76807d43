"""The source of a custom model: found and read without importing it."""

import ast
import contextlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import os
import symtable
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from conf import PACKAGES
from conf.errors import UsageError, did_you_mean


@dataclass
class Source:
    """What a custom model is made of.

    `files` are the target's and what it imports from its folder or package. `texts` has, for a
    target in a script or a notebook, that class or function and all that it uses there. `modules`
    are all dotted names that may be modules in them.
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
    """The source of a target package.module:name; for an installed package only of that package.

    Raises UsageError if the module is not found, or cannot be read as Python.
    """
    find_here()
    module, _, name = target.partition(":")
    if module == "__main__":
        texts, used = _in_main(target, name)
        script = getattr(sys.modules["__main__"], "__file__", None)
        root = Path(script).absolute().parent if script else Path.cwd()
        return _follow(target, root, used, Source(texts=texts))
    top = _top(module)
    spec = importlib.util.find_spec(top)
    place = spec and next(iter(spec.submodule_search_locations or ()), spec.origin)
    if not place:
        raise UsageError(
            f"model.target={target}: there is no module {top} in {Path.cwd()} or among the "
            f"installed packages.{did_you_mean(top, (f.stem for f in Path.cwd().glob('*.py')))}"
        )
    root = Path(place).parent
    if _file(root, module) is None:
        raise UsageError(f"model.target={target}: there is no module {module} in {root}.")
    return _follow(target, root, {module}, Source())


def _follow(target: str, root: Path, modules: set[str], source: Source) -> Source:
    """The source with the files below `root` of these modules, and of all that they import."""
    installed = "site-packages" in root.parts or root == Path(os.__file__).parent
    files: set[Path] = set()
    left = set(modules)
    while left:
        name = left.pop()
        source.modules.add(name)
        if installed and _top(name) != _top(target):
            continue
        other = _file(Path.cwd(), name) if _top(name) in PACKAGES else None
        if other and Path.cwd() != Path(__file__).resolve().parents[1]:
            raise UsageError(f"{other}: this project has a package of this name; rename it.")
        if file := _file(root, name):
            files.add(file)
            left.update(set(_imported(file, name, target)) - source.modules)
    source.files = sorted(files)
    return source


def _in_main(target: str, name: str) -> tuple[list[str], set[str]]:
    """A class or function of a script or a notebook: its text, and that of all it uses there.

    Also the modules that they use. What has no text, such as a number, counts as Python shows it.
    """
    main = sys.modules["__main__"]
    if not hasattr(main, name):
        raise UsageError(
            f"model.target={target}: there is no {name} in __main__, the script or notebook that "
            "trains; for a file net.py write model.target=net:Net."
        )
    texts: dict[str, str] = {}
    modules: set[str] = set()
    left = {name}
    while left:
        name = left.pop()
        value = getattr(main, name)
        of = getattr(value, "__module__", None)
        if isinstance(value, ModuleType):
            modules.add(value.__name__)
        elif of == "__main__" and hasattr(value, "__qualname__"):
            texts[name] = _text(target, name, value)
            modules.update(_modules(ast.parse(texts[name]), []))
            used = set(_globals(symtable.symtable(texts[name], target, "exec")))
            left |= {other for other in used - texts.keys() if hasattr(main, other)}
        elif of is not None and hasattr(value, "__qualname__"):
            modules.add(of)
        else:
            texts[name] = f"{name} = {value!r}"
    return [texts[name] for name in sorted(texts)], modules


def _text(target: str, name: str, value: Any) -> str:
    """The text of a class or function in a script or a notebook's cell. Raises UsageError."""
    members = vars(value).values() if isinstance(value, type) else [value]
    functions = filter(inspect.isfunction, map(inspect.unwrap, members))
    files = [function.__code__.co_filename for function in functions]
    files.append(getattr(sys.modules["__main__"], "__file__", ""))
    for file in files:
        lines = linecache.getlines(file)
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse("".join(lines))):
                kinds = ast.ClassDef | ast.FunctionDef
                if isinstance(node, kinds) and node.name == value.__name__:
                    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                    return textwrap.dedent("".join(lines[first - 1 : node.end_lineno]))
    raise UsageError(
        f"model.target={target}: Python knows no source of {name}, by which its runs would be told "
        "from those of another; save it as a file, such as net.py, and write model.target=net:Net."
    )


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """The names in some code that are not local to a function or a class of it."""
    yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global())
    for inner in table.get_children():
        yield from _globals(inner)


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
    try:
        tree = ast.parse(file.read_bytes(), file.name)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"model.target={target}: {file} is not valid Python: {error}.") from None
    yield from _modules(tree, parts if file.name == "__init__.py" else parts[:-1])


def _modules(tree: ast.AST, package: Sequence[str]) -> Iterator[str]:
    """The dotted names that may be modules, of the import statements in code of a package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
            if base:
                yield ".".join(base)
