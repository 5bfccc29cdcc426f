"""Checks what must hold after a fault: the study is consistent and agrees with the printed events, files are whole."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from optuna.artifacts import get_all_artifact_meta
from optuna.trial import FrozenTrial, TrialState

from nas.architecture.architecture import Architecture
from nas.errors import NasError
from nas.exporters.folder import FILES
from nas.study.attributes import Outcome, StoredTrial
from nas.study.reader import StudyRecords
from nas.study.trial import TrialRecord, read_trial
from scripts.faults.search import EPOCHS, TRIALS

Event = Mapping[str, Any]
TRAINED = {outcome for outcome in Outcome if outcome.is_whole_training}
ARTIFACT_NAMES = {"weights.pt", "architecture.svg", "architecture.json", "epochs.csv"}


def outcome(records: StudyRecords) -> dict[str, Any]:
    """Returns what must not depend on interruptions: trained candidates with their metrics, and counts of discards."""
    trials = records.study.get_trials(deepcopy=False)
    trained = {
        trial.user_attrs["fingerprint"]: [
            trial.user_attrs["candidate"],
            trial.values,
            [{**metrics, "seconds": 0} for metrics in trial.system_attrs["nas:history"]],
        ]
        for trial in trials
        if trial.user_attrs.get("outcome") in TRAINED
    }
    return {"trained": trained, "discards": dict(records.discards())}


def deviations(records: StudyRecords, told: Sequence[Event], *, wanted: Mapping[str, Any] | None) -> list[str]:
    """Returns everything that is wrong; `wanted` is the expected outcome, None if it is not determined."""
    found = [
        *_check_events(records, told),
        *_check_all_ended(records),
        *_check_retries(records, told),
        *_check_artifacts(records),
    ]
    if wanted is not None:
        there = outcome(records)
        found += [f"{what} are not those of an undisturbed search" for what in wanted if there[what] != wanted[what]]
    return found


def _check_events(records: StudyRecords, told: Sequence[Event]) -> Iterator[str]:
    """Checks that trials and epochs that were reported as finished are stored with the reported values."""
    trials = records.study.get_trials(deepcopy=False)
    for event in told:
        if event["event"] not in ("TrialFinished", "EpochFinished"):
            continue
        number = event["number"]
        if number >= len(trials):
            yield f"trial {number}, of which {event['event']} was told, is missing"
            continue
        record = records.trial(number)
        if event["event"] == "TrialFinished":
            there = _as_json(record)
            if odd := sorted(name for name in there if name in event and event[name] != there[name]):
                yield f"trial {number} was told as finished with other {', '.join(odd)}"
        elif record.outcome in TRAINED:
            metrics = {name: event[name] for name in record.history[0].to_json()}
            if metrics not in [epoch.to_json() for epoch in record.history]:
                yield f"epoch {event['epoch']} of trial {number} is not as it was told"


def _check_all_ended(records: StudyRecords) -> Iterator[str]:
    """Checks that the budget is spent exactly, every trial has ended, and completed trials have all epochs."""
    trials = records.study.get_trials(deepcopy=False)
    for trial in trials:
        if not trial.state.is_finished():
            yield f"trial {trial.number} is {trial.state.name}"
        if trial.state == TrialState.COMPLETE:
            history = read_trial(StoredTrial(trial)).history
            if [metrics.epoch for metrics in history] != list(range(1, EPOCHS + 1)):
                yield f"trial {trial.number} has epochs {[metrics.epoch for metrics in history]}"
            if trial.intermediate_values != {metrics.epoch: metrics.val_accuracy for metrics in history}:
                yield f"trial {trial.number} has other learning curves than epochs"
            if not all(metrics.seconds >= 0 for metrics in history):
                yield f"trial {trial.number} has an epoch that took less than no time"
    done = [trial for trial in trials if trial.user_attrs.get("outcome") in TRAINED]
    if len(done) != TRIALS or records.tally().spent != TRIALS:
        yield f"{len(done)} trained, {records.tally().spent} spent, of a budget of {TRIALS}"
    twice = Counter(trial.user_attrs["fingerprint"] for trial in done)
    yield from (f"candidate {fingerprint[:8]} was trained twice" for fingerprint, n in twice.items() if n > 1)


def _check_retries(records: StudyRecords, told: Sequence[Event]) -> Iterator[str]:
    """Checks that each interrupted candidate was retried once, with the same parameters, seed and metrics."""
    trials = records.study.get_trials(deepcopy=False)
    again: dict[int, list[FrozenTrial]] = {}
    for trial in trials:
        if (first := trial.user_attrs.get("retry_of")) is not None:
            again.setdefault(first, []).append(trial)
    for trial in trials:
        attrs = trial.user_attrs
        if attrs.get("outcome") != "interrupted" or "fingerprint" not in attrs:
            continue
        if len(retries := again.get(trial.number, [])) != 1:
            yield f"trial {trial.number}, interrupted, was run again {len(retries)} times"
            continue
        (retry,) = retries
        if retry.params != trial.params:
            yield f"trial {retry.number} has other parameters than trial {trial.number}, whose retry it is"
        for name in ("fingerprint", "candidate", "seed"):
            # A retry that was killed before it began has no attributes, and is itself retried.
            if name in attrs and name in retry.user_attrs and retry.user_attrs[name] != attrs[name]:
                yield f"trial {retry.number} has another {name} than trial {trial.number}, whose retry it is"
        if retry.user_attrs.get("outcome") in TRAINED:
            history = {metrics.epoch: metrics.to_json() for metrics in read_trial(StoredTrial(retry)).history}
            for event in told:
                if event["event"] == "EpochFinished" and event["number"] == trial.number:
                    now = history[event["epoch"]]
                    if any(event[name] != now[name] for name in now if name != "seconds"):
                        yield f"epoch {event['epoch']} of trial {retry.number} is not that of trial {trial.number}"


def _check_artifacts(records: StudyRecords) -> Iterator[str]:
    """Checks that every artifact of a trial is valid and no partly written file is left."""
    yield from (f"{path.name} was left" for path in records.artifacts.folder.glob(".*"))
    for trial in records.study.get_trials(deepcopy=False):
        names = set()
        for meta in get_all_artifact_meta(trial, storage=records.storage):
            names.add(meta.filename)
            try:
                _check_file(records, trial, meta.filename, records.artifacts.folder / meta.artifact_id)
            except (OSError, ValueError, LookupError, ElementTree.ParseError, NasError) as error:
                yield f"{meta.filename} of trial {trial.number}: {type(error).__name__}: {error}"
        if trial.state == TrialState.COMPLETE and names != ARTIFACT_NAMES:
            yield f"trial {trial.number} has no {', '.join(sorted(ARTIFACT_NAMES - names))}"


def _check_file(records: StudyRecords, trial: FrozenTrial, name: str, path: Path) -> None:
    record = read_trial(StoredTrial(trial))
    if name == "weights.pt":
        records.weights(trial.number)
        return
    text = path.read_text("utf-8")
    if name == "architecture.svg":
        ElementTree.fromstring(text)
    elif name == "architecture.json":
        if Architecture.from_json(json.loads(text)) != record.architecture:
            raise ValueError("another architecture")
    elif len(list(csv.DictReader(io.StringIO(text)))) != len(record.history):
        raise ValueError("not a row an epoch")


def num_orphans(records: StudyRecords) -> int:
    """Counts artifacts without a trial, left by a process that was killed after writing the file."""
    named = {
        meta.artifact_id
        for trial in records.study.get_trials(deepcopy=False)
        for meta in get_all_artifact_meta(trial, storage=records.storage)
    }
    return sum(path.name not in named for path in records.artifacts.folder.iterdir())


def export_deviations(folder: Path, *, allow_none: bool) -> list[str]:
    """Returns what is wrong with an export folder, which must be complete or, with `allow_none`, may be missing."""
    if not folder.exists():
        return [] if allow_none else ["the export is missing"]
    names = {path.name for path in folder.iterdir() if path.stat().st_size}
    return [] if names == set(FILES) else [f"the export holds {', '.join(sorted(names)) or 'nothing'}"]


def _as_json(record: TrialRecord) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(record.to_json()))
    return found
