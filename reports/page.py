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
import numpy as np
import pandas as pd
from filelock import FileLock
from markupsafe import Markup

from conf.errors import UsageError
from reports import claims, effects, formats, plan_figures, plan_sentences, sentences
from reports.alternatives import Alternatives
from reports.compare import Comparison, StageRuns, numbers
from reports.curves import step_reaching
from reports.figures import AGAINST_GUIDE, Painter
from reports.findings import Findings
from reports.palette import THEME, looks
from reports.plans import Table
from reports.reference import SOURCE
from reports.signal_figures import by_depth
from reports.speed_figures import speeds
from reports.svg import Picture
from reports.worth import StepWorth
from runner.files import write_atomically
from runner.record import Results, Sample

SECTIONS = (
    "effects", "stops", "alternatives", "worth", "rates", "stages", "all", "evaluations", "speed",
    "signal", "norms", "guide",
)  # fmt: skip
# Samples that are shown of a run, evenly spread over it.
MOST_SAMPLES = 6
TEMPLATES = Path(__file__).with_name("templates")


def write(found: Findings, folder: Path) -> Path:
    """Write the whole report into a folder and return its page; see `reports.write_report`."""
    files = build(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two sweeps may end at once: the pages of one must not be between the tables of another.
        with FileLock(folder / ".lock"):
            for name, content in files.items():
                write_atomically(folder / name, content)
    except OSError as error:
        raise UsageError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "index.html"


def build(found: Findings) -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    records, groups, main = found.records, found.groups, found.main
    stages = {(s.number, s.name, s.aim) for group in groups for s in group.stages}
    if found.worth:
        stages |= {(s.stage.number, s.name, s.stage.about.aim) for s in found.worth.steps}
    look = looks([(name, number, aim) for number, name, aim in sorted(stages)])
    painter = Painter(main, look, found.disturbed)
    top = next((s for s in main.ladder if s.name == "step10" and s.finished), None)
    pictures = _pictures(painter, top, found)
    everything = [picture for found in pictures.values() for picture in found]
    foreign = [said for group, said, _ in found.others if group.conditions != main.conditions]
    table = stages_table(found)
    context = {
        "experiments": ", ".join(dict.fromkeys(run.experiment for run in records.found)),
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "main": main,
        "found": found,
        "verdicts": found.verdicts[0],
        "claims_rules": claims.RULES,
        "reached": _reached(found),
        "scored": any(stage.newest.hellaswag for stage in main.ladder),
        "sampled": [(s, _spread(s.newest.samples)) for s in main.stages if s.newest.samples],
        "drawn": painter.stages,
        "fallbacks": sorted({f for run in records.found if (f := run.record.data.fallback)}),
        "notices": {
            "Not all runs can be compared. The report is on the largest group that can; shown "
            "apart below are:": foreign,
            "Not everything could be read:": records.problems,
        },
        "guide_note": sentences.guide_note(top, claims.conditions(top)) if top else "",
        "source": SOURCE,
        "axis": _interval_axis(painter),
        "look": look,
        "theme": THEME,
        "pictures": pictures,
        "plots": {picture.name: picture.plot for picture in everything if picture.plot},
        "readouts": {
            look[s.name].index: sentences.readout(s, found.verdicts[0][s.name]) for s in main.stages
        },
    }
    values = {
        "format": 2,
        "answer": found.answer,
        "rules": asdict(found.rules),
        "disturbed": found.disturbed,
        "conditions": [group.conditions._asdict() for group in groups],
        "stages": table.astype(object).where(table.notna(), None).to_dict("records"),
        "claims": [asdict(claim) for claim in found.claims],
        "plans": [_table_values(table) for table in found.tables],
        "worth": [_worth_values(step) for step in found.worth.steps] if found.worth else [],
        "side_by_side": [_side_by_side(stage) for stage in found.alternatives],
        "learning_rates": [asdict(stage) for stage in found.rates],
        "problems": records.problems,
    }
    texts = {
        "index.html": _render("index.html.jinja", context),
        "report.md": _render("report.md.jinja", context),
        "report.json": json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        "stages.csv": table.to_csv(index=False, lineterminator="\n"),
        "steps.csv": records.steps.to_csv(index=False, lineterminator="\n"),
        "held_out.csv": records.held_out.to_csv(index=False, lineterminator="\n"),
    }
    texts |= {f"figures/{picture.name}.svg": picture.svg for picture in everything}
    return {
        **{name: text.encode("utf-8", "replace") for name, text in texts.items()},
        **{f"figures/{picture.name}.png": picture.png for picture in everything},
    }


def _pictures(painter: Painter, top: StageRuns | None, found: Findings) -> dict[str, list[Picture]]:
    """The pictures by section; `top` is shown beside the guide's published run."""
    if not painter.stages:
        return {key: [] for key in SECTIONS}
    guide = AGAINST_GUIDE if top in painter.stages else ()
    return {
        "effects": effects.forest(painter, found.verdicts[0], found.rules),
        "stops": effects.stops(painter, found.rules),
        **_plan_pictures(painter, found),
        "stages": painter.stage_panels(),
        "all": [painter.all_stages(f"loss-{per}") for per in ("steps", "tokens", "seconds")],
        "evaluations": painter.evaluations(),
        "speed": speeds(painter),
        "signal": by_depth(painter),
        "norms": [painter.all_stages("gradient-norms"), painter.norm_spread()],
        "guide": [painter.against_guide(name, top) for name in guide if top],
    }


def _plan_pictures(painter: Painter, found: Findings) -> dict[str, list[Picture]]:
    pictures: dict[str, list[Picture]] = {"worth": [], "rates": [], "alternatives": []}
    if found.alternatives:
        pictures["alternatives"].append(plan_figures.side_by_side(painter, found.alternatives))
    if found.worth:
        pictures["worth"].append(plan_figures.worth(painter, found.worth, found.rules))
        if found.worth.factorial:
            factorial, level = found.worth.factorial, 1 - found.rules.confidence
            pairs = plan_figures.interactions(found.worth.interactions, factorial, level)
            pictures["worth"] += [plan_figures.orders(factorial), pairs]
    if found.rates:
        pictures["rates"].append(plan_figures.rates(painter, found.rates))
    return pictures


def _spread(samples: Sequence[Sample]) -> list[Sample]:
    """The samples, or of many the first, the last, and some between."""
    places = np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES))
    return [samples[place] for place in places.round().astype(int)]


def _interval_axis(painter: Painter) -> tuple[int, int]:
    """The common axis of the table's bars: (left, right) in whole nats/token, spikes cut off."""
    low, high = painter.loss_limits() if painter.stages else (0.0, 1.0)
    left, right = math.floor(low), math.ceil(high)
    return left, max(right, left + 1)


def _reached(found: Findings) -> dict[str, Any] | None:
    """Mean training losses, and when set losses were reached: columns, and a row a stage."""
    stages = [stage for stage in found.main.ladder if stage.finished]
    if not stages:
        return None
    columns = [("Mean of all steps", "number")]
    table = [[formats.loss(stage.mean.mean) for stage in stages]]
    for loss in found.rules.losses:
        steps = [np.mean([step_reaching(run, loss) for run in s.finished]) for s in stages]
        if np.isfinite(steps).any():
            columns.append((f"{loss:g} nats", "number"))
            table.append([formats.number(float(step), ".0f") for step in steps])
    rows = list(zip(stages, zip(*table, strict=True), strict=True))
    return {"columns": columns, "rows": rows}


def stages_table(found: Findings) -> pd.DataFrame:
    """A row a stage of each group: the numbers of the report, full precision."""
    rows = []
    for number, (group, verdicts) in enumerate(zip(found.groups, found.verdicts, strict=True)):
        conditions = group.conditions._asdict()
        for stage in group.stages:
            over, _ = stage.clipped or (math.nan, 0)
            verdict, stop = verdicts[stage.name], stage.vs_previous.stop
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
                    "compile_cache": stage.newest.compile_cache,
                    "previous": stage.vs_previous.other,
                    **_flat(stage.vs_previous, "previous"),
                    **_flat(stage.vs_baseline, "baseline"),
                    "outcome": verdict.outcome.value if verdict.outcome else None,
                    "p_holm": verdict.p,
                    "seeds_needed": verdict.seeds_needed,
                    "depends_on_stop_at": stop.step if stop else None,
                    "spikes": sum(map(len, stage.spikes.values())),
                    "plateaus": len(stage.plateaus),
                    "clipped_steps": over,
                    "not_applied": "; ".join(f"{k}: {v}" for k, v in stage.not_applied.items()),
                    "findings": "; ".join(f"{k} ({n})" for k, (n, _) in stage.findings.items()),
                    "verdict": verdict.text,
                }
            )
    return pd.DataFrame(rows).drop(columns="settings")


def _table_values(table: Table) -> dict[str, Any]:
    """A plan's table as JSON types."""
    rows = []
    for row in table.rows:
        versus = row.versus or Comparison()
        estimates = {"loss": versus.loss, "speed": versus.speed and versus.speed.estimate}
        rows.append(
            {
                "cell": row.what,
                "against": row.against or None,
                "runs": [run.name for run in row.runs.rounds],
                "held_out": row.runs.mean.held_out,
                "tokens_per_second": row.runs.mean.tokens_per_second,
                **{name: asdict(e) if e else None for name, e in estimates.items()},
                "outcome": row.outcome.value if row.outcome else None,
            }
        )
    return {"plan": table.plan.name, "missing_cells": table.missing, "rows": rows}


def _side_by_side(stage: Alternatives) -> dict[str, Any]:
    """A stage's alternatives as JSON types."""
    rows = [
        {
            "with": row.what,
            "runs": [run.name for run in row.runs.rounds],
            "held_out": row.runs.mean.held_out,
            "from_the_lowest": asdict(row.more) if row.more else None,
            "status": row.statuses,
        }
        for row in stage.rows
    ]
    return {
        "stage": stage.name,
        "lowest": stage.lowest.what if stage.lowest else None,
        "rows": rows,
    }


def _worth_values(step: StepWorth) -> dict[str, Any]:
    ways = {way.value: asdict(estimate) for way, estimate in step.ways.items()}
    return {"stage": step.name, **ways, "alone_less_missing_p_holm": step.p}


def _flat(comparison: Comparison, other: str) -> dict[str, Any]:
    """A comparison's columns: loss_vs_previous, loss_vs_previous_low, ..."""
    estimates = {
        "loss": comparison.loss,
        "speed": comparison.speed and comparison.speed.estimate,
        "loss_at_equal_tokens": comparison.at_tokens and comparison.at_tokens.loss,
        "loss_at_equal_seconds": comparison.at_seconds and comparison.at_seconds.loss,
    }
    parts = {"": "value", "_low": "low", "_high": "high", "_p": "p", "_n": "n"}
    flat: dict[str, Any] = {
        f"{what}_vs_{other}{end}": getattr(estimate, part, math.nan)
        for what, estimate in estimates.items()
        for end, part in parts.items()
    }
    loss, speed = comparison.loss, comparison.speed
    flat[f"loss_vs_{other}_over"] = loss.over.value if loss else None
    flat[f"loss_vs_{other}_p_equivalent"] = loss.p_equivalent if loss else math.nan
    flat[f"speed_vs_{other}_no_claim"] = speed.why_no_claim if speed else None
    return flat


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
    environment.filters.update(zip=zip, svg=lambda picture: Markup(picture.inline))
    environment.globals.update(
        script=script,
        sheet=sheet,
        script_hash=f"sha256-{digest}",
        words=sentences,
        plan_words=plan_sentences,
    )
    return environment.get_template(template).render(context)
