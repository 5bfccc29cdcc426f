"""Reads known networks from files and converts them to candidates of a search space, for a search to train first."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

from nas.architecture.architecture import Architecture
from nas.architecture.layers import shape_text
from nas.errors import ArchitectureError, StudyError, argument_text
from nas.recipe import Recipe
from nas.resources import network_file
from nas.space.constraints import Constraint
from nas.space.domains import Values
from nas.space.encoding import encode_architecture
from nas.space.feasibility import cost_for, judge
from nas.space.search_space import RECIPE_PARAMETERS, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCandidate:
    """A candidate to train first.

    Attributes:
        source: the file or the design that it comes from.
        values: its value of each drawn parameter of the space.
        fingerprint: fingerprint of the candidate.
    """

    source: str
    values: Values
    fingerprint: str

    @classmethod
    def from_values(cls, space: SearchSpace, values: Values, *, source: str) -> Self:
        """Returns the candidate with these parameter values."""
        return cls(source=source, values=values, fingerprint=space.candidate(values).fingerprint())


def known_candidates(
    files: Sequence[str | Path], space: SearchSpace, constraints: Sequence[Constraint], *, seed: int
) -> tuple[list[KnownCandidate], tuple[str, ...]]:
    """Returns the networks that fit the space and the limits, and a message for each that does not.

    The recipe of a network is its own (`Recipe.of_network`), else the default recipe. It is replaced by the closest
    recipe in the space. Parameters that the network does not use are drawn at random. Networks are not scaled to the
    limits.

    Args:
        files: architecture files (JSON), designs, names of known networks, exports, or folders of architecture files.
        space: the search space, for the images of the study.
        constraints: the limits.
        seed: seed of the random values.

    Raises:
        StudyError: a network takes images of another shape, or a folder has no architecture files.
        ArchitectureError: a file is missing or not a valid architecture.
        RecipeError: a recipe is not valid.
    """
    fitting, unfit = [], []
    for file in (inside for named in files for inside in _architecture_files(named)):
        architecture = Architecture.load(file)
        if architecture.input_shape != space.input_shape:
            found, wanted = map(shape_text, (architecture.input_shape, space.input_shape))
            place = argument_text("start_from", [str(file)])
            raise StudyError(f"{place}: input_shape is {found}, expected {wanted} as in the dataset")
        try:
            network = encode_architecture(space, architecture)
        except ArchitectureError as error:
            unfit.append(f"{file} is left out: {error}")
            continue
        recipe = Recipe.of_network(file) or Recipe()
        values = complete_values(space, architecture, network, recipe, seed=seed)
        if judge(space, constraints, values).reason:
            cost = cost_for(constraints, architecture)
            missed = [c for c in constraints if c.violation(cost) > 0]
            found = "; ".join(f"{c.metric} is {getattr(cost, c.metric)}, expected {c}" for c in missed)
            unfit.append(f"{file} is left out: {found} (such a network is not scaled)")
            continue
        fitting.append(KnownCandidate.from_values(space, values, source=str(file)))
    return fitting, tuple(unfit)


def distinct_candidates(starts: Iterable[KnownCandidate]) -> list[KnownCandidate]:
    """Returns the starts without those whose candidate came earlier in the sequence."""
    first: dict[str, KnownCandidate] = {}
    for start in starts:
        first.setdefault(start.fingerprint, start)
    return list(first.values())


def _architecture_files(named: str | Path) -> Sequence[str | Path]:
    """Returns the file of an export, the architecture files in another folder, or else the argument itself."""
    folder = Path(named)
    if not os.path.isdir(folder):  # Path.is_dir raises if a name is too long
        return [named]
    if os.path.isfile(export := network_file(folder)):
        return [export]
    try:
        found = sorted(folder / name for name in os.listdir(folder) if name.endswith(".json") and name != "recipe.json")
    except OSError as error:
        raise StudyError(f"{argument_text('start_from', [str(named)])}: {error.strerror}") from None
    if not found:
        raise StudyError(
            f"{argument_text('start_from', [str(named)])}: no architecture file (*.json) found in this folder"
        )
    return found


def complete_values(
    space: SearchSpace, architecture: Architecture, network: Values, recipe: Recipe, *, seed: int
) -> Values:
    """Returns a value for every drawn parameter: from the network, from the recipe, or else random.

    The random values matter when a sampler later changes the network so that it uses them.

    Args:
        space: the search space.
        architecture: the network; the random values depend on it.
        network: the values that it determines, from `encode_architecture`.
        recipe: the recipe; replaced by the closest one in the space.
        seed: seed of the random values.
    """
    drawn = space.draw(Random(f"{seed} {architecture.fingerprint()}"))
    return {**drawn, **network, **recipe_values(space, recipe)}


def recipe_values(space: SearchSpace, recipe: Recipe) -> Values:
    """Returns values for the recipe's parameters, each the closest to the recipe that the space has."""
    wanted: dict[str, Any] = {name: getattr(recipe, name, default) for name, (_, default) in RECIPE_PARAMETERS.items()}
    wanted["sgd_learning_rate" if recipe.optimizer == "sgd" else "adam_learning_rate"] = recipe.learning_rate
    keys = {name: f"recipe.{name}" for name in wanted}
    return {key: space.domains[key].nearest(wanted[name]) for name, key in keys.items() if key in space.domains}
