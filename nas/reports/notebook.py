"""HTML of trials and results, as notebooks show them."""

from collections.abc import Sequence
from html import escape

from nas.architecture.cost import METRIC_LABELS
from nas.study.trial import TrialRecord, runs_text

METRICS = ("params", "macs", "receptive_field")


def trials_html(trials: Sequence[TrialRecord]) -> str:
    """Returns a table with one row for each trial: outcome, val accuracy in per cent, costs and notes."""
    titles = ("trial", "outcome", "val accuracy", "lowest", *(METRIC_LABELS[name].short for name in METRICS), "")
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, trials))}</tbody></table>"


def _row(trial: TrialRecord) -> str:
    accuracies = (f"{value:.2%}" if value is not None else "" for value in (trial.objective, trial.consistent_accuracy))
    costs = (f"{value:,}" if (value := getattr(trial, name)) is not None else "" for name in METRICS)
    notes = ", ".join(filter(None, (trial.source, runs_text(trial), trial.reason)))
    cells = (str(trial.number), trial.outcome, *accuracies, *costs, notes)
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
