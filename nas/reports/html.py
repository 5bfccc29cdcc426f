"""Renders the report of a study as one HTML page from the template page.html."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture.cost import METRIC_LABELS
from nas.architecture.diagram import svg_data_url
from nas.architecture.summary import summarise
from nas.distribution import package_version
from nas.reports.figures import (
    MAX_CURVES,
    accuracy_against_cost,
    discards_over_candidates,
    learning_curves,
    params_by_layer,
)
from nas.reports.importances import MIN_TRIALS, NUM_FORESTS, importance_figure, importances
from nas.reports.summary import answer, best_rows, commands, question
from nas.space.feasibility import reason_meanings
from nas.study.reader import StudyRecords
from nas.templates import render_template
from nas.text import last_epochs_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NUM_BEST = 10


def page(records: StudyRecords) -> str:
    """Returns a self-contained HTML page that includes plotly's script; text from the study is escaped."""
    from plotly.offline import get_plotlyjs

    return render_template(Path(__file__).with_name("page.html"), plotly=get_plotlyjs(), **_template_values(records))


def _template_values(records: StudyRecords) -> dict[str, Any]:
    trials, settings = records.trials(), records.settings
    verdict = records.stored_confirmation
    found = answer(records)
    shares, discards = importances(records), records.discards()
    figures = {
        "accuracy": accuracy_against_cost(
            trials, metric=settings.cost, confirmed=verdict.mean_and_sd_by_trial() if verdict else {}
        ),
        "curves": learning_curves(records.best(MAX_CURVES)),
    }
    if discards:
        figures["discards"] = discards_over_candidates(records.discards_by_candidate())
    if shares:
        figures["importances"] = importance_figure(shares)
    winner = found.trial.architecture if found.trial else None
    if winner:
        figures["layers"] = params_by_layer(winner)
    tally = records.tally()
    return {
        "study": records.name,
        "question": question(records),
        "answer": found,
        "settings": settings,
        "notes": records.notes,
        "tally": tally,
        "num_discards": discards.total(),
        "discards": discards.most_common(),
        "best": best_rows(records, NUM_BEST),
        "standard_error": verdict.ranking.standard_error if verdict and verdict.ranking else None,
        "reasons": reason_meanings(discards),
        "figures": {name: _json(figure) for name, figure in figures.items()},
        "num_seeds": NUM_FORESTS,
        "least": MIN_TRIALS,
        "winner": winner,
        "picture": svg_data_url(winner) if winner else "",
        "layers": summarise(winner).rows if winner else (),
        "recipe": found.trial.recipe.effective_fields() if found.trial and found.trial.recipe else {},
        "commands": commands(records),
        "confirm": records.commands(("confirm", {}))[-1],
        "is_front": len(settings.objectives) > 1,
        "cost": METRIC_LABELS[settings.cost].noun,
        "last": min(settings.consistency, settings.epochs),
        "last_epochs": last_epochs_text(settings.consistency, settings.epochs),
        "version": package_version(),
    }


def _json(figure: "Figure") -> str:
    """Returns the figure as JSON for a script element; escapes <, > and &, so that no text can close the element."""
    text: str = figure.to_json()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
