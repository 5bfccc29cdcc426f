"""Statistics over several seeds: spread, ties, and whether a target accuracy is reached.

Accuracies are fractions in 0..1; texts give differences between them in percentage points.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from nas.text import html_lines, last_epochs_text

CONFIDENCE = 0.95  # of every confidence interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Finalist:
    """A trial of the search that was trained again with several seeds.

    Attributes:
        trial: number of the trial.
        cost: metric that breaks ties, smaller is better: the study's second objective, or parameters.
        objectives: val objective of each seed; 0 for a run that diverged.
    """

    trial: int
    cost: int
    objectives: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return fmean(self.objectives)

    @property
    def sd(self) -> float:
        """Sample standard deviation over the seeds (divisor n - 1)."""
        return stdev(self.objectives)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Finalists in descending order of their mean objective.

    Attributes:
        finalists: the finalists, best first.
        standard_error: standard error of the difference of two means, from the pooled variance of the finalists.
    """

    finalists: tuple[Finalist, ...]
    standard_error: float

    @classmethod
    def from_finalists(cls, finalists: Sequence[Finalist]) -> "Ranking":
        """Ranks finalists; each must have the same number of seeds, at least two."""
        seeds = len(finalists[0].objectives)
        # A diverged run would inflate the variance so much that all finalists seem tied.
        sound = [finalist for finalist in finalists if min(finalist.objectives) > 0] or finalists
        pooled = fmean(finalist.sd**2 for finalist in sound)
        ranked = sorted(finalists, key=lambda finalist: (-finalist.mean, finalist.cost, finalist.trial))
        return cls(finalists=tuple(ranked), standard_error=math.sqrt(2 * pooled / seeds))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Ranking":
        """Returns the ranking that `to_json` wrote."""
        finalists = (
            Finalist(trial=each["trial"], cost=each["cost"], objectives=tuple(each["objectives"]))
            for each in row["finalists"]
        )
        return cls(finalists=tuple(finalists), standard_error=row["standard_error"])

    @property
    def tied(self) -> tuple[Finalist, ...]:
        """The best finalist and those behind it by at most one standard error.

        The one-standard-error rule: Breiman et al. 1984, "Classification and Regression Trees", section 3.4.3.
        """
        least = self.finalists[0].mean - self.standard_error
        return tuple(finalist for finalist in self.finalists if finalist.mean >= least)

    @property
    def winner(self) -> Finalist:
        """The tied finalist with the lowest cost: the others are not measurably better."""
        return min(self.tied, key=lambda finalist: finalist.cost)

    @property
    def pick_text(self) -> str:
        """Which trial is picked and why, as text."""
        error = f"{100 * self.standard_error:.3f} points, one standard error of the difference of two means"
        if len(self.tied) == 1:
            return f"trial {self.winner.trial} is picked: the others are behind by more than {error}"
        tied = f"the smallest of {len(self.tied)} that are tied"
        return f"trial {self.winner.trial} is picked, {tied}: none is behind the best by more than {error}"

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        return {
            "finalists": [
                {"trial": each.trial, "cost": each.cost, "objectives": each.objectives, "tied": each in self.tied}
                for each in self.finalists
            ],
            "standard_error": self.standard_error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedAccuracies:
    """Accuracies of one network trained with several seeds, compared with a target.

    They are on the test split, or on the val split for `train_seeds` without `test`.

    Attributes:
        accuracies: accuracy after each epoch, one tuple for each of at least two seeds; zeros for a run that diverged.
        consistency: number of last epochs that must reach the target.
        target: fraction in 0..1.
        num_images: number of images that the accuracies were measured on.
    """

    __test__ = False  # pytest would collect it because of its name

    accuracies: tuple[tuple[float, ...], ...]
    consistency: int
    target: float
    num_images: int

    @property
    def final_accuracies(self) -> list[float]:
        """Accuracy after the last epoch, for each seed."""
        return [run[-1] for run in self.accuracies]

    @property
    def lowest_accuracies(self) -> list[float]:
        """Lowest accuracy of the last `consistency` epochs, for each seed."""
        return [min(run[-self.consistency :]) for run in self.accuracies]

    @property
    def num_met(self) -> int:
        """Number of seeds that reach the target in each of the last `consistency` epochs."""
        return sum(lowest >= self.target for lowest in self.lowest_accuracies)

    @property
    def verdict(self) -> str:
        """Whether all, some or no seeds reach the target: "met", "met by some" or "missed"."""
        return "missed" if not self.num_met else "met" if self.num_met == len(self.accuracies) else "met by some"

    def share_of_seeds(self) -> tuple[float, float]:
        """Returns the 95 % interval of the share of all seeds that reach the target (Clopper and Pearson 1934)."""
        from scipy.stats import binomtest

        interval = binomtest(self.num_met, len(self.accuracies)).proportion_ci(CONFIDENCE, method="exact")
        return float(interval.low), float(interval.high)

    def on_new_images(self) -> tuple[float, float]:
        """Returns the 95 % confidence interval of the mean final accuracy over all seeds and all images of this kind.

        It combines two intervals: Student's t for the seeds, and Wilson's for the images, which has a positive width
        even if every image is classified correctly. Lower and upper distances from the mean are added in quadrature
        (Zou and Donner 2008, "Construction of confidence limits about effect measures").
        """
        from scipy.stats import norm, t

        mean, seeds, images = fmean(self.final_accuracies), len(self.final_accuracies), self.num_images
        of_seeds = float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * stdev(self.final_accuracies) / math.sqrt(seeds)
        z = float(norm.ppf((1 + CONFIDENCE) / 2))
        centre = (mean + z**2 / (2 * images)) / (1 + z**2 / images)
        reach = z * math.sqrt(mean * (1 - mean) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
        low = mean - math.hypot(of_seeds, mean - (centre - reach))
        high = mean + math.hypot(of_seeds, centre + reach - mean)
        return max(0.0, low), min(1.0, high)

    def lines(self) -> list[str]:
        """Returns the verdict, the spread and both confidence intervals as lines of text."""
        seeds, last = len(self.accuracies), min(self.consistency, len(self.accuracies[0]))
        epochs = last_epochs_text(self.consistency, len(self.accuracies[0]))
        wanted = f"at least {self.target:.2%} in {'each of ' * (last > 1)}{epochs}"
        low, high = self.share_of_seeds()
        least, most = self.on_new_images()
        if self.target > most:
            answer = "does not reach the target: the whole range is below"
        elif self.target < least:
            answer = "reaches the target: the whole range is above"
        else:
            answer = "may or may not reach the target: the range includes"
        return [
            f"Target {self.verdict}: {self.num_met} of {seeds} seeds keep {wanted}.",
            f"Final accuracy {spread_text(self.final_accuracies)}, lowest of {epochs}"
            f" {spread_text(self.lowest_accuracies)} (mean ± standard deviation of {seeds} seeds).",
            f"With new seeds, {low:.0%} to {high:.0%} of trainings would keep the target (95 % confidence, from"
            f" {self.num_met} of {seeds}).",
            f"Mean final accuracy to expect on new images of this kind: {least:.2%} to {most:.2%} (95 % confidence,"
            f" {seeds} seeds and {self.num_images:,} images). This mean {answer} {self.target:.2%}.",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        """Returns the lines as HTML, for notebooks."""
        return html_lines(self.lines())

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`."""
        return {
            "verdict": self.verdict,
            "target": self.target,
            "num_seeds": len(self.accuracies),
            "num_met": self.num_met,
            "final_accuracy_mean": fmean(self.final_accuracies),
            "final_accuracy_sd": stdev(self.final_accuracies),
            "consistent_accuracy_mean": fmean(self.lowest_accuracies),
            "consistent_accuracy_sd": stdev(self.lowest_accuracies),
            "share_of_seeds": self.share_of_seeds(),
            "on_new_images": self.on_new_images(),
            "num_images": self.num_images,
            "accuracies": self.accuracies,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConfirmation:
    """The stored result of a study's confirmation.

    Attributes:
        trial: number of the trial that was picked.
        test: its accuracies on the test split.
        ranking: the finalists on the val split; None if there was only one.
        num_openings: how often the test split has been opened for this study.
    """

    trial: int
    test: SeedAccuracies
    ranking: Ranking | None
    num_openings: int

    @classmethod
    def from_json(cls, row: Mapping[str, Any], consistency: int) -> "StoredConfirmation":
        """Returns the result in a stored summary that was checked already; `consistency` is the study's."""
        ranking = row["ranking"]
        return cls(
            trial=row["trial"],
            test=SeedAccuracies(
                accuracies=tuple(tuple(run) for run in row["accuracies"]),
                consistency=consistency,
                target=row["target"],
                num_images=row["num_images"],
            ),
            ranking=None if ranking is None else Ranking.from_json(ranking),
            num_openings=row["num_openings"],
        )

    @property
    def openings_text(self) -> str:
        """A sentence: how often the test split was opened, and whether that biases the figures."""
        times = (
            "once for this study" if self.num_openings == 1 else f"{self.num_openings} times: its figures are biased"
        )
        return f"The test split was opened {times}."

    @property
    def confirm_arguments(self) -> dict[str, float]:
        """The arguments of `confirm` that repeat this confirmation."""
        num = len(self.ranking.finalists) if self.ranking else 1
        return {"top": num, "seeds": len(self.test.accuracies), "target": self.test.target}

    def mean_and_sd_by_trial(self) -> dict[int, tuple[float, float]]:
        """Returns mean and standard deviation of the val objective of each finalist, by trial number."""
        finalists = self.ranking.finalists if self.ranking else ()
        return {finalist.trial: (finalist.mean, finalist.sd) for finalist in finalists}


def spread_text(values: Sequence[float]) -> str:
    """Returns mean and sample standard deviation of fractions in per cent, such as "99.41 ± 0.05 %"."""
    return f"{100 * fmean(values):.2f} ± {100 * stdev(values):.2f} %"
