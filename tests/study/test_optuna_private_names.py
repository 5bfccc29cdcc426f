"""Contract tests for the private names of Optuna that `nas.study.optuna_storage` uses."""

import json

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial

from nas.study.database import open_storage
from nas.study.optuna_storage import StudyStorage, artifact_link, set_system_attr, storage_of, study_id, system_attrs


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'studies.db'}"


def test_artifact_link_equals_attribute_written_by_optuna(tmp_path):
    study = optuna.create_study()
    (tmp_path / "epochs.csv").write_text("epoch\n1\n")
    store = FileSystemArtifactStore(str(tmp_path))
    artifact_id = upload_artifact(
        artifact_store=store, file_path=str(tmp_path / "epochs.csv"), study_or_trial=study, mimetype="text/csv"
    )
    ((key, stored),) = system_attrs(study).items()
    ((own_key, own),) = artifact_link(artifact_id, filename="epochs.csv", mimetype="text/csv").items()
    assert (own_key, json.loads(own)) == (key, json.loads(stored))


def test_optuna_finds_artifact_by_our_link():
    study = optuna.create_study()
    for key, value in artifact_link("an-id", filename="weights.pt", mimetype="application/octet-stream").items():
        set_system_attr(study, key, value)
    (meta,) = get_all_artifact_meta(study)
    assert (meta.artifact_id, meta.filename, meta.mimetype) == ("an-id", "weights.pt", "application/octet-stream")


def test_study_exposes_its_storage_and_id(url):
    storage = open_storage(url)
    study = optuna.create_study(storage=storage, study_name="a")
    assert storage_of(study).get_study_name_from_id(study_id(study)) == "a"


def test_stored_constraints_equal_those_set_by_optuna(url):
    storage = StudyStorage(open_storage(url))
    study = optuna.create_study(storage=storage, study_name="a")
    trial_id = storage.create_new_trial(study_id(study), create_trial(state=TrialState.RUNNING))
    storage.end(
        trial_id, TrialState.COMPLETE, [0.5], user_attrs={}, system_attrs={}, constraints={"params<=8000": -0.25}
    )
    (read,) = optuna.load_study(study_name="a", storage=RDBStorage(url)).get_trials()
    theirs = optuna.create_study()
    theirs.ask().set_constraint("params<=8000", -0.25)
    assert read.system_attrs == theirs.trials[0].system_attrs
