"""Portfolio: known designs that come with a search space, scaled to any limits without training.

A design is a network with the recipe that suits it best, for the images that it was made for. Read in the parameters of
its space it fits other images and classes, too; its widths are scaled to fill the limits, and where it sees too little
of an image its kernels and depth grow until it sees enough.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError
from nas.recipe import Recipe
from nas.resources import shipped_or_file
from nas.schema import check_keys
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.encoding import values_of
from nas.space.feasibility import MEANINGS, judge
from nas.space.fill import filled
from nas.space.search_space import SearchSpace
from nas.space.warm_start import Start, completed
from nas.text import read_json

KEYS = ("about", "architecture", "recipe")
SOURCE = "portfolio "
"""What the source of a candidate begins with that is a design of a portfolio; the design's name follows."""

SEEING = ("kernel_size", "num_convs", "padding", "num_blocks")
"""Parameters that decide how much of an image is seen."""

MAX_REPAIRS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A known network and the recipe that suits it. about: where it is from, in a sentence."""

    name: str
    about: str
    architecture: Architecture
    recipe: Recipe

    @classmethod
    def load(cls, path: Path) -> "Design":
        """The design in a file; raises `ArchitectureError` or `RecipeError`, beginning with the path."""
        data = check_keys(read_json(path, ArchitectureError), KEYS, str(path), ArchitectureError, required=set(KEYS))
        return cls(
            name=path.stem,
            about=str(data["about"]),
            architecture=Architecture.from_json(data["architecture"], where=f"{path}: architecture"),
            recipe=Recipe.from_json(data["recipe"], where=f"{path}: recipe"),
        )


def portfolio(
    names: Sequence[str], space: SearchSpace, constraints: Sequence[Constraint], *, seed: int
) -> tuple[list[Start], tuple[str, ...]]:
    """The designs of those names, scaled to the limits, and a line on each that does not fit the space or them."""
    files = (
        shipped_or_file(name, folder="portfolio", suffix=".json", what="known design", error=ArchitectureError)
        for name in names
    )
    fitting, unfit = [], []
    for design in map(Design.load, files):
        try:
            fitting.append(_start(design, space, constraints, seed))
        except ArchitectureError as error:
            unfit.append(f"known design {design.name} is left out: {error}")
    return fitting, tuple(unfit)


def _start(design: Design, space: SearchSpace, constraints: Sequence[Constraint], seed: int) -> Start:
    """The design as a candidate; raises `ArchitectureError` with what the space or the limits refuse."""
    shape, classes = design.architecture.input_shape, design.architecture.output_shape[0]
    network = values_of(space.bind(input_shape=shape, num_classes=classes, epochs=space.epochs), design.architecture)
    values = completed(space, design.architecture, network, design.recipe, seed=seed)
    values = filled(space, constraints, _seeing_enough(space, constraints, values))
    if reason := judge(space, constraints, values).reason:
        missed = ", ".join(str(constraint) for constraint in constraints if constraint.metric == reason)
        raise ArchitectureError(MEANINGS.get(reason) or f"no widths of it keep {missed}")
    return Start.of(space, values, source=f"{SOURCE}{design.name}")


def _seeing_enough(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]
) -> Mapping[str, Value]:
    """The values with few changes of kernels, depth and padding, so that enough is seen; widths do not matter."""
    lower = [constraint for constraint in constraints if constraint.metric == "receptive_field"]
    violation = judge(space, lower, values).violation
    for _ in range(MAX_REPAIRS):
        if not violation:
            break
        tried = [(judge(space, lower, changed), changed) for changed in _seeing_more(space, values)]
        # Of those that see enough the one that sees least: the design changes as little as it may.
        if not tried:
            break
        least, changed = min(tried, key=lambda each: (each[0].violation, each[0].cost and each[0].cost.receptive_field))
        if least.violation >= violation:
            break
        violation, values = least.violation, changed
    return values


def _seeing_more(space: SearchSpace, values: Mapping[str, Value]) -> Iterator[Mapping[str, Value]]:
    """The values with one of the parameters changed that decide how much of an image is seen, later blocks first."""
    for name, domain in reversed(list(space.domains.items())):
        if name.rpartition(".")[2] in SEEING:
            yield from ({**values, name: value} for value in domain.grid() if value != values[name])
