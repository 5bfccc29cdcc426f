"""Where an exported network comes from: its data, its recipe, the limits it keeps, and what was measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from nas.data.datasets import Dataset, Split
from nas.recipe import Recipe
from nas.seed_stats import Verdict, spread_text
from nas.study.reader import StudyRecords
from nas.study.trial import TrainedTrial
from nas.text import last_epochs
from nas.training.fit import Fit, Repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Data at hand to prove exported files on. `val` was seen in training where `is_seen`; `train` calibrates int8.

    accuracy: what the weights reached on `val` when they were trained, a fraction; None where nobody measured it.
    """

    train: Split
    val: Split
    is_seen: bool
    accuracy: float | None = None

    @classmethod
    def of(cls, dataset: Dataset, *, is_seen: bool, accuracy: float | None = None) -> "Evidence":
        """Of a dataset's train and val splits."""
        return cls(train=dataset.train, val=dataset.val, is_seen=is_seen, accuracy=accuracy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What an exported network says of itself. `result` is one sentence, `facts` are sentences for people.

    mean, std: of the pixels scaled to 0..1, one a channel. classes: names in the order of the logits.
    limits: constraints that the network keeps, such as "params<=8000". commands: how it came about.
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
    commands: tuple[str, ...] = ()
    machine: str = ""

    @classmethod
    def of_trial(cls, records: StudyRecords, record: TrainedTrial) -> "Origin":
        """Of a finished trial of a search."""
        settings = records.settings
        last = last_epochs(settings.consistency, settings.epochs)
        # First what the weights that are exported reach, then the figure that the search went by.
        final, how, figure = f"{record.history[-1].val_accuracy:.2%}", "after the last epoch", "this figure"
        figures = f"{final} after the last epoch, which these weights are of"
        if min(settings.consistency, settings.epochs) > 1:
            how += f"; mean of {last}, the search's objective: {record.objective:.2%}"
            figures += f"; mean {record.objective:.2%} of {last}, lowest of them {record.consistent_accuracy:.2%}"
            figure = f"the mean of {last}"
        num = records.tally().num_trained
        chosen = f"and chosen by {figure} among {num:,}: it looks better here than on new images"
        return _of_study(
            records,
            record,
            split=f"train ({settings.split})",
            seed=record.seed or 0,
            result=f"{final} val accuracy ({how}), one run",
            facts=(
                f"Trial {record.number} of study {records.name!r}.",
                f"Accuracy on the validation split: {figures}.",
                f"One run, {chosen if num > 1 else 'of one seed: another seed gives another figure'}.",
            ),
        )

    @classmethod
    def of_confirmed(cls, records: StudyRecords, record: TrainedTrial, verdict: Verdict) -> "Origin":
        """Of the trial that a confirmation picked."""
        test = verdict.test
        seeds = len(test.finals)
        return _of_study(
            records,
            record,
            split="train + val",
            seed=0,
            result=f"{spread_text(test.finals)} test accuracy (mean and standard deviation of {seeds} seeds)",
            facts=(
                f"Trial {record.number} of study {records.name!r}, confirmed with {seeds} seeds.",
                f"The weights here are seed 0's, fixed beforehand: {test.finals[0]:.2%} on the test split.",
                *test.lines(),
                verdict.openings_text,
            ),
            commands=(f"{verdict.command}{records.ref.options()}",),
        )

    @classmethod
    def of_fit(cls, fit: Fit, facts: Sequence[str]) -> "Origin":
        """Of a single training."""
        return cls._trained(fit, facts, f"{fit.history[-1].val_accuracy:.2%} {fit.judged_on} accuracy, one run")

    @classmethod
    def of_repeats(cls, repeats: Repeats) -> "Origin":
        """Of the first of several trainings."""
        fit, result = repeats.fit, repeats.result
        own = f"{fit.history[-1].val_accuracy:.2%} on the {fit.judged_on} split"
        seeds = f"mean and standard deviation of {len(result.finals)} seeds"
        return cls._trained(
            fit,
            (f"The weights here are seed {fit.seed}'s, fixed beforehand: {own}.", *result.lines()),
            f"{spread_text(result.finals)} {fit.judged_on} accuracy ({seeds})",
        )

    @classmethod
    def _trained(cls, fit: Fit, facts: Sequence[str], result: str) -> "Origin":
        return cls(
            dataset=fit.dataset,
            split="train + val" if fit.judged_on == "test" else "train",
            recipe=fit.recipe,
            seed=fit.seed,
            mean=fit.mean,
            std=fit.std,
            classes=fit.classes,
            result=result,
            facts=(*facts, *_not_mnist(fit.dataset)),
        )


def _of_study(
    records: StudyRecords,
    record: TrainedTrial,
    *,
    split: str,
    seed: int,
    result: str,
    facts: Sequence[str],
    commands: Sequence[str] = (),
) -> Origin:
    notes = records.notes
    return Origin(
        dataset=records.settings.dataset,
        split=split,
        recipe=record.recipe,
        seed=seed,
        mean=notes.mean,
        std=notes.std,
        classes=notes.classes,
        result=result,
        facts=(*facts, *_not_mnist(records.settings.dataset)),
        limits=records.settings.constraints,
        commands=(notes.command, *commands),
        machine=notes.machine,
    )


def _not_mnist(dataset: str) -> list[str]:
    return ["The digits are scikit-learn's 8x8 scans, scaled to 28x28: not MNIST."] * (dataset == "digits")
