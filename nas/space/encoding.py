"""Finds the parameter values with which a search space produces a given network.

Pools separate the blocks, so a network is read block by block. The parameters that all convolutions of a block share
are read from its first convolution. The layers that the search space builds with these parameters are compared with the
layers of the network. If layers can be read in several ways, such as a 1x1 convolution next to a pool, every reading is
tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product, takewhile, zip_longest
from random import Random

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import Activation, Convolution, Dropout, Layer, measure_sequence
from nas.errors import ArchitectureError
from nas.space.domains import Choice, Domain, FloatRange, IntRange, Value, Values, domain_text, value_text
from nas.space.network_parts import (
    HEADS,
    ORDERS,
    POOLS,
    ConvStyle,
    Layers,
    after_conv,
    block_layers,
    head_layers,
    transition_unit,
)
from nas.space.search_space import SearchSpace


def encode_architecture(space: SearchSpace, architecture: Architecture) -> Values:
    """Returns the parameter values with which `space` produces `architecture`; unused parameters are left out.

    Raises `ArchitectureError` if no values produce the network. The message names the first layer that cannot be
    produced or, if all layers can, the values that are outside the space. If the network can be read in several ways,
    the reading with the fewest values outside the space is taken.
    """
    if architecture.input_shape != space.input_shape:
        raise ArchitectureError(f"input_shape is {architecture.input_shape}, expected {space.input_shape}")
    if architecture.output_shape != (space.num_classes,):
        raise ArchitectureError(f"output_shape is {architecture.output_shape}, expected {(space.num_classes,)}")
    readings: list[Values] = []
    mismatches: list[_LayerMismatch] = []
    # Both are tried, because blocks without padding look the same with and without `residual`.
    has_residual = any(isinstance(layer, Residual) for layer in architecture.layers)
    for (head, end), residual in product(_heads(space, architecture), (has_residual, not has_residual)):
        try:
            readings.append(_read_network(space, architecture, end, head, residual))
        except _LayerMismatch as mismatch:
            mismatches.append(mismatch)
    if not readings:
        raise ArchitectureError(str(_furthest(mismatches)))
    values = _best_reading(space, readings)
    if outside := _out_of_domain_messages(space, values):
        raise ArchitectureError("; ".join(outside))
    # The reading explains each block by itself; whether they give the network together is checked here.
    rebuilt = space.architecture({**space.draw(Random(0)), **values})
    if difference := _difference(architecture.layers, rebuilt.layers):
        raise ArchitectureError(str(difference))
    return {name: values[name] for name in space.domains if name in values}


class _LayerMismatch(Exception):
    """A layer that the space cannot have at its place.

    The place is the index of the layer, after the indices of the composites that contain it.
    """

    def __init__(self, place: tuple[int, ...], found: Layer | None, expected: str) -> None:
        super().__init__(
            f"layer {'.'.join(str(index + 1) for index in place)}: {_layer_text(found)} found, expected {expected}"
        )
        self.place = place


def _furthest(mismatches: Sequence[_LayerMismatch]) -> _LayerMismatch:
    """Returns the mismatch furthest into the network, because its reading explains most layers; the first of equals."""
    return max(mismatches, key=lambda mismatch: mismatch.place)


def _best_reading(space: SearchSpace, readings: Sequence[Values]) -> Values:
    """Returns the reading with the fewest values outside the space, the first of equals."""
    return min(readings, key=lambda reading: len(_out_of_domain_messages(space, reading)))


@dataclass(frozen=True, slots=True)
class _Style:
    """Properties that all blocks of a network share."""

    order: str
    activation: str
    head: str
    residual: bool

    def transition(self, channels: int) -> Layers:
        return transition_unit(channels, self.order, self.activation)


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of the network to read.

    Attributes:
        number: number of the block, from 1.
        start: index of its first layer in the network.
        channels: channels of its input.
        layers: all its layers, with the pool or head after it.
        end_layers: the pool or head that is expected at the end of `layers`.
        last: whether it is the last block.
    """

    number: int
    start: int
    channels: int
    layers: Layers
    end_layers: Layers
    last: bool


def _heads(space: SearchSpace, architecture: Architecture) -> list[tuple[str, int]]:
    """Returns the possible heads of the network, each with the index of its first layer."""
    layers = architecture.layers
    start = max(0, len(layers) - 3)  # a head has at most three layers
    ends = [end for end in range(start, len(layers)) if not any(layer.ends_features for layer in layers[:end])]
    heads = [
        (head, end)
        for head, end in product(HEADS, ends)
        if layers[end:] == head_layers(head, layers[:end], input_shape=space.input_shape, num_classes=space.num_classes)
    ]
    if not heads:
        found = ", ".join(_layer_text(layer) for layer in layers[start:])
        raise ArchitectureError(f"layer {start + 1}: {found} found, expected a head ({', '.join(HEADS)})")
    return heads


def _read_network(space: SearchSpace, architecture: Architecture, end: int, head: str, residual: bool) -> Values:
    """Returns the values that the network depends on, including fixed ones; raises `_LayerMismatch`.

    `end`: index of the head's first layer.
    """
    order, activation = _order_and_activation(architecture.layers)
    style = _Style(order, activation, head, residual)
    pools = [index for index, layer in enumerate(architecture.layers[:end]) if type(layer) in map(type, POOLS.values())]
    values: Values = {"num_blocks": len(pools) + 1, "activation": activation, "order": order, "head": head}
    values["residual"] = residual
    if pools:
        values["pool"] = next(x for x, pool in POOLS.items() if type(pool) is type(architecture.layers[pools[0]]))
    blocks = list(_blocks(architecture, end, pools))
    best = {False: values}  # by whether the next block begins with a transition
    for block in blocks:
        best = _best_with_block(space, block, style, best)
    values = best[False]  # nothing follows the last block
    if all(values[f"block{block.number}.padding"] == "valid" for block in blocks):
        del values["residual"]  # unused: blocks without padding have no residual connection
    return values


def _best_with_block(
    space: SearchSpace, block: _Block, style: _Style, best_before: Mapping[bool, Values]
) -> dict[bool, Values]:
    """Returns the best values of the network up to this block, from those up to the block before it.

    Both are by whether the block after them begins with their transition, because it comes after the pool. Raises
    `_LayerMismatch` if no reading of the block fits.
    """
    fitting: dict[bool, list[Values]] = {False: [], True: []}
    mismatches: list[_LayerMismatch] = []
    transitions = ("none",) if block.last else ("none", "before_pool", "after_pool")
    for (begins_with_transition, before), transition in product(best_before.items(), transitions):
        for own, layers in _readings(block, style, begins_with_transition, transition):
            if mismatch := _difference(block.layers, layers, (block.start,)):
                mismatches.append(mismatch)
            else:
                fitting[transition == "after_pool"].append({**before, **own})
    best = {after_pool: _best_reading(space, readings) for after_pool, readings in fitting.items() if readings}
    if not best:
        raise _furthest(mismatches or [_LayerMismatch((block.start,), block.layers[0], "a convolution")])
    return best


def _order_and_activation(layers: Layers) -> tuple[str, str]:
    """Returns the order and the activation function after the first convolution; the defaults if there are none."""
    begin = layers[0].children() or layers  # the first convolution may be inside a residual
    following = tuple(takewhile(lambda layer: not isinstance(layer, Convolution), begin[1:]))
    activation = next((layer.function for layer in following if isinstance(layer, Activation)), "relu")
    expected = {order: after_conv(order, activation) for order in ORDERS}
    return next((order for order, own in expected.items() if following[: len(own)] == own), "norm_act"), activation


def _blocks(architecture: Architecture, end: int, pools: Sequence[int]) -> Iterator[_Block]:
    """Yields the blocks of the network; `pools` are the indices of its pools, `end` that of its head."""
    layers = architecture.layers
    for number, (before, pool) in enumerate(zip([-1, *pools], [*pools, None], strict=True), start=1):
        start, stop = before + 1, len(layers) if pool is None else pool + 1
        channels = measure_sequence(layers[:start], architecture.input_shape).output_shape[0]
        # A space has one kind of pool per network, so a later pool of another kind is reported as a mismatch.
        first_pool = tuple(x for x in POOLS.values() if pools and type(x) is type(layers[pools[0]]))
        end_layers = layers[end:] if pool is None else first_pool
        yield _Block(number, start, channels, layers[start:stop], end_layers, last=pool is None)


def _convolutions(layers: Layers) -> list[Layer]:
    return [layer for layer in layers if isinstance(layer, Convolution | Repeat | Residual)]


def _readings(
    block: _Block, style: _Style, begins_with_transition: bool, transition: str
) -> Iterator[tuple[Values, Layers]]:
    """Yields possible values of the block, each with the layers that they produce, for comparison with the network.

    `begins_with_transition`: the block's first convolution is the transition of the block before it.
    """
    prefix = f"block{block.number}."
    values: Values = {} if block.last else {f"{prefix}transition": transition}
    before: Layers = ()
    body, after, channels = block.layers[: len(block.layers) - len(block.end_layers)], block.end_layers, block.channels
    convs = _convolutions(body)
    if begins_with_transition:
        if not convs or not isinstance(first := convs.pop(0), Convolution):
            return
        channels = values[f"block{block.number - 1}.transition_channels"] = first.out_channels
        before = style.transition(channels)
    if transition == "before_pool":
        if not convs or not isinstance(final := convs.pop(), Convolution):
            return
        values[f"{prefix}transition_channels"] = final.out_channels
        after = style.transition(final.out_channels) + after
    body = body[len(before) :]
    if body and isinstance(body[0], Residual):
        body = body[0].layers
        convs = _convolutions(body)
    for own, layers in _body_readings(body, convs, style, channels, gap=block.last and style.head == "gap"):
        yield values | {prefix + key: value for key, value in own.items()}, before + layers + after


def _body_readings(
    body: Layers, convs: Sequence[Layer], style: _Style, in_channels: int, *, gap: bool
) -> Iterator[tuple[Values, Layers]]:
    """Yields possible values of a block without transitions, each with the layers that they produce.

    `convs`: the convolutions and repeats of the block.
    `gap`: the last convolution has one channel per class, so its width is not a parameter.
    """
    plain = [layer for layer in convs if isinstance(layer, Convolution)]
    if not plain:
        return
    conv, widths = plain[0], [layer.out_channels for layer in plain]
    kind = "separable" if isinstance(conv, DepthwiseSeparable) else "full"
    after = takewhile(lambda layer: not isinstance(layer, Convolution | Repeat), body[1:])
    dropout = next((layer.rate for layer in after if isinstance(layer, Dropout)), 0.0)
    paddings = ("same",) if conv.padding else ("same", "valid") if conv.kernel_size == 1 else ("valid",)
    repeats = [layer.times for layer in convs if isinstance(layer, Repeat)]
    counts = [(len(widths), repeats[0] if repeats else 0)]
    if not repeats and widths[-1:] == widths[-2:-1]:
        counts.append((len(widths) - 1, 1))  # a shared convolution applied once looks like any other
    for padding, (num_convs, times) in product(paddings, counts):
        conv_style = ConvStyle(conv.kernel_size, padding, kind, style.order, style.activation, dropout)
        own: Values = {"num_convs": num_convs, "kernel_size": conv.kernel_size, "padding": padding}
        own |= {"convolution": kind, "shared_repeats": times, "dropout": dropout}
        own |= {f"conv{number}.channels": width for number, width in enumerate(widths[: num_convs - gap], start=1)}
        yield own, block_layers(widths[:num_convs], times, conv_style, style.residual, in_channels)


def _difference(found: Layers, expected: Layers, place: tuple[int, ...] = (0,)) -> _LayerMismatch | None:
    """Returns the first difference as a mismatch, or None; `place` is the place of the first layer."""
    for index, (layer, other) in enumerate(zip_longest(found, expected), start=place[-1]):
        if layer != other:
            layer_place = (*place[:-1], index)
            inside = None
            if layer is not None and type(layer) is type(other):
                inside = _difference(layer.children(), other.children(), (*layer_place, 0))
            return inside or _LayerMismatch(layer_place, layer, _layer_text(other))
    return None


def _layer_text(layer: Layer | None) -> str:
    """Returns a layer's kind and non-default fields (all if none differs) as text, without the layers inside it."""
    if layer is None:
        return "nothing"
    values = {field.name: getattr(layer, field.name) for field in fields(layer) if field.name != "layers"}
    defaults = {field.name: field.default for field in fields(layer)}
    shown = {name: value for name, value in values.items() if value != defaults[name]} or values
    return layer.kind + (f"({', '.join(f'{name}={value}' for name, value in shown.items())})" if shown else "")


def _out_of_domain_messages(space: SearchSpace, values: Values) -> list[str]:
    """Returns a message for each value outside the space; parameters that it does not have are ignored."""
    domains = {name: space.domains.get(name, space.fixed.get(name)) for name in values}
    return [
        f"{name} is {value_text(value)}, expected {_domain_text(domain)}"
        for name, value in values.items()
        if (domain := domains[name]) is not None and not _domain_accepts(domain, value)
    ]


def _domain_accepts(domain: Domain | Value, value: Value) -> bool:
    if isinstance(domain, FloatRange):  # FloatRange.accepts ignores steps
        return domain.accepts(value) and domain.rounded_value(domain.nearest(value)) == value
    return domain.accepts(value) if isinstance(domain, Choice | IntRange) else domain == value


def _domain_text(domain: Domain | Value) -> str:
    rounded = isinstance(domain, FloatRange) and domain.step is None
    return domain_text(domain) + " with 3 significant digits" * rounded
