"""The trials of a study as records."""

from pathlib import Path

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.trial import TrialRecord


def trials(
    *, results: str | Path = "results", storage: str | None = None, study: str | None = None
) -> list[TrialRecord]:
    """Every trial of a study, stored discards included, by number."""
    return StudyRecords.open(StudyRef(results, storage, study)).trials()
