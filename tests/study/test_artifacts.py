"""Weights among a study's artifacts: damaged files are rejected, and loading executes no code."""

import io
import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.damage import assert_clear, damaged_bytes

from nas.errors import StudyError
from nas.study.artifacts import Artifacts
from nas.study.attributes import PREFIX
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")

MANY = settings(derandomize=True, max_examples=40, suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=20)


class Touch:
    """Creates the file `path` when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def zipped(entries, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.fixture(scope="module")
def stored(confirmed):
    """Name, bytes, state dict and architecture of the best trial's artifact."""
    records = StudyRecords.open(StudyRef(confirmed))
    (best,) = records.best(1)
    name = records.study.get_trials(deepcopy=False)[best.number].system_attrs[f"{PREFIX}weights"]
    return name, (confirmed / "artifacts" / name).read_bytes(), records.weights(best.number), best.architecture


@pytest.fixture
def put(stored, tmp_path):
    """Function that stores bytes as the artifact and loads the weights from it."""
    artifacts = Artifacts(tmp_path)
    artifacts.prepare()

    def read(data):
        (artifacts.folder / stored[0]).write_bytes(data)
        return artifacts.read_state_dict(stored[0], "the weights", stored[3])

    return read


def test_unchanged_weights_file_returns_stored_weights(put, stored):
    state = put(stored[1])
    assert all(torch.equal(state[name], value) for name, value in stored[2].items())


@pytest.mark.slow
@settings(MANY, max_examples=200)
@given(data=st.data())
def test_damaged_weights_file_is_rejected_or_yields_same_weights(put, stored, data):
    changed = data.draw(damaged_bytes(stored[1]) | st.binary(max_size=200))
    try:
        state = put(changed)
    except StudyError as error:
        assert_clear(error)
        return
    # The damage hit no byte of the weights, for instance a date in the archive.
    assert state.keys() == stored[2].keys()
    assert all(torch.equal(state[name], value) for name, value in stored[2].items())


def test_invalid_state_dict_is_rejected_with_reason(put, stored):
    state = stored[2]
    first = next(iter(state))
    others = {
        "list found": [1, 2],
        "Tensor found": torch.zeros(3),
        "dict found": {**state, first: [1.0]},
        "found in only one of the file and the network": {key: value for key, value in state.items() if key != first},
        "extra found in only one": {**state, "extra": torch.zeros(1)},
        "'a\\nb' found in only one": {**state, "a\nb": torch.zeros(1)},
        f"{first} is torch.float64": {**state, first: state[first].double()},
        f"{first} is torch.float32 (1,), expected": {**state, first: torch.zeros(1)},
        f"{first} contains nan": {**state, first: state[first] * torch.nan},
    }
    for reason, value in others.items():
        with pytest.raises(StudyError) as caught:
            put(saved(value))
        assert_clear(caught.value)
        assert reason in str(caught.value)


def test_loading_weights_executes_no_code(put, tmp_path):
    touched = tmp_path / "touched"
    plain = pickle.dumps(Touch(touched))
    archive = zipped({"archive/data.pkl": plain, "archive/version": b"3", "archive/byteorder": b"little"})
    for data in (plain, saved(Touch(touched)), saved({"a": Touch(touched)}), archive):
        with pytest.raises(StudyError, match=r"the weights cannot be read: the file is damaged \("):
            put(data)
    assert not touched.exists()
    assert os.system(f"touch {touched}") == 0  # control: the command itself works
    assert touched.exists()


@pytest.mark.slow
@settings(MANY, max_examples=200)
@given(data=st.data())
def test_archive_with_damaged_pickle_raises_only_clear_study_error(put, stored, data):
    """The checksums are valid, so the damaged pickle reaches torch's unpickler."""
    with zipfile.ZipFile(io.BytesIO(stored[1])) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (name,) = [name for name in entries if name.endswith("data.pkl")]
    entries[name] = data.draw(damaged_bytes(entries[name]) | st.binary(max_size=50))
    try:
        put(zipped(entries))
    except StudyError as error:
        assert_clear(error)


def test_compressed_archive_is_rejected(put):
    with pytest.raises(StudyError, match=r"compressed, which torch\.save does not do"):
        put(zipped({"archive/data.pkl": b"\0" * 10**7}, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b", "x" * 300, "missing"])
def test_invalid_or_missing_artifact_name_raises_study_error(stored, tmp_path, name):
    with pytest.raises(StudyError, match="the weights"):
        Artifacts(tmp_path).read_state_dict(name, "the weights", stored[3])


@pytest.mark.parametrize("name", ["../outside", "{root}/outside", "below/inside"])
def test_artifact_name_with_path_is_rejected_although_valid_file_is_there(put, stored, tmp_path, name):
    (tmp_path / "artifacts" / "below").mkdir()
    for place in ("outside", "artifacts/below/inside"):
        (tmp_path / place).write_bytes(stored[1])
    with pytest.raises(StudyError, match="expected the name of a file in this folder"):
        Artifacts(tmp_path).read_state_dict(name.format(root=tmp_path), "the weights", stored[3])
