"""The report: a study as one page that needs no network, or as a table for other tools."""

from pathlib import Path

from nas.errors import NasError
from nas.records import StudyRecords
from nas.reporting.rendering import page
from nas.reporting.table import trial_frame

FORMATS = ("html", "csv", "parquet", "json")


def report(
    *,
    output: str | Path | None = None,
    format: str = "html",  # noqa: A002  # the option's name
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
) -> Path:
    """Writes a study's report and returns its path, RESULTS/STUDY-report.html (or .csv, …) unless `output` names one.

    "html": one self-contained page of some 5 MB, most of it plotly's script. The other formats hold a row a trial, those
    of `trial_frame`. Raises `NasError` for another format or a file that cannot be written.
    """
    if format not in FORMATS:
        raise NasError(f"format {format!r}, allowed: {', '.join(FORMATS)}")
    records = StudyRecords.open(results=results, storage=storage, study=study)
    name = records.study.study_name.replace("/", "_")
    path = Path(output) if output else Path(results) / f"{name}-report.{format}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if format == "html":
            path.write_text(page(records), encoding="utf-8")
            return path
        frame = trial_frame(records)
        if format == "csv":
            frame.to_csv(path, index=False)
        elif format == "json":
            frame.to_json(path, orient="records", indent=1)
        else:
            frame.to_parquet(path, index=False)
    except OSError as error:
        raise NasError(f"{error.filename or path}: {error.strerror}") from None
    return path
