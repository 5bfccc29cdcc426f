"""Reads user files up to a size limit; formats numbers for messages."""

import json
from pathlib import Path
from typing import Any

from nas.errors import NasError

MOST_CHARACTERS = 2**24  # hundreds of thousands of layers, and an end to /dev/zero


def read_text(path: str | Path, error: type[NasError]) -> str:
    """The file's text; raises `error` that names the file where it cannot be read, `ValueError` where it is no text."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except OSError as cause:
        raise error(f"{path}: {cause.strerror}") from None
    if len(text) > MOST_CHARACTERS:
        raise error(f"{path}: a file of more than {MOST_CHARACTERS:,} characters, allowed: no more than that")
    return text


def read_json(path: str | Path, error: type[NasError]) -> Any:
    """What the file holds; raises `error` that names the file where it cannot be read."""
    try:
        return json.loads(read_text(path, error))
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not JSON ({cause})") from None


def counted(number: int, noun: str) -> str:
    """How many of something whose plural ends in s: 1 epoch, 1,200 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def last_epochs(consistency: int, epochs: int) -> str:
    """The epochs that an objective is the mean of: `consistency` of them, or all where there are fewer."""
    last = min(consistency, epochs)
    return f"the last {last} epochs" if last > 1 else "the last epoch"
