"""What is compiled before the first step is what the steps use."""

import os
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from conf.schema import CompileScope, TrainConf
from gpt2.language_model import LanguageModel
from gpt2.model import GPT
from runner.run import prepare_libraries
from runner.training.compilation import compile_model
from tests.conftest import Settings

OFF = torch.autocast("cpu", torch.bfloat16, enabled=False)
MANY = examples(
    deadline=None,
    derandomize=True,
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize(
    ("scope", "chunk"),
    [
        (CompileScope.blocks_and_head, "512"),
        (CompileScope.blocks_and_head, "null"),
        pytest.param(CompileScope.model, "null", marks=pytest.mark.slow),
    ],
)
def test_the_first_step_compiles_nothing_and_has_the_eager_gradients(
    settings: Settings, scope: CompileScope, chunk: str
) -> None:
    chunks = f"model.loss_chunk_tokens={chunk}"
    config = settings("+stage=step07", chunks, "train.label_smoothing=0.1")
    eager, compiled = GPT(config.model, seed=1), GPT(config.model, seed=1)
    assert compile_model(compiled, replace(config.train, compile_scope=scope), 2, OFF) is None
    idx, targets = torch.randint(50257, (2, 2, 32), generator=torch.Generator().manual_seed(1))
    try:
        losses = []
        no_compilation = torch.compiler.set_stance("fail_on_recompile")
        for model, stance in ((eager, nullcontext()), (compiled, no_compilation)):
            with stance:
                losses.append(model(idx, targets, **config.train.loss_options)[1])
                losses[-1].backward()
        torch.testing.assert_close(*losses, atol=1e-5, rtol=1e-5)
        for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-3)
    finally:
        torch.compiler.reset()


class Uncompilable(LanguageModel):
    """Raises errors in turn before it can be called, as a compiler does."""

    def __init__(self, kernels: list[Path], errors: list[Exception]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.kernels, self.errors, self.calls = kernels, errors, 0

    def compile(self, **options: object) -> None:
        pass

    def forward(
        self, idx_BT: torch.Tensor, targets_BT: torch.Tensor | None = None
    ) -> tuple[None, torch.Tensor]:
        for kernel in self.kernels:
            kernel.touch()
        self.calls += 1
        assert self.calls < 20, "it does not end"
        if self.calls <= len(self.errors):
            raise self.errors[self.calls - 1]
        return None, self.weight.sum()


@pytest.fixture
def train(settings: Settings) -> TrainConf:
    return settings("+stage=step06").train


# Kernels of the cache, of which one is not there, a library of the system, and another mistake.
LIBRARIES = ("ab/one.so", "ab/two.so", "ab/not_there.so", "/usr/lib/libgomp.so", "no path")


@MANY
@given(
    names=st.lists(st.sampled_from(LIBRARIES), max_size=6),
    kind=st.sampled_from([OSError, ImportError, RuntimeError]),
)
def test_what_cannot_be_loaded_is_compiled_once_more_and_then_left(
    train: TrainConf, tmp_path: Path, names: list[str], kind: type[Exception]
) -> None:
    kernels = [tmp_path / "ab" / name for name in ("one.so", "two.so")]
    kernels[0].parent.mkdir(exist_ok=True)
    errors = [kind(f"{tmp_path / name}: failed to map segment from it") for name in names]
    model = Uncompilable(kernels, errors)
    cache = patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)})
    with cache, patch("torch.compiler.reset"):  # which is slow, and nothing was compiled
        why_not = compile_model(model, train, 1, OFF)
    again: set[str] = set()
    for name in names:
        if name in again or name not in LIBRARIES[:2]:
            assert why_not is not None
            assert f"{tmp_path / name}: failed to map" in why_not
            break
        again.add(name)
    else:
        assert why_not is None
    assert model.calls == len(again) + 1
    torch.compiler.set_stance("default")


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1)


@MANY
@given(
    name=(NAMES | st.text(" \t'\"\\ab", min_size=1)).filter(lambda name: name not in (".", ".."))
)
def test_the_compiler_gets_any_cache_folder_as_one_word(tmp_path: Path, name: str) -> None:
    cache_dir = tmp_path / name[:40]
    with patch.dict(os.environ), patch("tempfile.tempdir", str(tmp_path)):
        os.environ.pop("TORCHINDUCTOR_CACHE_DIR", None)
        found = []
        for _ in range(2):  # the second finds it in the environment
            prepare_libraries(cache_dir)
            found.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert found[0] == found[1]
    assert shlex.split(found[0]) == [found[0]]
    assert Path(found[0]).resolve() == (cache_dir / "inductor").resolve()
