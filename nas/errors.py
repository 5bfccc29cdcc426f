"""Errors that users can cause; each message names the place, the value found and what was expected.

The command line prints a `NasError` or a `TrainingDiverged` and exits with status 2. Any other exception is a bug: the
command line prints it on one line, exits with status 1, and shows the traceback only with `--debug`.
"""

import difflib
import os
import re
import reprlib
from collections.abc import Iterable


class NasError(Exception):
    """An error that the user can fix; the base class of all others here but `TrainingDiverged`."""


class ArchitectureError(NasError):
    """An architecture, or its file, that cannot be built as a network."""


class ShapeError(ArchitectureError):
    """A layer that cannot take its input shape.

    Attributes:
        text: the message without the position.
        position: path to the layer, such as "layers[2].layers[0]"; empty in the layer itself, extended by
            `with_prefix`.
    """

    def __init__(self, text: str, position: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.position = position

    def with_prefix(self, position: str) -> "ShapeError":
        """Returns the same error with `position` put before its path."""
        return ShapeError(self.text, f"{position}.{self.position}" if self.position else position)

    def __str__(self) -> str:
        return f"{self.position}: {self.text}" if self.position else self.text


class RecipeError(NasError):
    """A recipe with an invalid field or value."""


class ConstraintError(NasError):
    """A constraint that cannot be parsed, or that contradicts another one."""


class InfeasibleError(NasError):
    """Limits that no candidate of the search space, or almost none, keeps, or that a given network does not keep."""


class SearchSpaceError(NasError):
    """An invalid search space."""


class DatasetError(NasError):
    """A dataset that is unknown, missing, damaged or unsuitable."""


class DeviceError(NasError):
    """A device that is not available."""


class StudyError(NasError):
    """A study that is missing, damaged, in use, or made with other settings."""


class TrainingDiverged(Exception):
    """The loss of a training run became infinite or NaN; not a `NasError`, since the user made no mistake."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"diverged: loss {loss} in epoch {epoch}")
        self.epoch = epoch
        self.loss = loss


def short_repr(value: object) -> str:
    """Returns a short representation of a value on one line, for messages."""
    return _on_one_line(reprlib.aRepr, value)


def argument_text(name: str, value: object) -> str:
    """Returns an argument as Python code in backticks, such as "`sampler='tea'`", for messages.

    Messages of the library name arguments in this form, and a parameter alone as "`sampler`". The command line shows
    both as its options (`nas.cli.option_names`). A backtick inside the value is escaped.
    """
    text = _on_one_line(_LONG, os.fspath(value) if isinstance(value, os.PathLike) else value)
    return f"`{name}={text.replace('`', ESCAPED_BACKTICK)}`"


def names_text(names: Iterable[object]) -> str:
    """Returns names, sorted and joined by commas, for messages; empty, long and unprintable ones are quoted."""
    return ", ".join(sorted(map(_name, names)))


def one_of(words: Iterable[object]) -> str:
    """Returns what a message expects where it expects one of these words: "a", "a or b" or "one of a, b, c"."""
    names = [_name(word) for word in words]
    return f"one of {', '.join(names)}" if len(names) > 2 else " or ".join(names) or "none"


def suggestion(word: object, known: Iterable[str]) -> str:
    """Returns " (did you mean X?)" with the known word that a misspelt one resembles most; empty if none does."""
    text, by_lower = str(word), {name.lower(): name for name in known}
    similar = difflib.get_close_matches(text.lower(), by_lower, n=1, cutoff=0.75)
    return f" (did you mean {_name(by_lower[similar[0]])}?)" if similar and text != by_lower[similar[0]] else ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its class if the message is empty.

    For an error of SQLAlchemy this is the message of the database driver.
    """
    return (str(getattr(error, "orig", error)).strip().splitlines() or [type(error).__name__])[0]


ESCAPED_BACKTICK = "\\x60"
"""A backtick as an escape sequence in a string literal of Python."""

_LONG = reprlib.Repr()
_LONG.maxstring = _LONG.maxother = 300  # of an argument: whole paths and URLs


def _on_one_line(short: reprlib.Repr, value: object) -> str:
    try:
        return re.sub(r"\s*\n\s*", " ", short.repr(value))
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return "an integer of thousands of digits"


def _name(name: object) -> str:
    text = str(name)
    return text if text.isprintable() and text == text.strip() and 0 < len(text) <= 40 else short_repr(text)
