"""Stores a Markdown note and figures in a study, for the dashboard.

Both depend only on what the study stores, so two processes that write them at the same time write the same content.
"""

import hashlib
import re
from typing import TYPE_CHECKING

from nas.architecture.cost import METRIC_LABELS
from nas.reports.figures import (
    MOST_CURVES,
    accuracy_against,
    discards_over_candidates,
    learning_curves,
    params_by_layer,
)
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.reader import StudyRecords
from nas.study.trial import runs_text
from nas.text import counted

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def refresh(records: StudyRecords) -> None:
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
    trials, best = records.trials(), records.best(MOST_CURVES)
    cost, verdict = records.settings.cost, records.verdict
    spreads = verdict.spreads() if verdict else {}
    shown = {
        "accuracy": accuracy_against(trials, metric=cost, confirmed=spreads),
        "learning_curves": learning_curves(best),
        "discards": discards_over_candidates(records.discards_by_candidate()),
    }
    if best:
        title = f"Parameters of the best (trial {best[0].number}) by layer"
        shown["layers"] = params_by_layer(best[0].architecture, title=title)
    return shown


def note(records: StudyRecords) -> str:
    """Returns a summary of the study in Markdown; text from outside is in code spans, where markup has no effect."""
    settings, notes, tally = records.settings, records.notes, records.tally()
    discards = records.discards()
    counts = f"{tally.num_trained:,} trained, {tally.num_pruned:,} stopped early, {discards.total():,} discarded"
    reasons = ", ".join(f"{_code(reason)} {count:,}" for reason, count in discards.most_common())
    lines = {
        "command": _code(notes.command),
        "limits": ", ".join(map(_code, settings.constraints)),
        "dataset": f"{_code(settings.dataset)} ({_code(notes.dataset_note)}), {_code(settings.split)}",
        "search": f"space {_code(settings.space)}, sampler {_code(settings.sampler)}, pruner {_code(settings.pruner)},"
        f" objective {_code(','.join(settings.objectives))}, {counted(settings.epochs, 'epoch')}, seed {settings.seed}",
        "machine": _code(notes.machine),
        "so far": counts + (f" ({reasons})" if reasons else ""),
    }
    for best in records.best(1):
        label = METRIC_LABELS[settings.cost]
        cost = "" if settings.cost in ("params", "macs") else f", {getattr(best, settings.cost):,} {label.noun}"
        lines["best"] = (
            f"trial {best.number}: {best.objective:.2%} (lowest {best.consistent_accuracy:.2%}),"
            f" {best.params:,} parameters, {best.macs:,} MACs, receptive field {best.receptive_field}{cost}"
        ) + "".join(f", {text}" for text in (_code(best.source) if best.source else "", runs_text(best)) if text)
    return "\n".join(f"- **{name}**: {text}" for name, text in lines.items()) + "\n"


def _code(text: object) -> str:
    """Returns a code span of the text on one line, with a fence longer than any run of backticks in it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split()) or "-"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
