"""Widths: draws the number of channels of all convolutions together instead of independently.

Independent widths rarely make a good network. The table [widths] of a space relates them: the width of the first block,
the growth from block to block, and the deviation of each convolution from its block. `fill.py` then scales them to the
limits. RegNet's spaces have the same design; here the networks have a few thousand parameters (Radosavovic et al. 2020,
arXiv 2003.13678).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from random import Random

from nas.schema import Interval, ScalarSchema
from nas.space.domains import Choice, Domain, Value, Values

FACTOR = Interval(float, 0.1, 10.0)
WIDTHS_PARAMETERS: dict[str, tuple[ScalarSchema, Value | None]] = {
    "start": (Interval(float, 1), None),
    "squeeze": (FACTOR, 1.0),
    "jitter": (Interval(float, 1.0, 10.0), 1.0),
}
GROWTH_PARAMETERS: dict[str, tuple[ScalarSchema, Value | None]] = {"growth": (FACTOR, 1.0)}
"""Keys of the table [widths], and the key that it adds to the table of a block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """Joint distribution of the widths in random draws.

    Attributes:
        start: channels of the first block.
        growth: for each block, the ratio of its channels to those of the block before it; the first entry is not used.
        squeeze: ratio of the channels of the 1x1 convolution before or after a pool to those of the block before the
            pool.
        jitter: largest ratio between the channels of a convolution and those of its block, in both directions.
    """

    start: Domain | Value
    growth: tuple[Domain | Value, ...]
    squeeze: Domain | Value
    jitter: Domain | Value

    def draw(self, rng: Random, domains: Mapping[str, Domain]) -> Values:
        """Returns random channels of every convolution in `domains`, rounded to the nearest value of each domain."""
        channels: Values = {}
        width, jitter = _draw(self.start, rng), _draw(self.jitter, rng)
        names = width_names(tuple(domains))
        for number, growth in enumerate(self.growth, start=1):
            width *= _draw(growth, rng) if number > 1 else 1.0
            for name in names.get(f"block{number}", ()):
                is_transition = name.endswith("transition_channels")
                factor = _draw(self.squeeze, rng) if is_transition else jitter ** rng.uniform(-1.0, 1.0)
                channels[name] = nearest_width(domains[name], width * factor)
        return channels

    def domains(self) -> dict[str, Domain | Value]:
        """Returns the domain or the fixed value of each part of the distribution, by name."""
        growth = {f"block{number}.growth": growth for number, growth in enumerate(self.growth, start=1)}
        return {"start": self.start, "squeeze": self.squeeze, "jitter": self.jitter, **growth}


def is_width(name: str) -> bool:
    """Returns whether the parameter of that name is a number of channels."""
    return name.endswith("channels")


@lru_cache(maxsize=16)
def width_names(parameters: tuple[str, ...]) -> Mapping[str, Sequence[str]]:
    """Returns the names of the parameters that are numbers of channels, by block."""
    names: dict[str, list[str]] = {}
    for name in filter(is_width, parameters):
        names.setdefault(name.partition(".")[0], []).append(name)
    return names


def scale_widths(values: Mapping[str, Value], domains: Mapping[str, Domain], factor: float) -> Values:
    """Returns the values with every width multiplied by a factor and rounded to the nearest value of its domain."""
    names = chain.from_iterable(width_names(tuple(domains)).values())
    widths = {name: nearest_width(domains[name], float(values[name]) * factor) for name in names}
    return {**values, **widths}


def nearest_width(domain: Domain, width: float) -> Value:
    """Returns the value of the domain that is closest to a width."""
    if isinstance(domain, Choice):
        return min(domain.values, key=lambda value: abs(float(value) - width))
    return domain.nearest(width)


def _draw(domain: Domain | Value, rng: Random) -> float:
    return float(domain.draw(rng) if isinstance(domain, Domain) else domain)
