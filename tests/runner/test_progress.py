"""A live bar on a terminal, the guide's lines when piped."""

import io

import pytest
from rich.console import Console

from runner.progress import StepProgress

LINE = "step 0, loss: 10.96, norm: 27.9385, dt: 34471.31ms"


@pytest.mark.parametrize("terminal", [True, False])
def test_steps_are_shown_as_the_output_can_show_them(terminal: bool) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    with StepProgress(console, "step07", steps=2) as progress:
        progress.step(LINE, loss=10.96, grad_norm=27.9385, tokens_per_second=313.0)
        progress.step(LINE, loss=9.59, grad_norm=5.3188, tokens_per_second=1234.0)
    shown = output.getvalue()
    if terminal:
        for figure in ("step07", "2/2", "loss 9.590", "norm 5.32", "1,234 tokens/s"):
            assert figure in shown
        assert LINE not in shown
    else:
        assert shown == f"{LINE}\n{LINE}\n"
