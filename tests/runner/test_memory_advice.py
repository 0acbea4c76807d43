"""What a run out of memory advises."""

import pytest

from runner.run import advice_on_memory
from tests.records import synthetic_run


@pytest.mark.parametrize(
    ("scale", "variant", "said"),
    [
        ("cuda", [], "take scale=cuda_24gb for all stages"),
        ("cuda_12gb", [], "take scale=cuda_8gb for all stages"),
        ("cuda", ["train.micro_batch_size=32"], "halve train.micro_batch_size=4"),
        ("cuda_8gb", [], "halve train.micro_batch_size=4 or train.context=64 for all stages"),
        ("cpu", [], "halve train.micro_batch_size=4"),
    ],
)
def test_the_next_smaller_scale_is_named_where_there_is_one(
    scale: str, variant: list[str], said: str
) -> None:
    run = synthetic_run(variant=variant)
    run.settings.scale = scale
    assert said in advice_on_memory(run)
