"""From a network to the parameter values of a search space that make it.

Blocks lie between pools, so a network is read block by block: what a block's first convolution says of its style is
believed, the layers that such a block has are put together as the search space does it, and the two are compared.
Where layers can be read in several ways, such as a 1x1 convolution beside a pool, every way is tried.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import product, takewhile, zip_longest
from random import Random

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import Activation, BatchNorm, Convolution, Dropout, Layer, chain
from nas.errors import ArchitectureError
from nas.space.domains import Choice, Domain, FloatRange, IntRange, Value
from nas.space.search_space import HEADS, ORDERS, POOLS, SearchSpace, shared, unit

Layers = tuple[Layer, ...]
Values = dict[str, Value]


def values_of(space: SearchSpace, architecture: Architecture) -> Values:
    """Values of the parameters that the network depends on: the space makes it of them, whatever the others are.

    Raises `ArchitectureError` with the first layer that no values give or, where the layers are right, with every
    value that the space does not hold; of several readings the one with the fewest of them counts.
    """
    if architecture.input_shape != space.input_shape:
        raise ArchitectureError(f"input_shape is {architecture.input_shape}, allowed: {space.input_shape}")
    if architecture.output_shape != (space.num_classes,):
        raise ArchitectureError(f"output_shape is {architecture.output_shape}, allowed: {(space.num_classes,)}")
    readings: list[Values] = []
    misfits: list[_Misfit] = []
    around = any(isinstance(layer, Residual) for layer in architecture.layers)
    for (head, end), residual in product(_heads(space, architecture), (around, not around)):
        try:
            readings.append(_read(space, architecture, end, head, residual))
        except _Misfit as misfit:
            misfits.append(misfit)
    if not readings:
        raise ArchitectureError(str(_furthest(misfits)))
    values = _fittest(space, readings)
    if outside := _outside(space, values):
        raise ArchitectureError("; ".join(outside))
    rebuilt = space.architecture({**space.draw(Random(0)), **values})
    if difference := _difference(architecture.layers, rebuilt.layers):
        raise ArchitectureError(str(difference))
    return {name: values[name] for name in space.domains if name in values}


class _Misfit(Exception):
    """A layer that does not stand where it could; its place is an index, and one more for each layer around it."""

    def __init__(self, place: tuple[int, ...], found: Layer | None, allowed: str) -> None:
        super().__init__(
            f"layer {'.'.join(str(index + 1) for index in place)}: {_text(found)} found, allowed: {allowed}"
        )
        self.place = place


def _furthest(misfits: Sequence[_Misfit]) -> _Misfit:
    """That of the reading which came furthest, and so tells most; of equals the first."""
    return max(misfits, key=lambda misfit: misfit.place)


def _fittest(space: SearchSpace, readings: Sequence[Values]) -> Values:
    return min(readings, key=lambda reading: len(_outside(space, reading)))


@dataclass(frozen=True, slots=True)
class _Style:
    """What is one and the same in all blocks."""

    order: str
    activation: str
    head: str
    residual: bool

    def transition(self, channels: int) -> Layers:
        return unit(channels, 1, "same", "full", self.order, self.activation, 0.0)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block's layers and, in `behind`, the pool or head after it; `start` is the place of the first layer."""

    number: int
    start: int
    channels: int
    layers: Layers
    behind: Layers
    last: bool


def _heads(space: SearchSpace, architecture: Architecture) -> list[tuple[str, int]]:
    """The heads that the network may be said to have, with the place where each begins."""
    layers = architecture.layers
    start = max(0, len(layers) - 3)
    ends = [end for end in range(start, len(layers)) if not any(layer.ends_features for layer in layers[:end])]
    heads = [(head, end) for head in HEADS for end in ends if space.head(head, layers[:end]) == layers[end:]]
    if not heads:
        found = ", ".join(_text(layer) for layer in layers[start:])
        raise ArchitectureError(f"layer {start + 1}: {found} found, allowed: a head ({', '.join(HEADS)})")
    return heads


def _read(space: SearchSpace, architecture: Architecture, end: int, head: str, residual: bool) -> Values:
    """Values of all that the network depends on, fixed or not, its head beginning at `end`; raises `_Misfit`."""
    order, activation = _order(architecture.layers)
    style = _Style(order, activation, head, residual)
    pools = [index for index, layer in enumerate(architecture.layers[:end]) if type(layer) in map(type, POOLS.values())]
    values: Values = {"num_blocks": len(pools) + 1, "activation": activation, "order": order, "head": head}
    values["residual"] = residual
    if pools:
        values["pool"] = next(x for x, pool in POOLS.items() if type(pool) is type(architecture.layers[pools[0]]))
    # The fittest values so far, apart for whether they leave a transition for the next block to begin with.
    best = {False: values}
    blocks = list(_blocks(architecture, end, pools))
    for block in blocks:
        found: dict[bool, list[Values]] = {False: [], True: []}
        misfits: list[_Misfit] = []
        transitions = ("none",) if block.last else ("none", "before_pool", "after_pool")
        for (led, before), transition in product(best.items(), transitions):
            for own, layers in _readings(block, style, led, transition):
                if misfit := _difference(block.layers, layers, (block.start,)):
                    misfits.append(misfit)
                else:
                    found[transition == "after_pool"].append({**before, **own})
        best = {leaves: _fittest(space, readings) for leaves, readings in found.items() if readings}
        if not best:
            nowhere = _Misfit((block.start,), block.layers[0], "a convolution")
            raise _furthest(misfits or [nowhere])
    values = best[False]
    if all(values[f"block{block.number}.padding"] == "valid" for block in blocks):
        del values["residual"]  # there is nothing for it to go around
    return values


def _order(layers: Layers) -> tuple[str, str]:
    """Order and activation, as the first convolution has them."""
    first = (layers[0].children() or layers)[1:3]
    parts = tuple("norm" if isinstance(x, BatchNorm) else "act" if isinstance(x, Activation) else "" for x in first)
    order = next((order for order, own in ORDERS.items() if parts[: len(own)] == own), "norm_act")
    return order, next((x.function for x in first if isinstance(x, Activation)), "relu")


def _blocks(architecture: Architecture, end: int, pools: Sequence[int]) -> Iterator[_Block]:
    layers = architecture.layers
    for number, (before, pool) in enumerate(zip([-1, *pools], [*pools, None], strict=True), start=1):
        start, stop = before + 1, len(layers) if pool is None else pool + 1
        channels = chain(layers[:start], architecture.input_shape).output_shape[0]
        # Of two kinds of pools the second is the one that does not fit.
        behind = layers[end:] if pool is None else tuple(x for x in POOLS.values() if type(x) is type(layers[pools[0]]))
        yield _Block(number, start, channels, layers[start:stop], behind, last=pool is None)


def _convolutions(layers: Layers) -> list[Layer]:
    return [layer for layer in layers if isinstance(layer, Convolution | Repeat | Residual)]


def _readings(block: _Block, style: _Style, led: bool, transition: str) -> Iterator[tuple[Values, Layers]]:
    """Values of the block, each with all the layers that they stand for, and which need not be those that are there.

    `led`: its first convolution is the transition of the block before.
    """
    prefix = f"block{block.number}."
    values: Values = {} if block.last else {f"{prefix}transition": transition}
    body, behind, channels = block.layers[: len(block.layers) - len(block.behind)], block.behind, block.channels
    convs = _convolutions(body)
    lead: Layers = ()
    if led:
        if not convs or not isinstance(first := convs.pop(0), Convolution):
            return
        channels = values[f"block{block.number - 1}.transition_channels"] = first.out_channels
        lead = style.transition(channels)
    if transition == "before_pool":
        if not convs or not isinstance(final := convs.pop(), Convolution):
            return
        values[f"{prefix}transition_channels"] = final.out_channels
        behind = style.transition(final.out_channels) + behind
    body = body[len(lead) :]
    if body and isinstance(body[0], Residual):
        body = body[0].layers
        convs = _convolutions(body)
    plain = [layer for layer in convs if isinstance(layer, Convolution)]
    if not plain:
        return
    conv, widths = plain[0], [layer.out_channels for layer in plain]
    repeats = [layer.times for layer in convs if isinstance(layer, Repeat)]
    counts = [(len(widths), repeats[0] if repeats else 0)]
    if not repeats and widths[-1:] == widths[-2:-1]:
        counts.append((len(widths) - 1, 1))  # shared with itself alone
    after = takewhile(lambda layer: not isinstance(layer, Convolution | Repeat), body[1:])
    dropout = next((layer.rate for layer in after if isinstance(layer, Dropout)), 0.0)
    kind = "separable" if isinstance(conv, DepthwiseSeparable) else "full"
    paddings = ("same",) if conv.padding else ("same", "valid") if conv.kernel_size == 1 else ("valid",)
    for padding, (num_convs, times) in product(paddings, counts):
        of_each = conv.kernel_size, padding, kind, style.order, style.activation, dropout
        layers = tuple(layer for width in widths[:num_convs] for layer in unit(width, *of_each))
        if times:
            layers += shared(widths[-1], times, *of_each)
        if style.residual and padding == "same":
            layers = (Residual(layers=layers, projection=channels != widths[-1]),)
        own: Values = {"num_convs": num_convs, "kernel_size": conv.kernel_size, "padding": padding}
        own |= {"convolution": kind, "shared_repeats": times, "dropout": dropout}
        drawn = num_convs - (block.last and style.head == "gap")  # whose last one counts out the classes
        own |= {f"conv{number}.channels": width for number, width in enumerate(widths[:drawn], start=1)}
        yield {**values, **{prefix + key: value for key, value in own.items()}}, lead + layers + behind


def _difference(found: Layers, expected: Layers, place: tuple[int, ...] = (0,)) -> _Misfit | None:
    """The first layer that is another one than expected; `place` is that of the first of them."""
    for index, (layer, other) in enumerate(zip_longest(found, expected), start=place[-1]):
        if layer != other:
            here = (*place[:-1], index)
            within = (
                layer and type(layer) is type(other) and _difference(layer.children(), other.children(), (*here, 0))
            )
            return within or _Misfit(here, layer, _text(other))
    return None


def _text(layer: Layer | None) -> str:
    """A layer in a file's words, without the layers in it."""
    if layer is None:
        return "nothing"
    values = {field.name: getattr(layer, field.name) for field in fields(layer) if field.name != "layers"}
    defaults = {field.name: field.default for field in fields(layer)}
    told = {name: value for name, value in values.items() if value != defaults[name]} or values
    return layer.kind + (f"({', '.join(f'{name}={value}' for name, value in told.items())})" if told else "")


def _outside(space: SearchSpace, values: Values) -> list[str]:
    """A line for each value that the space does not hold; parameters that it does not have tell nothing new."""
    domains = {name: space.domains.get(name, space.fixed.get(name)) for name in values}
    return [
        f"{name} is {_word(value)}, allowed: {_allowed(domain)}"
        for name, value in values.items()
        if (domain := domains[name]) is not None and not _holds(domain, value)
    ]


def _holds(domain: Domain | Value, value: Value) -> bool:
    if isinstance(domain, FloatRange):  # which holds what is between its steps, too
        return domain.holds(value) and domain.short(domain.nearest(value)) == value
    return domain.holds(value) if isinstance(domain, Choice | IntRange) else domain == value


def _allowed(domain: Domain | Value) -> str:
    if isinstance(domain, Choice):
        return ", ".join(map(_word, domain.values))
    if not isinstance(domain, IntRange | FloatRange):
        return _word(domain)
    steps = f" in steps of {domain.step}" if domain.step not in (None, 1) else ""
    digits = " with 3 significant digits" if domain.step is None else ""
    return f"{domain.low} to {domain.high}{steps}{digits}"


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
