"""What the tests of all rooms share: a small text, a cache of their own, and the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

# Tests run in parallel: threads of one would wait for cores that another has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hydra import compose, initialize_config_dir

from conf.reading import register
from conf.schema import Config
from runner.data.corpus import Corpus, load
from runner.data.documents import TextFiles
from runner.data.source import Source
from runner.settings import read_settings
from tests.environment import environment

ROOT = Path(__file__).parent.parent

ENVIRONMENT = environment()  # before the tests are collected, which import what changes it


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With -m gpu only the one file: other tests import what a GPU machine may lack."""
    other = collection_path.name.startswith("test_") and collection_path.name != "test_gpu.py"
    return True if other and config.option.markexpr == "gpu" else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """With -m gpu one card is shared by four processes, however many cores there are."""
    return 4 if config.option.markexpr == "gpu" else None


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 20,000 tokens of English that ships with Python."""
    import pydoc_data.topics

    file = tmp_path_factory.mktemp("text") / "topics.txt"
    file.write_text("\n\n".join(pydoc_data.topics.topics.values())[:80_000], encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def shared_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run of the tests have in common."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def cache_dir(shared_dir: Path) -> Path:
    return shared_dir / "cache"


@pytest.fixture(autouse=True)
def process_restored() -> Iterator[None]:
    """Undo what a stage trained inside this process sets: variables, and settings of torch."""
    with patch.dict(os.environ, ENVIRONMENT, clear=True):
        yield
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision("highest")


def load_quietly(files: list[Path], cache_dir: Path, held_out_fraction: float) -> Corpus:
    """A corpus, without showing progress."""
    text = TextFiles(files)
    source = Source("text", text.sha256(cache_dir), text)
    return load(source, cache_dir, held_out_fraction, print, lambda done, total: None)


Settings = Callable[..., Config]


@pytest.fixture
def settings(text_file: Path, cache_dir: Path, tmp_path: Path) -> Settings:
    """A checked configuration at the smoke scale, as the command line would compose it."""

    def read(*overrides: str) -> Config:
        register()
        common = (
            "scale=smoke",
            "device=cpu",
            "data=text",
            f"data.path={text_file}",
            f"cache_dir={cache_dir}",
            f"output_dir={tmp_path}/outputs",
        )
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return read_settings(compose("config", [*common, *overrides]))

    return read


CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def usual(cache_dir: Path) -> dict[str, str]:
    """The environment of a command where a test changes nothing in it."""
    return {**ENVIRONMENT, "GPT2_LADDER_CACHE": str(cache_dir)}


@pytest.fixture(scope="session")
def warm(usual: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """The process of this worker in whose forks commands run, tests/warm.py."""
    words, pipe = [sys.executable, "-m", "tests.warm"], subprocess.PIPE
    with subprocess.Popen(words, cwd=ROOT, env=usual, stdin=pipe, stdout=pipe, text=True) as made:
        yield made


@pytest.fixture
def command_line(
    text_file: Path,
    usual: dict[str, str],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    warm: "subprocess.Popen[str]",
) -> CommandLine:
    """`python -m runner` in a process of its own, at the smoke scale, from the checkout's root.

    Python is started for it only where variables or the code are others than those of `warm`.
    """

    def run(
        *arguments: str,
        module: str = "runner",
        smoke: bool = True,
        report: bool = False,
        root: Path = ROOT,
        **changed: str,
    ) -> "subprocess.CompletedProcess[str]":
        smoke_arguments = (
            "scale=smoke",
            "device=cpu",
            "data=text",
            f"data.path={text_file}",
            f"output_dir={tmp_path}/outputs",
        )
        # Flags come first, and the test's overrides last, because the last one counts.
        flags = [a for a in arguments if a.startswith("-")]
        overrides = [a for a in arguments if not a.startswith("-")]
        words = [*flags, *(smoke_arguments if smoke else ()), *overrides]
        if smoke and "-m" not in flags and not report:
            words.append("~hydra.callbacks.report")  # it takes longer than such a run
        variables = environment(**{"GPT2_LADDER_CACHE": usual["GPT2_LADDER_CACHE"], **changed})
        command = [sys.executable, "-m", module, *words]
        differing = {name for name, _ in variables.items() ^ usual.items()}
        if root != ROOT or differing - {"COLUMNS", "PYTEST_CURRENT_TEST"}:
            return subprocess.run(
                command, cwd=root, env=variables, capture_output=True, text=True, timeout=280
            )
        printed = tmp_path_factory.mktemp("printed")
        output, errors = printed / "stdout.txt", printed / "stderr.txt"
        request = {
            "module": module,
            "arguments": words,
            "environment": variables,
            "output": str(output),
            "errors": str(errors),
        }
        assert warm.stdin
        assert warm.stdout
        print(json.dumps(request), file=warm.stdin, flush=True)
        status = int(warm.stdout.readline())
        said = [file.read_text(encoding="utf-8") for file in (output, errors)]
        return subprocess.CompletedProcess(command, status, *said)

    return run
