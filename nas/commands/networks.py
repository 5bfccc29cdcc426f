"""Networks that a user names: their architecture, their recipe and their cost."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from nas.architecture import cost
from nas.architecture.architecture import Architecture
from nas.architecture.cost import Cost, LayerRow
from nas.boards import Board
from nas.errors import ArchitectureError, InfeasibleError, argument_text
from nas.inference.full_cost import full_cost
from nas.inference.lowering import check_kinds, kinds_without_kernel
from nas.recipe import Recipe, recipe_file
from nas.schema import check_instance
from nas.space.constraints import Limits
from nas.text import one_line


def cost_of(network: Architecture | str | Path) -> Cost:
    """Returns the cost of a network, without building it: this takes about a millisecond and no torch.

    The receptive field follows `rf += (kernel - 1) * dilation * jump; jump *= stride`
    (Araujo et al., "Computing Receptive Fields of Convolutional Neural Networks", 2019).

    Args:
        network (Architecture | str | Path): Network, name of a known one such as "nas-3686", path of an architecture
            file or of a design, or folder of an export.

    Returns:
        All metrics that limits can be set on: a `FullCost`, or a `Cost` if a kind of layer has no C kernel.

    Raises:
        ArchitectureError: If there is no such network, or a layer does not fit.
    """
    architecture = load_architecture(network)
    found = cost.cost_of(architecture)
    return found if kinds_without_kernel(architecture.layers) else full_cost(architecture, found)


def layer_table(network: Architecture | str | Path) -> list[LayerRow]:
    """Returns the table of layers that `nas show` prints: shapes, parameters, multiply-accumulates, receptive field.

    A global pool counts as a window as large as its input.

    Args:
        network (Architecture | str | Path): Network, name of a known one such as "nas-3686", path of an architecture
            file or of a design, or folder of an export.

    Returns:
        One row per layer. The layers of a composite follow it, and repeated layers appear once.

    Raises:
        ArchitectureError: If there is no such network, or a layer does not fit.
    """
    return cost.layer_table(load_architecture(network))


def load_architecture(network: Architecture | str | Path) -> Architecture:
    """Returns the architecture itself, or that of a name, file or folder (`Architecture.load`).

    Raises `ArchitectureError` if there is no such network, or if the argument is neither.
    """
    if isinstance(network, str | Path):
        return Architecture.load(network)
    return check_instance("network", network, Architecture, "'nas-3686', a file or a folder", ArchitectureError)


def check_fits_board(architecture: Architecture, board: str) -> str:
    """Returns that the int8 C code of a network fits into its share of a board's memory, in a sentence.

    Raises `InfeasibleError` if it does not fit, `NasError` if there is no such board, and `ArchitectureError` if a
    kind of layer has no C kernel.
    """
    limits = Limits(board=board).board_constraints()
    check_kinds(architecture)
    found = full_cost(architecture, cost.cost_of(architecture))
    if missed := [limit for limit in limits if limit.violation(found) > 0]:
        texts = [f"{limit.metric} is {getattr(found, limit.metric)}, expected {limit}" for limit in missed]
        raise InfeasibleError(f"{argument_text('board', board)}: {'; '.join(texts)}")
    return Board.load(board).fit_text(found.int8_weight_bytes, found.int8_arena_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcedRecipe(Recipe):
    """A recipe and where it comes from, which a training prints.

    Attributes:
        source: "default", or a file and the fields that were changed.
    """

    source: str

    @classmethod
    def of(cls, recipe: Recipe, source: str) -> Self:
        """Returns the recipe with its source."""
        return cls(**recipe.to_json(), source=source)

    def line(self) -> str:
        """Returns the source and the fields that have an effect, on one line."""
        return f"recipe ({one_line(self.source)}): {self.text()}"


def default_recipe(network: Architecture | str | Path) -> SourcedRecipe:
    """Returns the recipe of a network that is given by name, file or folder.

    An `Architecture`, and a network without a recipe, get the default recipe.
    """
    file = None if isinstance(network, Architecture) else recipe_file(network)
    return SourcedRecipe(source="default") if file is None else SourcedRecipe.of(Recipe.load(file), str(file))
