"""The traced memory is what a calculation by hand gives, and every scale fits its GPU."""

import pytest

from tests.benchmarks.memory import AVAILABLE, STAGES, by_hand, configured, peak_bytes
from tests.conftest import Settings

# All logits at once, as on a GPU.
LIKE_A_GPU = ("model.loss_chunk_tokens=null", "train.autocast=bf16")
CUDA_CONTEXT = 0.5e9
LAYERS, HEADS = 2, 2


@pytest.mark.slow
def test_the_baseline_of_gpt2_needs_what_a_calculation_by_hand_gives() -> None:
    config = configured("step02", "cuda")
    expected = sum(amount for _, amount in by_hand(config).values())
    assert 27e9 < expected < 31e9
    assert peak_bytes(config) == pytest.approx(expected, rel=1e-3)
    half = peak_bytes(configured("step02", "cuda_24gb"))
    assert half < peak_bytes(config) < 2 * half


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["true", "false"])
def test_flash_attention_keeps_no_matrix_of_all_pairs_of_tokens(
    compiled: str, settings: Settings
) -> None:
    sizes = ("model.context_length=1024", "train.context=1024", "train.micro_batch_size=2")
    common = (*LIKE_A_GPU, *sizes, f"train.compile={compiled}")
    flash, manual = (peak_bytes(settings(f"+stage={s}", *common)) for s in ("step07", "step06"))
    pairs = LAYERS * 2 * HEADS * 1024 * 1024
    assert manual - flash > 4 * pairs


@pytest.mark.slow
@pytest.mark.parametrize("scale", AVAILABLE)
def test_every_stage_of_a_scale_fits_its_gpu(scale: str) -> None:
    for stage in STAGES:
        assert peak_bytes(configured(stage, scale)) + CUDA_CONTEXT < AVAILABLE[scale], stage
