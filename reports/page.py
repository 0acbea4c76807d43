"""The report's files: the page, its Markdown twin, the tables and the pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from conf.errors import UsageError
from reports import figures, formats, tables
from reports.compare import Comparison
from reports.drawing import Picture
from reports.ladders import Group
from reports.palette import THEME, Look, looks
from reports.read import Row
from reports.reference import guide_log
from reports.report import Report
from reports.tables import Say, Table
from reports.values import as_frame, as_json
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
class Section:
    """A part of the report, the same in the page and in its Markdown twin."""

    id: str
    title: str
    notes: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    quotes: Sequence[Quote] = field(default_factory=list)


def write(report: Report, folder: Path) -> Path:
    """Write the whole report into a folder and return its page; see `reports.write_report`."""
    files = build(report)
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
    sections = _sections(report, say)
    apart = [say("apart", group, main) for group in report.apart if group.key[1:] != main.key[1:]]
    context = {
        "experiments": ", ".join(records.runs["experiment"].unique()),
        "written": datetime.now(timezone.utc).strftime("%d %B %Y, %H:%M UTC"),
        "headline": _headline(report),
        "facts": facts(main),
        "notices": {
            say("fallback"): sorted(set(records.runs["data_fallback"].dropna())),
            say("not_all"): apart,
            say("problems"): records.problems,
        },
        "answer": sentences(say("answer", report)),
        "sections": sections,
        "theme": THEME,
        "sheet": (TEMPLATES / "page.css").read_text(encoding="utf-8"),
    }
    texts = {
        name.removesuffix(".jinja"): environment(report.rules, is_html)
        .get_template(name)
        .render(context)
        for name, is_html in (("index.html.jinja", True), ("report.md.jinja", False))
    }
    texts["report.json"] = as_json(report)
    frames = {"stages": as_frame(report), "steps": records.steps, "held_out": records.windows}
    texts |= {f"{n}.csv": f.to_csv(index=False, lineterminator="\n") for n, f in frames.items()}
    files = {name: text.encode("utf-8", "replace") for name, text in texts.items()}
    for picture in (picture for section in sections for picture in section.pictures):
        files[f"figures/{picture.name}.svg"] = picture.svg
    return files


def _sections(r: Report, say: Say) -> list[Section]:
    """The sections that the records have something for, in order."""
    main, style = r.main, _looks(r)
    painter = figures.Painter(r, style)
    top = next((s for s in main.ladder if s.stage == "step10" and s.arm.finished), None)
    top = top if top in painter.stages else None
    sampled = [s for s in main.stages if s.arm.newest.samples]
    plans = [(i, t, t.plan.about.title if t.plan else "Steps taken back or added")
             for i, t in enumerate(r.tables)]  # fmt: skip
    alternatives = r.alternatives
    found = [
        Section("effects", "What each stage changed", [say("effects", r)],
                pictures=painter.effects()),
        Section("ladder", "The ladder", [say("ladder", r)],
                [tables.ladder(r, style, _axis(painter), say)]),
        Section("side-by-side", "Side by side", [say("side_by_side")],
                [tables.side_by_side(alternatives)] if alternatives else [],
                painter.settings()),
        Section("worth", "What each step is worth",
                [*sentences(say("worth", r.worth, r.rules)), say("worth_note", r.worth, r.rules)]
                if r.worth else [], [tables.worth(r)] if r.worth else [], painter.worth()),
        Section("rates", "At its own learning rate",
                sentences(say("rates", r.rates)) if r.rates else [],
                [tables.rates(r)] if r.rates else [],
                painter.rates()),
        *(Section(f"plan-{i}", title, [say("table", t, main)], [tables.rows(t.rows, t)])
          for i, t, title in plans),
        Section("stages", "Each stage against the baseline", [say("stages", r)],
                pictures=painter.panels()),
        Section("all", "All stages", [say("all", r)], pictures=painter.losses()),
        Section("evaluations", "Evaluations over the run", [say("evaluations", r)],
                pictures=painter.evaluations()),
        Section("speed", "Speed", [n for n in (say("busy", r), say("speed", r)) if n],
                pictures=painter.speeds()),
        Section("signal", "Signal by depth", [say("signal")],
                pictures=painter.signals()),
        Section("norms", "Gradient norms", [say("norms", r)], pictures=painter.norms()),
        Section("claims", "Claims of the guide, and what was measured", [say("claims")],
                [tables.claims(r, say)]),
        Section("guide", "The guide's published run", [say("guide", top, guide_log())] if top
                else [], pictures=painter.guide(top) if top else []),
        Section("samples", "Samples", [say("samples", main)],
                quotes=[_quote(s, say) for s in sampled]),
        Section("apart", "Shown apart", [say("apart_note")],
                [tables.rows(group.stages, title=say("apart", group, main)) for group in r.apart]),
    ]  # fmt: skip
    shown = [section for section in found if section.tables or section.pictures or section.quotes]
    return [*shown, Section("method", "How to read this", sentences(say("method", r)))]


def _looks(r: Report) -> dict[str, Look]:
    """How each stage is drawn."""
    about = {c.stage: (c.number, c.stage, c.aim) for c in r.comparisons}
    if r.worth:
        about |= {
            s.stage.name: (s.stage.number, s.stage.name, s.stage.about.aim) for s in r.worth.steps
        }
    return looks([(name, number, aim) for number, name, aim in sorted(about.values())])


def _axis(painter: figures.Painter) -> tuple[float, float]:
    """The common axis of the table's bars: (left, right) in whole nats/token."""
    low, high = painter.loss_limits if painter.stages else (0.0, 1.0)
    return math.floor(low), max(math.ceil(high), math.floor(low) + 1)


def _quote(stage: Comparison, say: Say) -> Quote:
    """A stage's samples, or of many the first, the last, and some between."""
    samples = stage.arm.newest.samples
    places = np.linspace(0, len(samples) - 1, min(len(samples), MOST_SAMPLES))
    chosen = [samples[place] for place in places.round().astype(int)]
    several = len(chosen) > 1
    texts = [(f"After {formats.count(s.step)} steps" if several else "", s.text[:1200])
             for s in chosen]  # fmt: skip
    return Quote(f"{stage.name} {stage.title}", say("drawn", chosen, len(samples)), texts)


def _headline(r: Report) -> str:
    """What was run, in a line."""
    found = facts(r.main)
    names = ("Model", "Data", "Tokens a step", "Device", "Scale", "Seeds", "Started")
    return " · ".join(f"{name.lower()} {found[name]}" for name in names if name in found)


def facts(main: Group) -> dict[str, str]:
    """What was run, for the page's head; every value found among the ladder's runs is named."""
    ladder = [run for stage in main.ladder for run in stage.arm.runs] or main.runs
    columns: dict[str, Callable[[Row], Any]] = {
        "Model": lambda r: f"{r.model} ({formats.number(r.parameters / 1e6, '.3g')} million)",
        "Data": lambda r: f"{r.data}, {formats.count(r.data_tokens)} tokens",
        "Hash of the data": lambda r: r.data_sha256,
        "Tokens a step": lambda r: formats.count(r.tokens_per_step),
        "Steps": lambda r: formats.count(r.steps_planned),
        "Device": machine,
        "CPU threads": lambda r: r.threads,
        "Processes": lambda r: f"{r.processes}{f' ({r.sharding})' if r.sharding else ''}",
        "Scale": lambda r: r.scale,
        "Recipe": lambda r: r.recipe,
        "Seeds": lambda r: r.seed,
        "Python": lambda r: r.python,
        "PyTorch": lambda r: r.torch,
        "System": lambda r: r.platform,
        "Commit": lambda r: r.commit and f"{r.commit}{' with changes' if r.dirty else ''}",
        "Overrides": lambda r: " ".join(r.variant),
        "Started": lambda r: r.started[:10],
    }
    found = {
        name: dict.fromkeys(
            str(of(run)) for run in ladder if of(run) not in (None, "", formats.NONE)
        )
        for name, of in columns.items()
    }
    return {name: ", ".join(values) for name, values in found.items() if values}
