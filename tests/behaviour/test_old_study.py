"""A study of version 0.1.0, killed during a training, is read, reported and resumed as by that version.

`tests/fixtures/study/README.md` explains how it was made; `tests/support/golden.py`, how to update the golden files.
"""

import html
import json
import re
import shutil

import optuna
import pytest
from support.golden import STUDY, assert_golden, nas, read

from nas import confirm, trials

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCH = (
    "search --dataset digits --space space.toml --max-params {} --min-receptive-field 10 --epochs 3 --pruner asha"
    " --keep-discards 12 --workers 1 --device cpu --results study --trials {}"
)
CONFIRM = "confirm --top 2 --seeds 2 --workers 1 --device cpu --json --results study"
KILLED = 20  # number of the trial that was in training when the last search was killed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Working folder of the commands, with a copy of the study."""
    return copied(tmp_path_factory.mktemp("old"))


@pytest.fixture
def _working_folder(place, monkeypatch):
    monkeypatch.chdir(place)


def copied(folder):
    shutil.copytree(STUDY, folder / "study")
    shutil.copyfile(STUDY / "space.toml", folder / "space.toml")
    return folder


def rows(study="search"):
    return nas("trials", "--format", "json", "--results", "study", "--study", study).json


@pytest.mark.parametrize(("study", "golden"), [("search", "trials.json"), ("evolved", "trials-evolved.json")])
@pytest.mark.usefixtures("_working_folder")
def test_trials_are_read_unchanged(study, golden):
    found = rows(study)
    assert_golden(STUDY / golden, found)
    assert [row.to_json() for row in trials(results="study", study=study)] == found


@pytest.mark.usefixtures("_working_folder")
def test_study_contains_trial_of_each_outcome():
    assert {row["outcome"] for row in rows()} == {"trained", "pruned", "discarded", "interrupted", ""}
    assert [row["number"] for row in rows() if row["state"] == "RUNNING"] == [KILLED]


@pytest.mark.usefixtures("_working_folder")
def test_confirmation_is_read_without_training():
    events = []
    confirmation = confirm(top=2, seeds=2, workers=1, device="cpu", results="study", on_event=events.append)
    assert "RunFinished" not in {type(event).__name__ for event in events}
    assert_golden(STUDY / "confirmation.json", confirmation.to_json())
    assert nas(*CONFIRM.split()).json == read(STUDY / "confirmation.json")


@pytest.mark.usefixtures("_working_folder")
def test_report_gives_same_answer(place):
    run = nas("report", "--results", "study", "--output", "report.html")
    assert run.status == 0, run.err
    page = (place / "report.html").read_text()
    section = re.search(r'<section class="answer" id="answer">(.*?)</section>', page, re.DOTALL)[1]
    lines = [html.unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in section.splitlines()]
    assert_golden(STUDY / "answer.json", [line for line in lines if line])


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["best", "confirmed"])
@pytest.mark.usefixtures("_working_folder")
def test_networks_are_exported_with_stored_recipe(place, trial):
    run = nas("export", "--trial", trial, "--results", "study", "--output", trial)
    assert run.status == 0, run.err
    number = {"best": 5, "confirmed": 19}[trial]
    row = read(STUDY / "trials.json")[number]
    assert json.loads((place / trial / "architecture.json").read_text()) == row["architecture"]
    assert json.loads((place / trial / "recipe.json").read_text()).items() >= row["recipe"].items()


@pytest.mark.usefixtures("_working_folder")
def test_other_limit_is_rejected_and_named():
    before = rows()
    run = nas(*SEARCH.format(800, 8).split())
    assert (run.status, run.out) == (2, "")
    found, asked = (f"params<={limit} and receptive_field>=10" for limit in (900, 800))
    assert f"constraints is {found} in the study, {asked} now" in run.err
    assert rows() == before


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Rows and Optuna trials after the killed search was resumed with a budget of one more trial."""
    folder = copied(tmp_path_factory.mktemp("resumed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = nas(*SEARCH.format(900, 8).split(), "--quiet")
        assert run.status == 0, run.err
        study = optuna.load_study(study_name="search", storage="sqlite:///study/studies.db")
        return rows(), study.trials


def test_resumed_search_keeps_earlier_rows(resumed):
    found, _ = resumed
    assert found[:KILLED] == read(STUDY / "trials.json")[:KILLED]


def test_resumed_search_marks_killed_trial_interrupted_and_retries_it(resumed):
    found, stored = resumed
    before, settled, again = read(STUDY / "trials.json")[KILLED], found[KILLED], found[KILLED + 1]
    assert (settled["state"], settled["outcome"]) == ("FAIL", "interrupted")
    assert settled["reason"] == "interrupted; its parameters went back into the queue"
    assert settled["architecture"] == before["architecture"]
    assert stored[KILLED + 1].user_attrs["retry_of"] == KILLED
    assert stored[KILLED + 1].params == stored[KILLED].params
    assert again["outcome"] in ("trained", "pruned")
    assert all(again[key] == before[key] for key in ("params", "architecture", "recipe", "seed", "num_draws"))


def test_resumed_search_proposes_same_candidates_as_version_0_1_0(resumed):
    """Compares the first two candidates, which do not depend on accuracies: these may differ between machines."""
    found, stored = resumed
    told = [
        {
            **{key: row[key] for key in ("params", "macs", "receptive_field", "architecture", "recipe", "seed")},
            "of_the_space": stored[row["number"]].params,
        }
        for row in found[KILLED + 1 :]
        if row["outcome"] != "discarded"
    ]
    assert_golden(STUDY / "resumed.json", told[:2])


def test_resumed_evolution_breeds_same_candidate_as_version_0_1_0(tmp_path, monkeypatch):
    """Breeds one more candidate from stored results only, so that it does not depend on accuracies of this machine."""
    monkeypatch.chdir(copied(tmp_path))
    starts = ["--start-from", "study/start-1.json", "--start-from", "study/start-2.json"]
    others = ["--study", "evolved", "--pruner", "none", "--keep-discards", "0", "--quiet"]  # override SEARCH
    run = nas(*SEARCH.format(900, 5).split(), *others, *starts)
    assert run.status == 0, run.err
    before, found = read(STUDY / "trials-evolved.json"), rows("evolved")
    assert found[: len(before)] == before
    (bred,) = found[len(before) :]
    drawn = ("params", "macs", "receptive_field", "architecture", "recipe", "seed", "num_draws")
    assert_golden(STUDY / "resumed-evolved.json", {key: bred[key] for key in drawn})
