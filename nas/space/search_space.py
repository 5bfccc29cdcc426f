"""SearchSpace: the networks and recipes that a search can draw, read from TOML.

The space is flat and static: every parameter of every block and convolution is drawn for every candidate. Parameters of
blocks and convolutions that a candidate does not have are ignored. Each parameter therefore has one fixed range in the
whole study, so that a sampler can model all of them together.
"""

import hashlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from nas.architecture.architecture import Architecture
from nas.architecture.layers import ACTIVATIONS, Layer, Shape
from nas.errors import SearchSpaceError, one_of, short_repr
from nas.recipe import RECIPE_FIELDS, Recipe
from nas.resources import shipped_designs, shipped_or_file, shipped_spaces
from nas.schema import (
    COUNT,
    RATE,
    Flag,
    ImageShape,
    Interval,
    ListOf,
    ObjectOf,
    OneOf,
    ScalarSchema,
    check,
    check_keys,
    mismatch_text,
)
from nas.space.candidate import NEWER_RECIPE_FIELDS, Candidate
from nas.space.domains import Choice, Domain, FloatRange, Value, Values, domain_text, parse_domain
from nas.space.network_parts import HEADS, ORDERS, POOLS, ConvStyle, Layers, block_layers, head_layers, transition_unit
from nas.space.widths import GROWTH_PARAMETERS, WIDTHS_PARAMETERS, Widths
from nas.text import read_text

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

VERSION = 1  # version of the parameters' meaning: raise it when the same values come to produce another network

Table = dict[str, Domain | Value]
TableParameters = dict[str, tuple[ScalarSchema, Value | None]]

NETWORK_PARAMETERS: TableParameters = {
    "num_blocks": (Interval(int, 1, 20), None),
    "activation": (OneOf(tuple(ACTIVATIONS)), "relu"),
    "order": (OneOf(tuple(ORDERS)), "norm_act"),
    "pool": (OneOf(tuple(POOLS)), "max"),
    "head": (OneOf(HEADS), "gap_conv"),
    "residual": (Flag(), False),
}
BLOCK_PARAMETERS: TableParameters = {
    "num_convs": (Interval(int, 1, 100), None),
    "kernel_size": (COUNT, 3),
    "padding": (OneOf(("same", "valid")), "same"),
    "convolution": (OneOf(("full", "separable")), "full"),
    "shared_repeats": (Interval(int, 0, 100), 0),
    "transition": (OneOf(("none", "before_pool", "after_pool")), "none"),
    "transition_channels": (COUNT, 8),
    "dropout": (RATE, 0.0),
}
CONV_PARAMETERS: TableParameters = {"channels": (COUNT, None)}
RECIPE_PARAMETERS: TableParameters = {
    # A learning rate that suits SGD does not suit Adam, so each has its own range.
    "sgd_learning_rate": (RECIPE_FIELDS["learning_rate"], 0.1),
    "adam_learning_rate": (RECIPE_FIELDS["learning_rate"], 0.01),
    **{
        name: (expected, getattr(Recipe(), name))
        for name, expected in RECIPE_FIELDS.items()
        if name not in ("epochs", "learning_rate")
    },
}
"""The keys of the tables [network], [block], [conv] and [recipe]: a check of the values, and the default (None: the key
is required). Epochs are not part of a space, because all candidates of a study train for the same number of epochs."""
TABLES = {
    "network": NETWORK_PARAMETERS,
    "block": BLOCK_PARAMETERS,
    "conv": CONV_PARAMETERS,
    "recipe": RECIPE_PARAMETERS,
}
TABLES_WITH_WIDTHS = TABLES | {"block": BLOCK_PARAMETERS | GROWTH_PARAMETERS, "widths": WIDTHS_PARAMETERS}
TOP_LEVEL_KEYS = ("input_shape", "num_classes", "portfolio", *TABLES_WITH_WIDTHS, "probes")
"""All keys of a file but the tables of single blocks, such as [block2]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSpace:
    """Named parameters, each with a domain or a fixed value, and the networks and recipes that their values describe.

    Attributes:
        name: name of the space, the stem of its file's name.
        input_shape: shape of the images, (channels, height, width).
        num_classes: number of classes, the size of every network's output.
        epochs: number of epochs in every recipe.
        domains: the domain of each parameter that is drawn.
        fixed: the value of each parameter that is not drawn.
        widths: joint distribution of the numbers of channels in random draws; None: each is drawn independently.
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
        """Returns the space in a TOML file, or a shipped one by name, such as "grey".

        Raises `SearchSpaceError` if there is none, or if it is not valid.
        """
        path = shipped_or_file(
            name_or_path, shipped_spaces(), suffix=".toml", what="search space", error=SearchSpaceError
        )
        try:
            data = tomllib.loads(read_text(path, SearchSpaceError))
        except (ValueError, RecursionError) as error:
            raise SearchSpaceError(f"{path}: not TOML: {error}") from None
        return cls.from_toml(data, where=str(path), name=path.stem)

    @classmethod
    def from_toml(cls, data: Mapping[str, Any], *, where: str = "search space", name: str = "") -> "SearchSpace":
        """Returns the space in parsed TOML.

        Args:
            data: the tables of the file.
            where: start of every error message, such as the path of the file.
            name: name of the space.

        Raises:
            SearchSpaceError: a key or a value is not valid; the message names it and what is expected.
        """
        table_parameters = TABLES_WITH_WIDTHS if "widths" in data else TABLES
        check_keys(data, (*TOP_LEVEL_KEYS, *_block_table_names(data)), where, SearchSpaceError)
        tables = {table: _parse_table(data, table, own, where) for table, own in table_parameters.items()}
        blocks = _parse_blocks(data, tables, table_parameters["block"], where)
        parameters = dict(_flatten(tables, blocks))
        domains = {key: value for key, value in parameters.items() if isinstance(value, Domain)}
        return cls(
            name=name,
            input_shape=tuple(_parse_setting(data, "input_shape", [1, 28, 28], ImageShape(), where)),
            num_classes=_parse_setting(data, "num_classes", 10, Interval(int, 2), where),
            domains=domains,
            fixed={key: value for key, value in parameters.items() if not isinstance(value, Domain)},
            widths=_widths_of(tables, blocks),
            portfolio=tuple(_parse_setting(data, "portfolio", [], ListOf(OneOf(tuple(shipped_designs()))), where)),
            probes=_parse_probes(data.get("probes", []), domains, where),
        )

    def bind(self, *, input_shape: Shape, num_classes: int, epochs: int) -> "SearchSpace":
        """Returns the same space with another shape of images, number of classes and number of epochs."""
        return replace(self, input_shape=input_shape, num_classes=num_classes, epochs=epochs)

    def draw(self, rng: Random) -> Values:
        """Returns a random value of each parameter in `domains`."""
        values = {name: domain.draw(rng) for name, domain in self.domains.items()}
        return values | self.widths.draw(rng, self.domains) if self.widths else values

    def check(self, values: Mapping[str, object]) -> None:
        """Raises `SearchSpaceError` if a value is outside the domain of its parameter; ignores unknown parameters."""
        for name, value in values.items():
            if name in self.domains and not self.domains[name].accepts(value):
                raise SearchSpaceError(f"{name} is {mismatch_text(value, domain_text(self.domains[name]))}")

    def suggest(self, trial: "Trial") -> Candidate:
        """Suggests every parameter in `domains` through an Optuna trial and returns the candidate."""
        return self.candidate({name: domain.suggest(trial, name) for name, domain in self.domains.items()})

    def distributions(self) -> dict[str, "BaseDistribution"]:
        """Returns the Optuna distribution of each parameter in `domains`."""
        return {name: domain.distribution() for name, domain in self.domains.items()}

    def candidate(self, values: Mapping[str, Value]) -> Candidate:
        """Returns the candidate with these parameter values; raises `ShapeError` like `architecture`."""
        return Candidate(self.architecture(values), self.recipe(values))

    def recipe(self, values: Mapping[str, Value]) -> Recipe:
        """Returns the recipe with these parameter values.

        Values of ranges without steps are rounded to 3 significant digits, so that the printed recipe is exact.
        """
        all_values = {**self.fixed, **values}
        chosen = {key: self._rounded_value(f"recipe.{key}", all_values) for key in RECIPE_PARAMETERS}
        sgd_rate, adam_rate = chosen.pop("sgd_learning_rate"), chosen.pop("adam_learning_rate")
        chosen["learning_rate"] = sgd_rate if chosen["optimizer"] == "sgd" else adam_rate
        return Recipe(epochs=self.epochs, **chosen)

    def architecture(self, values: Mapping[str, Value]) -> Architecture:
        """Returns the network with these parameter values.

        With the head "gap", the last convolution has one channel per class, whatever its parameter says.

        Raises `ShapeError` if the head is "valid_conv", which depends on the size of the feature map, and a layer
        before it does not fit. With the other heads, only `cost_of` finds layers that do not fit.
        """
        v: dict[str, Any] = {**self.fixed, **values}
        layers: list[Layer] = []
        channels = self.input_shape[0]
        for number in range(1, v["num_blocks"] + 1):
            block, is_last = f"block{number}.", number == v["num_blocks"]
            widths = [v[f"{block}conv{c}.channels"] for c in range(1, v[block + "num_convs"] + 1)]
            if is_last and v["head"] == "gap":
                widths[-1] = self.num_classes
            style = self._conv_style(block, v)
            layers += block_layers(widths, v[block + "shared_repeats"], style, v["residual"], channels)
            channels = widths[-1]
            if not is_last:
                layers += _pool_and_transition(block, v)
                channels = channels if v[block + "transition"] == "none" else v[block + "transition_channels"]
        layers += head_layers(v["head"], layers, input_shape=self.input_shape, num_classes=self.num_classes)
        return Architecture(input_shape=self.input_shape, layers=tuple(layers))

    def _conv_style(self, block: str, values: Mapping[str, Any]) -> ConvStyle:
        """Returns what the convolutions of a block share; `block` is the start of its parameters' names."""
        return ConvStyle(
            kernel_size=values[block + "kernel_size"],
            padding=values[block + "padding"],
            convolution=values[block + "convolution"],
            order=values["order"],
            activation=values["activation"],
            dropout=self._rounded_value(block + "dropout", values),
        )

    def _rounded_value(self, name: str, values: Mapping[str, Any]) -> Any:
        """Returns the value of a parameter, rounded if its domain is a range of floats."""
        domain = self.domains.get(name)
        return domain.rounded_value(values[name]) if isinstance(domain, FloatRange) else values[name]

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits that change with everything except `name`, `epochs` and `portfolio`."""
        off = {f"recipe.{name}" for name in NEWER_RECIPE_FIELDS}
        fixed = sorted((name, value) for name, value in self.fixed.items() if value or name not in off)
        domains = sorted((name, repr(domain)) for name, domain in self.domains.items())
        entries = [VERSION, list(self.input_shape), self.num_classes, fixed, domains]
        # Newer features are left out if a space does not use them, so that older spaces keep their fingerprints.
        if self.widths:
            entries.append(repr(self.widths))
        all_domains = {**self.domains, **(self.widths.domains() if self.widths else {})}
        weights = sorted((name, x.weights) for name, x in all_domains.items() if isinstance(x, Choice) and x.weights)
        if weights:
            entries.append(weights)
        if self.probes:
            entries.append([sorted(probe.items()) for probe in self.probes])
        text = json.dumps(entries)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse_table(
    data: Mapping[str, Any], table: str, table_parameters: TableParameters, where: str, *, partly: bool = False
) -> Table:
    """Returns the domains and fixed values in a table; with `partly`, missing keys are left out and get no default."""
    content = data.get(table, {})
    if not isinstance(content, dict):
        raise SearchSpaceError(f"{where}: {table} is {mismatch_text(content, 'a table')}")
    check_keys(content, table_parameters, f"{where}: {table}", SearchSpaceError)
    values: Table = {}
    for key, (expected, default) in table_parameters.items():
        if key not in content and partly:
            continue
        if key not in content and default is None:
            raise SearchSpaceError(f"{where}: {table}.{key} is missing, expected {expected}")
        values[key] = parse_domain(content.get(key, default), expected, f"{where}: {table}.{key}")
    return values


def _block_table_names(data: Mapping[str, Any]) -> list[str]:
    """Returns the names of the tables of single blocks, such as "block2"."""
    return [key for key in data if key.startswith("block") and key.removeprefix("block").isdecimal()]


def _parse_blocks(
    data: Mapping[str, Any], tables: Mapping[str, Table], block_parameters: TableParameters, where: str
) -> dict[str, Table]:
    """Returns the domains and fixed values of each block: those of [block], overridden by its own table."""
    num_blocks = _max_value(tables["network"]["num_blocks"])
    names = [f"block{number}" for number in range(1, num_blocks + 1)]
    if beyond := sorted(set(_block_table_names(data)) - set(names)):
        blocks_of = f"{one_of(names)} because num_blocks is at most {num_blocks}"
        raise SearchSpaceError(f"{where}: unknown key {short_repr(beyond[0])}, expected {blocks_of}")
    return {name: tables["block"] | _parse_table(data, name, block_parameters, where, partly=True) for name in names}


def _parse_setting(data: Mapping[str, Any], key: str, default: Any, expected: ScalarSchema | ListOf, where: str) -> Any:
    """Returns the value of a top-level key that is not a table; raises `SearchSpaceError` if it is not valid."""
    value = data.get(key, default)
    check(value, expected, f"{where}: {key}", SearchSpaceError)
    return value


def _widths_of(tables: Mapping[str, Table], blocks: Mapping[str, Table]) -> Widths | None:
    """Returns the joint distribution of the widths; None if the space has no table [widths]."""
    if "widths" not in tables:
        return None
    return Widths(growth=tuple(block["growth"] for block in blocks.values()), **tables["widths"])


def _parse_probes(data: object, domains: Mapping[str, Domain], where: str) -> tuple[Mapping[str, Value], ...]:
    """Returns the probes as values by parameter name; raises `SearchSpaceError` for a value outside its domain."""
    check(data, ListOf(ObjectOf({})), f"{where}: probes", SearchSpaceError)
    assert isinstance(data, list)
    drawn = [name.removeprefix("recipe.") for name in domains if name.startswith("recipe.")]
    probes = []
    for number, probe in enumerate(data, start=1):
        place = f"{where}: [[probes]] entry {number}"
        if fixed := probe.keys() & RECIPE_PARAMETERS.keys() - set(drawn):
            raise SearchSpaceError(f"{place}: {min(fixed)} is fixed in this space, expected {one_of(drawn)}")
        check_keys(probe, drawn, place, SearchSpaceError)
        if not probe:
            raise SearchSpaceError(f"{place} is empty, expected {one_of(drawn)}")
        probes.append(
            {f"recipe.{key}": _checked_probe_value(domains, key, value, place) for key, value in probe.items()}
        )
    return tuple(probes)


def _checked_probe_value(domains: Mapping[str, Domain], key: str, value: object, place: str) -> Value:
    """Returns the value in its domain's type, such as 4.0 for 4; raises `SearchSpaceError` if the domain lacks it."""
    domain = domains[f"recipe.{key}"]
    is_finite = isinstance(value, int | float) and abs(value) <= sys.float_info.max
    held = domain.nearest(value) if is_finite else value  # type: ignore[arg-type]
    if held != value or not domain.accepts(held):
        raise SearchSpaceError(f"{place}: {key} is {mismatch_text(value, domain_text(domain))}")
    return held  # type: ignore[return-value]


def _flatten(tables: Mapping[str, Table], blocks: Mapping[str, Table]) -> Iterator[tuple[str, Domain | Value]]:
    """Yields the name and domain of every parameter, for the largest possible number of blocks and convolutions."""
    yield from tables["network"].items()
    for name, block in blocks.items():
        for key in BLOCK_PARAMETERS:  # not the growth, which is part of `Widths`
            yield f"{name}.{key}", block[key]
        for conv in range(1, _max_value(block["num_convs"]) + 1):
            yield f"{name}.conv{conv}.channels", tables["conv"]["channels"]
    for key, value in tables["recipe"].items():
        yield f"recipe.{key}", value


def _max_value(value: Domain | Value) -> int:
    return int(max(value.grid() if isinstance(value, Domain) else [value]))


def _pool_and_transition(block: str, values: Mapping[str, Any]) -> Layers:
    """Returns the pool after a block, with the block's 1x1 convolution before or after it if there is one."""
    pool, transition = POOLS[values["pool"]], values[block + "transition"]
    if transition == "none":
        return (pool,)
    unit = transition_unit(values[block + "transition_channels"], values["order"], values["activation"])
    return (*unit, pool) if transition == "before_pool" else (pool, *unit)
