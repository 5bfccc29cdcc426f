"""The fault campaign (`scripts/faults/`): a few of its faults, and the sensitivity of its checks."""

import sys

import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.trial import TrialState
from support.paths import ROOT

from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

sys.path.append(str(ROOT))

from scripts.faults.campaign import Campaign, table
from scripts.faults.checks import deviations, export_deviations
from scripts.faults.kinds import POSTGRESQL, SQLITE, DiskFull, LoopKilled, ServerKilled

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """Campaign on SQLite with one process per search, which starts sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Campaign(0, tmp_path_factory.mktemp("faults"), None, workers=1)


@pytest.fixture(scope="module")
def undisturbed(campaign):
    """`Place` of a search without faults."""
    return campaign.measure_search(None)


def well(row):
    assert row["deviations"] == []
    assert (row["struck"], row["trained"], row["failed"]) == (len(row["moments"]), 6, 0)
    return True


@pytest.mark.usefixtures("undisturbed")
def test_killed_search_resumes_without_deviations(campaign):
    row = campaign.run(12, LoopKilled, SQLITE)
    assert well(row)
    assert row["resumed"] == 1


@pytest.mark.usefixtures("undisturbed")
@pytest.mark.skipif(bool(DiskFull.why_not()), reason=DiskFull.why_not() or "none")
def test_search_survives_full_disk_without_deviations(campaign):
    assert well(campaign.run(4, DiskFull, SQLITE))


@pytest.mark.usefixtures("undisturbed")
def test_search_survives_killed_postgres_without_deviations(campaign, postgres):
    campaign.server = postgres
    assert well(campaign.run(12, ServerKilled, POSTGRESQL))


def test_checks_report_falsified_events_files_and_trials(undisturbed, campaign):
    """Events, expected values, files and trials are falsified in turn; `deviations` reports each."""
    records = StudyRecords.open(StudyRef(**undisturbed.of_study))
    told = undisturbed.attempts[0].events
    assert deviations(records, told, wanted=campaign.wanted) == []
    number = next(event["number"] for event in told if event["event"] == "TrialFinished")

    untrue = [{**event, "objective": 2.0} if event["event"] == "TrialFinished" else event for event in told]
    assert f"trial {number} was told as finished with other objective" in deviations(records, untrue, wanted=None)
    untrue = [{**event, "val_loss": -1.0} if event["event"] == "EpochFinished" else event for event in told]
    assert f"epoch 1 of trial {number} is not as it was told" in deviations(records, untrue, wanted=None)
    untrue = {**campaign.wanted, "discards": {}}
    assert deviations(records, told, wanted=untrue) == ["discards are not those of an undisturbed search"]

    (records.artifacts.folder / ".x.part").touch()
    for meta in get_all_artifact_meta(records.study.get_trials()[number], storage=records.storage):
        path = records.artifacts.folder / meta.artifact_id
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    found = deviations(records, told, wanted=None)
    assert found[0] == ".x.part was left"
    assert {text.split()[0] for text in found[1:]} == {
        "weights.pt",
        "architecture.svg",
        "architecture.json",
        "epochs.csv",
    }

    records.study.add_trial(records.study.get_trials()[number])
    records.study.ask()
    found = deviations(records, told, wanted=None)
    assert "7 trained, 7.0 spent, of a budget of 6" in found
    assert any(text.endswith("was trained twice") for text in found)
    assert any(text.endswith(f"is {TrialState.RUNNING.name}") for text in found)


def test_missing_or_incomplete_export_is_reported(tmp_path):
    folder = tmp_path / "model"
    assert export_deviations(folder, allow_none=True) == []
    assert export_deviations(folder, allow_none=False) == ["the export is missing"]
    folder.mkdir()
    (folder / "model.py").write_text("x")
    assert export_deviations(folder, allow_none=True) == ["the export holds model.py"]


def test_table_sums_runs_by_fault():
    row = {"fault": "loop killed", "database": "sqlite", "struck": 2, "alone": False, "resumed": 1, "told": 6}
    row |= {"interrupted": 3, "deviations": []}
    assert list(table([row, {**row, "deviations": ["x"]}]))[2:] == [
        "| loop killed | sqlite | 2 | 4 | 0 | 2 | 12 | 6 | 1 |",
        "| all |  | 2 | 4 | 0 | 2 | 12 | 6 | 1 |",
    ]
