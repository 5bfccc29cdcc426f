"""Known networks to start a search from, read from files and expressed in the parameters of a search space."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Self

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.architecture.layers import shape_text
from nas.errors import ArchitectureError, StudyError
from nas.recipe import Recipe
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.encoding import values_of
from nas.space.feasibility import judge
from nas.space.search_space import RECIPE, SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A candidate to train first. `source`: where it was read; `values`: of every parameter of the space."""

    source: str
    values: dict[str, Value]
    fingerprint: str

    @classmethod
    def of(cls, space: SearchSpace, values: dict[str, Value], *, source: str) -> Self:
        """The candidate that the values stand for."""
        return cls(source=source, values=values, fingerprint=space.candidate(values).fingerprint())


def starts(
    files: Sequence[str | Path], space: SearchSpace, constraints: Sequence[Constraint], *, seed: int
) -> tuple[list[Start], tuple[str, ...]]:
    """The networks of the files that fit the space and the limits, and a line on each that does not.

    A file is an architecture (JSON), the name of a published network, an export or another folder of such files. Its
    recipe is the one beside it, as an export has it, or else the default recipe as nearly as the space has it;
    parameters that the network does not use are drawn from `seed`. Raises `StudyError` where it takes images of
    another shape than the space's.
    """
    fitting, unfit = [], []
    for file in (inside for named in files for inside in _files(named)):
        architecture = Architecture.load(file)
        if architecture.input_shape != space.input_shape:
            found, wanted = map(shape_text, (architecture.input_shape, space.input_shape))
            raise StudyError(f"--start-from {file}: takes images of {found}, the dataset has {wanted}")
        try:
            network = values_of(space, architecture)
        except ArchitectureError as error:
            unfit.append(f"{file} is left out: {error}")
            continue
        beside = Path(file).with_name("recipe.json")
        recipe = Recipe.load(beside) if Path(file).is_file() and beside.exists() else Recipe()
        values = completed(space, architecture, network, recipe, seed=seed)
        if judge(space, constraints, values).reason:
            cost = cost_of(architecture)
            missed = [c for c in constraints if c.violation(cost) > 0]
            found = ", ".join(f"{c.metric} is {getattr(cost, c.metric)}, allowed: {c}" for c in missed)
            unfit.append(f"{file} is left out: {found}")
            continue
        fitting.append(Start.of(space, values, source=str(file)))
    return fitting, tuple(unfit)


def _files(named: str | Path) -> Sequence[str | Path]:
    """The architecture files that an argument stands for."""
    folder = Path(named)
    if not os.path.isdir(folder):  # not Path's, which raises where a name is too long
        return [named]
    try:
        found = sorted(folder / name for name in os.listdir(folder) if name.endswith(".json") and name != "recipe.json")
    except OSError as error:
        raise StudyError(f"--start-from {named}: {error.strerror}") from None
    export = folder / "architecture.json"
    if export in found:
        return [export]
    if not found:
        raise StudyError(f"--start-from {named}: no architecture (*.json) in this folder")
    return found


def completed(
    space: SearchSpace, architecture: Architecture, network: dict[str, Value], recipe: Recipe, *, seed: int
) -> dict[str, Value]:
    """A value for every parameter: those of the network, those of the recipe, the rest drawn from `seed`.

    What the network does not use says where later changes of it begin.
    """
    drawn = space.draw(Random(f"{seed} {architecture.fingerprint()}"))
    return {**drawn, **network, **recipe_values(space, recipe)}


def recipe_values(space: SearchSpace, recipe: Recipe) -> dict[str, Value]:
    """Values of the recipe's parameters, as near to the recipe as the space has them."""
    wanted: dict[str, Any] = {name: getattr(recipe, name, default) for name, (_, default) in RECIPE.items()}
    wanted["sgd_learning_rate" if recipe.optimizer == "sgd" else "adam_learning_rate"] = recipe.learning_rate
    keys = {name: f"recipe.{name}" for name in wanted}
    return {key: space.domains[key].nearest(wanted[name]) for name, key in keys.items() if key in space.domains}
