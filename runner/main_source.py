"""What a class or function of a script or a notebook is made of: the text that Python has of it."""

import ast
import inspect
import linecache
import symtable
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import Any

from conf.errors import UsageError


def read_main(target: str, name: str) -> tuple[list[str], set[str]]:
    """The texts of a class or function of `__main__` and of all that it uses there, and modules.

    Raises UsageError for what has no text that is the same in every process.
    """
    main = sys.modules["__main__"]
    if not hasattr(main, name):
        raise UsageError(
            f"model.target={target}: there is no {name} in __main__, the script or notebook that "
            "trains; for a file net.py write model.target=net:Net."
        )
    texts: dict[str, str] = {}
    modules: set[str] = set()
    left = {name: getattr(main, name)}
    while left:
        name, value = left.popitem()
        if isinstance(value, ModuleType):
            texts[name] = value.__name__
            modules.add(value.__name__)
        elif not hasattr(value, "__qualname__"):
            texts[name] = _literal(target, name, value)
        elif value.__module__ != "__main__":
            texts[name] = f"{value.__module__}.{value.__qualname__}"
            modules.add(str(value.__module__))
        else:
            texts[name], file, lines = _text(target, name, value)
            modules.update(imported_names(ast.parse(texts[name]), []))
            used = set(_globals(symtable.symtable(texts[name], target, "exec")))
            left |= {o: getattr(main, o) for o in used - texts.keys() if hasattr(main, o)}
            if isinstance(value, type):
                left |= {f"{name}.{key}": each for key, each in _members(value, file, lines)}
    return [f"{name} = {texts[name]}" for name in sorted(texts)], modules


def _literal(target: str, name: str, value: Any) -> str:
    """A number, a text, or a list of such, as Python writes it. Raises UsageError for the rest."""
    if _is_plain(value):
        return repr(value)
    raise UsageError(
        f"model.target={target}: it uses {name}, a {type(value).__name__} that cannot be told from "
        "another; make it within the model, or save both in a file, such as net.py, and write "
        "model.target=net:Net."
    )


def _is_plain(value: Any) -> bool:
    with suppress(ValueError, SyntaxError):
        return bool(ast.literal_eval(repr(value)) == value)
    return False


def _members(kind: type, file: str, lines: range) -> Iterator[tuple[str, Any]]:
    """What a class may have been given after its text: plain values, and functions made elsewhere.

    Its text is in these lines of the file; a dataclass makes some of its functions itself.
    """
    for key, member in vars(kind).items():
        function = inspect.unwrap(member)
        if inspect.isfunction(function):
            made_in, line = function.__code__.co_filename, function.__code__.co_firstlineno
            if (made_in, line in lines) != (file, True) and made_in != "<string>":
                yield key, function
        elif not key.startswith("__") and _is_plain(member):
            yield key, member


@cache  # a script's file may be changed after it began
def _text(target: str, name: str, value: Any) -> tuple[str, str, range]:
    """The text of a class or function, its file and its lines there.

    Raises UsageError if Python has none.
    """
    members = vars(value).values() if isinstance(value, type) else [value]
    codes = [f.__code__ for f in map(inspect.unwrap, members) if inspect.isfunction(f)]
    places: list[tuple[str, int | None]] = [(c.co_filename, c.co_firstlineno) for c in codes]
    if isinstance(value, type):  # it may have no function of its own: the newest cell that has it
        cells = [file for file, entry in linecache.cache.items() if entry[1:2] == (None,)]
        script = getattr(sys.modules["__main__"], "__file__", "")
        places += [(file, None) for file in (*reversed(cells), script)]
    for file, line in places if "<" not in value.__qualname__ else ():  # <locals>, <lambda>
        lines = linecache.getlines(file)
        with suppress(SyntaxError):
            for node in reversed([*ast.walk(ast.parse("".join(lines)))]):
                if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == value.__name__:
                    first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                    within = range(first, (node.end_lineno or 0) + 1)
                    if line is None or line in within:
                        text = "".join(lines[first - 1 : node.end_lineno])
                        return textwrap.dedent(text), file, within
    raise UsageError(
        f"model.target={target}: Python knows no source of {name}, by which its runs would be told "
        "from those of another; save it as a file, such as net.py, and write model.target=net:Net."
    )


def _globals(table: symtable.SymbolTable) -> Iterator[str]:
    """The names in some code that are not local to a function or a class of it."""
    yield from (symbol.get_name() for symbol in table.get_symbols() if symbol.is_global())
    for inner in table.get_children():
        yield from _globals(inner)


def imported_names(tree: ast.AST, package: Sequence[str]) -> Iterator[str]:
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
