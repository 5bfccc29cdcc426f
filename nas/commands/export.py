"""Exports a trial of a study, with the weights and the provenance that the study stores."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nas.boards import Board
from nas.data import datasets
from nas.errors import DatasetError, NasError, StudyError, argument_text
from nas.exporters.export import Exported, export
from nas.exporters.folder import check_output
from nas.exporters.provenance import Provenance, VerificationData
from nas.study.confirmation import ConfirmationRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef


def export_trial(
    trial: int | str | None = None,
    *,
    formats: Sequence[str] = (),
    board: str | None = None,
    finetune: int = 0,
    data_root: str | Path | None = None,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    output: str | Path | None = None,
    on_start: Callable[[int], None] = lambda number: None,
) -> Exported:
    """Exports a trained trial of a study and verifies the written files.

    The files are verified on the validation split. If the study's dataset is missing or has changed, they are verified
    on random images, and the model card says so.

    Args:
        trial (int | str | None): Number of the trial, "best", or "confirmed" for the winner of `confirm`, with the
            weights of its first seed, trained on train + val. Default: None, the best trial.
        formats (Sequence[str]): Formats besides those that are always written, one or several of "int8", "c",
            "c-int8", "arduino" and "makefile". Default: none.
        board (str | None): Name of a board, such as "pico", or "FILE.toml:NAME". Adds "c-int8" and runs it on the
            board's core in an emulator, if gcc-arm-none-eabi and qemu-system-arm are installed. Default: no board.
        finetune (int): Number of epochs that the network trains on with the rounding of int8, for "c-int8" or a board.
            It is exported if its val accuracy is higher. Default: 0, none.
        data_root (str | Path | None): Folder of the datasets; nothing is downloaded. Default: `$NAS_DATA`, or the
            user's cache.
        results (str | Path): Results folder of the study. Default: "results".
        storage (str | None): Database URL of the study. Default: the SQLite file `studies.db` in `results`.
        study (str | None): Name of the study. Default: "search".
        output (str | Path | None): Folder to write. Default: `RESULTS/export/STUDY-trial-N`, or
            `STUDY-confirmed-trial-N` there.
        on_start (Callable[[int], None]): Called with the number of the trial once `output` is known to be writable.
            Default: does nothing.

    Returns:
        The folder, the results of the verification, and remarks on what could not be verified.

    Raises:
        StudyError: If the study or the trial is missing or damaged, or the trial has no weights.
        NasError: If `trial` is not as described, a format is unknown, `output` cannot be written, or a file does not
            reproduce the network; also if a format in int8 is asked for and the dataset is missing, or C and a layer
            has no C kernel.
    """
    if trial not in (None, "best", "confirmed") and type(trial) is not int:
        raise NasError(f"{argument_text('trial', trial)}: expected the number of a trial, best or confirmed")
    target = None if board is None else Board.load(board)
    records = StudyRecords.open(StudyRef(results, storage, study))
    name = records.name
    stem = name.replace("/", "_")  # a slash would lead to another folder
    if trial == "confirmed":
        confirmation = records.stored_confirmation
        if confirmation is None:
            raise StudyError(f"study {name!r} is not confirmed yet; run {records.ref.call('confirm')} first")
        record, kind = records.trained_trial(confirmation.trial), "confirmed-trial"
        weights = ConfirmationRecords(records).weights(record.number)
        provenance, accuracy = Provenance.of_confirmed(records, record, confirmation), None
    else:
        best = records.best(1)
        if not isinstance(trial, int) and not best:
            raise StudyError(f"study {name!r} has no finished trial to export yet")
        record, kind = records.trained_trial(trial) if isinstance(trial, int) else best[0], "trial"
        weights = records.weights(record.number)
        provenance, accuracy = Provenance.of_trial(records, record), record.history[-1].val_accuracy
    output = output or Path(results) / "export" / f"{stem}-{kind}-{record.number}"
    check_output(Path(output))
    on_start(record.number)
    verification_data, missing = None, ""
    try:
        data = datasets.load(records.settings.dataset, data_root=data_root, download=False)
        if data.fingerprint != records.settings.data_fingerprint:
            missing = f"dataset {data.name} has changed since the study began"
        else:
            verification_data = VerificationData.of(data, is_seen=trial == "confirmed", accuracy=accuracy)
    except DatasetError as error:
        missing = str(error)
    return export(
        record.architecture,
        weights,
        output=output,
        provenance=provenance,
        verification_data=verification_data,
        formats=formats,
        board=target,
        finetune=finetune,
        remarks=[f"Not verified on the validation split: {missing}."] if missing else [],
    )
