"""ModuleCall: the constructor call of a torch module, which can be executed or printed as source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ModuleCall:
    """The constructor call of a torch module.

    Attributes:
        name: "nn.X" for a class of torch.nn; any other name is a class in `modules.py`.
        args: positional arguments; another `ModuleCall` stands for the module that it builds.
        kwargs: names and values of the keyword arguments.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def build(self) -> "nn.Module":
        """Builds the module with torch's default initialisation."""
        from torch import nn

        from nas.architecture import modules

        home = nn if self.name.startswith("nn.") else modules
        args = [arg.build() if isinstance(arg, ModuleCall) else arg for arg in self.args]
        module: nn.Module = getattr(home, self.name.removeprefix("nn."))(*args, **dict(self.kwargs))
        return module

    def source(self) -> str:
        """Returns the call as one line of Python source."""
        args = [arg.source() if isinstance(arg, ModuleCall) else repr(arg) for arg in self.args]
        return f"{self.name}({', '.join(args + [f'{key}={value!r}' for key, value in self.kwargs])})"
