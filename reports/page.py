"""The report's files: the page, its Markdown twin, the tables and the pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
from filelock import FileLock
from markupsafe import Markup

from reports import words
from reports.answer import answer
from reports.claims import RULES, claims, guide_note, step10
from reports.compare import Group, compare, curves_of, differing
from reports.errors import ReportError
from reports.figures import Painter, Picture
from reports.palette import THEME, looks
from reports.records import Records, read_records
from reports.reference import SOURCE, guide_log
from runner.files import write_atomically

TEMPLATES = Path(__file__).with_name("templates")


def write(experiments: Sequence[str | Path]) -> Path:
    """Write the whole report; see `reports.write_report`."""
    folder = Path(experiments[0]) / "report" if experiments else Path()
    records = read_records(experiments)
    files = build(records)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two sweeps may end at once: the pages of one must not lie between the tables of another.
        with FileLock(folder / ".lock"):
            for name, content in files.items():
                write_atomically(folder / name, content)
    except OSError as error:
        raise ReportError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "index.html"


def build(records: Records) -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    groups = compare(records)
    main = groups[0]
    curves = curves_of(records)
    named = {
        stage.name: (stage.name, stage.number, stage.aim)
        for group in groups
        for stage in group.stages
    }
    order = sorted(named.values(), key=lambda s: (math.isnan(s[1]), s[1], s[0]))
    look = looks(order)
    painter = Painter(main, curves, look)
    pictures = _pictures(painter, main)
    everything = [picture for found in pictures.values() for picture in found]
    top = step10(main)
    others = [(group, words.unlike(group, main)) for group in groups[1:]]
    context = {
        "experiments": ", ".join(dict.fromkeys(records.runs["experiment"])),
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "main": main,
        "others": others,
        "foreign": [
            (group, said) for group, said in others if set(differing(group, main)) - {"variant"}
        ],
        "fallbacks": [said for said in dict.fromkeys(records.runs["data_fallback"]) if said],
        "problems": records.problems,
        "headline": words.headline(main),
        "facts": words.facts(main),
        "answer": answer(main),
        "plus_minus": words.plus_minus(main),
        "claims": claims(groups, curves),
        "rules": RULES,
        "speed_note": words.speed_note(main),
        "clipping_note": words.clipping_note(main),
        "guide_note": guide_note(top) if top else "",
        "method": words.method(main),
        "sampled": [stage for stage in main.stages if stage.finished and stage.newest["samples"]],
        "source": SOURCE,
        "axis": words.interval_axis(main),
        "look": look,
        "theme": THEME,
        "pictures": pictures,
        "drawn": painter.stages,
        "undrawn": len([stage for stage in main.ladder if stage not in painter.stages]),
        "plots": {picture.name: picture.plot for picture in everything if picture.plot},
        "readouts": {look[s.name].index: words.readout(s) for s in main.stages},
    }
    pages = {
        "index.html": _render("index.html.jinja", context),
        "report.md": _render("report.md.jinja", context),
        "report.json": json.dumps(_as_json(groups, context), indent=1, ensure_ascii=False) + "\n",
        "stages.csv": words.stages_table(groups).to_csv(index=False, lineterminator="\n"),
        "steps.csv": records.steps.to_csv(index=False, lineterminator="\n"),
    }
    files = {name: text.encode("utf-8", "replace") for name, text in pages.items()}
    for picture in everything:
        files[f"figures/{picture.name}.svg"] = picture.svg.encode("utf-8", "replace")
        files[f"figures/{picture.name}.png"] = picture.png
    return files


def _pictures(painter: Painter, group: Group) -> dict[str, list[Picture]]:
    if not painter.stages:
        return {"stages": [], "all": [], "speed": [], "norms": [], "guide": []}
    log = guide_log()
    top = step10(group)
    return {
        "stages": painter.stage_panels(),
        "all": [painter.loss_against(x) for x in ("step", "tokens_seen", "seconds")],
        "speed": painter.speed(),
        "norms": [painter.gradient_norms(), painter.norm_spread()],
        "guide": [painter.against_reference(top, log, y) for y in ("loss", "grad_norm")]
        if top is not None and top in painter.stages
        else [],
    }


def _as_json(groups: Sequence[Group], context: dict[str, Any]) -> dict[str, Any]:
    table = words.stages_table(groups)
    return {
        "format": 1,
        "answer": context["answer"],
        "conditions": [group.conditions for group in groups],
        "stages": [
            {key: _plain(value) for key, value in row.items()} for row in table.to_dict("records")
        ],
        "claims": [vars(claim) for claim in context["claims"]],
        "problems": context["problems"],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value


def _render(template: str, context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(words.FILTERS)
    environment.filters["svg"] = lambda picture: Markup(picture.inline)
    environment.globals["script"] = Markup((TEMPLATES / "page.js").read_text(encoding="utf-8"))
    environment.globals["sheet"] = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    environment.globals["script_hash"] = _script_hash(str(environment.globals["script"]))
    return environment.get_template(template).render(context)


def _script_hash(script: str) -> str:
    """The source expression with which the page's policy allows this one script and no other."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
