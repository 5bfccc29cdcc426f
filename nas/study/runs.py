"""Further runs of a study's trials: the same candidate trained again with other seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import optuna

from nas.errors import StudyError
from nas.schema import Allowed, Fields, Interval, Many, check
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.trial import epochs_of
from nas.training.metrics import EpochMetrics

FINALISTS = f"{PREFIX}finalists"

JudgedOn = Literal["val", "test"]

FINAL_SEED = 1_000_000
"""The first seed of the runs that a search gives its finalists; confirm's begin with 0, so theirs are fresh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training of a trial's candidate. On "val": with the search's split. On "test": on train + val."""

    trial: int
    judged_on: JudgedOn
    seed: int

    @property
    def key(self) -> str:
        """The name of what is stored of it."""
        return f"{PREFIX}run:{self.trial}:{self.judged_on}:{self.seed}"

    @classmethod
    def of_key(cls, key: str) -> "Run | None":
        """The run that a key names, None where it names something else."""
        prefix, _, rest = key.partition("run:")
        parts = rest.split(":")
        if prefix != PREFIX or len(parts) != 3 or parts[1] not in ("val", "test"):
            return None
        return cls(trial=int(parts[0]), judged_on=parts[1], seed=int(parts[2]))  # type: ignore[arg-type]


class StudyRuns:
    """What a study stores of further runs. epochs: of a whole training."""

    def __init__(self, study: optuna.Study, epochs: int) -> None:
        self.study = study
        self.epochs = epochs

    def history(self, run: Run) -> tuple[EpochMetrics, ...] | None:
        """The epochs of a run that has ended (none where its loss was no number); None where it has not."""
        return self._history(run, system_attrs(self.study))

    def _history(self, run: Run, stored: Mapping[str, Any]) -> tuple[EpochMetrics, ...] | None:
        rows = self._checked(run.key, stored, Many(Fields({})))
        if rows is None:
            return None
        where = self.where(run.key)
        epochs = epochs_of(rows, where=where)
        if [metrics.epoch for metrics in epochs] != list(range(1, self.epochs + 1)) and epochs:
            raise StudyError(f"{where}: {len(epochs)} epochs, allowed: none, or 1 to {self.epochs} in their order")
        return epochs

    def keep(self, run: Run, history: Sequence[EpochMetrics]) -> None:
        """Stores a run that has ended."""
        self.write(run.key, [metrics.to_json() for metrics in history])

    def finalists(self) -> tuple[tuple[int, ...], int]:
        """The trials that were chosen last for further runs, and how many each is to have."""
        chosen = self.read(FINALISTS, Fields({"trials": Many(Interval(int, 0)), "num_runs": Interval(int, 1)}))
        return (tuple(chosen["trials"]), chosen["num_runs"]) if chosen else ((), 0)

    def keep_finalists(self, trials: Sequence[int], num_runs: int) -> None:
        """Stores which trials are to have further runs, so that a search that is interrupted goes on with them."""
        self.write(FINALISTS, {"trials": list(trials), "num_runs": num_runs})

    def finals(self) -> dict[int, list[tuple[EpochMetrics, ...]]]:
        """The epochs of each run that the search has given its finalists, by trial."""
        found: dict[int, list[tuple[EpochMetrics, ...]]] = {}
        stored = system_attrs(self.study)
        for key in sorted(stored):
            run = Run.of_key(key)
            if run is not None and run.judged_on == "val" and run.seed >= FINAL_SEED:
                found.setdefault(run.trial, []).append(self._history(run, stored) or ())
        return found

    def read(self, key: str, expected: Allowed | Many | Fields) -> Any:
        """What is stored under the key, None if nothing; raises `StudyError` unless it is as expected."""
        return self._checked(key, system_attrs(self.study), expected)

    def _checked(self, key: str, stored: Mapping[str, Any], expected: Allowed | Many | Fields) -> Any:
        if key not in stored:
            return None
        check(stored[key], expected, self.where(key), StudyError)
        return stored[key]

    def write(self, key: str, value: Any) -> None:
        """Stores a value under the key."""
        set_system_attr(self.study, key, value)

    def where(self, key: str) -> str:
        """The place of a value, as an error names it."""
        return f"study {self.study.study_name!r}: {key}"
