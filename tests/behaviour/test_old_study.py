"""A study that version 0.1.0 left, killed in a training, is read, answered and resumed as that version did it.

How it was made: `tests/fixtures/study/README.md`. How to write the golden files again on purpose: see
`tests/support/golden.py`.
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
KILLED = 20  # the trial that was in training when the last search was killed


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a copy of the study, where the commands are given."""
    return copied(tmp_path_factory.mktemp("old"))


@pytest.fixture
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def copied(folder):
    shutil.copytree(STUDY, folder / "study")
    shutil.copyfile(STUDY / "space.toml", folder / "space.toml")
    return folder


def rows(study="search"):
    return nas("trials", "--format", "json", "--results", "study", "--study", study).json


@pytest.mark.parametrize(("study", "golden"), [("search", "trials.json"), ("evolved", "trials-evolved.json")])
@pytest.mark.usefixtures("_there")
def test_its_trials_are_read_as_they_were(study, golden):
    found = rows(study)
    assert_golden(STUDY / golden, found)
    assert [row.to_json() for row in trials(results="study", study=study)] == found


@pytest.mark.usefixtures("_there")
def test_it_holds_a_trial_of_each_outcome():
    assert {row["outcome"] for row in rows()} == {"trained", "pruned", "discarded", "interrupted", ""}
    assert [row["number"] for row in rows() if row["state"] == "RUNNING"] == [KILLED]


@pytest.mark.usefixtures("_there")
def test_its_confirmation_is_read_and_nothing_is_trained():
    events = []
    confirmation = confirm(top=2, seeds=2, workers=1, device="cpu", results="study", on_event=events.append)
    assert "RunFinished" not in {type(event).__name__ for event in events}
    assert_golden(STUDY / "confirmation.json", confirmation.to_json())
    assert nas(*CONFIRM.split()).json == read(STUDY / "confirmation.json")


@pytest.mark.usefixtures("_there")
def test_its_report_gives_the_same_answer(place):
    run = nas("report", "--results", "study", "--output", "report.html")
    assert run.status == 0, run.err
    page = (place / "report.html").read_text()
    section = re.search(r'<section class="answer" id="answer">(.*?)</section>', page, re.DOTALL)[1]
    lines = [html.unescape(re.sub(r"<[^>]+>", "", line)).strip() for line in section.splitlines()]
    assert_golden(STUDY / "answer.json", [line for line in lines if line])


@pytest.mark.slow
@pytest.mark.parametrize("trial", ["best", "confirmed"])
@pytest.mark.usefixtures("_there")
def test_its_networks_are_exported(place, trial):
    run = nas("export", "--trial", trial, "--results", "study", "--output", trial)
    assert run.status == 0, run.err
    number = {"best": 5, "confirmed": 19}[trial]
    row = read(STUDY / "trials.json")[number]
    assert json.loads((place / trial / "architecture.json").read_text()) == row["architecture"]
    assert json.loads((place / trial / "recipe.json").read_text()).items() >= row["recipe"].items()


@pytest.mark.usefixtures("_there")
def test_another_limit_is_refused_and_named():
    before = rows()
    run = nas(*SEARCH.format(800, 8).split())
    assert (run.status, run.out) == (2, "")
    found, asked = (f"params<={limit} and receptive_field>=10" for limit in (900, 800))
    assert f"constraints is {found} in the study, {asked} now" in run.err
    assert rows() == before


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """Rows and Optuna's trials after the search that was killed was given once more, for one more trial."""
    folder = copied(tmp_path_factory.mktemp("resumed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = nas(*SEARCH.format(900, 8).split(), "--quiet")
        assert run.status == 0, run.err
        study = optuna.load_study(study_name="search", storage="sqlite:///study/studies.db")
        return rows(), study.trials


def test_resumed_it_keeps_earlier_rows_as_they_were(resumed):
    found, _ = resumed
    assert found[:KILLED] == read(STUDY / "trials.json")[:KILLED]


def test_resumed_it_settles_the_killed_trial_and_runs_it_again(resumed):
    found, stored = resumed
    before, settled, again = read(STUDY / "trials.json")[KILLED], found[KILLED], found[KILLED + 1]
    assert (settled["state"], settled["outcome"]) == ("FAIL", "interrupted")
    assert settled["reason"] == "interrupted; its parameters went back into the queue"
    assert settled["architecture"] == before["architecture"]
    assert stored[KILLED + 1].user_attrs["retry_of"] == KILLED
    assert stored[KILLED + 1].params == stored[KILLED].params
    assert again["outcome"] in ("trained", "pruned")
    assert all(again[key] == before[key] for key in ("params", "architecture", "recipe", "seed", "num_draws"))


def test_resumed_it_goes_on_with_the_candidates_that_version_had(resumed):
    """The first two: while few are trained, they do not depend on accuracies, which may differ between machines."""
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


def test_resumed_its_evolution_breeds_the_candidate_that_version_bred(tmp_path, monkeypatch):
    """One candidate more: all that it is bred from is stored, so that no accuracy of this machine counts."""
    monkeypatch.chdir(copied(tmp_path))
    starts = ["--start-from", "study/start-1.json", "--start-from", "study/start-2.json"]
    others = ["--study", "evolved", "--pruner", "none", "--keep-discards", "0", "--quiet"]  # the later one counts
    run = nas(*SEARCH.format(900, 5).split(), *others, *starts)
    assert run.status == 0, run.err
    before, found = read(STUDY / "trials-evolved.json"), rows("evolved")
    assert found[: len(before)] == before
    (bred,) = found[len(before) :]
    drawn = ("params", "macs", "receptive_field", "architecture", "recipe", "seed", "num_draws")
    assert_golden(STUDY / "resumed-evolved.json", {key: bred[key] for key in drawn})
