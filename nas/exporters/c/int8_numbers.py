"""How integers stand for real numbers: encodings of values, int8 weights, and factors between two scales."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LOW, HIGH = -128, 127
WIDE = 32767  # largest int16; the lowest logit is -WIDE, too
MULTIPLIER_BITS = 31
MAX_SHIFT = 62


@dataclass(frozen=True, slots=True)
class Encoding:
    """How integers stand for real numbers: `scale * (integer - zero)`."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, low: float, high: float) -> "Encoding":
        """Returns the int8 encoding of the numbers from `low` to `high`, and of 0, which is exact."""
        low, high = min(low, 0.0), max(high, 0.0)
        scale = (high - low) / (HIGH - LOW) or 1.0  # all numbers are 0
        return cls(scale, int(np.clip(round(LOW - low / scale), LOW, HIGH)))

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the closest integers, int8."""
        return np.clip(np.round(numbers / self.scale) + self.zero, LOW, HIGH).astype(np.int8)

    def decode(self, integers: np.ndarray) -> np.ndarray:
        """Returns the real numbers that the integers stand for."""
        decoded: np.ndarray = self.scale * (integers.astype(np.float64) - self.zero)
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Weights:
    """Weights of a convolution: real numbers are `scales * integers`.

    Attributes:
        integers: int8 (out channels, in channels / groups, size, size).
        scales: float64 (out channels,).
    """

    integers: np.ndarray
    scales: np.ndarray

    @classmethod
    def of(cls, weight: Tensor, scales: np.ndarray) -> "Int8Weights":
        """Returns the closest integers of float32 weights."""
        integers = np.round(weight.numpy() / scales[:, None, None, None]).astype(np.int8)
        return cls(integers=integers, scales=scales)

    def decode(self) -> Tensor:
        """Returns the real numbers, float32."""
        return torch.from_numpy(self.integers * self.scales[:, None, None, None]).float()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rescaling:
    """Turns int32 sums into integers of another scale: `(sum * multiplier + 2^(shift - 1)) >> shift`.

    Attributes:
        multiplier: int32, of each channel or of each input.
        shift: int8, 1 to 62, likewise.
    """

    multiplier: np.ndarray
    shift: np.ndarray

    @classmethod
    def by(cls, factors: Iterable[float]) -> "Rescaling":
        """Returns the rescaling that multiplies by the factors, each of at least 0, to 31 bits."""
        pairs = [_multiplier_and_shift(factor) for factor in factors]
        multiplier, shift = zip(*pairs, strict=True)
        return cls(multiplier=np.array(multiplier, np.int32), shift=np.array(shift, np.int8))

    @classmethod
    def by_common_shift(cls, factors: Sequence[float]) -> "Rescaling":
        """Returns the rescaling with one shift for all factors, so that rescaled numbers can be added before it."""
        _, shift = _multiplier_and_shift(max(factors))
        multiplier = [round(math.ldexp(factor, shift)) for factor in factors]
        return cls(multiplier=np.array(multiplier, np.int32), shift=np.full(len(factors), shift, np.int8))

    def as_int64(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns multipliers and shifts in the type of the products."""
        return self.multiplier.astype(np.int64), self.shift.astype(np.int64)


def _multiplier_and_shift(factor: float) -> tuple[int, int]:
    fraction, exponent = math.frexp(factor)  # factor = fraction * 2^exponent, fraction in [0.5, 1)
    multiplier, shift = round(math.ldexp(fraction, MULTIPLIER_BITS)), MULTIPLIER_BITS - exponent
    if multiplier == 1 << MULTIPLIER_BITS:
        multiplier, shift = multiplier >> 1, shift - 1
    if shift > MAX_SHIFT:
        return 0, MAX_SHIFT  # below 2^-32: a sum of 32 bits becomes 0
    if shift < 1:
        raise ValueError(f"a rescaling factor is {factor:.3g}, expected below {2 ** (MULTIPLIER_BITS - 1)}")
    return multiplier, shift
