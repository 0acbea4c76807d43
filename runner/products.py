"""How fast a device's matrix products are in each precision, and what follows from that."""

from dataclasses import dataclass

BF16 = "bf16 autocast"
TF32 = "TF32"

# A lower precision is applied where its products are this many times as fast as fp32's.
WORTHWHILE = 1.1
# Another way to compute fp32 is taken where it is this many times as fast as PyTorch's default.
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
    """Rates by how products are computed.

    The first three are settings of torch.set_float32_matmul_precision. `high` permits TF32 and
    `medium` bfloat16. Where a device has neither, they still compute in fp32, but may do it by
    another library: oneDNN on a CPU. `bf16` is autocast with fp32 weights.
    """

    highest: Rate
    high: Rate
    medium: Rate
    bf16: Rate

    @property
    def fp32_setting(self) -> str:
        """The setting for products in true fp32: the default, or one that is exact and faster."""
        others = {"high": self.high, "medium": self.medium}
        least = CLEARLY_FASTER * self.highest.flops
        exact = {name: r.flops for name, r in others.items() if r.exact and r.flops >= least}
        return max(exact, key=lambda name: exact[name], default="highest")

    @property
    def fp32(self) -> Rate:
        """The rate of that setting."""
        return getattr(self, self.fp32_setting)

    @property
    def tf32_is_faster(self) -> bool:
        return not self.high.exact and self._is_worthwhile(self.high)

    @property
    def bf16_is_faster(self) -> bool:
        return not self.bf16.exact and self._is_worthwhile(self.bf16)

    @property
    def precisions(self) -> str:
        """What runs must have in common for their losses to be compared: `fp32, bf16 autocast`.

        Settings that keep the mantissa of fp32 differ in the order of additions only.
        """
        lower = {TF32: self.tf32_is_faster, BF16: self.bf16_is_faster}
        return ", ".join(["fp32", *(name for name in lower if lower[name])])

    @property
    def answers(self) -> str:
        """What they must have in common for speeds and exact resumption: the setting too."""
        return f"{self.precisions}; fp32 by {self.fp32_setting}"

    @property
    def gains(self) -> dict[str, str]:
        """What was measured of each lower precision."""
        return {TF32: self._compared(self.high), BF16: self._compared(self.bf16)}

    @property
    def summary(self) -> str:
        """The rates in words."""
        fp32, default = self.fp32.flops, self.highest.flops
        said = f"{_shown(fp32)} GFLOP/s in fp32"
        if self.fp32_setting != "highest":
            said += (
                f" (PyTorch's setting {self.fp32_setting!r}, which is exact here and "
                f"{fp32 / default:.2f} times its default)"
            )
        if not self.high.exact:
            said += f", {_shown(self.high.flops)} in TF32"
        return f"{said}, {_shown(self.bf16.flops)} in bf16 autocast"

    def why_not(self, rate: Rate) -> str:
        """Why a lower precision brings nothing, where it does not."""
        if not rate.flops:
            return "this device cannot compute such matrix products"
        if rate.exact:
            return "it changes nothing here: matrix products keep the precision of fp32"
        return f"its matrix products are only {self._compared(rate)}"

    def _compared(self, rate: Rate) -> str:
        ratio = rate.flops / self.fp32.flops
        digits = 2 if ratio < 2 else 1
        return (
            f"{ratio:.{digits}f} times fp32 here, {_shown(rate.flops)} against "
            f"{_shown(self.fp32.flops)} GFLOP/s"
        )

    def _is_worthwhile(self, rate: Rate) -> bool:
        return rate.flops >= WORTHWHILE * self.fp32.flops


def _shown(flops: float) -> str:
    """FLOP/s in GFLOP/s, with at least two digits."""
    giga = flops / 1e9
    return f"{giga:,.0f}" if giga >= 10 else f"{giga:.2g}"
