"""Stores and reads further runs of a study's trials: the same candidate trained again with other seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import optuna

from nas.errors import StudyError
from nas.schema import Interval, ListOf, ObjectOf, ScalarSchema, check
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.trial import epochs_of
from nas.training.metrics import EpochMetrics

FINALS_KEY = f"{PREFIX}finals"

EvalSplit = Literal["val", "test"]

FIRST_FINALIST_SEED = 1_000_000
"""First seed of the finalists' further runs. A confirmation uses seeds from 0, which differ from these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run of a trial's candidate.

    Attributes:
        trial: Number of the trial.
        judged_on: "val": trained on the train split and judged on the validation split, as in the search. "test":
            trained on train + val and judged on the test split.
        seed: Seed of the training run.
    """

    trial: int
    judged_on: EvalSplit
    seed: int

    @property
    def key(self) -> str:
        """Name of the system attribute that stores the run."""
        return f"{PREFIX}run:{self.trial}:{self.judged_on}:{self.seed}"

    @classmethod
    def from_key(cls, key: str) -> "Run | None":
        """Returns the run that a system attribute stores, None if it stores something else."""
        prefix, _, rest = key.partition("run:")
        parts = rest.split(":")
        if prefix != PREFIX or len(parts) != 3 or parts[1] not in ("val", "test"):
            return None
        if not (parts[0].isdecimal() and parts[2].isdecimal()):
            return None
        return cls(trial=int(parts[0]), judged_on=parts[1], seed=int(parts[2]))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class FinalistChoice:
    """Choice of finalists and of their further runs in a search.

    Attributes:
        trials: Numbers of the finalists.
        num_runs: Number of further runs of all finalists together.
        num_candidates: Number of trained trials (`Tally.num_trained`) when the finalists were chosen.
    """

    trials: tuple[int, ...] = ()
    num_runs: int = 0
    num_candidates: int = 0

    def runs(self) -> list[Run]:
        """Returns the further runs in the order of their training: by seed, then by trial."""
        places = (divmod(index, len(self.trials)) for index in range(self.num_runs))
        return [Run(trial=self.trials[k], judged_on="val", seed=FIRST_FINALIST_SEED + index) for index, k in places]


FINALIST_CHOICE_FIELDS = ObjectOf(
    {"trials": ListOf(Interval(int, 0), 1), "num_runs": Interval(int, 1), "num_candidates": Interval(int, 1)},
    required=frozenset(FinalistChoice.__dataclass_fields__),
    closed=True,
)


class StudyRuns:
    """Stores and reads further runs in a study. `epochs`: number of epochs of a whole training run."""

    def __init__(self, study: optuna.Study, epochs: int) -> None:
        self.study = study
        self.epochs = epochs

    def history(self, run: Run) -> tuple[EpochMetrics, ...] | None:
        """Returns the epochs of a run that has ended, empty if it diverged; None if it has not ended."""
        return self._history(run, system_attrs(self.study))

    def _history(self, run: Run, stored: Mapping[str, Any]) -> tuple[EpochMetrics, ...] | None:
        rows = self._checked_attr(run.key, stored, ListOf(ObjectOf({})))
        if rows is None:
            return None
        where = self.attr_location(run.key)
        epochs = epochs_of(rows, where=where)
        if [metrics.epoch for metrics in epochs] != list(range(1, self.epochs + 1)) and epochs:
            raise StudyError(f"{where}: {len(epochs)} epochs found, expected none, or 1 to {self.epochs} in order")
        return epochs

    def store_history(self, run: Run, history: Sequence[EpochMetrics]) -> None:
        """Stores the epochs of a run that has ended."""
        self.write(run.key, [metrics.to_json() for metrics in history])

    def finalist_choice(self) -> FinalistChoice:
        """Returns the last choice of finalists; one without runs if there has been none."""
        stored = self.read(FINALS_KEY, FINALIST_CHOICE_FIELDS)
        return FinalistChoice(**{**stored, "trials": tuple(stored["trials"])}) if stored else FinalistChoice()

    def store_finalist_choice(self, finals: FinalistChoice) -> None:
        """Stores a choice of finalists, so that an interrupted search continues with it."""
        self.write(FINALS_KEY, asdict(finals) | {"trials": list(finals.trials)})

    def missing_runs(self, finals: FinalistChoice) -> list[Run]:
        """Returns the runs that have not ended, in order."""
        return [run for run in finals.runs() if self.history(run) is None]

    def has_ranked_finalists(self) -> bool:
        """Returns whether the search has chosen finalists and trained all their further runs."""
        chosen = self.finalist_choice()
        return bool(chosen.trials) and not self.missing_runs(chosen)

    def finalist_histories(self) -> dict[int, list[tuple[EpochMetrics, ...]]]:
        """Returns the epochs of each further run of the finalists, by trial; empty for a run that diverged."""
        found: dict[int, list[tuple[EpochMetrics, ...]]] = {}
        stored = system_attrs(self.study)
        for key in sorted(stored):
            run = Run.from_key(key)
            if run is not None and run.judged_on == "val" and run.seed >= FIRST_FINALIST_SEED:
                found.setdefault(run.trial, []).append(self._history(run, stored) or ())
        return found

    def read(self, key: str, expected: ScalarSchema | ListOf | ObjectOf) -> Any:
        """Returns the system attribute `key`, None if it is missing; raises `StudyError` if it is not as expected."""
        return self._checked_attr(key, system_attrs(self.study), expected)

    def _checked_attr(self, key: str, stored: Mapping[str, Any], expected: ScalarSchema | ListOf | ObjectOf) -> Any:
        if key not in stored:
            return None
        check(stored[key], expected, self.attr_location(key), StudyError)
        return stored[key]

    def write(self, key: str, value: Any) -> None:
        """Sets the system attribute `key`."""
        set_system_attr(self.study, key, value)

    def attr_location(self, key: str) -> str:
        """Returns the place of a system attribute for error messages."""
        return f"study {self.study.study_name!r}: {key}"
