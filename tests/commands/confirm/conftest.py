"""Studies before, during and after a confirmation; the expensive ones are created once per session."""

import shutil

import pytest
from support.confirmations import ASKED, EPOCHS, ON_CPU, SEEDS, SPACE, runs_in

from nas.commands.confirm import RunFinished, confirm
from nas.commands.search import search
from nas.commands.train import train
from nas.data import datasets
from nas.study.confirmation import ConfirmationRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.workers import in_process


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """Results folder with a study of three trained trials; read only."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(SPACE)
    search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=str(folder / "tiny.toml"),
        epochs=EPOCHS,
        trials=3,
        sampler="random",  # gives three sizes
        results=folder / "results",
        **ON_CPU,
    )
    return folder / "results"


@pytest.fixture(scope="session")
def whole(searched, tmp_path_factory):
    """Results folder (read only), result and events of an uninterrupted confirmation.

    The events contain "test" wherever the test split was loaded.
    """
    folder = tmp_path_factory.mktemp("whole") / "results"
    shutil.copytree(searched, folder)
    events = []
    load_test = datasets.load_test
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets, "load_test", lambda *a, **k: (events.append("test"), load_test(*a, **k))[1])
        found = confirm(**ASKED, results=folder, on_event=events.append)
    return folder, found, events


@pytest.fixture(scope="session")
def grown(whole, tmp_path_factory):
    """Results folder (read only), result and runs of a second confirmation of `whole` with one more seed."""
    folder = tmp_path_factory.mktemp("grown") / "results"
    shutil.copytree(whole[0], folder)
    events = []
    found = confirm(**{**ASKED, "seeds": SEEDS + 1}, again=True, results=folder, on_event=events.append)
    return folder, found, runs_in(events)


@pytest.fixture(scope="session")
def fits(whole):
    """Each run of the confirmation, repeated as a single training."""
    records = StudyRecords.open(StudyRef(whole[0]))

    def fit(run):
        trial = records.trial(run.trial)
        on_test = run.judged_on == "test"
        return train(trial.architecture, trial.recipe, dataset="digits", seed=run.seed, device="cpu", test=on_test)

    return {run: fit(run) for run in runs_in(whole[2])}


@pytest.fixture
def study(searched, tmp_path):
    """A copy of the study before its confirmation."""
    return shutil.copytree(searched, tmp_path / "results")


@pytest.fixture
def confirmed(whole, tmp_path):
    """A copy of the study after its confirmation."""
    return shutil.copytree(whole[0], tmp_path / "results")


@pytest.fixture
def ranked(study, whole):
    """A copy of the study with all runs of the first stage (val) and none of the second (test)."""
    kept = ConfirmationRecords(StudyRecords.open(StudyRef(study)))
    for event in whole[2]:
        if isinstance(event, RunFinished) and event.run.judged_on == "val":
            kept.store_history(event.run, event.history)
    return study


@pytest.fixture
def jobs(monkeypatch):
    """Jobs submitted since the fixture was set up."""
    begun = []
    submit = in_process.InProcess.submit
    monkeypatch.setattr(in_process.InProcess, "submit", lambda self, job: (begun.append(job), submit(self, job))[1])
    return begun
