"""Export of a study's trial: its weights and its provenance, found in the study, go to the exporter."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from nas.data import datasets
from nas.errors import DatasetError, StudyError
from nas.exporters.export import Exported, export
from nas.exporters.folder import check_output
from nas.exporters.provenance import Evidence, Origin
from nas.study.confirmation import ConfirmedRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


def export_trial(
    trial: int | Literal["confirmed"] | None = None,
    *,
    formats: Sequence[str] = (),
    data_root: str | Path | None = None,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    output: str | Path | None = None,
    on_start: Callable[[int], None] = lambda number: None,
) -> Exported:
    """Exports a finished trial of a study, the best one if None.

    "confirmed" is the trial that `confirm` picked, with the weights of its first seed, trained on train + val.
    `formats`: of `FORMATS`, besides what `export` always writes. The files are proved on the validation split; where
    the study's data are not at hand, on random images, which the card says. `on_start` hears the trial's number before
    anything slow is done, and after `output` was found to be a place to write to. Raises `StudyError` for a trial that
    cannot be exported and `NasError` for a file that is not the network.
    """
    records = StudyRecords.open(StudyRef(results, storage, study))
    name = records.name
    stem = name.replace("/", "_")  # a study's name stays in its folder
    if trial == "confirmed":
        verdict = records.verdict
        if verdict is None:
            raise StudyError(f"study {name!r} is not confirmed yet: `nas confirm` does it")
        record, kind = records.trained(verdict.trial), "confirmed-trial"
        weights = ConfirmedRecords(records).weights(record.number)
        origin, accuracy = Origin.of_confirmed(records, record, verdict), None
    else:
        best = records.best(1)
        if trial is None and not best:
            raise StudyError(f"study {name!r} has no finished trial to export yet")
        record, kind = best[0] if trial is None else records.trained(trial), "trial"
        weights = records.weights(record.number)
        origin, accuracy = Origin.of_trial(records, record), record.history[-1].val_accuracy
    output = output or Path(results) / "export" / f"{stem}-{kind}-{record.number}"
    check_output(Path(output))
    on_start(record.number)
    evidence, missing = None, ""
    try:
        data = datasets.load(records.settings.dataset, data_root=data_root, download=False)
        if data.fingerprint != records.settings.data_fingerprint:
            missing = f"{data.name} here is not what the study was made with"
        else:
            evidence = Evidence.of(data, is_seen=trial == "confirmed", accuracy=accuracy)
    except DatasetError as error:
        missing = str(error)
    return export(
        record.architecture,
        weights,
        output=output,
        origin=origin,
        evidence=evidence,
        formats=formats,
        remarks=[f"Not proved on the validation split: {missing}."] if missing else [],
    )
