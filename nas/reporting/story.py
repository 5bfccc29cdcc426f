"""What a report says in words: the question, the answer, how to do it again. Facts of the study alone, no markup."""

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nas.constraints import Constraint
from nas.records import StudyRecords
from nas.stored import TrialRecord
from nas.verdict import TestResult, spread_text

METRICS = {
    "params": "parameters",
    "macs": "multiply-accumulates an image",
    "receptive_field": "pixels of receptive field",
    "peak_activation_bytes": "bytes of activations at the peak",
    "weight_bytes": "bytes of weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A study's result. `trial` None: nothing is trained yet. `caveats` are sentences that belong to it."""

    text: str
    caveats: tuple[str, ...]
    trial: TrialRecord | None = None
    test: TestResult | None = None


def question(records: StudyRecords) -> str:
    """What the study looks for, in a sentence."""
    settings = records.settings
    limits = [Constraint.parse(text) for text in settings.constraints]
    words = {"<=": "at most", ">=": "at least"}
    kept = [f"{words[limit.relation]} {limit.bound:,} {METRICS[limit.metric]}" for limit in limits]
    wanted = "accuracies and the least " + METRICS[settings.cost] if len(settings.objectives) > 1 else "accuracy"
    what = f"Which network reaches the best {wanted} on {settings.dataset}"
    return f"{what} after {settings.epochs} epochs, with {_listed(kept)}?" if kept else f"{what}?"


def answer(records: StudyRecords) -> Answer:
    """The answer so far, and what it is worth."""
    settings, verdict = records.settings, records.verdict
    if verdict:
        trial, test = records.trial(verdict.trial), verdict.test
        return Answer(
            text=f"Trial {trial.number}: {_cost(trial)}, {spread_text(test.finals)} test accuracy"
            f" (mean ± standard deviation of {len(test.finals)} seeds); target {test.verdict}.",
            caveats=(*test.lines(), verdict.openings_text),
            trial=trial,
            test=test,
        )
    best = records.best(1)
    if not best:
        return Answer(text="Nothing is trained yet.", caveats=())
    (trial,) = best
    num = records.tally().num_trained
    last = min(settings.consistency, settings.epochs)
    return Answer(
        text=f"So far trial {trial.number}: {_cost(trial)}, {trial.objective:.2%} val accuracy (mean of the last"
        f" {last} epochs, lowest {trial.consistent_accuracy:.2%}), one run.",
        caveats=(
            f"It is the best of {num:,} by this very figure, and so looks better than it is.",
            "nas confirm trains the best again with several seeds and opens the test split once.",
        ),
        trial=trial,
    )


def best_rows(records: StudyRecords, count: int = 10) -> list[dict[str, Any]]:
    """The best trials for a table, best first; `again` holds the seeds of a confirmation, where there are any."""
    verdict = records.verdict
    again = verdict.spreads() if verdict else {}
    return [
        {"trial": trial, "again": again.get(trial.number), "epochs": _epochs(trial, records.settings.consistency)}
        for trial in records.best(count)
    ]


def commands(records: StudyRecords) -> list[str]:
    """What makes this study and its result again."""
    command, verdict = records.study.user_attrs["command"], records.verdict
    if verdict is None:
        return [command, "nas export --trial best"]
    return [command, verdict.command, "nas export --trial confirmed"]


def _epochs(trial: TrialRecord, consistency: int) -> tuple[float, float]:
    """Mean and standard deviation over the last epochs."""
    last = [metrics.val_accuracy for metrics in trial.history[-consistency:]]
    return fmean(last), stdev(last) if len(last) > 1 else 0.0


def _cost(trial: TrialRecord) -> str:
    return f"{trial.params:,} parameters, {trial.macs:,} MACs, receptive field {trial.receptive_field} pixels"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
