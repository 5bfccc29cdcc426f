"""Options that name a study: what a command on it needs to be told, for whoever copies the command."""

import shlex
from pathlib import Path

from nas.study.database import default_storage, shown
from nas.study.reader import DEFAULT_STUDY

DEFAULT_RESULTS = Path("results")


def study_options(*, results: str | Path, storage: str | None, study: str | None) -> str:
    """The options as a shell takes them, each after a space; none that is the default, and no password."""
    options = {
        "--results": "" if Path(results) == DEFAULT_RESULTS else str(results),
        "--storage": "" if storage in (None, default_storage(results)) else shown(str(storage)),
        "--study": "" if study in (None, DEFAULT_STUDY) else str(study),
    }
    return "".join(f" {name} {shlex.quote(value)}" for name, value in options.items() if value)
