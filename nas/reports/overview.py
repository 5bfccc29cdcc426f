"""Stores a Markdown note and figures in a study, for the dashboard.

Both depend only on what the study stores, so two processes that write them at the same time write the same content.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from nas.reports.figures import (
    MAX_CURVES,
    accuracy_against_cost,
    discards_over_candidates,
    learning_curves,
    params_by_layer,
)
from nas.reports.summary import describe_trial
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.reader import StudyRecords
from nas.templates import render_template

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def update_note_and_figures(records: StudyRecords) -> None:
    """Updates the note and the figures in the study; a note that a user has written or edited is kept."""
    import optuna_dashboard

    study = records.study
    text, before = note(records), optuna_dashboard.get_note(study)
    ours = system_attrs(study).get(f"{PREFIX}notes", [])
    if text != before and (not before or _digest(before) in ours):
        # Both digests are stored first: if the process is killed in between, either note is recognised as ours.
        set_system_attr(study, f"{PREFIX}notes", [_digest(before), _digest(text)])
        optuna_dashboard.save_note(study, text)
    for name, figure in figures(records).items():
        optuna_dashboard.save_plotly_graph_object(study, figure, graph_object_id=name)


def figures(records: StudyRecords) -> dict[str, "Figure"]:
    """Returns the figures of a study by name."""
    trials, best = records.trials(), records.best(MAX_CURVES)
    cost, verdict = records.settings.cost, records.stored_confirmation
    spreads = verdict.mean_and_sd_by_trial() if verdict else {}
    shown = {
        "accuracy": accuracy_against_cost(trials, metric=cost, confirmed=spreads),
        "learning_curves": learning_curves(best),
        "discards": discards_over_candidates(records.discards_by_candidate()),
    }
    if best:
        title = f"Parameters of the best (trial {best[0].number}) by layer"
        shown["layers"] = params_by_layer(best[0].architecture, title=title)
    return shown


def note(records: StudyRecords) -> str:
    """Returns a summary of the study in Markdown; text from outside is in code spans, where markup has no effect."""
    best = next(iter(records.best(1)), None)
    return render_template(
        Path(__file__).with_name("note.md"),
        settings=records.settings,
        notes=records.notes,
        tally=records.tally(),
        discards=records.discards(),
        best=best,
        described=describe_trial(best, records) if best else "",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
