"""The report's files: the page, its Markdown twin, the tables and the pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from conf.errors import UsageError
from reports import figures, formats, tables
from reports.comparison import Comparison
from reports.drawing import Picture
from reports.ladders import Group
from reports.palette import THEME, Look, looks
from reports.read import Row
from reports.reference import guide_log
from reports.report import Report
from reports.tables import Say, Table
from reports.values import as_frame, as_json, comparisons
from reports.wording import TEMPLATES, environment, machine, sentences, words
from runner.files import write_atomically

# Samples that are shown of a run, evenly spread over it.
MOST_SAMPLES = 6


@dataclass(frozen=True)
class Quote:
    """Samples of a stage: each text, and after how many steps it was drawn."""

    title: str
    note: str
    texts: list[tuple[str, str]]


@dataclass(frozen=True)
class Line:
    """What to do with a stage: a `verdict`, by how much and how sure; `id` is its table's row."""

    id: str
    label: str
    title: str
    look: Look | None
    verdict: str
    tone: str
    evidence: str


@dataclass(frozen=True)
class Section:
    """A part of the report, the same in the page and in its Markdown twin.

    Where they are not given, title and notes are those of `id` in the templates. Of a
    section that `opens` the page shows the first sentence and picture, and the rest on demand.
    """

    id: str
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    quotes: Sequence[Quote] = ()
    title: str = ""
    notes: Sequence[str] | None = None
    opens: bool = False


def write(report: Report, folder: Path) -> Path:
    """Write the whole report into a folder and return its page; see `reports.write_report`."""
    return save(build(report), folder)


def save(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write a report's files into a folder and return its page. Raises UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two sweeps may end at once: the pages of one must not be between the tables of another.
        with FileLock(folder / ".lock"):
            for name, content in files.items():
                write_atomically(folder / name, content)
    except OSError as error:
        raise UsageError(f"The report cannot be written to {folder}: {error.strerror}.") from None
    return folder / "index.html"


def build(report: Report) -> dict[str, bytes]:
    """Every file of the report by its path inside the report's folder."""
    say, records, main = words(report.rules), report.records, report.main
    style = _looks(report)
    painter = figures.Painter(report, style)
    first, sections = painter.first(), _sections(report, painter, style, say)
    apart = [say("group", group, main) for group in report.apart if group.key[1:] != main.key[1:]]
    context = {
        "heading": say("heading"),
        "experiments": ", ".join(records.runs["experiment"].unique()),
        "from_python": 'reports.load("outputs/…")',
        "scope": say("scope", main),
        "facts": facts(main),
        "notices": {
            say("fallback"): sorted(set(records.runs["data_fallback"].dropna())),
            say("not_all"): apart,
            say("problems"): records.problems,
        },
        "lines": _lines(report, painter, style, say),
        "legend": say("legend", report),
        "answer": sentences(say("answer", report)),
    }
    rows = comparisons(report)
    frames = {"stages": as_frame(rows), "steps": records.steps, "held_out": records.windows}
    return assemble(context, first, sections, as_json(report, rows), frames)


def assemble(
    context: Mapping[str, Any],
    first: Sequence[Picture],
    sections: Sequence[Section],
    json: str,
    frames: Mapping[str, pd.DataFrame],
) -> dict[str, bytes]:
    """The files of a report: the page and its twin in Markdown, report.json, tables and pictures.

    The templates need of `context` what is not the same in every report.
    """
    texts = {"report.json": json}
    texts |= {f"{n}.csv": f.to_csv(index=False, lineterminator="\n") for n, f in frames.items()}
    common = {
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "first": first,
        "sections": sections,
        "files": ["report.md", *texts],
        "theme": THEME,
        "sheet": (TEMPLATES / "page.css").read_text(encoding="utf-8"),
    }
    for name, is_html in (("index.html", True), ("report.md", False)):
        template = environment(is_html).get_template(f"{name}.jinja")
        texts[name] = template.render(**context, **common)
    files = {name: text.encode("utf-8", "replace") for name, text in texts.items()}
    for picture in [*first, *(picture for s in sections for picture in s.pictures)]:
        files[f"figures/{picture.name}.svg"] = picture.svg
    return files


def _lines(r: Report, painter: figures.Painter, style: Mapping[str, Look], say: Say) -> list[Line]:
    """The answer: a line a stage."""
    lines = []
    for s in r.main.stages if r.is_ladder else []:
        verdict, look = r.verdicts[s.name], style.get(s.stage) if s in painter.stages else None
        said, why = say("verdict", s, verdict), say("evidence", s, verdict)
        about = formats.slug(s.name), painter.label(s), painter.title(s), look
        lines.append(Line(*about, said, verdict.tone.value, why))
    return lines


def _sections(
    r: Report, painter: figures.Painter, style: Mapping[str, Look], say: Say
) -> list[Section]:
    """The sections that the records have something for, in order."""
    main, define = r.main, words(r.rules, "terms.jinja")
    top = next((s for s in main.ladder if s.stage == "step10" and s.arm.finished), None)
    top = top if top in painter.stages else None
    found = [
        Section("ladder", [tables.ladder(r, style, say)], painter.differences()),
        Section("alternatives", [tables.side_by_side(r.alternatives)] if r.alternatives else [],
                painter.settings()),
        Section("speed", pictures=painter.speeds(), opens=True),
        Section("curves", pictures=painter.tokens(), opens=True),
        Section("signal", pictures=painter.signals()),
        *(Section(name, [tables.worth(of)], painter.worth(name, of), opens=True)
          for name, of in (("worth", r.worth), ("beyond", r.beyond)) if of),
        Section("rates", [tables.rates(r)] if r.rates else [], painter.rates(), opens=True),
        *(Section(f"plan-{i}", [tables.rows(plan.rows, say, plan)], painter.plan(i, plan),
                  title=plan.about.title, notes=sentences(say("plan", plan, main)), opens=True)
          for i, plan in enumerate(r.plans)),
        Section("stages", pictures=painter.panels(), opens=True),
        Section("evaluations", pictures=painter.evaluations(), opens=True),
        Section("norms", pictures=painter.norms(), opens=True),
        Section("guide", notes=[say("guide_log", top, guide_log())] if top else [],
                pictures=painter.guide(top) if top else [], opens=True),
        Section("samples", quotes=[_quote(s, say) for s in main.stages if s.arm.newest.samples],
                opens=True),
        Section("apart", [
            tables.rows(g.stages, say, title=say("group", g, main)) for g in r.apart], opens=True),
        Section("terms", [tables.terms(sentences(define("term_names")), define)]),
    ]  # fmt: skip
    return [
        replace(
            each,
            title=each.title or say("title", each.id.partition("-")[0]),
            notes=sentences(say(each.id, r)) if each.notes is None else each.notes,
        )
        for each in found
        if each.tables or each.pictures or each.quotes
    ]


def _looks(r: Report) -> dict[str, Look]:
    """How each stage is drawn."""
    about = {c.stage: (c.number, c.stage, c.aim) for c in r.comparisons}
    for step in (step for of in (r.worth, r.beyond) if of for step in of.steps):
        about[step.stage.name] = step.stage.number, step.stage.name, step.stage.about.aim
    return looks([(name, number, aim) for number, name, aim in sorted(about.values())])


def _quote(stage: Comparison, say: Say) -> Quote:
    """A stage's samples, or of many the first, the last, and some between."""
    samples = stage.arm.newest.samples
    places = np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES))
    chosen = [samples[place] for place in places.round().astype(int)]
    several = len(chosen) > 1
    texts = [(f"After {formats.count(s.step)} steps" if several else "", s.text[:1200])
             for s in chosen]  # fmt: skip
    return Quote(f"{stage.name} {stage.title}", say("drawn", chosen, len(samples)), texts)


def facts(main: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the ladder's runs is named."""
    ladder = [run for stage in main.ladder for run in stage.arm.runs] or main.runs
    columns: dict[str, str | Callable[[Row], Any]] = {
        "Model": lambda r: f"{r.model} ({formats.number(r.parameters / 1e6, '.3g')} million)",
        "Data": lambda r: f"{r.data}, {formats.count(r.data_tokens)} tokens",
        "Hash of the data": "data_sha256",
        "Tokens a step": lambda r: formats.count(r.tokens_per_step),
        "Steps": lambda r: formats.count(r.steps_planned),
        "Device": machine,
        "CPU threads": "threads",
        "Processes": "processes",
        "Sharding": "sharding",
        "Scale": "scale",
        "Recipe": "recipe",
        "Seeds": "seed",
        "Python": "python",
        "PyTorch": "torch",
        "System": "platform",
        "Commit": lambda r: r.commit and f"{r.commit}{' with changes' if r.dirty else ''}",
        "Overrides": lambda r: " ".join(r.variant),
        "Started": lambda r: r.started[:10],
    }
    found: dict[str, str] = {}
    for name, of in columns.items():
        values = [getattr(run, of) if isinstance(of, str) else of(run) for run in ladder]
        known = dict.fromkeys(str(v) for v in values if v not in (None, "", formats.NONE))
        found |= {name: ", ".join(known)} if known else {}
    return found
