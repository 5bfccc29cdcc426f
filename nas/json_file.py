"""Reading a JSON file that a user names."""

import json
from pathlib import Path
from typing import Any

from nas.errors import NasError


def read_json(path: str | Path, error: type[NasError]) -> Any:
    """What the file holds; raises `error` that names the file where it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else f"not JSON ({cause})"
        raise error(f"{path}: {reason}") from None
