"""A live bar on a terminal, the guide's lines when piped."""

import io

import pytest
from rich.console import Console

from runner import progress
from runner.progress import step_progress, text_progress
from runner.rows import Step

STEPS = (
    Step(0, 10.962733268737793, 27.9385, 3e-4, 817.93, 256),
    Step(1, 9.9, 6.1234, 3e-4, 205.12, 256),
    Step(2, 9.59, 5.3188, 3e-4, 207.46, 256),
)


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("terminal", [True, False])
def test_steps_are_a_bar_on_a_terminal_some_lines_when_piped_and_nothing_when_quiet(
    terminal: bool, quiet: bool
) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=120)
    with step_progress(console, "step07", steps=3, done=0, quiet=quiet) as show:
        for step in STEPS:
            show(step)
    shown = output.getvalue()
    if quiet:
        assert shown == ""
    elif terminal:
        for figure in ("step07", "3/3", "loss 9.590", "norm 5.32", "1,234 tokens/s"):
            assert figure in shown
        assert "dt:" not in shown
    else:
        assert shown == (
            "step 0, loss: 10.962733268737793, norm: 27.9385, dt: 817.93ms\n"
            "step 2, loss: 9.59, norm: 5.3188, dt: 207.46ms\n"
        )


@pytest.mark.parametrize("terminal", [True, False])
def test_a_text_is_a_bar_on_a_terminal_and_lines_of_megabytes_when_piped(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    output = io.StringIO()
    with text_progress(Console(file=output, force_terminal=terminal, width=120)) as show:
        show(3_000_000, None)
        show(50_000_000, 100_000_000)
    if terminal:
        assert "50.0/100.0 MB" in output.getvalue()
    else:
        assert output.getvalue() == "Tokenizing: 3 MB\nTokenizing: 50 of 100 MB\n"
