"""Reads user files up to a size limit, and formats numbers, commands, lines and tables as text and for notebooks."""

import json
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import NasError

if TYPE_CHECKING:
    from rich.table import Table

MAX_FILE_CHARACTERS = 2**24  # enough for 100,000s of layers; stops reading of /dev/zero


def read_text(path: str | Path, error: type[NasError]) -> str:
    """Returns the text of a UTF-8 file.

    Raises `error`, which names the file, if it cannot be read or is too long, and `ValueError` if it is not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_FILE_CHARACTERS + 1)
    except OSError as cause:
        raise error(f"{path}: {cause.strerror}") from None
    if len(text) > MAX_FILE_CHARACTERS:
        raise error(f"{path}: the file is too long, expected at most {MAX_FILE_CHARACTERS:,} characters")
    return text


def read_json(path: str | Path, error: type[NasError]) -> Any:
    """Returns the content of a JSON file; raises `error`, which names the file, if it cannot be read or parsed."""
    try:
        return json.loads(read_text(path, error))
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not JSON ({cause})") from None


def one_line(text: str) -> str:
    """Returns text on one line, with control characters escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def count_text(number: int, noun: str) -> str:
    """Returns a number with its noun, with an s for the plural: "1 epoch", "1,200 images"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def options_text(arguments: Mapping[str, object]) -> str:
    """Returns arguments as options of a command line, each after a space: " --top 5 --study 'my study'"."""
    return "".join(f" --{name} {shlex.quote(str(value))}" for name, value in arguments.items())


def call_text(function: str, arguments: Mapping[str, object]) -> str:
    """Returns a call of a public function as Python code: "nas.confirm(top=5, study='my study')"."""
    return f"nas.{function}({', '.join(f'{name}={value!r}' for name, value in arguments.items())})"


def html_lines(lines: Iterable[str]) -> str:
    """Returns lines of text as an HTML paragraph, with all text escaped."""
    return f"<p>{'<br>'.join(map(escape, lines))}</p>"


def table_text(table: "Table") -> str:
    """Returns a table as lines of plain text, of at most 200 characters."""
    from rich.console import Console

    console = Console(width=200, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def last_epochs_text(num_last_epochs: int, epochs: int) -> str:
    """Returns the epochs that an objective averages, in words: the last ones, or all if there are fewer."""
    last = min(num_last_epochs, epochs)
    return f"the last {last} epochs" if last > 1 else "the last epoch"
