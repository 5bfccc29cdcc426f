"""Text of a report: the question, the answer, and the commands that reproduce it. Plain text without markup."""

from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nas.architecture.cost import METRIC_LABELS
from nas.seed_stats import SeedAccuracies, StoredConfirmation, spread_text
from nas.space.constraints import Constraint
from nas.study.reader import StudyRecords
from nas.study.trial import TrainedTrial, TrialRecord
from nas.text import count_text, last_epochs_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Result of a study.

    Attributes:
        text: The result in one or two sentences.
        caveats: Sentences that qualify the result.
        trial: The best or the confirmed trial; None if none is trained yet.
        test: Test accuracies of the confirmed trial; None before a confirmation.
    """

    text: str
    caveats: tuple[str, ...]
    trial: TrialRecord | None = None
    test: SeedAccuracies | None = None


def question(records: StudyRecords) -> str:
    """Returns the question that the study answers, in one sentence."""
    settings = records.settings
    limits = [Constraint.parse(text) for text in settings.constraints]
    words = {"<=": "at most", ">=": "at least"}
    kept = [f"{words[limit.relation]} {limit.bound:,} {METRIC_LABELS[limit.metric].noun}" for limit in limits]
    wanted = "Which network reaches the best val accuracy"
    if _has_two_objectives(records):
        wanted = f"Which networks reach the best val accuracies with the fewest {METRIC_LABELS[settings.cost].noun}"
    last = min(settings.consistency, settings.epochs)
    figure = f"mean of the last {last} of {settings.epochs} epochs" if last > 1 else "after 1 epoch"
    what = f"{wanted} ({figure}) on {settings.dataset}"
    return f"{what}, with {_join_words(kept)}?" if kept else f"{what}?"


def answer(records: StudyRecords) -> Answer:
    """Returns the result so far, with its caveats."""
    front = _front_text(records) if _has_two_objectives(records) else ""
    if verdict := records.stored_confirmation:
        trial, test = records.trial(verdict.trial), verdict.test
        return Answer(
            text=f"{f'{front} Confirmed: trial' if front else 'Trial'} {trial.number}: {_cost_text(trial, records)},"
            f" {spread_text(test.final_accuracies)} test accuracy (mean ± standard deviation of"
            f" {len(test.final_accuracies)} seeds); target {test.verdict}.",
            caveats=(*_pick_sentence(verdict), *test.lines(), verdict.openings_text),
            trial=trial,
            test=test,
        )
    best = records.best(1)
    if not best:
        return Answer(text="No network is trained yet.", caveats=())
    (trial,) = best
    num, caveats = records.tally().num_trained, []
    if num > 1:
        who = "These networks were" if front else "It was"
        caveats.append(f"{who} chosen among {num:,} by val accuracy: expect less on new images.")
    if front:
        caveats.append(f"The most accurate of them, trial {trial.number}, is shown layer by layer.")
    return Answer(
        text=front or f"Best so far: trial {trial.number} with {describe_trial(trial, records)}.",
        caveats=tuple(caveats),
        trial=trial,
    )


def _pick_sentence(verdict: StoredConfirmation) -> tuple[str, ...]:
    """Returns a sentence on why the confirmed trial was picked; none if it was the only finalist."""
    if verdict.ranking is None:
        return ()
    seeds = len(verdict.ranking.winner.objectives)
    return (f"By mean val accuracy over {seeds} further seeds, {verdict.ranking.pick_text}.",)


def describe_trial(trial: TrainedTrial, records: StudyRecords) -> str:
    """Returns the cost and the val accuracy of a trained network as a phrase."""
    settings = records.settings
    last, lowest = last_epochs_text(settings.consistency, settings.epochs), f"{trial.consistent_accuracy:.2%}"
    if trial.further:
        accuracy, how = trial.mean_objective, f"mean of {1 + len(trial.further)} runs"
    elif min(settings.consistency, settings.epochs) == 1:
        accuracy, how = trial.objective, f"one run, after {last}"
    else:
        accuracy, how = trial.objective, f"one run, mean of {last}, lowest {lowest}"
    return f"{_cost_text(trial, records)}, {accuracy:.2%} val accuracy ({how})"


def best_rows(records: StudyRecords, count: int = 10) -> list[dict[str, Any]]:
    """Returns rows for a table: the `count` best trials, or the whole Pareto front, cheapest first.

    The front is returned if the study has two objectives. Keys of a row: `trial`; `epochs`, mean and standard deviation
    of the val accuracy over the last epochs; `again`, the same over the seeds of a confirmation, or None.
    """
    verdict = records.stored_confirmation
    again = verdict.mean_and_sd_by_trial() if verdict else {}
    return [
        {
            "trial": trial,
            "again": again.get(trial.number),
            "epochs": _spread_over_last_epochs(trial, records.settings.consistency),
        }
        for trial in (records.pareto() if _has_two_objectives(records) else records.best(count))
    ]


def commands(records: StudyRecords) -> list[str]:
    """Returns the commands that reproduce the study and its result."""
    board = records.notes.export_arguments
    if verdict := records.stored_confirmation:
        return records.commands(("confirm", verdict.confirm_arguments), ("export", {"trial": "confirmed", **board}))
    return records.commands(*[("export", board)] * bool(records.best(1)))


def _has_two_objectives(records: StudyRecords) -> bool:
    return len(records.settings.objectives) > 1


def _front_text(records: StudyRecords) -> str:
    """Describes the Pareto front so far by its cheapest and its most expensive network."""
    front, cost = records.pareto(), METRIC_LABELS[records.settings.cost].noun
    if not front:
        return ""
    ends = [f"trial {trial.number} with {describe_trial(trial, records)}" for trial in (front[0], front[-1])]
    which = f"{count_text(len(front), 'network')} that no other one beats in both accuracy and {cost}"
    return f"So far {which}: {f'from {ends[0]}, to {ends[1]}' if len(front) > 1 else ends[0]}."


def _spread_over_last_epochs(trial: TrialRecord, consistency: int) -> tuple[float, float]:
    """Returns mean and standard deviation of the val accuracy over the last epochs."""
    last = [metrics.val_accuracy for metrics in trial.history[-consistency:]]
    return fmean(last), stdev(last) if len(last) > 1 else 0.0


def _cost_text(trial: TrialRecord, records: StudyRecords) -> str:
    """Describes the cost of a network; includes the study's cost."""
    text = f"{trial.params:,} parameters, {trial.macs:,} MACs, receptive field {trial.receptive_field} pixels"
    cost = records.settings.cost
    return text if cost in ("params", "macs") else f"{text}, {getattr(trial, cost):,} {METRIC_LABELS[cost].noun}"


def _join_words(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
