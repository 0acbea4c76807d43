"""Tests that need an accelerator: python -m pytest -m gpu."""

import gc
import random
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from conf.schema import CompileMode
from runner.files import unseal
from runner.products import BF16
from runner.record import Status
from runner.training.device import attention_kernel
from tests.conftest import CommandLine
from tests.faults.lab import Lab, finished_records, messages, steps_done, wait_until
from tests.runner.conftest import Runs
from tests.runner.test_command_line import records

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator"),
]


@pytest.mark.parametrize("stage", ["step02", "step03", "step04", "step05"])
def test_the_accelerator_reproduces_the_cpus_curve_in_fp32(runs: Runs, stage: str) -> None:
    """Another order of additions moved these losses by up to 1.5e-5 on a CPU."""
    _, cpu = runs(f"+stage={stage}", "train.steps=10")
    fields, accelerated = runs(f"+stage={stage}", "train.steps=10", "device=auto")
    assert fields.environment.device != "cpu"
    print(f"{stage}: losses differ by {(accelerated.loss - cpu.loss).abs().max()}")
    assert accelerated.loss.tolist() == pytest.approx(cpu.loss.tolist(), abs=1e-4)


def test_the_last_stage_applies_every_technique_the_device_supports(runs: Runs) -> None:
    # At the smoke scale bf16 is not faster, and flash attention needs it.
    forced = "train.autocast=bf16"
    fields, _ = runs("+stage=step10", "train.steps=10", "device=auto", forced)
    assert fields.status is Status.finished
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        assert fields.not_applied.keys() <= {"TF32"}  # under bf16 autocast it has no product
        assert fields.attention_kernel in ("flash", "cudnn")


def test_bf16_is_measured_to_be_faster_at_the_width_of_gpt2(runs: Runs) -> None:
    sizes = ("model=gpt2", "train.context=1024", "train.micro_batch_size=2", "train.steps=2")
    fields, _ = runs("+stage=step07", "device=auto", "train.total_batch_tokens=null", *sizes)
    if torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0):
        assert BF16 in fields.applied
        assert fields.products is not None
        assert not fields.products.high.exact


@pytest.mark.parametrize("mode", [mode.name for mode in CompileMode])
def test_every_compile_mode_trains_the_same(runs: Runs, mode: str) -> None:
    """With accumulation, where that is offered."""
    stage = "step09" if mode == "reduce_overhead" else "step10"
    plain = (f"+stage={stage}", "train.steps=6", "device=auto", "train.autocast=none")
    _, expected = runs(*plain, "train.compile=false")
    fields, steps = runs(*plain, f"train.compile_mode={mode}")
    assert "torch.compile" in fields.applied
    assert steps.loss.tolist() == pytest.approx(expected.loss.tolist(), abs=2e-3)


def test_a_default_sweep_trains_every_stage_on_the_accelerator(
    command_line: CommandLine, tmp_path: Path, text_file: Path
) -> None:
    """The device and the scale are the machine's own; only the model and the steps are smaller."""
    done = command_line(
        "-m", "+stage=step02,step07,step10", "model=nano", "train.context=32", "train.steps=4",
        "train.total_batch_tokens=null", "data=text", f"data.path={text_file}",
        f"output_dir={tmp_path}/outputs", smoke=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = records(tmp_path)
    assert [run["status"] for run in found.values()] == ["finished"] * 3
    assert "cpu" not in {run["environment"]["device"] for run in found.values()}


@pytest.mark.parametrize("index", [0, 1])
def test_an_accelerator_is_found_by_its_number(runs: Runs, index: int) -> None:
    if torch.accelerator.device_count() <= index:
        pytest.skip("there are not two accelerators")
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    _, first = runs("+stage=step10", "train.steps=4", "device=auto")
    fields, numbered = runs("+stage=step10", "train.steps=4", f"device={kind.type}:{index}")
    assert fields.results.peak_memory_bytes > 0
    assert numbered.loss.tolist() == pytest.approx(first.loss.tolist(), abs=2e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only CUDA says what is allocated")
def test_a_run_leaves_no_memory_to_the_next(runs: Runs) -> None:
    left, peaks = [], []
    for _ in range(2):
        fields, _ = runs("+stage=step10", "train.steps=4", "train.autocast=bf16", "device=auto")
        gc.collect()
        left.append(torch.cuda.memory_allocated())
        peaks.append(fields.results.peak_memory_bytes)
    print(f"bytes left: {left}, peaks: {peaks}")
    assert left[1] == left[0]  # what cuBLAS keeps for itself
    assert peaks[1] <= 1.02 * peaks[0]


@pytest.fixture
def lab(tmp_path: Path, text_file: Path, cache_dir: Path) -> Lab:
    """With enough text for a micro batch that no memory holds."""
    text = tmp_path / "text.txt"
    text.write_bytes(text_file.read_bytes() * 80)
    return Lab(tmp_path, text, cache_dir, random.Random(0), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a Mac would swap")
def test_a_sweep_goes_on_after_a_run_that_is_out_of_memory(lab: Lab) -> None:
    """One matrix of attention is 256 GiB."""
    experiment = lab.new_experiment()
    sizes = "train.micro_batch_size=1024", "train.context=1024,16"
    model = "model.context_length=1024", "model.n_head=64"
    done = lab.run(experiment, "-m", "+stage=step05", "device=auto", *sizes, *model)
    assert done.returncode == 1, done.stderr
    (message,) = (m for m in messages(experiment) if m != "None")
    assert "Out of memory at step 0: a micro batch of 1024 x 1024 tokens" in message
    assert steps_done(experiment) == 12


@pytest.mark.skipif(not torch.cuda.is_available(), reason="nothing is compiled for a Mac")
def test_ctrl_c_between_compiled_steps_ends_the_run_and_its_command_goes_on(lab: Lab) -> None:
    experiment = lab.new_experiment()
    command = "+stage=step10", "device=auto", "train.compile=true", "train.steps=500"
    process = lab.start(experiment, *command)
    log = lab.folder / "log.txt"
    assert wait_until(lambda: steps_done(experiment) >= 5, process), log.read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, log.read_text()
    assert steps_done(experiment) < 500
    done = lab.run(experiment, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming from step" in done.stdout
    (record,) = finished_records(experiment)
    assert "torch.compile" in unseal(record.read_bytes())["applied"]
    assert steps_done(experiment) == 500


@pytest.mark.parametrize(
    ("overrides", "applied", "exact"),
    [
        # AdamW in foreach
        (("+stage=step05", "train.autocast=none"), {"residual stream"}, True),
        (
            ("+stage=step09", "train.compile=false", "model.attention=manual"),
            {BF16, "fused AdamW"},
            True,
        ),
        # A fused attention's backward may add in any order, and so may compiled code.
        (("+stage=step10",), {BF16, "torch.compile", "flash attention", "fused AdamW"}, False),
        (("+stage=together",), {BF16, "torch.compile", "Muon", "rotary positions"}, False),
    ],
)
def test_a_resumed_run_goes_on_with_the_same_numbers(
    runs: Runs,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    applied: set[str],
    exact: bool,
) -> None:
    overrides = ("train.autocast=bf16", *overrides, "train.steps=8", "device=auto")
    _, whole = runs(*overrides)
    runs.interrupted(monkeypatch, 5, *overrides)
    fields, resumed = runs(*overrides, again=True)
    assert fields.status is Status.finished
    assert applied <= set(fields.applied)
    assert len(fields.resumed_at) == 1
    assert 0 < fields.resumed_at[0] < 8
    print(f"{overrides[1]} resumed: losses differ by {(resumed.loss - whole.loss).abs().max()}")
    rounding = 0 if exact else 2e-3
    pd.testing.assert_series_equal(resumed.loss, whole.loss, rtol=0, atol=rounding)
    pd.testing.assert_series_equal(resumed.grad_norm, whole.grad_norm, rtol=rounding, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="these kernels are CUDA's")
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION),
        ("math", SDPBackend.MATH),
    ],
)
def test_the_kernel_of_attention_is_known_by_name(name: str, backend: SDPBackend) -> None:
    asked = torch.device("cuda"), torch.bfloat16, (12, 1024, 64)
    with sdpa_kernel(backend):
        try:
            found = attention_kernel(*asked)
        except RuntimeError as error:
            pytest.skip(f"this GPU has no such kernel: {error}")
    assert found == name
    print(f"left to itself torch takes {attention_kernel(*asked)}")
