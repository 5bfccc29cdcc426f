"""Whether seeds keep a target: data and text."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.seed_results import accuracies, result_of, results

from nas.seed_stats import Finalist, Ranking, StoredConfirmation, spread_text


@given(results, accuracies, st.integers(1, 9))
def test_final_and_consistent_accuracies_and_verdict_match_numpy(rows, target, consistency):
    result = result_of(rows, target=target, consistency=consistency)
    table = np.array(rows)
    assert result.final_accuracies == table[:, -1].tolist()
    assert result.lowest_accuracies == table[:, max(0, table.shape[1] - consistency) :].min(axis=1).tolist()
    reached = (table[:, max(0, table.shape[1] - consistency) :] >= target).all(axis=1)
    assert result.num_met == reached.sum()
    assert result.verdict == ("met" if reached.all() else "met by some" if reached.any() else "missed")


@given(results, accuracies)
def test_accuracy_equal_to_target_passes_and_below_fails(rows, target):
    level = [[target] * len(row) for row in rows]
    assert result_of(level, target=target).verdict == "met"
    assert result_of(level, target=math.nextafter(target, 2)).verdict == "missed"
    level[0][-1] = math.nextafter(target, 0)
    assert result_of(level, target=target).verdict == "met by some"


def test_only_last_epochs_count_for_verdict():
    rising = [0.1, 0.2, 0.95, 0.96, 0.97]
    assert result_of([rising] * 2, target=0.95, consistency=3).verdict == "met"
    assert result_of([rising] * 2, target=0.95, consistency=4).verdict == "missed"
    assert result_of([[*rising, 0.94]] * 2, target=0.95, consistency=1).verdict == "missed"


def test_single_epoch_is_final_and_consistent_accuracy():
    result = result_of([[0.95], [0.85]], target=0.9)
    assert result.final_accuracies == result.lowest_accuracies == [0.95, 0.85]
    assert result.verdict == "met by some"


def test_diverged_run_misses_target():
    assert result_of([[0.0] * 3, [0.99] * 3], target=1e-9).verdict == "met by some"


@given(results, accuracies, accuracies)
def test_higher_target_is_met_by_no_more_seeds(rows, one, other):
    lower, higher = sorted([one, other])
    easy, hard = (result_of(rows, target=target) for target in (lower, higher))
    assert hard.num_met <= easy.num_met
    assert hard.on_new_images() == easy.on_new_images()


@given(results, accuracies, st.data())
def test_better_run_never_reduces_num_met(rows, target, data):
    seed = data.draw(st.integers(0, len(rows) - 1))
    better = [list(row) for row in rows]
    better[seed] = [data.draw(st.integers(round(1024 * x), 1024)) / 1024 for x in rows[seed]]
    assert result_of(better, target=target).num_met >= result_of(rows, target=target).num_met


MET = [[0.1, 0.9942, 0.9946, 0.9944], [0.2, 0.9941, 0.9945, 0.9946], [0.3, 0.9940, 0.9943, 0.9945]]


SOME = [[0.9936, 0.9938], [0.9944, 0.9942], [0.9942, 0.9940], [0.9944, 0.9939]]


MISSED = [[0.91, 0.92], [0.92, 0.91]]


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            result_of(MET, target=0.994, consistency=3, num_images=10_000_000),
            [
                "Target met: 3 of 3 seeds keep at least 99.40% in each of the last 3 epochs.",
                "Final accuracy 99.45 ± 0.01 %, lowest of the last 3 epochs 99.41 ± 0.01 % (mean ± standard deviation"
                " of 3 seeds).",
                "With new seeds, 29% to 100% of trainings would keep the target (95 % confidence, from 3 of 3).",
                "Mean final accuracy to expect on new images of this kind: 99.42% to 99.48% (95 % confidence, 3 seeds"
                " and 10,000,000 images). This mean reaches the target: the whole range is above 99.40%.",
            ],
        ),
        (
            result_of(SOME, target=0.994),
            [
                "Target met by some: 2 of 4 seeds keep at least 99.40% in each of the last 2 epochs.",
                "Final accuracy 99.40 ± 0.02 %, lowest of the last 2 epochs 99.39 ± 0.02 % (mean ± standard deviation"
                " of 4 seeds).",
                "With new seeds, 7% to 93% of trainings would keep the target (95 % confidence, from 2 of 4).",
                "Mean final accuracy to expect on new images of this kind: 99.22% to 99.53% (95 % confidence, 4 seeds"
                " and 10,000 images). This mean may or may not reach the target: the range includes 99.40%.",
            ],
        ),
        (
            result_of(MISSED, target=0.995, num_images=360),
            [
                "Target missed: 0 of 2 seeds keep at least 99.50% in each of the last 2 epochs.",
                "Final accuracy 91.50 ± 0.71 %, lowest of the last 2 epochs 91.00 ± 0.00 % (mean ± standard deviation"
                " of 2 seeds).",
                "With new seeds, 0% to 84% of trainings would keep the target (95 % confidence, from 0 of 2).",
                "Mean final accuracy to expect on new images of this kind: 84.32% to 98.31% (95 % confidence, 2 seeds"
                " and 360 images). This mean does not reach the target: the whole range is below 99.50%.",
            ],
        ),
    ],
    ids=["met", "met by some", "missed"],
)
def test_verdict_lines_equal_expected_text(result, lines):
    assert result.lines() == lines


@given(results, accuracies, st.integers(10, 10**6))
def test_lines_and_json_agree_with_result(rows, target, num_images):
    result = result_of(rows, target=target, num_images=num_images)
    data = json.loads(json.dumps(result.to_json(), allow_nan=False))
    finals, lowest = np.array(result.final_accuracies), np.array(result.lowest_accuracies)
    assert data["verdict"] == result.verdict
    assert (data["target"], data["num_seeds"], data["num_met"]) == (target, len(rows), result.num_met)
    assert data["final_accuracy_mean"] == pytest.approx(finals.mean())
    assert data["final_accuracy_sd"] == pytest.approx(finals.std(ddof=1), abs=1e-12)
    assert data["consistent_accuracy_mean"] == pytest.approx(lowest.mean())
    assert data["consistent_accuracy_sd"] == pytest.approx(lowest.std(ddof=1), abs=1e-12)
    assert tuple(data["share_of_seeds"]) == result.share_of_seeds()
    assert tuple(data["on_new_images"]) == result.on_new_images()
    assert (data["accuracies"], data["num_images"]) == (rows, num_images)
    first, second, _, last = result.lines()
    assert first.startswith(f"Target {result.verdict}: {result.num_met} of {len(rows)} seeds keep ")
    assert spread_text(result.final_accuracies) in second
    assert spread_text(result.lowest_accuracies) in second
    low, high = result.on_new_images()
    assert (" range is above " in last, " range includes " in last, " range is below " in last) == (
        target < low,
        low <= target <= high,
        target > high,
    )


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_accuracies_of_0_and_1_give_verdict_and_lines(level):
    result = result_of([[level]] * 3, target=0.5)
    assert result.verdict == ("met" if level else "missed")
    assert len(result.lines()) == 4


FINALISTS = (Finalist(trial=7, cost=20, objectives=(0.5, 0.75)), Finalist(trial=3, cost=10, objectives=(0.5, 0.5)))
STORED = {
    "trial": 7,
    "target": 0.9,
    "num_images": 500,
    "num_openings": 1,
    "accuracies": [[0.875, 0.9375], [0.75, 1.0]],
    "ranking": Ranking(finalists=FINALISTS, standard_error=0.125).to_json(),
}


def test_stored_verdict_loads():
    verdict = StoredConfirmation.from_json(json.loads(json.dumps(STORED)), 2)
    assert (verdict.trial, verdict.num_openings) == (7, 1)
    assert verdict.test == result_of([[0.875, 0.9375], [0.75, 1.0]], target=0.9, consistency=2, num_images=500)
    assert verdict.ranking == Ranking(finalists=FINALISTS, standard_error=0.125)
    assert verdict.mean_and_sd_by_trial() == {7: (0.625, pytest.approx(0.125 * math.sqrt(2))), 3: (0.5, 0.0)}
    assert verdict.confirm_arguments == {"top": 2, "seeds": 2, "target": 0.9}
    assert verdict.openings_text == "The test split was opened once for this study."


def test_verdict_without_ranking_has_one_finalist():
    verdict = StoredConfirmation.from_json(STORED | {"ranking": None, "num_openings": 2}, 2)
    assert verdict.ranking is None
    assert verdict.mean_and_sd_by_trial() == {}
    assert verdict.confirm_arguments == {"top": 1, "seeds": 2, "target": 0.9}
    assert verdict.openings_text == "The test split was opened 2 times: its figures are biased."
