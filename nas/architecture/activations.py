"""Maps torch activation modules to the function names of the `Activation` layer."""

from functools import cache
from typing import TYPE_CHECKING

from nas.architecture.layers import ACTIVATIONS

if TYPE_CHECKING:
    from torch import nn


def activation_name(module: "nn.Module") -> str | None:
    """Returns the name of the module's function in `ACTIVATIONS`; None if the module is not an activation."""
    return _names().get(type(module))


@cache
def _names() -> "dict[type[nn.Module], str]":
    from torch import nn

    return {getattr(nn, torch_name.removeprefix("nn.")): name for name, torch_name in ACTIVATIONS.items()}
