"""Provenance of an exported network: its data, recipe, limits and measured results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas.data.datasets import Dataset, Split, merge_splits
from nas.recipe import Recipe
from nas.seed_stats import StoredConfirmation, spread_text
from nas.space.constraints import Limits
from nas.study.reader import StudyRecords
from nas.study.trial import TrainedTrial
from nas.text import last_epochs_text
from nas.training.fit import Fit, Repeats

if TYPE_CHECKING:
    from nas.training.data import TrainingData


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationData:
    """Data to verify exported files on.

    Attributes:
        train: Training split, which calibrates the int8 model.
        val: Validation split.
        is_seen: Whether the weights were trained on `val`, too.
        accuracy: Val accuracy that was measured in training, a fraction; None if it was not measured.
    """

    train: Split
    val: Split
    is_seen: bool
    accuracy: float | None = None

    @classmethod
    def of(cls, dataset: Dataset, *, is_seen: bool, accuracy: float | None = None) -> "VerificationData":
        """Returns the train and val splits of a dataset."""
        return cls(train=dataset.train, val=dataset.val, is_seen=is_seen, accuracy=accuracy)

    def training_data(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> "TrainingData":
        """Returns the images that the weights were trained on, and the val split.

        Args:
            mean: Mean of each channel, of pixels scaled to 0..1.
            std: Standard deviation of each channel, of pixels scaled to 0..1.
        """
        from nas.training.data import TrainingData

        seen = merge_splits(self.train, self.val) if self.is_seen else self.train
        return TrainingData(
            train_images=seen.images,
            train_labels=seen.labels,
            val_images=self.val.images,
            val_labels=self.val.labels,
            mean=mean,
            std=std,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Provenance that an export states in its model card and sources.

    Attributes:
        dataset: Name of the dataset.
        split: Images that the weights were trained on, such as "train + val".
        recipe: Recipe of the training run.
        seed: Seed of the training run.
        mean: Mean of each channel, of pixels scaled to 0..1.
        std: Standard deviation of each channel, of pixels scaled to 0..1.
        classes: Class names in the order of the logits.
        result: Measured accuracy, as a phrase.
        facts: Further facts, as sentences.
        limits: Constraints that the network satisfies, such as "params<=8000".
        board: Name of the board that limited the network; None without one.
        board_limits: Those of `limits` that come from the board.
        commands: Command lines that produced the network, or lines of Python that begin with "import nas".
        machine: Machine that trained the network; empty if unknown.
    """

    dataset: str
    split: str
    recipe: Recipe
    seed: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    result: str
    facts: tuple[str, ...]
    limits: tuple[str, ...] = ()
    board: str | None = None
    board_limits: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    machine: str = ""

    @classmethod
    def of_trial(cls, records: StudyRecords, record: TrainedTrial) -> "Provenance":
        """Returns the provenance of a finished trial."""
        settings, num = records.settings, records.tally().num_trained
        last, final = last_epochs_text(settings.consistency, settings.epochs), f"{record.history[-1].val_accuracy:.2%}"
        facts = [f"Trial {record.number} of study {records.name!r}."]
        if min(settings.consistency, settings.epochs) > 1:
            facts.append(
                f"Val accuracy of these weights, after the last epoch: {final}. The search maximises the mean over"
                f" {last}, {record.objective:.2%}. The lowest of them, the consistent accuracy, is"
                f" {record.consistent_accuracy:.2%}."
            )
        if record.further:
            runs = 1 + len(record.further)
            facts.append(f"Mean over {runs} runs with different seeds: {record.mean_objective:.2%} (mean over {last}).")
        if num > 1:
            facts.append(f"If this network was chosen among the {num:,} of the search, expect less on new images.")
        else:
            facts.append("One run with one seed: another seed gives another accuracy.")
        return _of_study(
            records,
            record,
            split=f"train ({settings.split})",
            seed=record.seed or 0,
            result=f"{final} val accuracy, one run",
            facts=facts,
            commands=records.commands(),
        )

    @classmethod
    def of_confirmed(cls, records: StudyRecords, record: TrainedTrial, verdict: StoredConfirmation) -> "Provenance":
        """Returns the provenance of the trial that a confirmation picked, with the weights of its first seed."""
        test = verdict.test
        seeds = len(test.final_accuracies)
        return _of_study(
            records,
            record,
            split="train + val",
            seed=0,
            result=f"{spread_text(test.final_accuracies)} test accuracy (mean and standard deviation of {seeds} seeds)",
            facts=(
                f"Trial {record.number} of study {records.name!r}, confirmed with {seeds} seeds.",
                "The weights are those of seed 0, as fixed beforehand:"
                f" {test.final_accuracies[0]:.2%} on the test split.",
                *test.lines(),
                verdict.openings_text,
            ),
            commands=records.commands(("confirm", verdict.confirm_arguments)),
        )

    @classmethod
    def of_fit(cls, fit: Fit, facts: Sequence[str]) -> "Provenance":
        """Returns the provenance of a single training run."""
        return cls._of_training(fit, facts, f"{fit.history[-1].val_accuracy:.2%} {fit.judged_on} accuracy, one run")

    @classmethod
    def of_repeats(cls, repeats: Repeats) -> "Provenance":
        """Returns the provenance of training runs with several seeds; the weights are those of the first seed."""
        fit, result = repeats.fit, repeats.result
        own = f"{fit.history[-1].val_accuracy:.2%} on the {fit.judged_on} split"
        seeds = f"mean and standard deviation of {len(result.final_accuracies)} seeds"
        return cls._of_training(
            fit,
            (f"The weights are those of seed {fit.seed}, as fixed beforehand: {own}.", *result.lines()),
            f"{spread_text(result.final_accuracies)} {fit.judged_on} accuracy ({seeds})",
        )

    def limited_to(self, board: str) -> "Provenance":
        """Returns this provenance of a network that keeps the limits of a board."""
        limits = tuple(map(str, Limits(board=board).board_constraints()))
        return replace(self, limits=limits, board=board, board_limits=limits)

    @classmethod
    def _of_training(cls, fit: Fit, facts: Sequence[str], result: str) -> "Provenance":
        return cls(
            dataset=fit.dataset,
            split="train + val" if fit.judged_on == "test" else "train",
            recipe=fit.recipe,
            seed=fit.seed,
            mean=fit.mean,
            std=fit.std,
            classes=fit.classes,
            result=result,
            facts=(*facts, *_digits_caveat(fit.dataset)),
        )


def _of_study(
    records: StudyRecords,
    record: TrainedTrial,
    *,
    split: str,
    seed: int,
    result: str,
    facts: Sequence[str],
    commands: Sequence[str],
) -> Provenance:
    notes = records.notes
    return Provenance(
        dataset=records.settings.dataset,
        split=split,
        recipe=record.recipe,
        seed=seed,
        mean=notes.mean,
        std=notes.std,
        classes=notes.classes,
        result=result,
        facts=(*facts, *_digits_caveat(records.settings.dataset)),
        limits=records.settings.constraints,
        board=notes.board,
        board_limits=notes.board_limits,
        commands=tuple(commands),
        machine=notes.machine,
    )


def _digits_caveat(dataset: str) -> list[str]:
    return ["The digits are scikit-learn's 8x8 scans, scaled to 28x28: not MNIST."] * (dataset == "digits")
