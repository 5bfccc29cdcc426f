"""Epoch metrics as JSON; objective and consistent accuracy of a training."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import StudyError
from nas.training.metrics import EpochMetrics
from nas.training.results import consistent_accuracy, objective

METRICS = EpochMetrics(
    epoch=2, train_loss=0.5, train_accuracy=0.8, val_loss=0.4, val_accuracy=0.9, learning_rate=0.1, seconds=1.25
)


SHARES, POSITIVE = st.floats(0, 1), st.floats(0, allow_infinity=False)


@given(
    st.builds(
        EpochMetrics,
        **{"epoch": st.integers(1, 10**6), "train_accuracy": SHARES, "val_accuracy": SHARES},
        **dict.fromkeys(("train_loss", "val_loss", "learning_rate", "seconds"), POSITIVE),
    )
)
def test_metrics_round_trip_through_json(metrics: EpochMetrics) -> None:
    text = json.dumps(metrics.to_json())
    assert EpochMetrics.from_json(json.loads(text)) == metrics


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], "m.json: [] found, expected an object with epoch, learning_rate, seconds, "),
        (
            {"epoch": 1},
            "m.json: learning_rate, seconds, train_accuracy, train_loss, val_accuracy, val_loss are missing",
        ),
        (METRICS.to_json() | {"extra": 1}, "m.json: unknown key 'extra', expected one of epoch, train_loss, "),
        (METRICS.to_json() | {"epoch": 1.0}, "m.json: epoch is 1.0, expected an integer"),
        (METRICS.to_json() | {"val_loss": "low"}, "m.json: val_loss is 'low', expected a number"),
        (METRICS.to_json() | {"val_loss": math.nan}, "m.json: val_loss is nan, expected a number"),
        (METRICS.to_json() | {"val_accuracy": 1.5}, "m.json: val_accuracy is 1.5, expected a number"),
        (METRICS.to_json() | {"val_loss": True}, "m.json: val_loss is True, expected a number"),
    ],
)
def test_invalid_metrics_error_names_problem_and_expected(data: object, text: str) -> None:
    with pytest.raises(StudyError) as caught:
        EpochMetrics.from_json(data, where="m.json")
    assert str(caught.value).startswith(text)


def test_objective_literal_values() -> None:
    accuracies = [0.999, 0.5, 0.7, 0.9]
    assert objective(accuracies, 2) == pytest.approx(0.8)
    assert objective(accuracies, 9) == pytest.approx(0.77475)
    assert consistent_accuracy(accuracies, 2) == 0.7
    assert consistent_accuracy(accuracies, 9) == 0.5


@given(st.lists(st.floats(0, 1), min_size=1), st.integers(1, 20))
def test_objective_is_between_worst_and_best_of_last_epochs(accuracies: list[float], consistency: int) -> None:
    last = accuracies[-consistency:]
    assert consistent_accuracy(accuracies, consistency) == min(last)
    assert min(last) - 1e-12 <= objective(accuracies, consistency) <= max(last) + 1e-12


@pytest.mark.parametrize("function", [objective, consistent_accuracy])
@pytest.mark.parametrize(("accuracies", "consistency"), [([], 5), ([0.5], 0)])
def test_no_accuracies_or_zero_consistency_raises(function: object, accuracies: list[float], consistency: int) -> None:
    assert callable(function)
    with pytest.raises(ValueError, match="at least 1 of each is needed"):
        function(accuracies, consistency)
