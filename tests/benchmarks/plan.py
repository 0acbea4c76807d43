"""What is measured for docs/performance.md on a kind of device."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A training set-up at which all contenders are compared, in `rounds` rounds."""

    model: str
    micro_batch_size: int
    context: int
    steps: int
    rounds: int

    @property
    def name(self) -> str:
        return f"{self.micro_batch_size}x{self.context}"

    @property
    def spaced(self) -> str:
        """The name as the page writes it."""
        return self.name.replace("x", " x ")

    @property
    def setup(self) -> list[str]:
        """What the command line is given, but for the steps."""
        sizes = f"train.micro_batch_size={self.micro_batch_size}", f"train.context={self.context}"
        return [f"model={self.model}", *sizes]

    @property
    def overrides(self) -> list[str]:
        """What the command line is given: every step is in the warmup, which peers need."""
        warmup = max(10, self.steps)  # step 9 has 10
        return [*self.setup, f"train.steps={self.steps}", f"train.warmup_steps={warmup}"]


@dataclass(frozen=True)
class Plan:
    """What is measured. The last size is the largest."""

    sizes: list[Size]
    targets: dict[str, float]  # how many times a peer's tokens/s ours are to be
    peak_share: float  # part of the measured peak that step 7 is to reach at the last size
    profile_steps: dict[str, int]  # trained for a profile of the last one, by the size's name
    sweep: list[str]  # overrides of the sweep that is compared with its own steps
    around: tuple[str, ...]
    text_bytes: int = 0


TEXTS = ("txt", "jsonl", "parquet")  # kinds of files
AROUND = ("line", *TEXTS, "compilation", "sweep", "smoke", "busy", "busy at the first size")

CPU = Plan(
    sizes=[
        Size("gpt2", 4, 64, steps=8, rounds=3),
        Size("gpt2", 4, 256, steps=6, rounds=2),
        Size("gpt2", 4, 1024, steps=5, rounds=2),
    ],
    targets={"huggingface": 2.0, "huggingface-compiled": 2.0, "plain": 1.7, "plain-compiled": 1.7},
    peak_share=0.65,
    profile_steps={"4x64": 8, "4x1024": 5},
    sweep=[],
    around=AROUND,
    text_bytes=10**9,
)

# What does not depend on the device is not repeated on a GPU.
GPU = Plan(
    sizes=[Size("gpt2", n, 1024, steps=20, rounds=3) for n in (4, 16)],
    # A compiled script has about the same kernels as ours there. transformers has no padded
    # vocabulary, and eager code reads and writes the memory more often.
    targets={"huggingface": 1.8, "huggingface-compiled": 1.3, "plain-compiled": 1.0},
    peak_share=0.43,
    profile_steps={"4x1024": 8, "16x1024": 8},
    sweep=[],
    around=("compilation", "sweep"),
)

# Does it all work? Nothing that it measures means anything.
QUICK = Plan(
    sizes=[Size("nano", 4, 16, steps=4, rounds=2), Size("nano", 4, 64, steps=3, rounds=1)],
    targets=CPU.targets,
    peak_share=CPU.peak_share,
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
