"""A torch module's constructor call, as an object to execute or to print as source."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Call:
    """A module's constructor call, to be made (`build`) or written down (`source`)."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def build(self) -> "nn.Module":
        """The module with torch's default initialisation; `nn.X` is torch's, other names are from `modules.py`."""
        from torch import nn

        from nas.architecture import modules

        home = nn if self.name.startswith("nn.") else modules
        args = [arg.build() if isinstance(arg, Call) else arg for arg in self.args]
        module: nn.Module = getattr(home, self.name.removeprefix("nn."))(*args, **dict(self.kwargs))
        return module

    def source(self) -> str:
        """The call as Python source on one line."""
        args = [arg.source() if isinstance(arg, Call) else repr(arg) for arg in self.args]
        return f"{self.name}({', '.join(args + [f'{key}={value!r}' for key, value in self.kwargs])})"
