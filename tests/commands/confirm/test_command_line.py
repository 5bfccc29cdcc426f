"""Options and output of `nas confirm`."""

import json
import re
import shutil

import pytest
from support.confirmations import (
    EPOCHS,
    SEEDS,
    TARGET,
    TOP,
    runs_in,
    untimed,
)

from nas.commands.confirm import RunFinished, confirm
from nas.study.confirmation import ConfirmationRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.workers import in_process

pytestmark = pytest.mark.usefixtures("one_thread")


def command(results, *more, top=TOP, seeds=SEEDS, target=TARGET):
    asked = ["--top", top, "--seeds", seeds, "--target", target, "--device", "cpu", "--workers", 1]
    return ["confirm", *asked, "--results", results, *more]


def test_help_contains_example(nas):
    status, out, _ = nas("confirm", "--help")
    assert status == 0
    assert "Example: nas confirm " in out


def test_output_lists_runs_winner_verdict_and_test_split_opening(study, whole, nas):
    status, out, err = nas(*command(study))
    assert (status, err) == (0, "")
    found = whole[1]
    lines = out.splitlines()
    ended = [re.match(r" +(\d)/(\d)  trial (\d+), seed (\d): (val|test) final ", line) for line in lines]
    assert [(int(m[3]), m[5], int(m[4])) for m in ended if m] == [
        (run.trial, run.judged_on, run.seed) for run in runs_in(whole[2])
    ]
    winner = found.winner
    assert any(line.startswith(f"trial {winner.number} is picked") for line in lines)
    assert (
        f"Trial {winner.number} on digits: {winner.params:,} parameters, {winner.macs:,} MACs,"
        f" receptive field {winner.receptive_field}"
    ) in lines
    assert "\n".join(found.test.lines()) in out
    assert f"Target {found.test.verdict}: " in out
    assert "The test split of this study was opened once." in lines
    assert lines[-1] == f"  nas export --trial confirmed --results {study}"
    assert sum(re.match(r" +[12] .* \d/2 *$", line) is not None for line in lines) == EPOCHS  # the table of epochs


def test_repeated_command_prints_same_result_without_training(confirmed, whole, jobs, nas):
    status, out, err = nas(*command(confirmed))
    assert (status, err, jobs) == (0, "", [])
    assert "\n".join(whole[1].test.lines()) in out
    assert "The test split of this study was opened once.\n" in out
    for target, verdict in [(1e-9, "met"), (1, "missed")]:
        assert f"\nTarget {verdict}: " in nas(*command(confirmed, target=target))[1]


def test_output_states_number_of_test_split_openings(grown, tmp_path, nas):
    folder = shutil.copytree(grown[0], tmp_path / "results")
    out = nas(*command(folder))[1]
    assert "The test split of this study was opened 2 times: its figures are no longer unbiased.\n" in out


def test_json_option_prints_result_on_one_line(confirmed, whole, nas):
    status, out, err = nas(*command(confirmed, "--json"))
    assert (status, err) == (0, "")
    assert json.loads(out) == json.loads(json.dumps(whole[1].to_json()))
    assert out.count("\n") == 1


def test_command_rejects_second_opening_of_test_split(confirmed, nas):
    status, out, err = nas(*command(confirmed, top=TOP + 1))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: the test split of study 'search' was opened once already, last on ")


def test_interrupted_command_exits_130_and_keeps_finished_runs(study, whole, nas, monkeypatch):
    submit, begun = in_process.InProcess.submit, []

    def interrupted(self, job):
        begun.append(job)
        if len(begun) == 2:
            raise KeyboardInterrupt
        submit(self, job)

    monkeypatch.setattr(in_process.InProcess, "submit", interrupted)
    status, _, err = nas(*command(study))
    assert (status, err) == (130, "Interrupted: runs that have ended are kept, the same command goes on.\n")
    first, second = runs_in(whole[2])[:2]
    kept = ConfirmationRecords(StudyRecords.open(StudyRef(study)))
    assert untimed(kept.history(first)) == untimed(
        next(event for event in whole[2] if isinstance(event, RunFinished)).history
    )
    assert kept.history(second) is None


@pytest.mark.slow
def test_export_command_writes_confirmed_trial(confirmed, whole, nas):
    status, out, _ = nas("export", "--trial", "confirmed", "--results", confirmed)
    assert status == 0
    folder = confirmed / "export" / f"search-confirmed-trial-{whole[1].winner.number}"
    assert out.startswith(f"Trial {whole[1].winner.number}: writing files")
    assert (folder / "weights.pt").exists()


def test_target_comes_from_option_then_last_confirmation_then_default(study, nas):
    def first_line(results, *more):
        asked = ["--top", TOP, "--seeds", SEEDS, "--device", "cpu", "--workers", 1, *more]
        status, out, err = nas("confirm", *asked, "--results", results)
        assert (status, err) == (0, "")
        return out.splitlines()[0], re.search(r"keep at least ([0-9.]+%)", out)[1]

    last = "in the last 2 epochs"
    assert first_line(study) == (f"target 99.40% {last}, the default", "99.40%")
    assert first_line(study, "--target", "0.3") == (f"target 30.00% {last}, as given", "30.00%")
    assert first_line(study) == (f"target 30.00% {last}, as in the last confirmation of this study", "30.00%")


def test_python_function_takes_target_of_last_confirmation(confirmed):
    given = {"top": TOP, "seeds": SEEDS, "device": "cpu", "workers": 1, "results": confirmed}
    assert confirm(**given).test.target == TARGET
    assert confirm(**given, target=0.3).test.target == 0.3
    assert confirm(**given).test.target == 0.3


def test_second_line_announces_trainings_and_their_time(study, nas):
    plan = "6 trainings of 2 epochs: the best 2 trials with 2 seeds each, then the winner with 2 seeds on train + val"
    assert re.fullmatch(
        rf"{re.escape(plan)}; takes about \d+ s at the speed of the search", nas(*command(study))[1].splitlines()[1]
    )
    assert nas(*command(study))[1].splitlines()[1] == f"{plan}; all are stored already"


def test_plan_counts_stored_runs(ranked, nas):
    assert "; 4 are stored already; takes about " in nas(*command(ranked))[1].splitlines()[1]


def test_plan_of_single_trial_has_one_stage(study, nas):
    assert re.match(
        r"2 trainings of 2 epochs: trial \d+ with 2 seeds on train \+ val; takes about ",
        nas(*command(study, top=1))[1].splitlines()[1],
    )
