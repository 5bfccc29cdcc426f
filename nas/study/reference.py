"""Identifies a study by its results folder, its database and its name."""

from dataclasses import dataclass
from pathlib import Path

from nas.errors import ESCAPED_BACKTICK, StudyError, argument_text
from nas.study.database import default_storage, masked_url
from nas.text import call_text, options_text

DEFAULT_STUDY = "search"
DEFAULT_RESULTS = Path("results")
MAX_NAME_LENGTH = 100  # maximum length of a study's name


@dataclass(frozen=True, slots=True)
class StudyRef:
    """Reference to a study, which need not exist.

    Attributes:
        results: Folder of artifacts, exports and reports.
        storage: URL of the database; None is the SQLite file in the results folder.
        study: Name of the study; None is `DEFAULT_STUDY`.
    """

    results: str | Path = DEFAULT_RESULTS
    storage: str | None = None
    study: str | None = None

    @property
    def folder(self) -> Path:
        """Results folder."""
        return Path(self.results)

    @property
    def url(self) -> str:
        """URL of the database, password included."""
        return self.storage or default_storage(self.results)

    @property
    def masked_url(self) -> str:
        """URL of the database with its password masked."""
        return masked_url(self.url)

    @property
    def name(self) -> str:
        """Name of the study."""
        if not isinstance(self.study, str | None):
            raise StudyError(f"{argument_text('study', self.study)}: expected a name, such as 'mine'")
        return self.study or DEFAULT_STUDY

    def check_name(self) -> None:
        """Raises `StudyError` unless the name is valid for a new study; it becomes part of file names."""
        if not self.name.isprintable() or len(self.name) > MAX_NAME_LENGTH or "/" in self.name:
            expected = f"at most {MAX_NAME_LENGTH} printable characters without /"
            raise StudyError(f"{argument_text('study', self.name)}: expected {expected}")

    def study_arguments(self) -> dict[str, str]:
        """Returns the arguments that name the study, without defaults and without the password in the URL."""
        arguments = {
            "results": "" if self.folder == DEFAULT_RESULTS else str(self.results),
            "storage": "" if self.url == default_storage(self.results) else self.masked_url,
            "study": "" if self.name == DEFAULT_STUDY else self.name,
        }
        return {name: value for name, value in arguments.items() if value}

    def call(self, function: str) -> str:
        """Returns a call of a public function for this study as Python code in backticks, for messages.

        The command line shows it as a command (`nas.cli.option_names`).
        """
        return f"`{call_text(function, self.study_arguments()).replace('`', ESCAPED_BACKTICK)}`"

    def options(self) -> str:
        """Returns the command-line options that name the study, each after a space; without defaults and password."""
        return options_text(self.study_arguments())
