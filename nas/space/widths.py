"""Widths: how many channels the convolutions of a random draw have, drawn together instead of one by one.

Independent widths rarely make a sound network, so a space may say how they go together: where they start, by how much
they grow from block to block, how far each differs from its block. `fill.py` then scales them to the limits. This is
the design of RegNet's spaces, on the scale of a few thousand parameters (Radosavovic et al. 2020, arXiv 2003.13678).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from random import Random

from nas.schema import Allowed, Interval
from nas.space.domains import Choice, Domain, FloatRange, IntRange, Value

FACTOR = Interval(float, 0.1, 10.0)
WIDTHS: dict[str, tuple[Allowed, Value | None]] = {
    "start": (Interval(float, 1), None),
    "squeeze": (FACTOR, 1.0),
    "jitter": (Interval(float, 1.0, 10.0), 1.0),
}
GROWTH: dict[str, tuple[Allowed, Value | None]] = {"growth": (FACTOR, 1.0)}
"""Keys of the table `widths`, and the one that a table of a block has for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How random draws choose channels.

    start: channels of the first block. growth: of each block, its channels over those of the block before it; the
    first block's is not used. squeeze: channels of the 1x1 convolution beside a pool, over those of the block before
    it. jitter: each convolution has its block's channels times or divided by at most this factor.
    """

    start: Domain | Value
    growth: tuple[Domain | Value, ...]
    squeeze: Domain | Value
    jitter: Domain | Value

    def draw(self, rng: Random, domains: Mapping[str, Domain]) -> dict[str, Value]:
        """Channels of every convolution that the domains have, each the nearest one of its domain."""
        channels: dict[str, Value] = {}
        width, jitter = _draw(self.start, rng), _draw(self.jitter, rng)
        names = width_names(tuple(domains))
        for number, growth in enumerate(self.growth, start=1):
            width *= _draw(growth, rng) if number > 1 else 1.0
            for name in names.get(f"block{number}", ()):
                beside = name.endswith("transition_channels")
                factor = _draw(self.squeeze, rng) if beside else jitter ** rng.uniform(-1.0, 1.0)
                channels[name] = nearest(domains[name], width * factor)
        return channels


def is_width(name: str) -> bool:
    """Whether the parameter of that name is a number of channels."""
    return name.endswith("channels")


@lru_cache(maxsize=16)
def width_names(parameters: tuple[str, ...]) -> Mapping[str, Sequence[str]]:
    """The parameters that are numbers of channels, by the name of their block."""
    names: dict[str, list[str]] = {}
    for name in filter(is_width, parameters):
        names.setdefault(name.partition(".")[0], []).append(name)
    return names


def scaled(values: Mapping[str, Value], domains: Mapping[str, Domain], factor: float) -> dict[str, Value]:
    """The values with every width times a factor, each the nearest one of its domain."""
    names = chain.from_iterable(width_names(tuple(domains)).values())
    widths = {name: nearest(domains[name], float(values[name]) * factor) for name in names}
    return {**values, **widths}


def nearest(domain: Domain, width: float) -> Value:
    """The domain's value that is closest to a width."""
    if isinstance(domain, Choice):
        return min(domain.values, key=lambda value: abs(float(value) - width))
    return domain.nearest(width)


def _draw(domain: Domain | Value, rng: Random) -> float:
    return float(domain.draw(rng) if isinstance(domain, Choice | IntRange | FloatRange) else domain)
