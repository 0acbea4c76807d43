"""How fast a device's matrix products are in each precision, and what follows from that."""

from dataclasses import dataclass

BF16 = "bf16 autocast"
TF32 = "TF32"

# A lower precision is applied if its products are this many times as fast as fp32's.
WORTHWHILE = 1.1
# Another way to compute fp32 is used if it is this many times as fast as PyTorch's default.
CLEARLY_FASTER = 1.05


@dataclass(frozen=True)
class Rate:
    """FLOP/s of products, forward and backward, and whether they keep the mantissa of fp32.

    0 FLOP/s: the device cannot compute them.
    """

    flops: float
    exact: bool


@dataclass(frozen=True)
class Products:
    """Rates by how products are computed, and the highest of any product, for MFU.

    The first three are settings of torch.set_float32_matmul_precision. `high` permits TF32 and
    `medium` bfloat16. On a device that has neither, they still compute in fp32, but may use another
    library: oneDNN on a CPU. `bf16` is autocast with fp32 weights.
    """

    highest: Rate
    high: Rate
    medium: Rate
    bf16: Rate
    peak_flops: float = 0.0  # older records have none

    @property
    def fp32_setting(self) -> str:
        """The setting for products in true fp32: the default, or one that is exact and faster."""
        least = CLEARLY_FASTER * self.highest.flops
        faster = [s for s in ("high", "medium") if self._exact_flops(s) >= least]
        return max(faster, key=self._exact_flops, default="highest")

    def _exact_flops(self, setting: str) -> float:
        rate: Rate = getattr(self, setting)
        return rate.flops if rate.exact else 0.0

    @property
    def fp32_flops(self) -> float:
        """The rate of that setting."""
        return self._exact_flops(self.fp32_setting)

    @property
    def tf32_is_faster(self) -> bool:
        return self._is_worthwhile(self.high)

    @property
    def bf16_is_faster(self) -> bool:
        return self._is_worthwhile(self.bf16)

    @property
    def peak_dtype(self) -> str:
        """The type whose square products show what the device can do at most."""
        return "bfloat16" if self.bf16_is_faster else "float32"

    def _is_worthwhile(self, rate: Rate) -> bool:
        return not rate.exact and rate.flops >= WORTHWHILE * self.fp32_flops

    @property
    def precisions(self) -> str:
        """What runs must share for comparable losses, such as `fp32, bf16 autocast`.

        Settings that keep the mantissa of fp32 differ in the order of additions only.
        """
        return "fp32" + f", {TF32}" * self.tf32_is_faster + f", {BF16}" * self.bf16_is_faster

    @property
    def answers(self) -> str:
        """What runs must share for comparable speeds and exact resumption: the setting too."""
        return f"{self.precisions}; fp32 by {self.fp32_setting}"

    @property
    def gains(self) -> dict[str, str]:
        """What was measured for each lower precision."""
        return {TF32: self._compared(self.high), BF16: self._compared(self.bf16)}

    @property
    def summary(self) -> str:
        """The rates as text."""
        words = f"{_shown(self.fp32_flops)} GFLOP/s in fp32"
        if self.fp32_setting != "highest":
            words += (
                f" (PyTorch's setting {self.fp32_setting!r}, which is exact here and "
                f"{self.fp32_flops / self.highest.flops:.2f} times its default)"
            )
        tf32 = "" if self.high.exact else f", {_shown(self.high.flops)} in TF32"
        return f"{words}{tf32}, {_shown(self.bf16.flops)} in bf16 autocast"

    def why_not(self, rate: Rate) -> str:
        """Why a lower precision brings no speed-up."""
        if not rate.flops:
            return "this device cannot compute such matrix products"
        if rate.exact:
            return "it changes nothing here: matrix products keep the precision of fp32"
        return f"its matrix products are only {self._compared(rate)}"

    def _compared(self, rate: Rate) -> str:
        ratio = rate.flops / self.fp32_flops
        rates = f"{_shown(rate.flops)} against {_shown(self.fp32_flops)} GFLOP/s"
        return f"{ratio:.{2 if ratio < 2 else 1}f} times fp32 here, {rates}"


def _shown(flops: float) -> str:
    """FLOP/s in GFLOP/s, with at least two digits."""
    giga = flops / 1e9
    return f"{giga:,.0f}" if giga >= 10 else f"{giga:.2g}"
