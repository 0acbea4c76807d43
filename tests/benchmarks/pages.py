"""What all pages share: templates beside this file, and tables in Markdown."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from tests.benchmarks.ours import ROOT

DOCS = ROOT / "docs"

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def rendered(name: str, **values: Any) -> str:
    """The page of a template, such as memory.md."""
    return TEMPLATES.get_template(f"{name}.j2").render(values)


def write(page: Path, **values: Any) -> None:
    """Write a page from the template of its name."""
    page.write_text(rendered(page.name, **values), encoding="utf-8")


def save(page: Path, found: Any) -> Any:
    """Write what was measured beside its page, and read it as it stands there."""
    file = page.with_suffix(".json")
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return read(page)


def read(page: Path) -> Any:
    """What was measured for a page."""
    return json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


def shown(value: Any, form: str) -> str:
    """A number in its form, and nothing where there is none."""
    return "" if pd.isna(value) else form.format(value)


def spread(values: pd.Series, digits: int) -> str:
    """The median, and the least and the most where they differ from it; nothing of nothing."""
    if values.isna().all():
        return ""
    median, low, high = (f"{v:,.{digits}f}" for v in (values.median(), values.min(), values.max()))
    return median if len(values) == 1 else f"{median} [{low}, {high}]"


def table(titles: list[str], rows: Iterable[Iterable[Any]] = (), forms: str = "") -> str:
    """A table in Markdown; `forms` are those of a row's cells, such as "{} | {:.2f}"."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.itertuples(index=False)
    form = forms.split(" | ") if forms else ["{}"] * len(titles)
    body = [[shown(*cell) for cell in zip(row, form, strict=True)] for row in rows]
    head, *lines = (f"| {' | '.join(line)} |" for line in (titles, *body))
    return "\n".join([head, f"|{'---|' * len(titles)}", *lines])


TEMPLATES.globals["table"] = table
