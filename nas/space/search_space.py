"""SearchSpace: which networks and recipes a search may draw, read from TOML.

The space is flat and static: every parameter of every block and convolution is drawn for every candidate,
and those of blocks and convolutions that a candidate does not have are ignored. So a parameter has one fixed
range in the whole study, which is what lets a sampler model all of them together.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.composites import DepthwiseSeparable, Repeat, Residual
from nas.architecture.layers import (
    ACTIVATIONS,
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Convolution,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    Shape,
    chain,
)
from nas.errors import SearchSpaceError, found
from nas.recipe import ALLOWED, Recipe
from nas.resources import shipped_designs, shipped_or_file
from nas.schema import COUNT, RATE, Allowed, Fields, Flag, ImageShape, Interval, Many, Words, check, check_keys, refusal
from nas.space.candidate import LATER, Candidate
from nas.space.domains import Choice, Domain, FloatRange, Value, read
from nas.space.widths import GROWTH, WIDTHS, Widths
from nas.text import read_text

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

VERSION = 1  # of the meaning of the parameters: raise it when the same values come to mean another network

ORDERS = {"norm_act": ("norm", "act"), "act_norm": ("act", "norm"), "act": ("act",)}
POOLS: dict[str, Layer] = {"max": MaxPool(kernel_size=2), "avg": AvgPool(kernel_size=2)}
HEADS = ("gap_conv", "gap_linear", "conv_gap", "valid_conv", "block_gap", "gap")

Knobs = dict[str, tuple[Allowed, Value | None]]

NETWORK: Knobs = {
    "num_blocks": (Interval(int, 1, 20), None),
    "activation": (Words(tuple(ACTIVATIONS)), "relu"),
    "order": (Words(tuple(ORDERS)), "norm_act"),
    "pool": (Words(tuple(POOLS)), "max"),
    "head": (Words(HEADS), "gap_conv"),
    "residual": (Flag(), False),
}
BLOCK: Knobs = {
    "num_convs": (Interval(int, 1, 100), None),
    "kernel_size": (COUNT, 3),
    "padding": (Words(("same", "valid")), "same"),
    "convolution": (Words(("full", "separable")), "full"),
    "shared_repeats": (Interval(int, 0, 100), 0),
    "transition": (Words(("none", "before_pool", "after_pool")), "none"),
    "transition_channels": (COUNT, 8),
    "dropout": (RATE, 0.0),
}
CONV: Knobs = {"channels": (COUNT, None)}
RECIPE: Knobs = {
    # A rate that suits one optimizer ruins the other, so each has its own range.
    "sgd_learning_rate": (ALLOWED["learning_rate"], 0.1),
    "adam_learning_rate": (ALLOWED["learning_rate"], 0.01),
    **{
        name: (allowed, getattr(Recipe(), name))
        for name, allowed in ALLOWED.items()
        if name not in ("epochs", "learning_rate")
    },
}
"""The keys of each table of a space's file: what a value may be, and the value where the key is left out
(None: it may not be). Epochs are no part of a space: all candidates of a study train equally long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Named parameters, each with a domain or a fixed value, and what network and recipe they stand for.

    widths: how random draws choose channels together; None draws each by itself.
    portfolio: names of the known designs that a search begins with.
    probes: changes of the recipe that a search tries on its best networks, each as values by parameter name.
    """

    name: str
    input_shape: Shape
    num_classes: int
    epochs: int = 15
    domains: Mapping[str, Domain] = field(repr=False)
    fixed: Mapping[str, Value] = field(repr=False)
    widths: Widths | None = field(default=None, repr=False)
    portfolio: tuple[str, ...] = ()
    probes: tuple[Mapping[str, Value], ...] = field(default=(), repr=False)

    @classmethod
    def load(cls, name_or_path: str) -> "SearchSpace":
        """The space in a TOML file, or of that name among those that come with the package."""
        path = shipped_or_file(name_or_path, folder="", suffix=".toml", what="search space", error=SearchSpaceError)
        try:
            data = tomllib.loads(read_text(path, SearchSpaceError))
        except (ValueError, RecursionError) as error:
            raise SearchSpaceError(f"{path}: not TOML: {error}") from None
        return cls.from_toml(data, where=str(path), name=path.stem)

    @classmethod
    def from_toml(cls, data: Mapping[str, Any], *, where: str = "search space", name: str = "") -> "SearchSpace":
        """The space in parsed TOML; a `SearchSpaceError` names `where`, the key, the value and what is allowed."""
        tables = {"network": NETWORK, "block": BLOCK, "conv": CONV, "recipe": RECIPE}
        scaled = "widths" in data
        if scaled:
            tables |= {"block": BLOCK | GROWTH, "widths": WIDTHS}
        own = [key for key in data if key.startswith("block") and key.removeprefix("block").isdecimal()]
        keys = dict.fromkeys(("input_shape", "num_classes", "portfolio", *tables, "widths", "probes"))
        check_keys(data, (*keys, *own), where, SearchSpaceError)
        values = {table: _table(data, table, knobs, where) for table, knobs in tables.items()}
        num_blocks = _most(values["network"]["num_blocks"])
        each = [f"block{number}" for number in range(1, num_blocks + 1)]
        if beyond := sorted(set(own) - set(each)):
            raise SearchSpaceError(
                f"{where}: {beyond[0]}: a space of at most {num_blocks} blocks, allowed: {', '.join(each)}"
            )
        # What the table of one block says stands above what the table of all says.
        blocks = {name: values["block"] | _table(data, name, tables["block"], where, partly=True) for name in each}
        growth = tuple(block.pop("growth") for block in blocks.values()) if scaled else ()
        flat = dict(_flatten(values, blocks))
        shape, classes = data.get("input_shape", [1, 28, 28]), data.get("num_classes", 10)
        check(shape, ImageShape(), f"{where}: input_shape", SearchSpaceError)
        check(classes, Interval(int, 2), f"{where}: num_classes", SearchSpaceError)
        portfolio = data.get("portfolio", [])
        check(portfolio, Many(Words(tuple(shipped_designs()))), f"{where}: portfolio", SearchSpaceError)
        domains = {key: value for key, value in flat.items() if isinstance(value, Domain)}
        return cls(
            name=name,
            input_shape=tuple(shape),
            num_classes=classes,
            domains=domains,
            fixed={key: value for key, value in flat.items() if not isinstance(value, Domain)},
            widths=Widths(growth=growth, **values["widths"]) if scaled else None,
            portfolio=tuple(portfolio),
            probes=_probes(data.get("probes", []), domains, where),
        )

    def bind(self, *, input_shape: Shape, num_classes: int, epochs: int) -> "SearchSpace":
        """The same space for a dataset's images and classes, and a number of epochs."""
        return replace(self, input_shape=input_shape, num_classes=num_classes, epochs=epochs)

    def draw(self, rng: Random) -> dict[str, Value]:
        """Values of all parameters, drawn at random."""
        values = {name: domain.draw(rng) for name, domain in self.domains.items()}
        return values | self.widths.draw(rng, self.domains) if self.widths else values

    def suggest(self, trial: "Trial") -> Candidate:
        """The candidate of an Optuna trial, every parameter of the space asked."""
        return self.candidate({name: domain.suggest(trial, name) for name, domain in self.domains.items()})

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Optuna's distribution of each parameter."""
        return {name: domain.distribution() for name, domain in self.domains.items()}

    def candidate(self, values: Mapping[str, Value]) -> Candidate:
        """The network and recipe that the values stand for; raises `ShapeError` like `architecture`."""
        return Candidate(self.architecture(values), self.recipe(values))

    def recipe(self, values: Mapping[str, Value]) -> Recipe:
        """The recipe that the values stand for; continuous ones to 3 significant digits: what is printed is trained."""
        every = {**self.fixed, **values}
        chosen = {key: self._short(f"recipe.{key}", every) for key in RECIPE}
        by_sgd, by_adam = chosen.pop("sgd_learning_rate"), chosen.pop("adam_learning_rate")
        chosen["learning_rate"] = by_sgd if chosen["optimizer"] == "sgd" else by_adam
        return Recipe(epochs=self.epochs, **chosen)

    def architecture(self, values: Mapping[str, Value]) -> Architecture:
        """The network that the values stand for.

        Raises `ShapeError` where the head cannot be made for want of a map; whether the other layers fit is for
        `cost_of` to find.
        """
        v: dict[str, Any] = {**self.fixed, **values}
        order, activation, head = v["order"], v["activation"], v["head"]
        num_blocks = v["num_blocks"]
        layers: list[Layer] = []
        channels = self.input_shape[0]
        for number in range(1, num_blocks + 1):
            block, last = f"block{number}.", number == num_blocks
            num_convs = v[block + "num_convs"]
            widths = [v[f"{block}conv{c}.channels"] for c in range(1, num_convs + 1)]
            if last and head == "gap":
                widths[-1] = self.num_classes
            kernel, padding = v[block + "kernel_size"], v[block + "padding"]
            style = kernel, padding, v[block + "convolution"], order, activation, self._short(block + "dropout", v)
            body: tuple[Layer, ...] = ()
            for width in widths:
                body += unit(width, *style)
            if v[block + "shared_repeats"]:
                body += shared(widths[-1], v[block + "shared_repeats"], *style)
            if v["residual"] and padding == "same":  # a valid convolution leaves nothing to add to
                body = (Residual(layers=body, projection=channels != widths[-1]),)
            layers += body
            channels = widths[-1]
            if not last:
                pool, transition = POOLS[v["pool"]], v[block + "transition"]
                if transition == "none":
                    layers.append(pool)
                else:
                    channels = v[block + "transition_channels"]
                    beside = unit(channels, 1, "same", "full", order, activation, 0.0)
                    layers += (*beside, pool) if transition == "before_pool" else (pool, *beside)
        layers += self.head(head, layers)
        return Architecture(input_shape=self.input_shape, layers=tuple(layers))

    def _short(self, name: str, values: Mapping[str, Any]) -> Any:
        domain = self.domains.get(name)
        return domain.short(values[name]) if isinstance(domain, FloatRange) else values[name]

    def head(self, head: str, features: Sequence[Layer]) -> tuple[Layer, ...]:
        """The layers that make scores of the classes of a feature map; `features` are those before them.

        "block_gap" is one more convolution of the last block, bare: a norm and an activation would bound the scores.
        """
        if head == "gap_conv":
            return GlobalAvgPool(), _classifier(self.num_classes), Flatten()
        if head == "gap_linear":
            return GlobalAvgPool(), Flatten(), Linear(out_features=self.num_classes)
        if head == "conv_gap":
            return _classifier(self.num_classes), GlobalAvgPool(), Flatten()
        if head == "valid_conv":
            _, height, width = chain(features, self.input_shape).output_shape
            conv = Conv(out_channels=self.num_classes, kernel_size=min(height, width), bias=False)
            return (conv, Flatten()) if height == width else (conv, GlobalAvgPool(), Flatten())
        if head == "block_gap":
            last = next(_backwards(features), _classifier(self.num_classes))  # none: only in what is to be recognised
            counting = type(last)(
                out_channels=self.num_classes, kernel_size=last.kernel_size, padding=last.padding, bias=False
            )
            return counting, GlobalAvgPool(), Flatten()
        return GlobalAvgPool(), Flatten()

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any parameter's name, range or meaning."""
        off = {f"recipe.{name}" for name in LATER}
        fixed = sorted((name, value) for name, value in self.fixed.items() if value or name not in off)
        entries = [VERSION, list(self.input_shape), self.num_classes, fixed]
        entries.append(sorted((name, repr(domain)) for name, domain in self.domains.items()))
        # What spaces did not have at first is left out where a space does not have it: earlier ones keep theirs.
        if self.widths:
            entries.append(repr(self.widths))
        weights = sorted((name, x.weights) for name, x in self.domains.items() if isinstance(x, Choice) and x.weights)
        if weights:
            entries.append(weights)
        if self.probes:
            entries.append([sorted(probe.items()) for probe in self.probes])
        text = json.dumps(entries)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _table(
    data: Mapping[str, Any],
    table: str,
    knobs: Mapping[str, tuple[Allowed, Value | None]],
    where: str,
    *,
    partly: bool = False,
) -> dict[str, Domain | Value]:
    """The domains in a table of a space's file; `partly`: keys that are left out have no default."""
    content = data.get(table, {})
    if not isinstance(content, dict):
        raise SearchSpaceError(f"{where}: {table}: {refusal(content, 'a table')}")
    check_keys(content, knobs, f"{where}: {table}", SearchSpaceError)
    values: dict[str, Domain | Value] = {}
    for key, (allowed, default) in knobs.items():
        if key not in content and partly:
            continue
        if key not in content and default is None:
            raise SearchSpaceError(f"{where}: {table}.{key} is missing, allowed: {allowed}")
        values[key] = read(content.get(key, default), allowed, f"{where}: {table}.{key}")
    return values


def _probes(data: object, domains: Mapping[str, Domain], where: str) -> tuple[Mapping[str, Value], ...]:
    """The probes of a file, each as values by parameter name. Raises `SearchSpaceError` for a value out of range."""
    check(data, Many(Fields({})), f"{where}: probes", SearchSpaceError)
    assert isinstance(data, list)
    drawn = [name.removeprefix("recipe.") for name in domains if name.startswith("recipe.")]
    probes = []
    for number, probe in enumerate(data, start=1):
        place = f"{where}: probe {number}"
        check_keys(probe, drawn, place, SearchSpaceError)
        if not probe:
            raise SearchSpaceError(f"{place} is empty, expected one of {', '.join(drawn)}")
        probes.append({f"recipe.{key}": _held(domains, key, value, place) for key, value in probe.items()})
    return tuple(probes)


def _held(domains: Mapping[str, Domain], key: str, value: object, place: str) -> Value:
    """The value as its domain holds it, 4 as 4.0 where it has floats; raises `SearchSpaceError` where it does not."""
    domain = domains[f"recipe.{key}"]
    held = domain.nearest(value) if isinstance(value, int | float) else value
    if held != value or not domain.holds(held):
        raise SearchSpaceError(f"{place}: {key} is {found(value)}, expected a value that recipe.{key} may have")
    return held  # type: ignore[return-value]


Table = dict[str, Domain | Value]


def _flatten(tables: Mapping[str, Table], blocks: Mapping[str, Table]) -> Iterator[tuple[str, Domain | Value]]:
    """Every parameter of the space with its name, for as many blocks and convolutions as a candidate may have."""
    yield from tables["network"].items()
    for name, block in blocks.items():
        for key, value in block.items():
            yield f"{name}.{key}", value
        for conv in range(1, _most(block["num_convs"]) + 1):
            yield f"{name}.conv{conv}.channels", tables["conv"]["channels"]
    for key, value in tables["recipe"].items():
        yield f"recipe.{key}", value


def _most(value: Domain | Value) -> int:
    return int(max(value.grid() if isinstance(value, Domain) else [value]))


# Layers are values, so candidates share them: made and checked once, not once a draw.


@cache
def _conv(width: int, kernel: int, padding: str, convolution: str, bias: bool) -> Layer:
    kind = DepthwiseSeparable if convolution == "separable" else Conv
    return kind(out_channels=width, kernel_size=kernel, padding=padding, bias=bias)  # type: ignore[arg-type]


@cache
def _after(order: str, activation: str, dropout: float) -> tuple[Layer, ...]:
    parts: dict[str, Layer] = {"norm": BatchNorm(), "act": Activation(function=activation)}
    return tuple(parts[part] for part in ORDERS[order]) + ((Dropout(rate=dropout),) if dropout else ())


@cache
def unit(
    width: int, kernel: int, padding: str, convolution: str, order: str, activation: str, dropout: float
) -> tuple[Layer, ...]:
    """A convolution with the norm, activation and dropout that follow it; a norm makes its bias pointless."""
    return _conv(width, kernel, padding, convolution, order == "act"), *_after(order, activation, dropout)


@cache
def shared(
    width: int, times: int, kernel: int, padding: str, convolution: str, order: str, activation: str, dropout: float
) -> tuple[Layer, ...]:
    """One more convolution applied several times, with the norm outside: its statistics differ each time."""
    if times == 1:
        return unit(width, kernel, padding, convolution, order, activation, dropout)
    conv = _conv(width, kernel, padding, convolution, order == "act")
    repeat = Repeat(layers=(conv, Activation(function=activation)), times=times, shared=True)
    norm = (BatchNorm(),) if "norm" in ORDERS[order] else ()
    return repeat, *norm, *((Dropout(rate=dropout),) if dropout else ())


def _backwards(layers: Sequence[Layer]) -> Iterator[Convolution]:
    """The convolutions, the last one first, those in other layers among them."""
    for layer in reversed(layers):
        if isinstance(layer, Convolution):
            yield layer
        yield from _backwards(layer.children())


@cache
def _classifier(num_classes: int) -> Conv:
    return Conv(out_channels=num_classes, kernel_size=1, bias=False)
