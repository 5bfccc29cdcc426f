"""Figures as data: the trials that they show, and escaped names."""

import dataclasses
import json
from random import Random

import pytest
from support.architectures import draw_architecture
from support.effort import seeds

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.architecture.layers import Activation
from nas.reports.figures import accuracy_against_cost, discards_over_candidates, learning_curves, params_by_layer
from nas.study.trial import TrialRecord
from nas.training.metrics import EpochMetrics


def trial(number, objective, params, state="COMPLETE"):
    epochs = [
        EpochMetrics(
            epoch=epoch,
            train_loss=0.1,
            train_accuracy=0.9,
            val_loss=0.1,
            val_accuracy=0.9 + number / 1000,
            learning_rate=0.1,
            seconds=1.0,
        )
        for epoch in (1, 2)
    ]
    fields = dict.fromkeys(TrialRecord.__dataclass_fields__)
    known = {"number": number, "state": state, "objective": objective, "params": params, "macs": 10 * params}
    known |= {"outcome": "trained", "reason": "", "history": tuple(epochs), "receptive_field": 30}
    return TrialRecord(**(fields | known))


TRIALS = [trial(0, 0.98, 900), trial(1, 0.97, 1000), trial(2, 0.99, 1200), trial(3, 0.95, 500), trial(4, None, 100)]


def test_accuracy_figure_shows_trials_front_and_confirmed_trials():
    dots, best, again = accuracy_against_cost(TRIALS, confirmed={2: (0.985, 0.002), 77: (0.1, 0.1)}).data
    assert list(dots.x) == [500, 900, 1000, 1200]
    assert list(dots.y) == pytest.approx([95, 98, 97, 99])
    assert list(best.x) == [500, 900, 1200]
    assert (again.x, again.y, again.error_y.array) == ((1200,), (98.5,), (0.2,))
    assert "1,200 parameters, 12,000 MACs, receptive field 30" in dots.text[3]
    assert list(accuracy_against_cost(TRIALS, metric="macs").data[0].x) == [5000, 9000, 10000, 12000]


def test_learning_curves_keep_order_of_trials():
    figure = learning_curves([TRIALS[2], TRIALS[0]])
    assert [curve.name for curve in figure.data] == ["trial 2", "trial 0"]
    assert list(figure.data[0].y) == pytest.approx([90.2, 90.2])
    assert len({(curve.line.color, curve.line.dash, curve.marker.symbol) for curve in figure.data}) == 2


def test_discards_accumulate_and_reasons_are_escaped():
    figure = discards_over_candidates([{"params": 2}, {}, {"<b>x</b>": 5, "params": 1}])
    assert {line.name: list(line.y) for line in figure.data} == {"&lt;b&gt;x&lt;/b&gt;": [0, 0, 5], "params": [2, 2, 3]}
    assert list(figure.data[0].x) == [1, 2, 3]


@pytest.mark.parametrize("seed", seeds(20))
def test_parameter_shares_sum_to_hundred_percent(seed):
    architecture = draw_architecture(Random(seed))
    figure = params_by_layer(architecture)
    counts = [count for bar in figure.data for count in bar.customdata]
    assert sum(counts) == cost_of(architecture).params
    assert not counts or sum(share for bar in figure.data for share in bar.x) == pytest.approx(100)


def test_empty_figures_show_message():
    nothing = Architecture(input_shape=(1, 4, 4), layers=(Activation(),))
    figures = (
        accuracy_against_cost([]),
        learning_curves([]),
        discards_over_candidates([{}]),
        params_by_layer(nothing),
    )
    for figure in [*figures, params_by_layer(nothing)]:
        assert not figure.data
        assert figure.layout.annotations[0].text.endswith(".")


def test_learning_curves_are_deterministic_and_small_as_json():
    first, second = (learning_curves([dataclasses.replace(t) for t in TRIALS]).to_json() for _ in range(2))
    assert first == second
    assert len(first) < 5000
    assert json.loads(first)["layout"]["yaxis"]["title"]["text"] == "val accuracy, %"
