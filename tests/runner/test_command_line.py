"""The real command line, each time in a process of its own."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from runner.files import seal, unseal
from runner.folder import RunFolder
from runner.outcome import print_outcome
from runner.record import Status
from tests.conftest import ROOT, CommandLine
from tests.records import synthetic_run

QUICK = ("train.steps=4", "train.compile=false")


def records(tmp_path: Path) -> dict[str, dict]:  # type: ignore[type-arg]
    """The record of each stage's last run."""
    files = sorted((tmp_path / "outputs").glob("*/*/*/run.json"))
    return {file.parts[-3]: json.loads(file.read_text()) for file in files}


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_without_a_stage_it_shows_the_ladder_and_what_to_type(
    command_line: CommandLine, arguments: tuple[str, ...]
) -> None:
    done = command_line(*arguments, smoke=False, COLUMNS="160")
    assert done.returncode == 0
    for words in ("step01", "step10", "Gradient accumulation", "attention=flash", "stability"):
        assert words in done.stdout
    assert done.stdout.count("python -m ") == 3


def test_what_trains_nothing_imports_no_torch() -> None:
    probe = (
        "import contextlib, os, runpy, sys\n"
        "for words in sys.argv[1:]:\n"
        "    sys.argv = ['runner', *words.split()]\n"
        "    os.environ.pop('HYDRA_FULL_ERROR', None)\n"  # which the command before has set
        "    with contextlib.suppress(SystemExit):\n"
        "        runpy.run_module('runner', run_name='__main__')\n"
        "    print(words, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    named = ("--cfg job +stage=step07", "+stage=step99", "+stage=step02 train.steps=many")
    command = [sys.executable, "-c", probe, "--help", "", *named]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.endswith((" True", " False"))]
    assert said == [f"{words} False" for words in command[3:]], done.stderr


def test_a_run_prints_the_guides_lines_and_leaves_its_record(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("+stage=step10", *QUICK, "checkpoint=last")
    assert done.returncode == 0, done.stderr
    assert "range 1" in done.stdout
    assert "held-out loss" in done.stdout
    assert "not applied: TF32" in done.stdout
    record = records(tmp_path)["step10"]
    assert record["status"] == "finished"
    assert record["stage"]["changes"] == {"train.total_batch_tokens": [None, 128]}
    assert record["stage"]["number"] == 10
    assert record["conditions"]["train.steps"] == 4
    assert record["conditions"]["train.total_batch_tokens"] is None
    assert record["config"]["train"]["compile"] is False
    assert "torch.compile" not in record["applied"]
    assert "accumulation over 2 micro batches" in record["applied"]
    folder = next((tmp_path / "outputs/ladder/step10").iterdir())
    steps = pd.read_csv(folder / "steps.csv")
    assert ([*steps.step], [*steps.tokens]) == ([0, 1, 2, 3], [128] * 4)
    log = (folder / "log.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == [f"step {n}" for n in range(4)]
    assert all(" loss: " in line and line.endswith("ms") for line in log)
    printed = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert (printed[0], printed[-1]) == (log[0], log[-1])

    sampled = command_line(
        f"weights={folder}/weights.safetensors", "sample.prompt='Python is'", "sample.tokens=5",
        module="runner.sample", smoke=False,
    )  # fmt: skip
    assert sampled.returncode == 0, sampled.stderr
    assert sampled.stdout.startswith("Python is")
    again = command_line("+stage=step10", *QUICK, "checkpoint=last")
    assert "already finished" in again.stdout
    assert "step 0" not in again.stdout


@pytest.mark.parametrize("flags", [(), pytest.param(("-m",), marks=pytest.mark.slow)])
def test_quiet_prints_the_outcome_alone(
    command_line: CommandLine, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    stages = "+stage=step01,step02" if flags else "+stage=step01"
    done = command_line(*flags, stages, *QUICK, "quiet=true", report=True)
    assert done.returncode == 0, done.stderr
    runs = re.split(r"(?<=\n)(?=step0\d \()", done.stdout.partition("stage  ")[0])
    assert len(runs) == (2 if flags else 1)
    for run in runs:
        first, *rest = run.splitlines()
        assert re.match(r"step0\d \(.*held-out loss", first)
        assert all(line.startswith("  ") for line in rest)
        assert rest[-1].startswith("  record: ")
    assert (tmp_path / "outputs/ladder/report/index.html").exists()


def test_step01_passes_its_five_checks_and_a_failing_one_fails_the_run_and_names_the_reason(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("+stage=step01")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("✓") == 5
    assert [check["passed"] for check in records(tmp_path)["step01"]["checks"]] == [True] * 5
    done = command_line("+stage=step01", "model.norm=batch", "experiment=leak")
    assert done.returncode == 1
    assert "✗ no token sees the future" in done.stdout
    (file,) = tmp_path.glob("outputs/leak/*/*/run.json")
    record = json.loads(file.read_text())
    assert record["status"] == "failed"
    assert "batch norm" in record["message"]


@pytest.mark.slow
def test_a_run_is_compared_with_the_baseline_under_the_same_conditions(
    command_line: CommandLine, tmp_path: Path
) -> None:
    assert command_line("+stage=step02", *QUICK).returncode == 0
    compared = command_line("+stage=step03", *QUICK).stdout
    assert "against the baseline" in compared
    assert "times the tokens/s" in compared
    assert "against the baseline" not in command_line("+stage=step03", *QUICK, "seed=2").stdout
    (file,) = tmp_path.glob("outputs/ladder/step02/*/run.json")
    baseline = unseal(file.read_bytes())
    baseline["environment"]["threads"] += 1  # at which a speed is another
    file.write_bytes(seal(baseline))
    again = command_line("+stage=step03", *QUICK, "force=true").stdout
    assert "against the baseline" in again
    assert "times the tokens/s" not in again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "asked"),
    [("step02", QUICK), ("step07", ["train.steps=4"])],
    ids=["plain", "compiled"],
)
def test_force_trains_again_in_another_process_to_the_same_bits(
    command_line: CommandLine, tmp_path: Path, stage: str, asked: Sequence[str]
) -> None:
    found = []
    for _ in range(2):
        done = command_line(f"+stage={stage}", *asked, "force=true")
        assert "step 0" in done.stdout
        record, (folder,) = records(tmp_path)[stage], tmp_path.glob(f"outputs/ladder/{stage}/*")
        assert ("torch.compile" in record["applied"]) == (stage == "step07")
        steps = pd.read_csv(folder / "steps.csv").drop(columns="step_ms")
        results = record["results"]["held_out"], record["fingerprint"]
        found.append((steps.to_csv(), (folder / "held_out.csv").read_text(), *results))
    assert found[0] == found[1]


@pytest.mark.slow
def test_without_a_compiler_the_run_continues_and_warns_once(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(
        "+stage=step07", "train.steps=2",
        CXX="/nonexistent/c++", TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "empty"),
        TORCHINDUCTOR_FORCE_DISABLE_CACHES="1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = records(tmp_path)["step07"]
    assert record["status"] == "finished"
    assert "compilation failed" in record["not_applied"]["torch.compile"]
    assert done.stdout.count("torch.compile is not applied") == 1


@pytest.mark.slow
def test_a_run_finds_the_kernels_that_a_sweep_compiled(
    command_line: CommandLine, tmp_path: Path
) -> None:
    overrides = ("+stage=step07", "train.steps=1", f"cache_dir={tmp_path}/cache")
    assert command_line("-m", *overrides).returncode == 0
    compiled = set((tmp_path / "cache/inductor/fxgraph").rglob("*"))
    assert compiled
    assert command_line(*overrides, "seed=2").returncode == 0
    assert set((tmp_path / "cache/inductor/fxgraph").rglob("*")) == compiled
    kernels = list((tmp_path / "cache/inductor").rglob("*.so"))
    assert kernels
    for kernel in kernels:  # as a compiler that was ended leaves them
        kernel.write_bytes(b"")
    assert command_line(*overrides, "seed=3").returncode == 0
    assert "torch.compile" in records(tmp_path)["step07"]["applied"]


@pytest.mark.slow
def test_a_sweep_over_the_whole_ladder_leaves_a_report(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line("-m", "+stage=glob(step*)", "train.steps=6")
    assert done.returncode == 0, done.stderr
    swept = records(tmp_path)
    assert list(swept) == [f"step{n:02}" for n in range(1, 11)]
    assert {record["status"] for record in swept.values()} == {"finished"}
    report = tmp_path / "outputs/ladder/report"
    assert (report / "index.html").exists()
    assert len(pd.read_csv(report / "stages.csv")) == 10
    (report / "index.html").unlink()
    again = command_line("-m", "+stage=glob(step*)", "train.steps=6")
    assert again.returncode == 0
    assert again.stdout.count("already finished") == 10
    assert (report / "index.html").exists()


@pytest.mark.slow
def test_a_sweep_continues_after_a_stage_that_fails_or_diverges(
    command_line: CommandLine, tmp_path: Path
) -> None:
    done = command_line(
        "-m", "+stage=step01,step02,step03", *QUICK, "model.norm=batch",
        "train.learning_rate=1e18",
    )  # fmt: skip
    assert done.returncode == 1
    statuses = {name: record["status"] for name, record in records(tmp_path).items()}
    assert statuses == {"step01": "failed", "step02": "diverged", "step03": "diverged"}
    page = (tmp_path / "outputs/ladder/report/index.html").read_text()
    assert "diverged" in page
    assert "failed" in page
    again = command_line("+stage=step02", *QUICK, "model.norm=batch", "train.learning_rate=1e18")
    assert "already diverged" in again.stdout
    assert again.returncode == 1


@pytest.mark.slow
def test_a_sweep_trains_every_stage_once_before_the_next_seed(
    command_line: CommandLine,
) -> None:
    done = command_line("-m", "+stage=step02,step03", *QUICK, "seed=1,2", "repeat=2")
    assert done.returncode == 0, done.stderr
    trained = re.findall(r"record: .*/(step\d+)/(seed\d)-repeat2-", done.stdout)
    assert trained == [
        (stage, seed) for seed in ("seed1", "seed2") for stage in ("step02", "step03")
    ]


def test_a_users_own_stage_needs_no_code_and_a_file_that_is_wrong_is_named(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "stage").mkdir(parents=True)
    for name, content in {
        "step07b": "# @package _global_\ndefaults: [step07, _self_]\nmodel: {norm: rms}\n"
        "stage: {name: step07b, title: RMS norm, aim: loss, guide: mine}\n",
        "bare": "defaults: [step07, _self_]\n",
        "yaml": "# @package _global_\ntrain: {steps: [\n",
        "other": "# @package _global_\nstage: {name: another}\n",
        "fast": "# @package _global_\nstage: {aim: fast}\n",
        "many": "# @package _global_\ntrain: {steps: many}\n",
    }.items():
        (tmp_path / "mine" / "stage" / f"{name}.yaml").write_text(content)
    flag = f"--config-dir={tmp_path / 'mine'}"
    shown = command_line(flag, smoke=False)
    assert shown.returncode == 0
    assert "RMS norm" in shown.stdout
    left_out = re.findall(r"Left out: \S*/(\w+)\.yaml", shown.stdout)
    assert left_out == ["bare", "fast", "other", "yaml"]
    done = command_line(flag, "+stage=many")
    assert done.stderr == "In 'stage/many': train.steps=many: give a whole number.\n"
    assert "its first line must be '# @package _global_'" in shown.stdout
    assert "stage.name is another" in shown.stdout
    for name in left_out:
        (tmp_path / "mine" / "stage" / f"{name}.yaml").unlink()
    assert command_line(flag, "+stage=step07b", *QUICK).returncode == 0
    record = records(tmp_path)["step07b"]
    assert record["stage"]["changes"] == {"model.norm": ["layer", "rms"]}


def test_what_has_no_effect_is_said_recorded_and_reported(
    command_line: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("Some words that are read. " * 300)
    (tmp_path / "text" / "b.png").write_bytes(bytes(range(256)))
    done = command_line(
        "+stage=step02", *QUICK, f"data.path={tmp_path / 'text'}", "train.warmup_steps=20",
        "evaluation.tokens=999999", report=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "left out, because they are not UTF-8 text: b.png" in done.stdout
    warmup = "train.warmup_steps=20 has no effect"
    tokens = "evaluation.tokens=999999 is more than the text's"
    notes = records(tmp_path)["step02"]["notes"]
    page = (tmp_path / "outputs/ladder/report/index.html").read_text()
    for said in (warmup, tokens):
        assert said in done.stdout
        assert any(note.startswith(said) for note in notes)
        assert said.replace("'", "&#39;") in page


@pytest.mark.slow
def test_kept_weights_are_read_by_transformers(command_line: CommandLine, tmp_path: Path) -> None:
    done = command_line("+stage=step06", *QUICK, "train.compile=false", "checkpoint=last")
    assert done.returncode == 0, done.stderr
    (weights,) = tmp_path.rglob("weights.safetensors")
    folder = tmp_path / "exported"
    asked = (f"weights={weights}", f"folder={folder}")
    written = command_line(*asked, module="runner.export", smoke=False)
    assert written.returncode == 0, written.stderr
    from transformers import GPT2LMHeadModel

    from runner.training.weights import load_weights

    theirs, ours = GPT2LMHeadModel.from_pretrained(folder).eval(), load_weights(weights).eval()
    tokens = torch.arange(20).view(1, 20) * 2000
    with torch.no_grad():
        expected = ours(tokens)[0][..., :50257]
        torch.testing.assert_close(theirs(tokens).logits, expected, atol=2e-5, rtol=1e-4)
    assert theirs.lm_head.weight is theirs.transformer.wte.weight


@pytest.mark.slow
def test_weights_that_transformers_cannot_hold_are_refused(
    command_line: CommandLine, tmp_path: Path
) -> None:
    assert command_line("+stage=step02", *QUICK, "checkpoint=last").returncode == 0
    (weights,) = tmp_path.rglob("weights.safetensors")
    asked = (f"weights={weights}", f"folder={tmp_path / 'exported'}")
    done = command_line(*asked, module="runner.export", smoke=False)
    assert done.returncode == 2
    assert "needs layer norm and a residual stream" in done.stderr
    assert not (tmp_path / "exported").exists()


def test_the_mfu_is_said_where_the_gpus_datasheet_is_known(tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path / "run"), io.StringIO()
    folder.start(synthetic_run(), afresh=True)
    folder.run.results.mfu, folder.run.results.datasheet_mfu = 0.43, 0.35
    folder.end(Status.finished)
    print_outcome(folder, tmp_path, Console(file=said, width=200))
    line = "MFU: 43% of the highest rate measured, 35% of the datasheet's bf16"
    assert line in said.getvalue()
