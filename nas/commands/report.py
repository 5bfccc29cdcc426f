"""Writes the report of a study as one self-contained HTML page, or its trials as a table."""

import tempfile
from importlib.util import find_spec
from pathlib import Path

from nas.errors import NasError, argument_text, one_of
from nas.reports.dataframe import trials_frame
from nas.reports.html import page
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

FORMATS = ("html", "csv", "parquet", "json")
FORMAT_BY_SUFFIX = {"": "html", ".htm": "html", **{f".{name}": name for name in FORMATS}}
"""Format of a file by its ending, if no format is given."""


def report(
    study: str | None = None,
    *,
    output: str | Path | None = None,
    format: str | None = None,  # noqa: A002  # the option's name
    results: str | Path = "results",
    storage: str | None = None,
) -> Path:
    """Writes the report of a study.

    "html" is one self-contained page of about 5 MB, most of it plotly's script. The other formats hold one row per
    trial, with the columns of `trials_frame`.

    Args:
        study (str | None): Name of the study. Default: "search".
        output (str | Path | None): File to write. Default: `RESULTS/STUDY-report.FORMAT`.
        format (str | None): "html", "csv", "json" or "parquet", which needs the extra `smallnas[parquet]`. Default: by
            the ending of `output`; "html" if it has none.
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.

    Returns:
        The path of the report.

    Raises:
        StudyError: If the study is missing or damaged.
        NasError: If the format or the ending is unknown, pyarrow is not installed, or the file cannot be written.
    """
    wanted = format or _format_of(Path(output or ""))
    if wanted not in FORMATS:
        raise NasError(f"{argument_text('format', wanted)}: expected {one_of(FORMATS)}")
    if wanted == "parquet" and find_spec("pyarrow") is None:
        given = argument_text("format", format) if format else argument_text("output", output)
        raise NasError(f"{given}: pyarrow is not installed; run pip install 'smallnas[parquet]'")
    records = StudyRecords.open(StudyRef(results, storage, study))
    name = records.name.replace("/", "_")
    path = Path(output) if output else Path(results) / f"{name}-report.{wanted}"
    if path.is_dir():
        raise NasError(f"{path}: a folder found, expected a file such as {path / 'report.html'}")
    if path.exists() and not path.is_file():  # renaming would replace a device such as /dev/null
        raise NasError(f"{path}: a device or pipe found, expected a regular file, or none")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as folder:  # renamed when complete
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
    if ending not in FORMAT_BY_SUFFIX:
        expected = f"{one_of(filter(None, FORMAT_BY_SUFFIX))}, or no ending"
        raise NasError(
            f"{argument_text('output', output)}: ending is {ending}, expected {expected}; or give `format`, too"
        )
    return FORMAT_BY_SUFFIX[ending]


def _write_table(records: StudyRecords, wanted: str, path: Path) -> None:
    frame = trials_frame(records.trials())
    if wanted == "csv":
        frame.to_csv(path, index=False)
    elif wanted == "json":
        frame.to_json(path, orient="records", indent=1)
    else:
        frame.to_parquet(path, index=False)
