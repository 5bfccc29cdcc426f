"""A confirmation rejects invalid options and unsuitable studies before it trains."""

from contextlib import closing

import optuna
import pytest
from support.confirmations import ASKED, TOP, Stop, openings

from nas.commands.confirm import confirm
from nas.errors import NasError, StudyError
from nas.study.locks import open_locks
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


COUNT = "expected an integer of at least"


FRACTION = "expected a number above 0 and at most 1, such as 0.994"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"top": 4}, "expected at most 3, since study 'search' has 3 trained trials"),
        ({"top": 0}, f"{COUNT} 1"),
        ({"seeds": 1}, f"{COUNT} 2"),
        ({"seeds": -3}, f"{COUNT} 2"),
        ({"workers": 0}, f"{COUNT} 1"),
        ({"target": 0.0}, FRACTION),
        ({"target": 1.5}, FRACTION),
        ({"target": 99.4}, FRACTION),
        ({"target": float("nan")}, FRACTION),
    ],
    ids=str,
)
def test_invalid_option_is_rejected_before_training(study, jobs, nas, change, text):
    asked = {**ASKED, **change}
    events = []
    with pytest.raises(NasError) as caught:
        confirm(**asked, results=study, on_event=events.append)
    (name,) = change
    assert str(caught.value) == f"`{name}={change[name]!r}`: {text}"
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    assert nas("confirm", *options, "--results", study) == (2, "", f"error: --{name} {change[name]}: {text}\n")
    assert (jobs, events, openings(study)) == ([], [], [])


NOTES = StudyNotes(dataset_note="", mean=(0.5,), std=(0.25,), classes=("0", "1"), command="", machine="")


def test_study_without_trained_trials_is_rejected(searched, tmp_path, nas):
    settings = StudyRecords.open(StudyRef(searched)).settings
    (tmp_path / "results").mkdir()
    StudyRecords.create(StudyRef(tmp_path / "results"), settings, NOTES)
    text = "study 'search' has no trained trials yet\n"
    assert nas("confirm", "--results", tmp_path / "results") == (2, "", f"error: {text}")
    assert nas("confirm", "--top", 1, "--results", tmp_path / "results") == (2, "", f"error: {text}")


def test_missing_study_is_rejected_and_not_created(study, tmp_path, nas):
    text = f"error: sqlite:///{study / 'studies.db'}: no study 'other' found, expected search\n"
    assert nas("confirm", "--results", study, "--study", "other") == (2, "", text)
    assert not list(study.glob("*.other.lock"))
    missing = tmp_path / "missing"
    text = (
        f"error: {missing / 'studies.db'}: no database found;"
        f" run `nas search --results {missing}` first, or name another one with --results or --storage\n"
    )
    assert nas("confirm", "--results", missing) == (2, "", text)
    assert not missing.exists()


def test_study_locked_by_other_confirmation_is_rejected(study, jobs, nas):
    text = f"sqlite:///{study / 'studies.db'}: another process is confirming study 'search'; wait until it ends"
    with closing(open_locks(StudyRef(study))) as other:
        assert other.try_acquire("confirm")
        with pytest.raises(StudyError) as caught:
            confirm(**ASKED, results=study)
        assert str(caught.value) == text
        assert nas("confirm", "--results", study) == (2, "", f"error: {text}\n")
    assert jobs == []


def test_second_confirmation_is_rejected_while_first_runs(study):
    def ask_again(event):
        with pytest.raises(StudyError, match=r"is confirming study 'search'; wait until it ends$"):
            confirm(**ASKED, results=study)
        raise Stop

    with pytest.raises(Stop):
        confirm(**ASKED, results=study, on_event=ask_again)


@pytest.mark.parametrize("change", [{"data_fingerprint": "0" * 16}, {"split": "val 1 of 2, by hand"}])
def test_data_changed_since_search_are_rejected(study, jobs, nas, change):
    with_other = StudyRecords.open(StudyRef(study)).study
    with_other.set_user_attr("settings", {**with_other.user_attrs["settings"], **change})
    text = "dataset digits has changed since the study began; name the folder of the original data with "
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=study)
    assert str(caught.value) == f"{text}`data_root`"
    assert nas("confirm", "--top", TOP, "--results", study) == (2, "", f"error: {text}--data-root\n")
    assert (jobs, openings(study)) == ([], [])


def test_study_of_other_tool_is_rejected(tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="search", storage=url).optimize(lambda trial: trial.suggest_float("x", 0, 1), 1)
    with pytest.raises(StudyError) as caught:
        confirm(**ASKED, results=tmp_path)
    assert str(caught.value) == f"{url}: study 'search' was not made by nas; give another `study`"
