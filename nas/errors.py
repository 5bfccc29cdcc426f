"""Errors that users can cause; each message names the place, the value found and what was expected.

The command line prints the text on one line and exits with status 2; anything that is
not a `NasError` is a bug of ours and keeps its traceback.
"""

import reprlib
from collections.abc import Iterable


class NasError(Exception):
    """Something the user can mend."""


class ArchitectureError(NasError):
    """An architecture (or its file) that no network can be built from."""


class ShapeError(ArchitectureError):
    """A layer that cannot take the shape it is given; `position` grows as the error travels outwards."""

    def __init__(self, text: str, position: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.position = position

    def inside(self, position: str) -> "ShapeError":
        """The same error, seen from one level further out."""
        return ShapeError(self.text, f"{position}.{self.position}" if self.position else position)

    def __str__(self) -> str:
        return f"{self.position}: {self.text}" if self.position else self.text


class RecipeError(NasError):
    """A recipe with a value that training cannot use."""


class ConstraintError(NasError):
    """A constraint that cannot be read, or that contradicts another."""


class InfeasibleError(NasError):
    """Limits that nothing, or almost nothing, in the search space meets."""


class SearchSpaceError(NasError):
    """A search space with an error in it."""


class DatasetError(NasError):
    """A dataset that is missing, damaged or unfit."""


class DeviceError(NasError):
    """A device that is not there."""


class StudyError(NasError):
    """A study that is missing, damaged, in use, or unlike what was asked for."""


class TrainingDiverged(Exception):
    """The loss stopped being finite: an outcome of a training, not a user's mistake."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"diverged: loss {loss} in epoch {epoch}")
        self.epoch = epoch
        self.loss = loss


def found(value: object) -> str:
    """A value as a message shows it: on one line and short, whatever a file holds."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a whole number of thousands of digits"


def named(names: Iterable[object]) -> str:
    """Names as a message lists them; one that is long or not plain text is quoted."""
    texts = (str(name) for name in names)
    return ", ".join(sorted(text if text.isprintable() and len(text) <= 40 else found(text) for text in texts))


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of its story."""
    return (str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__])[0]
