"""Faults that a run must survive. Each one is injected several times, and its outcome asserted.

The tests inject each once or twice; `python -m tests.benchmarks reliability` does it many times
and writes docs/reliability.md.
"""

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner.files import unseal
from tests.environment import environment
from tests.faults.lab import (
    ALONE,
    ROOT,
    Lab,
    finished_records,
    messages,
    outcome,
    steps_done,
    training,
    wait_until,
)

ASSASSIN = str(Path(__file__).parent / "assassin")
STAGE = "+stage=step09"
SWEEP = ("-m", "+stage=step02,step09")
# Long enough that a moment of a run can be waited for, and still be there for a signal.
LONG_SWEEP = (*SWEEP, "train.steps=150")


@dataclass(frozen=True)
class Fault:
    """A fault, what must hold afterwards, how often the benchmark injects it, and how."""

    name: str
    afterwards: str
    times: int
    inject: Callable[[Lab, int], None]


FAULTS: list[Fault] = []


def fault(
    name: str, afterwards: str, times: int
) -> Callable[[Callable[[Lab, int], None]], Callable[[Lab, int], None]]:
    """Registers a function that injects a fault a number of times and asserts the outcome."""

    def register(inject: Callable[[Lab, int], None]) -> Callable[[Lab, int], None]:
        FAULTS.append(Fault(name, afterwards, times, inject))
        return inject

    return register


@fault(
    "kill -9 at a random moment of a sweep of the whole ladder: the sweep, its stage, or both",
    "the same command resumes, nothing finished is trained again, every file can be read at every "
    "moment, and the outcome is that of an undisturbed sweep, bit by bit",
    100,
)
def killed_at_random(lab: Lab, times: int) -> None:
    sweep = ("-m", "+stage=glob(step*)", "train.compile=true", "train.steps=50")
    if times < 10:
        sweep = SWEEP
    experiment = lab.new_experiment()
    for _ in range(times):
        process = lab.start(experiment, *sweep)
        until = time.monotonic() + lab.chance.uniform(0.5, 14)
        while process.poll() is None and time.monotonic() < until:
            finished_records(experiment)
            time.sleep(0.01)
        if process.poll() is not None:
            assert process.returncode == 0, (lab.folder / "log.txt").read_text()
            lab.check_resumed(experiment, *sweep)
            experiment = lab.new_experiment()
            continue
        stages = training(experiment)
        match lab.chance.choice(["sweep", "stage", "both"] if stages else ["sweep"]):
            case "sweep":
                process.kill()
            case "stage":
                os.kill(stages[0], signal.SIGKILL)
                if process.wait() == 0:
                    continue
            case "both":
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        finished_records(experiment)
    lab.check_resumed(experiment, *sweep)


def _killed_at(lab: Lab, event: str, pattern: str, seconds: float, *command: str) -> None:
    experiment = lab.new_experiment()
    done = lab.run(
        experiment, *command, PYTHONPATH=ASSASSIN, KILL_AT=f"{event} {pattern} {seconds}"
    )
    assert done.returncode != 0, f"nothing was killed at {event} {pattern}"
    lab.check_resumed(experiment, *command)


@fault("kill -9 while run.json is written", "resumed, bit by bit", 10)
def killed_writing_the_record(lab: Lab, times: int) -> None:
    for i in range(times):
        event, pattern = [("os.rename", r"/\.run\.json\.~"), ("open", r"/\.run\.json\.~")][i % 2]
        _killed_at(lab, event, pattern, 0, STAGE)


@fault("kill -9 while a checkpoint is written", "resumed, bit by bit; no half file is left", 10)
def killed_writing_a_checkpoint(lab: Lab, times: int) -> None:
    for i in range(times):
        if i % 2:
            _killed_at(lab, "os.rename", r"/\.checkpoint", 0, STAGE)
            continue
        experiment = lab.new_experiment()
        process = lab.start(experiment, STAGE)
        # The half file that safetensors writes into before it gets its name.
        assert wait_until(lambda e=experiment: list(e.glob("*/*/.tmp*")), process)
        process.kill()
        process.wait()
        lab.check_resumed(experiment, STAGE)
        assert not list(experiment.glob("*/*/.tmp*"))


@fault("kill -9 while tokenizing", "tokenized again, bit by bit the same", 5)
def killed_tokenizing(lab: Lab, times: int) -> None:
    for _ in range(times):
        shutil.rmtree(lab.cache_dir / "tokens", ignore_errors=True)
        _killed_at(lab, "open", r"\.uint16\.~", lab.chance.choice([0, 0.01, 0.02]), STAGE)


@fault("kill -9 while the report is written", "written by the same command", 5)
def killed_writing_the_report(lab: Lab, times: int) -> None:
    for i in range(times):
        where = (r"index\.html\.~", r"steps\.csv\.~", r"stage-.*\.svg\.~")[i % 3]
        experiment = lab.new_experiment()
        at = f"os.rename /report/.*{where} 0"
        done = lab.run(experiment, *SWEEP, PYTHONPATH=ASSASSIN, KILL_AT=at)
        assert done.returncode == -signal.SIGKILL
        lab.check_resumed(experiment, *SWEEP)
        page = (experiment / "report" / "index.html").read_text()
        assert page.rstrip().endswith("</html>")
        assert not list((experiment / "report").rglob(".*.part"))


@fault(
    "Ctrl-C and SIGTERM, to a run and to a sweep",
    "the current step ends, a checkpoint is written, status interrupted, exit 130 or 143 within "
    "ten seconds; a sweep writes its report; resumed, bit by bit",
    8,
)
def asked_to_end(lab: Lab, times: int) -> None:
    for i in range(times):
        signum = (signal.SIGTERM, signal.SIGINT, signal.SIGINT, signal.SIGTERM)[i % 4]
        command = (*(SWEEP if i % 2 else (STAGE,)), "train.steps=25")
        experiment = lab.new_experiment()
        process = lab.start(experiment, *command)
        steps = lab.chance.randint(1, 9)
        assert wait_until(lambda e=experiment, n=steps: steps_done(e) >= n, process)
        # A terminal signals every process of the group.
        os.killpg(process.pid, signum)
        assert process.wait(timeout=10) == 128 + signum, (lab.folder / "log.txt").read_text()
        (record,) = experiment.glob("*/*/run.json")
        assert unseal(record.read_bytes())["status"] == "interrupted"
        assert (record.parent / "checkpoint.safetensors").exists()
        assert (experiment / "report" / "index.html").exists() == (command[0] == "-m")
        done = lab.check_resumed(experiment, *command)
        assert "Resuming from step" in done.stdout


@fault(
    "a run of 19,073 steps on several files, stopped again and again by SIGTERM or kill -9",
    "resumed every time, with the outcome of an uninterrupted run, bit by bit",
    20,
)
def stopped_again_and_again(lab: Lab, times: int) -> None:
    words = lab.text.read_bytes().split()
    shards = lab.folder / "shards"
    shards.mkdir()
    for i in range(3):
        (shards / f"{i}.txt").write_bytes(b" ".join(words[i::3]))
    command = (
        STAGE, f'data.path="{shards}/*.txt"', "train.steps=19073", "model.n_layer=1",
        "model.n_head=2", "model.n_embd=16", "train.checkpoint_every.steps=300",
    )  # fmt: skip
    experiment = lab.new_experiment()
    for stop in range(times):
        process = lab.start(experiment, *command)
        steps = 19073 * (stop + 1) // (times + 1)
        assert wait_until(lambda n=steps: steps_done(experiment) >= n, process)
        process.send_signal((signal.SIGTERM, signal.SIGKILL)[stop % 2])
        assert process.wait(timeout=10) in (128 + signal.SIGTERM, -signal.SIGKILL)
    lab.check_resumed(experiment, *command)
    (record,) = finished_records(experiment)
    assert len(unseal(record.read_bytes())["resumed_at"]) == times


@fault(
    "a second Ctrl-C before the first has ended the run",
    "ended within two seconds, no file corrupt; resumed, bit by bit",
    6,
)
def asked_twice(lab: Lab, times: int) -> None:
    for i in range(times):
        command = (*(SWEEP if i % 2 else (STAGE,)), "train.steps=25")
        experiment = lab.new_experiment()
        process = lab.start(experiment, *command)
        assert wait_until(lambda e=experiment: steps_done(e) >= 2, process)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(lab.chance.uniform(0.02, 0.1))  # two at the same instant count as one
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=2) == 130
        assert not finished_records(experiment)
        lab.check_resumed(experiment, *command)


@fault(
    "a stage of a sweep ended by SIGKILL (as by the out-of-memory killer) or by SIGSEGV",
    "the sweep continues, the stage's row says how it died, exit 1; the same command trains it "
    "again",
    6,
)
def stage_ended(lab: Lab, times: int) -> None:
    for i in range(times):
        signum = (signal.SIGKILL, signal.SIGSEGV)[i % 2]
        experiment = lab.new_experiment()
        process, stage = lab.start_training(experiment, *LONG_SWEEP)
        os.kill(stage, signum)
        assert process.wait() == 1
        assert any(signum.name in message for message in messages(experiment))
        statuses = {stage: found[0] for stage, found in outcome(experiment).items()}
        assert statuses == {"step02": "failed", "step09": "finished"}
        assert signum.name in (experiment / "report" / "index.html").read_text()
        lab.check_resumed(experiment, *LONG_SWEEP)


@fault(
    "out of memory inside a step",
    "status failed, the sentence names micro batch and context and what to halve; a sweep "
    "continues",
    3,
)
def out_of_memory(lab: Lab, times: int) -> None:
    sizes = ("train.micro_batch_size=2,1200", "train.context=16", "model.loss_chunk_tokens=null")
    sweep = ("-m", "+stage=step09", *sizes)
    for _ in range(times):
        experiment = lab.new_experiment()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, hard))
        try:
            done = lab.run(experiment, *sweep)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert done.returncode == 1, done.stderr
        (message,) = (m for m in messages(experiment) if m != "None")
        assert "Out of memory at step 0: a micro batch of 1200 x 16 tokens" in message
        assert "halve train.micro_batch_size=1200 or train.context=16" in message
        assert len(finished_records(experiment)) == 1


@fault(
    "a loss that is not finite",
    "status diverged with the step, the checkpoint before it is kept; a sweep continues",
    3,
)
def diverged(lab: Lab, times: int) -> None:
    for _ in range(times):
        experiment = lab.new_experiment()
        rates = "train.learning_rate=1e4,3e-4"
        done = lab.run(
            experiment, "-m", "+stage=step05", rates, "model.norm=none", "train.steps=30"
        )
        assert done.returncode == 1, done.stdout + done.stderr
        records = [unseal(f.read_bytes()) for f in experiment.glob("*/*/run.json")]
        assert {r["status"] for r in records} == {"diverged", "finished"}
        (lost,) = (r for r in records if r["status"] == "diverged")
        assert lost["message"] == f"The loss is not finite at step {lost['diverged_at']}."
        kept = experiment.glob("*/*/checkpoint.safetensors")
        assert len(list(kept)) == (1 if lost["diverged_at"] >= 5 else 0)


def _small_disk(folder: Path, size: str) -> None:
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder]).returncode:
        pytest.skip("only root can make a small disk")


@fault(
    "a disk that is full: of records, of a checkpoint, of the cache",
    "one sentence, exit not 0, finished runs unchanged; a run without room for a checkpoint warns "
    "before it trains",
    6,
)
def disk_full(lab: Lab, times: int) -> None:
    experiment = lab.new_experiment()
    disk = experiment.parent.with_name("disk")
    _small_disk(disk, "60m")
    on_disk = disk / experiment.name
    try:
        assert lab.run(on_disk, "+stage=step02").returncode == 0
        for i in range(times):
            asked, finished = (STAGE, f"seed={i + 2}"), _results(on_disk)
            match i % 3:
                case 0:  # room for nothing
                    _fill(disk, leave=0)
                    for words in (asked, ("+stage=step02", "force=true")):
                        done = lab.run(on_disk, *words)
                        assert done.returncode != 0
                        assert "No space left on device" in done.stdout + done.stderr
                case 1:  # room for the record and not for a checkpoint
                    _fill(disk, leave=1 << 20)
                    done = lab.run(on_disk, *asked)
                    assert done.returncode == 0, done.stdout + done.stderr
                    assert "a checkpoint needs" in done.stdout.split("step 0,")[0]
                    assert "No checkpoint at step 5" in done.stdout
                    finished = _results(on_disk) | finished  # that of the runs before is kept
                    kept = lab.run(on_disk, *asked, "checkpoint=last")
                    assert kept.returncode == 2
                    assert "the weights that checkpoint=last keeps need" in kept.stderr
                case 2:  # no room for the tokens
                    _fill(disk, leave=16 << 10)
                    done = lab.run(experiment, *asked, f"cache_dir={disk}/cache")
                    assert done.returncode == 1
                    assert "No space left on device" in done.stdout
            assert "Traceback" not in done.stdout + done.stderr
            assert _results(on_disk) == finished
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def _results(experiment: Path) -> dict[Path, bytes]:
    """The files of each finished run."""
    names = "run.json", "steps.csv", "held_out.csv", "log.txt"
    files = [file.with_name(name) for file in finished_records(experiment) for name in names]
    return {file: file.read_bytes() for file in files}


def _fill(disk: Path, leave: int) -> None:
    with (disk / "ballast").open("wb") as file:
        file.truncate(0)
        free = shutil.disk_usage(disk).free - leave
        file.write(b"\0" * max(0, free))


@fault(
    "a folder that cannot be written, or is deleted under a run",
    "one sentence that names it, exit not 0, no traceback",
    6,
)
def folder_gone(lab: Lab, times: int) -> None:
    for i in range(times):
        experiment = lab.new_experiment()
        match i % 3:
            case 0:
                done = lab.run(Path("/proc/nowhere/e"), STAGE)
                assert "/proc/nowhere" in done.stderr
            case 1:
                done = lab.run(experiment, STAGE, "cache_dir=/proc/nowhere")
                assert "/proc/nowhere" in done.stdout + done.stderr
            case 2:
                process = lab.start(experiment, STAGE, "train.steps=200")
                assert wait_until(lambda e=experiment: steps_done(e) >= 2, process)
                process.send_signal(signal.SIGSTOP)  # what it writes meanwhile would be left over
                os.waitpid(process.pid, os.WUNTRACED)
                shutil.rmtree(experiment)
                process.send_signal(signal.SIGCONT)
                code = process.wait()
                text = (lab.folder / "log.txt").read_text()
                done = subprocess.CompletedProcess([], code, text, "")
                assert "it was deleted while the run wrote to it" in text
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stdout + done.stderr


@fault(
    "a truncated or bit-flipped token cache, checkpoint, run.json or steps.csv",
    "detected, named, and written again or set apart; the outcome is that of an undisturbed run, "
    "bit by bit",
    12,
)
def damaged(lab: Lab, times: int) -> None:
    for i in range(times):
        what = ("tokens", "checkpoint", "run.json", "steps.csv", "held_out.csv")[i % 5]
        experiment = lab.new_experiment()
        if what == "checkpoint":
            process = lab.start(experiment, STAGE)
            pattern = "*/*/checkpoint.safetensors"
            assert wait_until(lambda e=experiment, p=pattern: list(e.glob(p)), process)
            process.kill()
            process.wait()
            (path,) = experiment.glob(pattern)
        else:
            assert lab.run(experiment, STAGE).returncode == 0
            tokens = (lab.cache_dir / "tokens").rglob("*.uint16")
            (path,) = tokens if what == "tokens" else experiment.glob(f"*/*/{what}")
        if what == "tokens":
            experiment = lab.new_experiment()
        damage(path, lab)
        done = lab.run(experiment, STAGE)
        assert done.returncode == 0, done.stdout + done.stderr
        assert path.name in done.stdout.replace("\n", "")
        assert "damaged" in done.stdout
        assert outcome(experiment) == lab.undisturbed(STAGE)


def damage(path: Path, lab: Lab) -> None:
    """Truncate a file, or flip one bit of it."""
    content = bytearray(path.read_bytes())
    if lab.chance.random() < 0.5:
        content = content[: lab.chance.randrange(len(content))]
    else:
        content[lab.chance.randrange(len(content))] ^= 1 << lab.chance.randrange(8)
    path.write_bytes(content)


@fault(
    "two sweeps started on one output folder at once",
    "the second waits and names the process, both exit 0, nothing is trained twice or mixed up",
    3,
)
def two_sweeps(lab: Lab, times: int) -> None:
    for _ in range(times):
        experiment = lab.new_experiment()
        with ThreadPoolExecutor(2) as pool:
            finished = list(pool.map(lambda e: lab.run(e, *SWEEP), [experiment] * 2))
        output = "".join(done.stdout + done.stderr for done in finished)
        assert [done.returncode for done in finished] == [0, 0], output
        assert "waiting for process" in output
        assert output.count("step 11,") == 2, output
        assert outcome(experiment) == lab.undisturbed(*SWEEP)


@fault("ten runs that need the token cache at once", "one tokenizes, all exit 0", 1)
def ten_runs(lab: Lab, times: int) -> None:
    for _ in range(times):
        shutil.rmtree(lab.cache_dir / "tokens", ignore_errors=True)
        experiments = [lab.new_experiment() for _ in range(10)]
        processes = [lab.start(experiment, STAGE) for experiment in experiments]
        assert [process.wait() for process in processes] == [0] * 10
        assert all(outcome(e) == lab.undisturbed(STAGE) for e in experiments)
        assert len(list((lab.cache_dir / "tokens").rglob("*.uint16"))) == 1


@fault(
    "no HOME, no temporary folder, a clock that jumps back, a cache on another file system, a path "
    "with spaces and letters of other scripts, a symlinked output folder",
    "works, bit by bit",
    3,
)
def odd_surroundings(lab: Lab, times: int) -> None:
    # Its second checkpoint is so far from the first that the run is surely killed between them.
    steps = ("train.steps=80", "train.checkpoint_every.steps=40")
    for i in range(times):
        real = lab.folder / f"real{i}"
        real.mkdir()
        folder = lab.folder / f"naïve dır {i} – 数据"
        folder.symlink_to(real)
        elsewhere = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else lab.folder
        cache_dir = elsewhere / f"gpt2-ladder cache {os.getpid()}"
        surroundings = {"TMPDIR": "/proc/nowhere", "HOME": "/proc/nowhere"}
        experiment, command = folder / "e", (STAGE, *steps, f'cache_dir="{cache_dir}"')
        try:
            process = lab.start(experiment, *command)
            assert wait_until(lambda e=experiment: steps_done(e) >= 41, process)
            process.kill()
            process.wait()
            done = lab.run(experiment, *command, **surroundings, **_last_year())
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Resuming from step 40" in done.stdout
            assert outcome(experiment) == lab.undisturbed(STAGE, *steps)
        finally:
            shutil.rmtree(cache_dir, ignore_errors=True)


@fault(
    "a compiler's cache in a folder of any name, with kernels of which only half is written, and "
    "on a file system that allows to load nothing (noexec)",
    "compiled; compiled again; trained without compilation, which is said",
    3,
)
def odd_compiler_cache(lab: Lab, times: int) -> None:
    command = ("+stage=step06", "train.compile=true", "train.steps=2")

    def trained(cache_dir: Path, *around: str) -> str:
        experiment = lab.new_experiment()
        quoted = str(cache_dir).replace('"', '\\"')
        words = [*around, *lab.command(experiment, *command, f'cache_dir="{quoted}"')]
        done = subprocess.run(
            words, cwd=ROOT, env=environment(**ALONE), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for i in range(times):
        name = "".join(lab.chance.sample(" \t'\"$;&#(–数é", 6))
        cache_dir = lab.folder / f"cache {i}{name}of kernels"
        assert "not applied: torch.compile" not in trained(cache_dir)
        kernels = list((cache_dir / "inductor").rglob("*.so"))
        assert kernels
        for kernel in kernels:  # a linker writes its header last
            kernel.write_bytes(bytes(lab.chance.randrange(kernel.stat().st_size)))
        assert "not applied: torch.compile" not in trained(cache_dir)
    mount = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o noexec none "$0" && exec "$@"')
    noexec = lab.folder / "noexec"
    noexec.mkdir()
    if subprocess.run([*mount, str(noexec), "true"], capture_output=True).returncode:
        pytest.skip("this system mounts no file system for its users")
    assert "not applied: torch.compile: compilation failed" in trained(
        noexec / "cache", *mount, str(noexec)
    )


def _last_year() -> dict[str, str]:
    """An environment whose clock is a year behind, where libfaketime is installed."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        return {}
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": "-1y", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
