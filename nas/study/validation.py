"""Checks a stored study once, when it is opened.

A database may be damaged, or edited by hand or by another program. After this check, code may rely on the presence and
the types of the attributes. Architectures, recipes and epochs are parsed only where they are used.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from nas.architecture.cost import METRICS
from nas.errors import StudyError, one_of, short_repr
from nas.schema import COUNT, INDEX, TEXT, Interval, ListOf, Nullable, ObjectOf, OneOf, check, mismatch_text
from nas.study.attributes import Outcome, StoredTrial
from nas.study.settings import OBJECTIVES, WHOLE_NUMBER, Settings

FRACTION = Interval(float, 0, 1)
NUMBER = Interval(float, 0)

STUDY_USER_ATTRS = ObjectOf(
    {
        **dict.fromkeys(("command", "dataset_note", "machine", "board"), TEXT),
        **dict.fromkeys(("further_commands", "board_limits"), ListOf(TEXT)),
        "normalisation": ObjectOf(
            {"mean": ListOf(Interval(float, 0), 1), "std": ListOf(Interval(float, 0, open_low=True), 1)},
            required={"mean", "std"},
        ),
        "classes": ListOf(TEXT, 2),
    },
    required={"command", "dataset_note", "machine", "normalisation", "classes"},
)
"""User attributes of a study that are read back, except its settings and the summary of its confirmation."""

FINALIST_FIELDS = ObjectOf(
    {"trial": INDEX, "cost": INDEX, "objectives": ListOf(FRACTION, 2)}, required={"trial", "cost", "objectives"}
)
CONFIRMATION_FIELDS = ObjectOf(
    {
        **dict.fromkeys(("study", "dataset"), TEXT),
        "trial": INDEX,
        **dict.fromkeys(("num_openings", "num_images"), COUNT),
        "target": FRACTION,
        "accuracies": ListOf(ListOf(FRACTION, 1), 2),
        "ranking": Nullable(
            ObjectOf(
                {"finalists": ListOf(FINALIST_FIELDS, 2), "standard_error": NUMBER},
                required={"finalists", "standard_error"},
            )
        ),
    },
    required={"study", "dataset", "trial", "num_openings", "num_images", "target", "accuracies", "ranking"},
)

TRIAL_USER_ATTRS = ObjectOf(
    {
        "outcome": OneOf(tuple(map(str, Outcome))),
        **dict.fromkeys(("reason", "fingerprint", "started_from", "started_as"), TEXT),
        **dict.fromkeys((*METRICS, "seed", "num_draws"), WHOLE_NUMBER),
        **dict.fromkeys(("candidate", "retry_of"), INDEX),
        "consistent_accuracy": FRACTION,
        "seconds": Interval(float, 0),
    }
)
"""User attributes of a trial. Which of them are required depends on how the trial ended."""

TRIAL_SYSTEM_ATTRS = ObjectOf(
    {
        **dict.fromkeys(("architecture", "recipe"), ObjectOf({})),
        "history": ListOf(ObjectOf({})),
        "discards": ObjectOf({}, others=INDEX),
        "drawn_for": INDEX,
        **dict.fromkeys(("weights", "session"), TEXT),
    }
)
"""System attributes of a trial, without their prefix. The first three are fully checked where they are used."""

REQUIRED_IF_TRAINED = {"outcome", *METRICS, "consistent_accuracy", "seconds"}
"""User attributes of a trial that was trained to the last epoch."""


def check_study(attrs: Mapping[str, Any], trials: Sequence[FrozenTrial], directions: int, where: str) -> None:
    """Raises `StudyError` unless the attributes and trials of a study are as this package stores them.

    Args:
        attrs: User attributes of the study, with "settings" among them.
        trials: All trials of the study, sorted by number.
        directions: Number of Optuna's directions.
        where: Name of the study for error messages.
    """
    settings = Settings.from_json(attrs["settings"], where=f"{where}: settings")
    if settings.objectives[0] != OBJECTIVES[0] or len(set(settings.objectives)) != directions:
        raise StudyError(
            f"{where}: settings: objectives is {short_repr(settings.objectives)} with {directions} directions in"
            f" Optuna, expected {OBJECTIVES[0]}, or {OBJECTIVES[0]} and {one_of(OBJECTIVES[1:])}"
        )
    check(attrs, STUDY_USER_ATTRS, where, StudyError)
    for number, trial in enumerate(trials):
        if trial.number != number:
            raise StudyError(f"{where}: trial {number}: number is {mismatch_text(trial.number, number)}")
        _check_trial(trial, directions, f"{where}: trial {number}")
    if "confirmed" in attrs:
        check(attrs["confirmed"], CONFIRMATION_FIELDS, f"{where}: confirmed", StudyError)
        number = attrs["confirmed"]["trial"]
        if number >= len(trials) or trials[number].state != TrialState.COMPLETE:
            raise StudyError(f"{where}: confirmed: trial is {number}, expected the number of a trained trial")


def _check_trial(trial: FrozenTrial, directions: int, where: str) -> None:
    """Raises `StudyError` unless the trial has what its outcome requires, each with a valid value."""
    outcome = trial.user_attrs.get("outcome")
    required_user: Set[str] = frozenset()
    required_system: Set[str] = frozenset()
    if trial.state == TrialState.COMPLETE or outcome == Outcome.TRAINED:
        required_user, required_system = REQUIRED_IF_TRAINED, {"architecture", "recipe", "history"}
    elif outcome == Outcome.PRUNED:
        required_system = {"history"}
    system_attrs = StoredTrial(trial).own_system_attrs()
    check(trial.user_attrs, replace(TRIAL_USER_ATTRS, required=required_user), where, StudyError)
    check(system_attrs, replace(TRIAL_SYSTEM_ATTRS, required=required_system), where, StudyError)
    if required_system and not system_attrs["history"]:
        raise StudyError(f"{where}: history is [], expected at least one epoch")
    if trial.state == TrialState.COMPLETE:
        check(trial.values, ListOf(Interval(float, 0), directions, directions), f"{where}: values", StudyError)
