"""Stores and reads the confirmation of a study: its training runs, and every read of the test split."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas.errors import StudyError
from nas.schema import COUNT, INDEX, TEXT, ListOf, ObjectOf
from nas.study.attributes import PREFIX
from nas.study.reader import StudyRecords
from nas.study.runs import StudyRuns

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A read of the test split.

    Attributes:
        trial: Trial that is tested.
        seeds: Number of seeds.
        finalists: Trials that it was chosen from.
        date: Date in ISO format.
    """

    trial: int
    seeds: int
    finalists: tuple[int, ...]
    date: str

    def matches(self, finalists: tuple[int, ...], seeds: int) -> bool:
        """Returns whether the finalists and the number of seeds are the same."""
        return (self.finalists, self.seeds) == (finalists, seeds)


OPENING_FIELDS = ObjectOf(
    {"trial": INDEX, "seeds": COUNT, "finalists": ListOf(INDEX, 1), "date": TEXT},
    required=frozenset(Opening.__dataclass_fields__),
    closed=True,
)
TEST_SPLIT_FIELDS = ObjectOf({"num_images": COUNT, "fingerprint": TEXT}, required={"num_images", "fingerprint"})


class ConfirmationRecords(StudyRuns):
    """Stores and reads the confirmation of a study."""

    def __init__(self, records: StudyRecords) -> None:
        super().__init__(records.study, records.settings.epochs)
        self.records = records

    def openings(self) -> list[Opening]:
        """Returns every read of the test split so far, oldest first."""
        rows = self.read(f"{PREFIX}openings", ListOf(OPENING_FIELDS)) or []
        return [Opening(**{**row, "finalists": tuple(row["finalists"])}) for row in rows]

    def record_opening(self, opening: Opening) -> None:
        """Records that the test split is about to be read."""
        self.write(f"{PREFIX}openings", [asdict(every) for every in (*self.openings(), opening)])

    def record_test_split(self, num_images: int, fingerprint: str) -> bool:
        """Records the test split at the first call; returns whether the split is the recorded one."""
        found = {"num_images": num_images, "fingerprint": fingerprint}
        if self.read(f"{PREFIX}test", TEST_SPLIT_FIELDS) is None:
            self.write(f"{PREFIX}test", found)
        return bool(self.read(f"{PREFIX}test", TEST_SPLIT_FIELDS) == found)

    def num_images(self) -> int:
        """Returns the number of test images; raises `StudyError` if the test split is not recorded yet."""
        test = self.read(f"{PREFIX}test", TEST_SPLIT_FIELDS)
        if test is None:
            raise StudyError(
                f"{self.attr_location(f'{PREFIX}test')} is missing, expected the size and fingerprint of the test split"
            )
        return int(test["num_images"])

    def store_weights(self, trial: int, weights: bytes) -> None:
        """Stores the state dict of the confirmed trial's run with seed 0."""
        artifact, attributes = self.records.artifacts.write(weights)
        for key, value in attributes.items():
            self.write(key, value)
        self.write(f"{PREFIX}weights:{trial}", artifact)

    def weights(self, trial: int) -> "dict[str, Tensor]":
        """Returns the state dict of the run with seed 0, trained on train + val; raises `StudyError` if it diverged."""
        artifact = self.read(f"{PREFIX}weights:{trial}", TEXT)
        if artifact is None:
            raise StudyError(f"trial {trial} with seed 0 diverged on train + val and has no weights to export")
        architecture = self.records.trained_trial(trial).architecture
        return self.records.artifacts.read_state_dict(artifact, f"the confirmed weights of trial {trial}", architecture)

    def store_summary(self, summary: dict[str, Any]) -> None:
        """Stores the summary of the confirmation as a user attribute."""
        self.records.study.set_user_attr("confirmed", summary)
