"""Studies that are searched, confirmed, or half confirmed: the costly ones are made once."""

import shutil

import pytest
from support.confirmations import ASKED, EPOCHS, ON_CPU, SEEDS, SPACE, runs_in

from nas.commands.confirm import RunFinished, confirm
from nas.commands.search import search
from nas.commands.train import train
from nas.data import datasets
from nas.study.confirmation import ConfirmedRecords
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.workers import in_process


@pytest.fixture(scope="session")
def searched(tmp_path_factory):
    """A results folder with a study of three trained trials. Read only."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(SPACE)
    search(
        max_params=900,
        min_receptive_field=10,
        dataset="digits",
        space=str(folder / "tiny.toml"),
        epochs=EPOCHS,
        trials=3,
        sampler="random",  # of three sizes
        results=folder / "results",
        **ON_CPU,
    )
    return folder / "results"


@pytest.fixture(scope="session")
def whole(searched, tmp_path_factory):
    """The results folder after a confirmation that nothing interrupted (read only), what came out, and its events.

    Among the events, as "test", is each time that the test split was loaded.
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
    """The same after another confirmation with one more seed (read only), what came out, and its runs."""
    folder = tmp_path_factory.mktemp("grown") / "results"
    shutil.copytree(whole[0], folder)
    events = []
    found = confirm(**{**ASKED, "seeds": SEEDS + 1}, again=True, results=folder, on_event=events.append)
    return folder, found, runs_in(events)


@pytest.fixture(scope="session")
def fits(whole):
    """Every run of the confirmation as a training of its own."""
    records = StudyRecords.open(StudyRef(whole[0]))

    def fit(run):
        trial = records.trial(run.trial)
        on_test = run.judged_on == "test"
        return train(trial.architecture, trial.recipe, dataset="digits", seed=run.seed, device="cpu", test=on_test)

    return {run: fit(run) for run in runs_in(whole[2])}


@pytest.fixture
def study(searched, tmp_path):
    """A copy of the study that is not confirmed yet."""
    return shutil.copytree(searched, tmp_path / "results")


@pytest.fixture
def confirmed(whole, tmp_path):
    """A copy of the study that is confirmed."""
    return shutil.copytree(whole[0], tmp_path / "results")


@pytest.fixture
def ranked(study, whole):
    """A copy of the study in which the runs of the first stage have ended, and none of the second."""
    kept = ConfirmedRecords(StudyRecords.open(StudyRef(study)))
    for event in whole[2]:
        if isinstance(event, RunFinished) and event.run.judged_on == "val":
            kept.keep(event.run, event.history)
    return study


@pytest.fixture
def jobs(monkeypatch):
    """Every training that is begun from here on."""
    begun = []
    submit = in_process.InProcess.submit
    monkeypatch.setattr(in_process.InProcess, "submit", lambda self, job: (begun.append(job), submit(self, job))[1])
    return begun
