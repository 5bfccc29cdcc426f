"""What a study stores of its confirmation: runs with further seeds, and every opening of the test split."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from nas.errors import StudyError
from nas.schema import COUNT, INDEX, TEXT, Allowed, Fields, Many, check
from nas.study.attributes import PREFIX
from nas.study.optuna_storage import set_system_attr, system_attrs
from nas.study.reader import StudyRecords
from nas.study.trial import epochs_of
from nas.training.metrics import EpochMetrics

if TYPE_CHECKING:
    from torch import Tensor

JudgedOn = Literal["val", "test"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One opening of the test split: for which trial, with how many seeds, chosen among which finalists."""

    trial: int
    seeds: int
    finalists: tuple[int, ...]
    date: str

    def same_question(self, finalists: tuple[int, ...], seeds: int) -> bool:
        """Whether it was opened for these finalists and seeds."""
        return (self.finalists, self.seeds) == (finalists, seeds)


OPENING = Fields(
    {"trial": INDEX, "seeds": COUNT, "finalists": Many(INDEX, 1), "date": TEXT},
    required=frozenset(Opening.__dataclass_fields__),
    closed=True,
)
TEST = Fields({"num_images": COUNT, "fingerprint": TEXT}, required={"num_images", "fingerprint"})


class ConfirmedRecords:
    """The confirmation's part of a study's records."""

    def __init__(self, records: StudyRecords) -> None:
        self.records = records

    def history(self, run: Run) -> tuple[EpochMetrics, ...] | None:
        """The epochs of a run that has ended (none where its loss was no number); None where it has not."""
        rows = self._read(run.key, Many(Fields({})))
        if rows is None:
            return None
        where = self._where(run.key)
        epochs, wanted = epochs_of(rows, where=where), self.records.settings.epochs
        if [metrics.epoch for metrics in epochs] != list(range(1, wanted + 1)) and epochs:
            raise StudyError(f"{where}: {len(epochs)} epochs, allowed: none, or 1 to {wanted} in their order")
        return epochs

    def keep(self, run: Run, history: list[EpochMetrics]) -> None:
        """Stores a run that has ended."""
        self._write(run.key, [metrics.to_json() for metrics in history])

    def openings(self) -> list[Opening]:
        """Every opening of the test split so far."""
        rows = self._read(f"{PREFIX}openings", Many(OPENING)) or []
        return [Opening(**{**row, "finalists": tuple(row["finalists"])}) for row in rows]

    def open(self, opening: Opening) -> None:
        """Notes that the test split is about to be opened."""
        self._write(f"{PREFIX}openings", [asdict(every) for every in (*self.openings(), opening)])

    def keep_test(self, num_images: int, fingerprint: str) -> bool:
        """Stores what the test split is, or tells whether it is still the same."""
        found = {"num_images": num_images, "fingerprint": fingerprint}
        if self._read(f"{PREFIX}test", TEST) is None:
            self._write(f"{PREFIX}test", found)
        return bool(self._read(f"{PREFIX}test", TEST) == found)

    def num_images(self) -> int:
        """How many images the test split has, once it was opened."""
        test = self._read(f"{PREFIX}test", TEST)
        if test is None:
            raise StudyError(f"{self._where(f'{PREFIX}test')} is missing, allowed: what the test split is")
        return int(test["num_images"])

    def keep_weights(self, trial: int, weights: bytes) -> None:
        """Stores the weights of the first seed of the trial that was confirmed."""
        artifact, attributes = self.records.artifacts.write(weights)
        for key, value in attributes.items():
            self._write(key, value)
        self._write(f"{PREFIX}weights:{trial}", artifact)

    def weights(self, trial: int) -> "dict[str, Tensor]":
        """The weights of the first seed, trained on train + val."""
        artifact = self._read(f"{PREFIX}weights:{trial}", TEXT)
        if artifact is None:
            raise StudyError(f"trial {trial} with seed 0 diverged on train + val: it has no weights to export")
        architecture = self.records.trained(trial).architecture
        return self.records.artifacts.download(artifact, f"the confirmed weights of trial {trial}", architecture)

    def conclude(self, summary: dict[str, Any]) -> None:
        """Stores what came out, for people to read."""
        self.records.study.set_user_attr("confirmed", summary)

    def _read(self, key: str, expected: Allowed | Many | Fields) -> Any:
        """What is stored under the key, None if nothing; raises `StudyError` unless it is as expected."""
        stored = system_attrs(self.records.study)
        if key not in stored:
            return None
        check(stored[key], expected, self._where(key), StudyError)
        return stored[key]

    def _where(self, key: str) -> str:
        return f"study {self.records.study.study_name!r}: {key}"

    def _write(self, key: str, value: Any) -> None:
        set_system_attr(self.records.study, key, value)
