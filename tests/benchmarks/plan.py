"""What is measured for docs/performance.md: the sizes, and how the work grows from the first."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Point:
    """One training set-up: a model, and the tokens of its micro batch and its step."""

    model: str
    micro_batch_size: int
    context: int
    grad_accum_steps: int = 1

    @property
    def name(self) -> str:
        accumulated = f"x{self.grad_accum_steps}" if self.grad_accum_steps > 1 else ""
        return f"{self.model}/{self.micro_batch_size}x{self.context}{accumulated}"

    @property
    def overrides(self) -> list[str]:
        """What the command line is given."""
        given = [
            f"model={self.model}",
            f"train.micro_batch_size={self.micro_batch_size}",
            f"train.context={self.context}",
        ]
        if self.grad_accum_steps > 1:
            tokens = self.micro_batch_size * self.context * self.grad_accum_steps
            given.append(f"train.total_batch_tokens={tokens}")
        return given


@dataclass(frozen=True)
class Size:
    """A point at which all contenders are compared, in `rounds` rounds."""

    point: Point
    steps: int
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.point.micro_batch_size}x{self.point.context}"

    @property
    def spaced(self) -> str:
        """The name as the page writes it."""
        return self.name.replace("x", " x ")

    @property
    def overrides(self) -> list[str]:
        """What the command line is given: every step is in the warmup, which peers need."""
        warmup = max(10, self.steps)  # step 9 has 10
        return [*self.point.overrides, f"train.steps={self.steps}", f"train.warmup_steps={warmup}"]


@dataclass(frozen=True)
class Plan:
    """What is measured. The last size is the largest."""

    sizes: list[Size]
    axes: dict[str, list[Point]]  # by the field in which they differ
    growth_steps: int
    profile_steps: dict[str, int]  # trained for a profile of the last one, by the size's name
    sweep: list[str]  # overrides of the sweep that is compared with its own steps
    around: tuple[str, ...]
    text_bytes: int = 0


AROUND = ("line", "text", "compilation", "sweep", "smoke", "busy", "busy at the first size")

CPU = Plan(
    sizes=[
        Size(Point("gpt2", 4, 64), steps=8, rounds=3),
        Size(Point("gpt2", 4, 256), steps=6, rounds=2),
        Size(Point("gpt2", 4, 1024), steps=5, rounds=2),
    ],
    axes={
        "micro_batch_size": [Point("gpt2", n, 64) for n in (1, 2, 4, 8)],
        "context": [Point("gpt2", 4, n) for n in (64, 128, 256, 512, 1024)],
        "model": [Point(m, 4, 64) for m in ("nano", "gpt2", "gpt2_medium")],
        "grad_accum_steps": [Point("gpt2", 4, 64, n) for n in (1, 2, 4)],
    },
    growth_steps=6,
    profile_steps={"4x64": 8, "4x1024": 5},
    sweep=[],
    around=AROUND,
    text_bytes=10**9,
)

# What does not depend on the device is not repeated on a GPU.
GPU = Plan(
    sizes=[Size(Point("gpt2", n, 1024), steps=20, rounds=3) for n in (4, 16)],
    axes={"micro_batch_size": [Point("gpt2", n, 1024) for n in (1, 2, 4, 8, 16)]},
    growth_steps=20,
    profile_steps={"4x1024": 8, "16x1024": 8},
    sweep=[],
    around=("compilation", "sweep"),
)

# Does it all work? Nothing that it measures means anything.
QUICK = Plan(
    sizes=[Size(Point("nano", 4, 16), 4, 2), Size(Point("nano", 4, 64), 3, 1)],
    axes={
        "micro_batch_size": [Point("nano", n, 16) for n in (2, 4)],
        "context": [Point("nano", 4, n) for n in (16, 32, 64)],
        "model": [Point("nano", 4, 16)],
        "grad_accum_steps": [Point("nano", 4, 16, n) for n in (1, 2)],
    },
    growth_steps=3,
    profile_steps={"4x16": 3, "4x64": 2},
    sweep=["scale=smoke", "train.steps=3"],
    around=AROUND,
    text_bytes=4 * 10**6,
)


def plan_for(device: str, quick: bool = False) -> Plan:
    """What is measured on a type of device."""
    if quick:
        return QUICK
    return CPU if device == "cpu" else GPU
