"""Odd things that are typed, printed to, or lie in the folder in which a command runs.

Every check takes a `Sandbox` and one case that its strategy draws.
"""

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import pytest
import yaml
from hypothesis import strategies as st

import runner.__main__
from conf import PACKAGES
from conf.errors import UsageError
from conf.schema import Config, ExporterConfig, SamplerConfig
from gpt2.config import CustomConfig, GPTConfig, ModelConfig
from runner.overrides import expand, parse
from runner.record import Status
from runner.source import read_source
from tests.conftest import ROOT
from tests.environment import environment
from tests.faults.fuzz import Sandbox
from tests.records import synthetic_run


def text_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """The dotted keys of a configuration that hold a text, by another way than the product's."""
    for name, of in get_type_hints(kind).items():
        if of is str or set(get_args(of)) == {str, type(None)}:
            yield prefix + name
        for section in (GPTConfig, CustomConfig) if of is ModelConfig else (of, *get_args(of)):
            if is_dataclass(section) and not str(of).startswith("list"):
                yield from text_keys(section, f"{prefix}{name}.")


# What Hydra reads as a number, as truth or as a text; no comma, quote or bracket is in them.
LIKE_NUMBERS = st.one_of(
    st.sampled_from(["1.10", "2026_11_25", "1e3", "007", "0x10", "true", "TRUE", "False", "nan",
                     "inf", "-inf", ".5", "5.", "1_000", "-0", "+1", "1e-400", "off"]),
    st.from_regex(r"[-+]?[0-9_]{1,9}(\.[0-9]{0,9})?([eE][-+]?[0-9]{1,2})?", fullmatch=True),
    st.from_regex(r"[A-Za-z_./-][A-Za-z0-9_./-]{0,9}", fullmatch=True),
).filter(lambda text: text.lower() != "null")  # fmt: skip


@dataclass(frozen=True)
class Typed:
    """Texts that are typed for a key: one, or several of a sweep."""

    key: str
    sign: str
    texts: list[str]
    between: str


# But for the sections that are null until a choice is added.
CHOSEN = ("stage.", "recipe.", "plan.", "model.target")
OF_A_RUN = sorted(key for key in {*text_keys(Config)} if not key.startswith(CHOSEN))
TYPED = st.builds(
    Typed,
    st.sampled_from(OF_A_RUN),
    st.sampled_from(["", "++"]),
    st.lists(LIKE_NUMBERS, min_size=1, max_size=3, unique=True),
    st.sampled_from([",", ", "]),
)


def check_typed(box: Sandbox, case: Typed) -> None:
    """A text is what was typed: shown by --cfg, and in each run of a sweep."""
    assert box.runner("--cfg", "job", f"{case.sign}{case.key}={case.texts[0]}") == 0
    found = yaml.safe_load(box.last)
    for part in case.key.split("."):
        found = found[part]
    assert found == case.texts[0], box.last
    swept = f"{case.sign}{case.key}={case.between.join(case.texts)}"
    with patch.object(sys, "argv", ["runner", swept]), contextlib.ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ))
        stack.enter_context(runner.__main__.errors_in_a_sentence())
        runs = expand({}, sys.argv[1:])
    assert [parse(run)[case.key] for run in runs] == case.texts


def other_text_keys() -> set[str]:
    """The keys of the other commands that hold a text."""
    return {key for kind in (SamplerConfig, ExporterConfig) for key in text_keys(kind)}


# Overrides as a person types them, and as a program does, with quotes or spaces.
PAIRS = st.lists(
    st.sampled_from(["seed=5", "seed=1,2", "repeat=2", "train.steps=3", "train.steps=3,4",
                     "force=true", "plus=[step03]", "plus=[step03,step04],[step05]",
                     "model.norm=layer", "checkpoint=last", "experiment=mine",
                     "evaluation.every=null", "train.betas=[0.9,0.99]", "sample=text"]),
    min_size=1, max_size=3, unique_by=lambda override: override.partition("=")[0],
)  # fmt: skip
QUOTED = st.tuples(PAIRS, st.sampled_from(["'{}'", '"{}"', " {} ", "{} "]))


def check_quoted(box: Sandbox, case: tuple[list[str], str]) -> None:
    """A dry run answers quoted values as it answers plain ones."""
    plain, quotes = case
    quoted = []
    for override in plain:
        key, _, value = override.partition("=")
        words = value.replace("[", " [ ").replace("]", " ] ").replace(",", " , ").split()
        free = ("[", "]", ",", "null")
        quoted.append(f"{key}={''.join(w if w in free else quotes.format(w) for w in words)}")
    said = []
    for overrides in (plain, quoted):
        status = box.runner("dry_run=true", *overrides)  # 2 where two of them contradict
        said.append((status, box.last.splitlines()[-2:]))
    assert said[0] == said[1]


MINE = {
    "stage": "# @package _global_\ndefaults: [step07, _self_]\nstage: {title: Mine}\n",
    "plan": "# @package _global_\nplan: {title: Mine}\nhydra:\n  mode: MULTIRUN\n"
    "  sweeper:\n    params:\n      seed: 1,2\n",
    "recipe": "# @package _global_\ndefaults: [/stage: step02, _self_]\n"
    "recipe: {name: mine, title: Mine}\ntrain: {steps: 3}\n",
    "data": (ROOT / "conf/data/text.yaml").read_text(encoding="utf-8"),
    "sample": (ROOT / "conf/sample/text.yaml").read_text(encoding="utf-8"),
    "report": (ROOT / "conf/report/default.yaml").read_text(encoding="utf-8"),
}
# What an editor or an accident makes of a file; whether it must still be read.
DAMAGES = {
    "as it is": (lambda text: text.encode(), True),
    "DOS lines": (lambda text: text.replace("\n", "\r\n").encode(), True),
    "aliases": (lambda text: text.encode(), True),
    "a byte order mark": (lambda text: text.encode("utf-8-sig"), False),
    "UTF-16": (lambda text: text.encode("utf-16"), False),
    "UTF-16 without a mark": (lambda text: text.encode("utf-16-le"), False),
    "UTF-32": (lambda text: text.encode("utf-32"), False),
    "latin-1": (lambda text: f"{text}# caf\xe9\n".encode("latin-1"), False),
    "a NUL": (lambda text: text.encode() + b"# \0\n", False),
    "a tab": (lambda text: text.encode() + b"a:\n\tb: 1\n", False),
    "nested deeply": (lambda text: f"{text}deep: {'[' * 10_000}\n".encode(), False),
    "a key twice": (lambda text: text.encode() + b"zz: 1\nzz: 2\n", False),
    "an alias of itself": (lambda text: text.encode() + b"zz: &a [*a]\n", False),
    "a tag that does not fit": (lambda text: text.encode() + b"zz: !!int abc\n", False),
    "a number": (lambda text: b"5\n", False),
    "called .yml": (lambda text: text.encode(), False),
    "a folder": (None, False),
    "a link to nowhere": (None, False),
}
FILES = st.tuples(
    st.sampled_from(sorted(MINE)),
    st.sampled_from(sorted(DAMAGES)),
    st.sampled_from(["--help", "--cfg=job", "dry_run=true", "-m"]),
)


def check_file(box: Sandbox, case: tuple[str, str, str]) -> None:
    """A file of one's own is read, or named in one sentence."""
    group, how, asked = case
    folder = box.folder / "cache" / "mine"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / group).mkdir(parents=True)
    file = folder / group / ("mine.yml" if how == "called .yml" else "mine.yaml")
    damage, is_read = DAMAGES[how]
    if damage is not None:
        file.write_bytes(damage(MINE[group]))
    elif how == "a folder":
        file.mkdir()
    else:
        file.symlink_to("nowhere")
    sign = "+" if group in ("stage", "plan", "recipe") else ""
    words = [] if asked == "--help" else [f"{sign}{group}=mine"]
    with patch.object(runner.__main__, "run", lambda *rest, **named: print("trained")):
        named = group in ("stage", "recipe")  # which has a stage of its own
        status = _without_stage(box, named, f"--config-dir={folder}", asked, *words)
    if asked == "--help":
        assert status == 0
        left_out = group in ("stage", "plan", "recipe") and not is_read
        assert (file.name in box.last.replace("\n", "")) == left_out, box.last
    elif not is_read:
        assert status == 2, box.last
        assert file.name in box.last, box.last
        assert len(box.last.strip().splitlines()) == 1, box.last
    else:
        assert "cannot be read" not in box.last, box.last
        assert status == 0 or asked == "-m"  # where no run is made here, there is no result


def _without_stage(box: Sandbox, other: bool, *arguments: str) -> int:
    """The command in the sandbox, which names step02 unless another stage is named."""
    if not other:
        return box.runner(*arguments)
    main = runner.__main__.main

    def without() -> None:
        sys.argv.remove("+stage=step02")
        main()

    with patch.object(runner.__main__, "main", without):
        return box.runner(*arguments)


# Ways to lose what a process prints to, as a shell writes them where it can.
LOSSES = {"read": "", "closed": "{}>&-", "full": "{}>/dev/full", "no reader": "", "hung up": ""}
STREAMS = st.tuples(
    st.sampled_from(sorted(LOSSES)),
    st.sampled_from(["read", "closed", "full"]),
    st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "euc-jp"]),
    st.text(st.characters(blacklist_characters="\r\n\0"), min_size=1, max_size=9),
)
# A process that has lost its streams, opens a file, prints from two threads, and ends with 7.
PRINTS = """
import sys, threading
from runner.messages import open_streams
open_streams()
sys.stdin and sys.stdin.readline()  # until the other end is gone
text = ascii_text.encode().decode("unicode_escape", "surrogatepass")
with open(sys.argv[1], "w", encoding="utf-8") as file:
    for stream in (sys.stdout, sys.stderr):
        thread = threading.Thread(target=lambda: print(text, file=stream, flush=True))
        thread.start()
        thread.join()
        print(text, file=stream, flush=True)
sys.exit(7)
"""


def check_streams(box: Sandbox, case: tuple[str, str, str, str]) -> None:
    """A process whose output is lost ends as without output, and nothing is written elsewhere."""
    out, err, encoding, text = case
    other = box.folder / "cache" / "opened"
    other.parent.mkdir(exist_ok=True)
    escaped = text.encode("unicode_escape", "surrogatepass").decode("ascii")
    source = PRINTS.replace("ascii_text", repr(escaped), 1)
    how = [LOSSES[name].format(fd) for fd, name in ((1, out), (2, err))]
    variables = environment(PYTHONIOENCODING=encoding, PYTHONPATH=str(ROOT))
    read_end, write_end = pty.openpty() if out == "hung up" else os.pipe()
    started = subprocess.Popen(
        ["sh", "-c", f'exec "$0" "$@" {" ".join(how)}', sys.executable, "-c", source, str(other)],
        stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.PIPE, env=variables,
    )  # fmt: skip
    os.close(write_end)
    if out in ("no reader", "hung up"):
        os.close(read_end)
    _, errors = started.communicate(b"go\n")
    assert started.returncode == 7, errors
    expected = 2 * (text.encode(encoding, "backslashreplace") + b"\n")
    if out == "read":
        with os.fdopen(read_end, "rb") as file:
            assert file.read() == expected
    if err == "read":
        assert errors == expected
    assert other.read_bytes() == b""


# Modules of one's own that have the name of a package of this project, and how they lie there.
NAMES = st.tuples(
    st.sets(st.sampled_from(["conf", "gpt2", "stages"]), min_size=1),
    st.sampled_from(["{}.py", "{}/__init__.py", "{}/other.py"]),
    st.sampled_from([["runner", "--help"], ["runner", "+stage=step07", "--cfg", "job"],
                     ["reports", "nowhere"], ["runner.sample", "weights=no"]]),
)  # fmt: skip


def check_names(box: Sandbox, case: tuple[set[str], str, list[str]]) -> None:
    """A command is not broken by such modules in the folder in which it runs."""
    names, form, words = case
    folder = _new(box.folder / "cache" / "here")
    for name in names:
        _written(folder / form.format(name), "raise SystemExit('the wrong module')\n")
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True,
        env=environment(PYTHONPATH=str(ROOT), GPT2_LADDER_CACHE=str(box.folder / "cache")),
    )  # fmt: skip
    assert done.returncode == (2 if "no" in words[-1] else 0), done.stderr
    assert "Traceback" not in done.stderr
    assert "wrong module" not in done.stdout + done.stderr


# The module of a custom model: its name, whether the model's file imports it, and how it lies.
MODULES = st.tuples(
    st.sampled_from(PACKAGES), st.booleans(), st.sampled_from(["{}.py", "{}/__init__.py"])
)


def check_module(box: Sandbox, case: tuple[str, bool, str]) -> None:
    """A custom model's module with the name of a package of this project is named."""
    name, is_imported, form = case
    folder = _new(box.folder / "cache" / "here")
    file = _written(folder / form.format(name), "class Small: ...\n")
    _written(folder / "zoo.py", f"def small():\n    from {name} import Small\n")
    with _inside(folder), pytest.raises(UsageError, match=re.escape(str(file))):
        read_source("zoo:small" if is_imported else f"{name}:Small")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    here = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(here)


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder.resolve()


def _written(file: Path, content: str) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


# How a run ended, and the held-out loss that it has, which it may have from before it failed.
ENDS = st.tuples(
    st.sampled_from([Status.finished, Status.failed, Status.diverged]), st.floats(0, 12)
)


def check_end(box: Sandbox, case: tuple[Status, float]) -> None:
    """The command's exit status is that of the record."""
    status, held_out = case
    record = synthetic_run()
    record.status, record.results.held_out = status, held_out
    with patch.object(runner.__main__, "run", lambda *rest, **named: print("ended") or record):
        assert box.runner("seed=1") == (0 if status is Status.finished else 1)
