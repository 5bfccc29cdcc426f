"""Portfolio: known designs that come with a search space, scaled to the limits without training.

A design is a network with its best known recipe, for images of one shape. It is converted to the parameters of its
space, so it can be rebuilt for other image shapes and numbers of classes. Its kernels and depth grow until the limit on
the receptive field is satisfied, and its widths are scaled until they fill the upper limits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError
from nas.recipe import Recipe
from nas.resources import shipped_designs, shipped_or_file
from nas.schema import check_keys
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.encoding import encode_architecture
from nas.space.feasibility import REASON_MEANINGS, judge
from nas.space.fill import with_filled_widths
from nas.space.search_space import SearchSpace
from nas.space.warm_start import KnownCandidate, complete_values
from nas.text import read_json

KEYS = ("about", "architecture", "recipe")
SOURCE_PREFIX = "portfolio "
"""Prefix of `KnownCandidate.source` for designs of a portfolio; the name of the design follows."""

RECEPTIVE_FIELD_PARAMETERS = ("kernel_size", "num_convs", "padding", "num_blocks")
"""Parameters that determine the receptive field."""

MAX_CHANGES = 20  # of parameters, to enlarge the receptive field of one design


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """A known network with its best known recipe.

    Attributes:
        name: stem of the file's name.
        about: where the design comes from, in one sentence.
        architecture: the network.
        recipe: the recipe.
    """

    name: str
    about: str
    architecture: Architecture
    recipe: Recipe

    @classmethod
    def load(cls, path: Path) -> "Design":
        """Returns the design in a file; raises `ArchitectureError` or `RecipeError` with the path in the message."""
        data = check_keys(read_json(path, ArchitectureError), KEYS, str(path), ArchitectureError, required=set(KEYS))
        return cls(
            name=path.stem,
            about=str(data["about"]),
            architecture=Architecture.from_json(data["architecture"], where=f"{path}: architecture"),
            recipe=Recipe.from_json(data["recipe"], where=f"{path}: recipe"),
        )


def portfolio_candidates(
    names: Sequence[str], space: SearchSpace, constraints: Sequence[Constraint], *, seed: int
) -> tuple[list[KnownCandidate], tuple[str, ...]]:
    """Returns the designs as candidates scaled to the limits, and a message for each design that does not fit.

    Args:
        names: names of shipped designs, or paths of files.
        space: the search space, for the images of the study.
        constraints: the limits.
        seed: seed of the values that a design does not determine.

    Raises:
        ArchitectureError: a file is missing, or its network is not valid.
        RecipeError: the recipe in a file is not valid.
    """
    files = (
        shipped_or_file(name, shipped_designs(), suffix=".json", what="known design", error=ArchitectureError)
        for name in names
    )
    fitting, unfit = [], []
    for design in map(Design.load, files):
        try:
            fitting.append(_design_candidate(design, space, constraints, seed))
        except ArchitectureError as error:
            unfit.append(f"known design {design.name} is left out: {error}")
    return fitting, tuple(unfit)


def _design_candidate(
    design: Design, space: SearchSpace, constraints: Sequence[Constraint], seed: int
) -> KnownCandidate:
    """Returns the design as a candidate; raises `ArchitectureError` if it does not fit the space or the limits."""
    shape, classes = design.architecture.input_shape, design.architecture.output_shape[0]
    network = encode_architecture(
        space.bind(input_shape=shape, num_classes=classes, epochs=space.epochs), design.architecture
    )
    values = complete_values(space, design.architecture, network, design.recipe, seed=seed)
    values = with_filled_widths(space, constraints, _with_sufficient_receptive_field(space, constraints, values))
    if reason := judge(space, constraints, values).reason:
        missed = ", ".join(str(constraint) for constraint in constraints if constraint.metric == reason)
        raise ArchitectureError(REASON_MEANINGS.get(reason) or f"it cannot keep {missed}")
    return KnownCandidate.from_values(space, values, source=f"{SOURCE_PREFIX}{design.name}")


def _with_sufficient_receptive_field(
    space: SearchSpace, constraints: Sequence[Constraint], values: Mapping[str, Value]
) -> Mapping[str, Value]:
    """Returns the values with kernels, depth and padding changed until the receptive field satisfies its limit.

    Each change is the best one of a single parameter. The search ends after `MAX_CHANGES` changes, or if no change
    brings the receptive field closer to the limit.
    """
    lower = [constraint for constraint in constraints if constraint.metric == "receptive_field"]
    violation = judge(space, lower, values).violation
    for _ in range(MAX_CHANGES):
        if not violation:
            break
        tried = [(judge(space, lower, changed), changed) for changed in _receptive_field_changes(space, values)]
        if not tried:
            break
        # Of several changes that satisfy the limit, the one with the smallest receptive field changes the design least.
        best, changed = min(tried, key=lambda each: (each[0].violation, each[0].cost and each[0].cost.receptive_field))
        if best.violation >= violation:
            break
        violation, values = best.violation, changed
    return values


def _receptive_field_changes(space: SearchSpace, values: Mapping[str, Value]) -> Iterator[Mapping[str, Value]]:
    """Yields the values with one of the parameters in `RECEPTIVE_FIELD_PARAMETERS` changed, later blocks first."""
    for name, domain in reversed(list(space.domains.items())):
        if name.rpartition(".")[2] in RECEPTIVE_FIELD_PARAMETERS:
            yield from ({**values, name: value} for value in domain.grid() if value != values[name])
