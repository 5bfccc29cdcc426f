"""Reads the trials of a study: as records that a notebook shows as a table, or as a data frame."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, SupportsIndex, TypeVar, overload

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.trial import TrialRecord
from nas.text import count_text, html_lines, table_text

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

T_co = TypeVar("T_co", bound=TrialRecord, covariant=True)

MAX_ROWS = 100
"""Maximum number of rows that a notebook shows of a table."""


class Trials(tuple[T_co, ...]):
    """Records of trials: a tuple that a notebook shows as a table.

    A slice is such a tuple, too. `Trials(records)` makes one of any records, for example of those that a comprehension
    selects.
    """

    __slots__ = ()

    def dataframe(self) -> "pd.DataFrame":
        """Returns the trials as a data frame; `nas.trials_dataframe` describes its columns."""
        from nas.reports.dataframe import trials_frame

        return trials_frame(self)

    @overload
    def __getitem__(self, key: SupportsIndex) -> T_co: ...

    @overload
    def __getitem__(self, key: slice) -> "Trials[T_co]": ...

    def __getitem__(self, key: SupportsIndex | slice) -> "T_co | Trials[T_co]":
        return Trials(super().__getitem__(key)) if isinstance(key, slice) else super().__getitem__(key)

    def __repr__(self) -> str:
        return f"<{self._counts()}>"

    def __str__(self) -> str:
        """Returns the table as text, as a notebook shows it."""
        table, remarks = self._table_and_remarks()
        return "\n".join([table_text(table), *remarks])

    def _repr_html_(self) -> str:
        """Returns the table as HTML. It leaves out stored discards, unless there is nothing else."""
        from nas.tables import table_html

        table, remarks = self._table_and_remarks()
        return table_html(table) + html_lines(remarks) * bool(remarks)

    def _table_and_remarks(self) -> "tuple[Table, list[str]]":
        """Returns the table, without stored discards unless there is nothing else, and what it leaves out."""
        from nas.tables import trial_table

        shown = ([trial for trial in self if trial.outcome != "discarded"] or list(self))[:MAX_ROWS]
        left_out = len(self) - len(shown)
        remark = f"The table leaves out {count_text(left_out, 'trial')}; .dataframe() has all of them."
        return trial_table(shown, title=self._counts()), [remark] * bool(left_out)

    def _counts(self) -> str:
        outcomes = Counter(trial.outcome or trial.state.lower() for trial in self)
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
        return count_text(len(self), "trial") + (f": {counts}" if counts else "")


def trials(
    study: str | None = None, *, results: str | Path = "results", storage: str | None = None
) -> Trials[TrialRecord]:
    """Returns all trials of a study, in order of their numbers, including stored discards.

    Args:
        study (str | None): Name of the study. Default: "search".
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.

    Returns:
        One record per trial, which a notebook shows as a table. Accuracies are fractions.

    Raises:
        StudyError: If the study is missing or damaged.
    """
    return Trials(StudyRecords.open(StudyRef(results, storage, study)).trials())


def trials_dataframe(
    study: str | None = None, *, results: str | Path = "results", storage: str | None = None
) -> "pd.DataFrame":
    """Returns all trials of a study as a pandas data frame, one row per trial, including stored discards.

    Columns are typed, and missing values are `pandas.NA`. `nas trials --format csv` and `nas report --format csv` write
    the same columns:

    - the fields of `TrialRecord` that are numbers or text, such as `outcome`, `objective` and `params`,
    - `recipe_FIELD` for each field of the recipe,
    - `parameter_NAME` for each parameter of the search space, such as `parameter_block1.num_convs`,
    - `architecture`, the JSON of an architecture file,
    - `val_accuracies`, one for each epoch, and `further`, the objectives of the runs with other seeds, both as numbers
      separated by spaces.

    Args:
        study (str | None): Name of the study. Default: "search".
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.

    Returns:
        The data frame. Accuracies are fractions.

    Raises:
        StudyError: If the study is missing or damaged.
    """
    return trials(study, results=results, storage=storage).dataframe()
