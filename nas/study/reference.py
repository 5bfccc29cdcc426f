"""Which study: a results folder, a database and a name."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from nas.errors import StudyError, found
from nas.study.database import default_storage, shown

DEFAULT_STUDY = "search"
DEFAULT_RESULTS = Path("results")
MOST_CHARACTERS = 100  # of a study's name


@dataclass(frozen=True, slots=True)
class StudyRef:
    """A study, whether it is there or not.

    results: folder of artifacts, exports and reports. storage: URL of the database; None is the SQLite file in the
    results folder. study: its name; None is `DEFAULT_STUDY`.
    """

    results: str | Path = DEFAULT_RESULTS
    storage: str | None = None
    study: str | None = None

    @property
    def folder(self) -> Path:
        """The results folder."""
        return Path(self.results)

    @property
    def url(self) -> str:
        """URL of the database, password included."""
        return self.storage or default_storage(self.results)

    @property
    def shown_url(self) -> str:
        """URL of the database without its password."""
        return shown(self.url)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study or DEFAULT_STUDY

    def check_name(self) -> None:
        """Raises `StudyError` unless a new study may have this name: it becomes part of file names."""
        if not self.name.isprintable() or len(self.name) > MOST_CHARACTERS or "/" in self.name:
            allowed = f"at most {MOST_CHARACTERS} printable characters without /"
            raise StudyError(f"--study {found(self.name)}, allowed: {allowed}")

    def options(self) -> str:
        """Command-line options that name the study, each after a space; defaults and passwords are left out."""
        options = {
            "--results": "" if self.folder == DEFAULT_RESULTS else str(self.results),
            "--storage": "" if self.url == default_storage(self.results) else self.shown_url,
            "--study": "" if self.name == DEFAULT_STUDY else self.name,
        }
        return "".join(f" {name} {shlex.quote(value)}" for name, value in options.items() if value)
