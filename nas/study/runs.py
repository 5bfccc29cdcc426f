"""Further runs of a study's trials: the same candidate trained again with other seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import optuna

from nas.errors import StudyError
from nas.schema import Allowed, Fields, Interval, Many, check
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.trial import epochs_of
from nas.training.metrics import EpochMetrics

FINALS = f"{PREFIX}finals"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finals:
    """Further runs that a search gives its best trials: seed by seed, and trial by trial for each.

    num_candidates: how many candidates had ended when these trials were chosen.
    """

    trials: tuple[int, ...] = ()
    num_runs: int = 0
    num_candidates: int = 0

    def runs(self) -> list[Run]:
        """All of them, in the order in which they are trained."""
        places = (divmod(index, len(self.trials)) for index in range(self.num_runs))
        return [Run(trial=self.trials[k], judged_on="val", seed=FINAL_SEED + index) for index, k in places]


STORED_FINALS = Fields(
    {"trials": Many(Interval(int, 0), 1), "num_runs": Interval(int, 1), "num_candidates": Interval(int, 1)},
    required=frozenset(Finals.__dataclass_fields__),
    closed=True,
)


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

    def chosen(self) -> Finals:
        """The further runs that were chosen last; none where there have been none."""
        stored = self.read(FINALS, STORED_FINALS)
        return Finals(**{**stored, "trials": tuple(stored["trials"])}) if stored else Finals()

    def choose(self, finals: Finals) -> None:
        """Stores which runs there are to be, so that a search that is interrupted goes on with them."""
        self.write(FINALS, asdict(finals) | {"trials": list(finals.trials)})

    def missing(self, finals: Finals) -> list[Run]:
        """Those of the runs that have not ended, in their order."""
        return [run for run in finals.runs() if self.history(run) is None]

    def ranked(self) -> bool:
        """Whether the search has trained all further runs that it chose."""
        chosen = self.chosen()
        return bool(chosen.trials) and not self.missing(chosen)

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
