"""Reads the trials of a study as records."""

from pathlib import Path

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.trial import TrialRecord


def trials(
    *, results: str | Path = "results", storage: str | None = None, study: str | None = None
) -> list[TrialRecord]:
    """Returns all trials of a study, in order of their numbers, including stored discards.

    Args:
        results: Results folder of the study. Default: "results".
        storage: Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        study: Name of the study. Default: "search".

    Returns:
        One record per trial. Accuracies are fractions.

    Raises:
        StudyError: If the study is missing or damaged.
    """
    return StudyRecords.open(StudyRef(results, storage, study)).trials()
