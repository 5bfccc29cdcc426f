"""What a study stores of its confirmation: runs with further seeds, and every opening of the test split."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nas.errors import StudyError
from nas.schema import COUNT, INDEX, TEXT, Fields, Many
from nas.study.attributes import PREFIX
from nas.study.reader import StudyRecords
from nas.study.runs import StudyRuns

if TYPE_CHECKING:
    from torch import Tensor


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


class ConfirmedRecords(StudyRuns):
    """The confirmation's part of a study's records."""

    def __init__(self, records: StudyRecords) -> None:
        super().__init__(records.study, records.settings.epochs)
        self.records = records

    def openings(self) -> list[Opening]:
        """Every opening of the test split so far."""
        rows = self.read(f"{PREFIX}openings", Many(OPENING)) or []
        return [Opening(**{**row, "finalists": tuple(row["finalists"])}) for row in rows]

    def open(self, opening: Opening) -> None:
        """Notes that the test split is about to be opened."""
        self.write(f"{PREFIX}openings", [asdict(every) for every in (*self.openings(), opening)])

    def keep_test(self, num_images: int, fingerprint: str) -> bool:
        """Stores what the test split is, or tells whether it is still the same."""
        found = {"num_images": num_images, "fingerprint": fingerprint}
        if self.read(f"{PREFIX}test", TEST) is None:
            self.write(f"{PREFIX}test", found)
        return bool(self.read(f"{PREFIX}test", TEST) == found)

    def num_images(self) -> int:
        """How many images the test split has, once it was opened."""
        test = self.read(f"{PREFIX}test", TEST)
        if test is None:
            raise StudyError(f"{self.where(f'{PREFIX}test')} is missing, allowed: what the test split is")
        return int(test["num_images"])

    def keep_weights(self, trial: int, weights: bytes) -> None:
        """Stores the weights of the first seed of the trial that was confirmed."""
        artifact, attributes = self.records.artifacts.write(weights)
        for key, value in attributes.items():
            self.write(key, value)
        self.write(f"{PREFIX}weights:{trial}", artifact)

    def weights(self, trial: int) -> "dict[str, Tensor]":
        """The weights of the first seed, trained on train + val."""
        artifact = self.read(f"{PREFIX}weights:{trial}", TEXT)
        if artifact is None:
            raise StudyError(f"trial {trial} with seed 0 diverged on train + val: it has no weights to export")
        architecture = self.records.trained(trial).architecture
        return self.records.artifacts.download(artifact, f"the confirmed weights of trial {trial}", architecture)

    def conclude(self, summary: dict[str, Any]) -> None:
        """Stores what came out, for people to read."""
        self.records.study.set_user_attr("confirmed", summary)
