"""The page has a part for every machine, and says what was measured there and nothing else."""

import copy
import json
import os
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import gpu, machine, ours, page
from tests.benchmarks.ours import GIB, ROOT
from tests.benchmarks.performance import Bench, Job, LossesDiffer, Store, measure
from tests.benchmarks.plan import plan_for

XEON = "intel-xeon-processor-avx512_bf16"
XEON_TITLE = "Intel(R) Xeon(R) Processor with AVX512_BF16"
AMD_TITLE = "AMD EPYC with AVX512_BF16"
AMD = "amd-epyc-avx512_bf16"
H100 = "nvidia-h100-80gb-hbm3"
IDENTITY = {"code": "new", "machine": "x86_64", "cores": 2}

Part = dict[str, Any]


@pytest.fixture
def xeon() -> Part:
    """The oldest measurements: no compiled plain script, no fp32 through oneDNN."""
    data = json.loads((ROOT / "docs" / "performance.json").read_text(encoding="utf-8"))
    return data["machines"][XEON]


@pytest.fixture
def amd(xeon: Part) -> Part:
    """Another CPU, on which the runner trains in bf16 and every peer did at one size."""
    part = copy.deepcopy(xeon)
    limits = part["measured"]["limits"]
    limits["machine"] |= {"device_name": "AMD EPYC", "cpu_name": "AMD EPYC"}
    limits["precision"] = "bf16"
    measured = {"limits": limits}
    for name, entry in xeon["measured"].items():
        if name.startswith("peers/4x1024/"):
            new_name = name.replace("fp32", "bf16")
            measured[new_name] = {**entry, "precision": "bf16"}
            if "/plain/" in name:
                measured[new_name.replace("plain", "plain-compiled")] = measured[new_name]
    return {**part, "identity": IDENTITY, "measured": measured}


@pytest.fixture
def h100(xeon: Part) -> Part:
    """A GPU with nothing but its limits and the sweep."""
    limits = copy.deepcopy(xeon["measured"]["limits"])
    limits["machine"] |= {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}
    sweep = copy.deepcopy(xeon["measured"]["around/sweep"])
    for entry in sweep["stages"].values():
        entry["micro_batch_size"] = 16
    return {**xeon, "measured": {"limits": limits, "around/sweep": sweep}}


Write = Callable[[dict[str, Part]], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes the page and returns its text."""

    def written(machines: dict[str, Part]) -> str:
        page.write({"machines": machines}, tmp_path)
        return (tmp_path / "performance.md").read_text(encoding="utf-8")

    return written


def part_of(text: str, title: str) -> str:
    """A machine's part of the page."""
    found = re.search(rf"^## {re.escape(title)}$.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[0]


def cells(text: str, first: str) -> list[str]:
    """The cells beside the first one of a table's row."""
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def test_a_machine_or_new_code_starts_its_own_part_over_and_no_other(
    tmp_path: Path, xeon: Part, amd: Part
) -> None:
    file = tmp_path / "performance.json"
    line = {"line_us": 20.0}
    for key, identity, others in (
        (AMD, IDENTITY, {XEON: xeon}),
        (XEON, {**xeon["identity"], "code": "newer"}, {XEON: xeon, AMD: amd}),
    ):
        file.write_text(json.dumps({"machines": others}))
        assert "limits" in Store(file, XEON, xeon["identity"])
        store = Store(file, key, identity)
        assert "limits" not in store
        store.add("around/line", line)
        machines = json.loads(file.read_text())["machines"]
        assert machines[key]["identity"] == identity
        assert machines[key]["measured"] == {"around/line": line}
        assert {k: part for k, part in machines.items() if k != key} == {
            k: part for k, part in others.items() if k != key
        }
        assert Store(file, key, identity)["around/line"] == line


def test_a_damaged_file_is_never_taken_for_an_empty_one(tmp_path: Path) -> None:
    file = tmp_path / "performance.json"
    file.write_text('{"machines": {"intel')
    with pytest.raises(ValueError, match="Unterminated"):
        Store(file, AMD, IDENTITY)


@pytest.mark.parametrize(
    ("name", "units", "device", "key"),
    [
        ("AMD EPYC", ["avx2", "avx512_f", "avx512_bf16"], "cpu", AMD),
        ("AMD EPYC", ["avx2", "avx512_f"], "cpu", "amd-epyc"),
        ("Intel(R) Xeon(R) Processor", ["avx2"], "cpu", "intel-xeon-processor"),
        (
            "Intel(R) Xeon(R) Processor",
            ["avx512_bf16", "amx_tile"],
            "cpu",
            "intel-xeon-processor-amx",
        ),
        ("NVIDIA H100 80GB HBM3", ["avx2", "amx_tile"], "cuda", H100),
    ],
)
def test_keys_differ_by_the_best_unit(name: str, units: list[str], device: str, key: str) -> None:
    found = {"device": device, "device_name": name, "vector_units": units}
    assert machine.key(found) == key


def test_this_machine_has_a_name_and_a_key() -> None:
    found = machine.describe(torch.device("cpu"))
    assert re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*", machine.key(found))
    assert machine.title(found).startswith(found["device_name"])


def test_old_measurements_render_without_what_they_lack(write: Write, xeon: Part) -> None:
    text = write({XEON: xeon})
    part = part_of(text, XEON_TITLE)
    assert "plain script, compiled" not in part
    assert "oneDNN" not in part
    measured = xeon["measured"]
    ratios = [
        measured[f"peers/4x64/{n}/step09"]["tokens_per_second"]
        / measured[f"peers/4x64/{n}/huggingface/fp32"]["tokens_per_second"]
        for n in (1, 2, 3)
    ]
    target = "tokens/s at least 2.0 times transformers, eager"
    assert cells(part, target)[0] == f"{statistics.median(ratios):.2f}: missed"


def test_a_second_machine_adds_its_part(write: Write, xeon: Part, amd: Part) -> None:
    alone, both = write({XEON: xeon}), write({XEON: xeon, AMD: amd})
    assert part_of(both, XEON_TITLE) == part_of(alone, XEON_TITLE)
    assert part_of(both, AMD_TITLE)


def test_the_table_has_one_column_a_machine(write: Write, xeon: Part, amd: Part) -> None:
    text = write({XEON: xeon, AMD: amd})
    table = text[text.index("## All machines") : text.index("## What was measured")]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {4}
    assert cells(text, "precision") == ["fp32", "bf16"]
    xeon_rate, amd_rate = cells(text, "4 x 1024: step 7, tokens/s")
    assert xeon_rate == amd_rate != "–"
    nothing, ratio = cells(text, "4 x 1024: ours / plain script, compiled")
    assert nothing == "–"
    assert ratio == cells(text, "4 x 1024: ours / plain script, eager")[1]
    assert cells(text, "4 x 64: step 7, tokens/s")[1] == "–"


def test_sections_that_were_not_measured_are_left_out(write: Write, xeon: Part, amd: Part) -> None:
    titles = [
        "Where a step's time goes",
        "What each step of the ladder contributes",
        "Around the steps",
    ]
    text = write({XEON: xeon, AMD: amd})
    part = part_of(text, AMD_TITLE)
    for title in titles:
        assert f"### {title}\n" in part_of(text, XEON_TITLE)
        assert title not in part
    assert "#### 4 x 64" not in part
    assert "every peer ran once" not in part
    amd["measured"] = {"limits": amd["measured"]["limits"]}
    headings = re.findall("^###.*", part_of(write({AMD: amd}), AMD_TITLE), re.MULTILINE)
    assert headings == ["### Against the machine"]


def test_a_round_without_one_of_ours_is_left_out(write: Write, amd: Part) -> None:
    del amd["measured"]["peers/4x1024/2/step09"]
    text = part_of(write({AMD: amd}), AMD_TITLE)
    rate = amd["measured"]["peers/4x1024/1/step07"]["tokens_per_second"]
    assert cells(text, "ours, step 7")[1] == f"{rate:,.0f}"


def test_ours_are_compared_even_where_a_run_chose_another_precision(
    write: Write, amd: Part
) -> None:
    for name, entry in amd["measured"].items():
        if name.endswith(("/step07", "/step09")):
            entry["precision"] = "fp32"
    text = write({AMD: amd})
    assert cells(text, "4 x 1024: step 7, tokens/s") != [""]
    assert cells(text, "ours, step 7")[0] == "fp32"
    assert cells(text, "transformers, eager")[0] == "bf16"


def test_the_share_is_of_the_faster_exact_product(write: Write, xeon: Part) -> None:
    target = "step 7 at least 65% of the peak at the largest size"
    entries = [xeon["measured"][f"peers/4x1024/{n}/step07"] for n in (1, 2)]
    rate = statistics.mean(entry["tokens_per_second"] for entry in entries)
    products = xeon["measured"]["limits"]["matrix_products"]
    products[0]["flops_per_second"] = rate * entries[0]["flops_per_token"] / 0.8
    assert cells(part_of(write({XEON: xeon}), XEON_TITLE), target)[-1] == "80%: reached"
    square = {**products[0], "flops_per_second": 2 * products[0]["flops_per_second"]}
    products.append({**square, "precision": "fp32 rounded to bf16 (oneDNN)"})
    assert cells(part_of(write({XEON: xeon}), XEON_TITLE), target)[-1] == "80%: reached"
    products.append({**square, "precision": "fp32 (oneDNN)"})
    assert cells(part_of(write({XEON: xeon}), XEON_TITLE), target)[-1] == "40%: missed"


def test_our_memory_is_compared_with_the_least_of_the_peers(write: Write, amd: Part) -> None:
    target = "most memory of ours at most the lowest of the peers'"
    measured = amd["measured"]
    for name, entry in measured.items():
        if name.startswith("peers/"):
            peers = 8 * GIB if "/huggingface/" in name else 6 * GIB
            entry["peak_memory_bytes"] = peers if "bf16" in name else 5 * GIB
    assert cells(write({AMD: amd}), target) == ["5.00 GiB against 6.00: reached"]
    measured["peers/4x1024/2/step09"]["peak_memory_bytes"] = 7 * GIB
    assert cells(write({AMD: amd}), target) == ["7.00 GiB against 6.00: missed"]


def test_a_gpus_memory_is_beside_its_estimate_where_both_are_known(
    write: Write, tmp_path: Path, xeon: Part, h100: Part
) -> None:
    machines = {XEON: xeon, H100: h100}
    assert "Memory against its estimate" not in write(machines)
    stages = h100["measured"]["around/sweep"]["stages"]
    stages["step07"]["peak_memory_bytes"] = 30 * GIB
    estimates = {"step07": {"16": 40 * GIB, "8": 20 * GIB}, "step08": {"8": 20 * GIB}}
    (tmp_path / "memory.json").write_text(json.dumps(estimates))
    part = part_of(write(machines), "NVIDIA H100 80GB HBM3")
    _, after = part.split("### Memory against its estimate")
    table, *_ = after.split("###")
    assert cells(table, "7") == ["Flash attention", "16", "30.00 GiB", "40.00 GiB", "0.75"]
    assert "Gradient clipping" not in table
    assert "Memory against" not in part_of(write(machines), XEON_TITLE)


def test_the_measured_peak_of_a_known_gpu_is_beside_its_datasheets(
    write: Write, xeon: Part, h100: Part
) -> None:
    limits = h100["measured"]["limits"]
    limits["precision"] = "bf16"
    for product in limits["matrix_products"]:
        product["precision"], product["flops_per_second"] = "bf16", 494.7e12
    text = write({XEON: xeon, H100: h100})
    assert "989 TFLOP/s in dense bf16; the large square reached 50% of that." in text
    assert text.count("datasheet") == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_step_that_is_compared_is_in_the_warmup(device: str) -> None:
    for size in plan_for(device).sizes:
        given = dict(override.split("=") for override in size.overrides)
        assert int(given["train.steps"]) == size.steps <= int(given["train.warmup_steps"])


def test_every_peer_has_the_precision_of_ours_and_the_most_valuable_is_first() -> None:
    def precisions(own: str) -> dict[str, int]:
        names = [name for name, _ in gpu.jobs(Bench(plan_for("cuda"), Path("runs")), own)]
        assert names[:3] == ["tests/gpu", "around/sweep", "peers/16x1024/1/step07"]
        last = max(names.index(f"profile/{size}x1024") for size in (4, 16))
        assert {name.split("/")[2] for name in names[2:last] if "peers" in name} == {"1"}
        return Counter(name.rsplit("/")[-1] for name in names if name.count("/") == 4)

    sizes, rounds, peers = 2, 3, 4
    assert precisions("bf16") == {"bf16": sizes * rounds * peers}
    assert precisions("fp32") == {"fp32": sizes * rounds * peers, "bf16": peers}


def test_one_failure_does_not_end_what_is_measured_on_a_borrowed_gpu(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise LossesDiffer("At step 0")

    def jobs(precision: str) -> list[Job]:
        return [("first", fails), ("second", lambda: {"precision": precision})]

    store = Store(tmp_path / "performance.json", H100, IDENTITY)
    store.add("limits", {"precision": "bf16"})
    with pytest.raises(LossesDiffer):
        measure(store, jobs)
    assert "second" not in store
    assert measure(store, jobs, keep_going=True) == ["first: At step 0"]
    assert "first" not in store
    assert store["second"] == {"precision": "bf16"}


@pytest.mark.slow
def test_gpu_ends_in_time_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = tmp_path / "ended"
    long_work = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # in the background, too
        "try: time.sleep(60)\n"
        f"except KeyboardInterrupt: pathlib.Path({str(ended)!r}).touch()\n"
    )
    (tmp_path / "long_work.py").write_text(long_work)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    store = Store(tmp_path / "performance.json", H100, IDENTITY)
    store.add("limits", {"precision": "bf16"})
    works: list[Job] = [
        ("quick", dict),
        ("long", lambda: {"s": ours.python("long_work")}),
        ("never", dict),
    ]
    monkeypatch.setattr(gpu, "find_device", lambda requested: torch.device("cuda"))
    monkeypatch.setattr(gpu, "jobs", lambda bench, precision: works)
    monkeypatch.setattr("tests.benchmarks.performance.here", lambda: (store, None))
    monkeypatch.setattr("tests.benchmarks.performance.render", lambda: None)
    started = time.monotonic()
    gpu.main("--minutes", "0.1")
    assert time.monotonic() - started < 50, "the long work was not ended"
    assert ended.exists(), "it was not asked to end"
    assert "the same command goes on" in capsys.readouterr().out
    assert [name in store for name, _ in works] == [True, False, False]
    works[1:] = [("tests/gpu", lambda: {"failures": ["test_a"]}), ("never", dict)]
    with pytest.raises(SystemExit, match="tests/gpu: test_a"):
        gpu.main()
    assert all(name in store for name, _ in works)


def test_gpu_refuses_a_machine_without_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "find_device", lambda requested: torch.device("cpu"))
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_outcome_of_the_gpus_tests_is_counted(write: Write, h100: Part) -> None:
    found = gpu.outcome(
        """<testsuites><testsuite>
        <testcase classname="tests.test_gpu" name="test_a"/>
        <testcase classname="tests.test_gpu" name="test_b"><failure/></testcase>
        <testcase classname="tests.test_gpu" name="test_c"><error/></testcase>
        <testcase classname="tests.test_gpu" name="test_d"><skipped/></testcase>
        </testsuite></testsuites>"""
    )
    failures = ["tests.test_gpu.test_b", "tests.test_gpu.test_c"]
    assert found == {"passed": 1, "failed": 2, "skipped": 1, "failures": failures}
    h100["measured"]["tests/gpu"] = found
    assert "`pytest -m gpu`: 1 passed, 2 failed, 1 skipped; failed: tests." in write({H100: h100})
