"""The report: a study as one page that needs no network, or as a table for other tools."""

import tempfile
from pathlib import Path

from nas.errors import NasError
from nas.reports.dataframe import trials_frame
from nas.reports.html import page
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

FORMATS = ("html", "csv", "parquet", "json")
ENDINGS = {"": "html", ".htm": "html", **{f".{name}": name for name in FORMATS}}
"""What a file's name ends in, and so holds unless told otherwise."""


def report(
    *,
    output: str | Path | None = None,
    format: str | None = None,  # noqa: A002  # the option's name
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
) -> Path:
    """Writes a study's report and returns its path, RESULTS/STUDY-report.FORMAT unless `output` names one.

    `format` None is what `output` ends with, "html" where it has no ending: one self-contained page of some 5 MB, most
    of it plotly's script. The other formats hold a row a trial, as `trials_frame` has them. Raises `NasError` for
    another format or ending, or a file that cannot be written.
    """
    wanted = format or _format_of(Path(output or ""))
    if wanted not in FORMATS:
        raise NasError(f"format {wanted!r}, allowed: {', '.join(FORMATS)}")
    records = StudyRecords.open(StudyRef(results, storage, study))
    name = records.name.replace("/", "_")
    path = Path(output) if output else Path(results) / f"{name}-report.{wanted}"
    if path.is_dir():
        raise NasError(f"{path}: a folder, allowed: a file, such as {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as folder:  # whole, or not at all
            written = Path(folder) / "report"
            if wanted == "html":
                written.write_text(page(records), encoding="utf-8")
            else:
                _write_table(records, wanted, written)
            written.replace(path)
    except OSError as error:
        raise NasError(f"{path}: {error.strerror}") from None
    return path


def _format_of(output: Path) -> str:
    ending = output.suffix.lower()
    if ending not in ENDINGS:
        allowed = ", ".join(filter(None, ENDINGS))
        raise NasError(f"{output}: it ends in {ending}, allowed: {allowed}, no ending, or --format to say what it is")
    return ENDINGS[ending]


def _write_table(records: StudyRecords, wanted: str, path: Path) -> None:
    frame = trials_frame(records.trials())
    if wanted == "csv":
        frame.to_csv(path, index=False)
    elif wanted == "json":
        frame.to_json(path, orient="records", indent=1)
    else:
        frame.to_parquet(path, index=False)
