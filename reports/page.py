"""The report's files: the page, its Markdown twin, the tables and the pictures."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from filelock import FileLock
from markupsafe import Markup

from conf.errors import UsageError
from reports import claims, formats, sentences
from reports.compare import Comparison, Group, StageRuns, compare, numbers
from reports.figures import AGAINST_GUIDE, Painter
from reports.palette import THEME, looks
from reports.read import Records, read_records
from reports.reference import SOURCE
from reports.svg import Picture
from reports.verdicts import verdict
from runner.files import write_atomically
from runner.record import Results

TEMPLATES = Path(__file__).with_name("templates")


def write(experiments: Sequence[str | Path]) -> Path:
    """Write the whole report; see `reports.write_report`."""
    folder = Path(experiments[0]) / "report" if experiments else Path()
    files = build(read_records(experiments))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two sweeps may end at once: the pages of one must not be between the tables of another.
        with FileLock(folder / ".lock"):
            for name, content in files.items():
                write_atomically(folder / name, content)
    except OSError as error:
        raise UsageError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "index.html"


def build(records: Records) -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    main, *apart = groups = compare(records.found)
    stages = {(s.number, s.name, s.aim) for group in groups for s in group.stages}
    look = looks([(name, number, aim) for number, name, aim in sorted(stages)])
    painter = Painter(main, look)
    top = next((s for s in main.ladder if s.name == "step10" and s.finished), None)
    pictures = _pictures(painter, top)
    everything = [picture for found in pictures.values() for picture in found]
    others = [(group, sentences.apart(group, main)) for group in apart]
    foreign = [said for group, said in others if group.conditions != main.conditions]
    table, judged = stages_table(groups), claims.judge(groups)
    context = {
        "experiments": ", ".join(dict.fromkeys(run.experiment for run in records.found)),
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "main": main,
        "answer": sentences.answer(main),
        "judged": judged,
        "rules": claims.RULES,
        "drawn": painter.stages,
        "others": others,
        "fallbacks": sorted({f for run in records.found if (f := run.record.data.fallback)}),
        "notices": {
            "Not all runs can be compared. The report is on the largest group that can; shown "
            "apart below are:": foreign,
            "Not everything could be read:": records.problems,
        },
        "guide_note": sentences.guide_note(top, claims.conditions(top)) if top else "",
        "source": SOURCE,
        "axis": _interval_axis(main),
        "look": look,
        "theme": THEME,
        "pictures": pictures,
        "plots": {picture.name: picture.plot for picture in everything if picture.plot},
        "readouts": {look[s.name].index: sentences.readout(s) for s in main.stages},
    }
    values = {
        "format": 1,
        "answer": context["answer"],
        "conditions": [group.conditions._asdict() for group in groups],
        "stages": table.astype(object).where(table.notna(), None).to_dict("records"),
        "claims": [asdict(claim) for claim in judged],
        "problems": records.problems,
    }
    texts = {
        "index.html": _render("index.html.jinja", context),
        "report.md": _render("report.md.jinja", context),
        "report.json": json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        "stages.csv": table.to_csv(index=False, lineterminator="\n"),
        "steps.csv": records.steps.to_csv(index=False, lineterminator="\n"),
    }
    texts |= {f"figures/{picture.name}.svg": picture.svg for picture in everything}
    return {
        **{name: text.encode("utf-8", "replace") for name, text in texts.items()},
        **{f"figures/{picture.name}.png": picture.png for picture in everything},
    }


def _pictures(painter: Painter, top: StageRuns | None) -> dict[str, list[Picture]]:
    """The pictures by section; `top` is shown beside the guide's published run."""
    if not painter.stages:
        return {key: [] for key in ("stages", "all", "speed", "norms", "guide")}
    guide = AGAINST_GUIDE if top in painter.stages else ()
    return {
        "stages": painter.stage_panels(),
        "all": [painter.all_stages(f"loss-{per}") for per in ("steps", "tokens", "seconds")],
        "speed": painter.speed(),
        "norms": [painter.all_stages("gradient-norms"), painter.norm_spread()],
        "guide": [painter.against_guide(name, top) for name in guide if top],
    }


def _interval_axis(group: Group) -> tuple[int, int]:
    """The common axis of the table's bars: (left, right) in whole nats/token."""
    ends = [v for s in group.stages for v in (s.mean.worst, s.mean.best) if math.isfinite(v)]
    left, right = math.floor(min(ends, default=0)), math.ceil(max(ends, default=1))
    return left, max(right, left + 1)


def stages_table(groups: Sequence[Group]) -> pd.DataFrame:
    """A row a stage of each group: the numbers of the report, full precision."""
    rows = []
    for number, group in enumerate(groups):
        conditions = group.conditions._asdict()
        for stage in group.stages:
            over, _ = stage.clipped or (math.nan, 0)
            rows.append(
                {
                    "group": number,
                    **conditions,
                    "scale": stage.newest.settings.scale,
                    "variant": " ".join(stage.newest.variant),
                    "stage": stage.name,
                    "number": stage.number,
                    "title": stage.title,
                    "aim": stage.aim.value,
                    "status": stage.status.value,
                    "seeds": " ".join(str(run.record.seed) for run in stage.runs),
                    "finished_runs": len(stage.finished),
                    **{name: getattr(stage.mean, name) for name in numbers(Results)},
                    **asdict(stage.timings),
                    "held_out_spread": stage.spread.held_out,
                    "best_spread": stage.spread.best,
                    "previous": stage.vs_previous.other,
                    **_flat(stage.vs_previous, "previous"),
                    **_flat(stage.vs_baseline, "baseline"),
                    "spikes": sum(map(len, stage.spikes.values())),
                    "clipped_steps": over,
                    "not_applied": "; ".join(f"{k}: {v}" for k, v in stage.not_applied.items()),
                    "verdict": verdict(stage).text,
                }
            )
    return pd.DataFrame(rows).drop(columns="settings")


def _flat(comparison: Comparison, other: str) -> dict[str, float]:
    """A comparison's columns: loss_vs_previous, loss_vs_previous_low, ..."""
    return {
        f"{what}_vs_{other}{end}": getattr(getattr(comparison, what), part, math.nan)
        for what in ("loss", "best", "speed")
        for part, end in (("value", ""), ("low", "_low"), ("high", "_high"), ("p", "_p"))
    }


def _render(template: str, context: dict[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: name is not None and ".html" in name,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    script, sheet = (
        Markup((TEMPLATES / name).read_text(encoding="utf-8")) for name in ("page.js", "page.css")
    )
    # The page's policy allows this one script and no other.
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment.filters.update(formats.FILTERS)
    environment.filters.update(verdict=verdict, svg=lambda picture: Markup(picture.inline))
    environment.globals.update(
        script=script, sheet=sheet, script_hash=f"sha256-{digest}", words=sentences
    )
    return environment.get_template(template).render(context)
