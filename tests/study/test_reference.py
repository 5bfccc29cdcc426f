"""Command-line options that name a study; they never show a password."""

import shlex
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from nas.errors import StudyError
from nas.study.database import default_storage
from nas.study.reference import StudyRef


@pytest.mark.parametrize("results", ["results", Path("results"), "results/"])
@pytest.mark.parametrize("study", [None, "search"])
@pytest.mark.parametrize("storage", [None, default_storage("results")])
def test_default_options_are_omitted(results, study, storage):
    assert StudyRef(results, storage, study).options() == ""


@pytest.mark.parametrize("name", ["r1", "my results", "it's", "$(reboot)", "a;b", "größe"])
def test_options_round_trip_through_shell(name):
    url = f"sqlite:///{name}.db"
    _, results, _, storage, *rest = shlex.split(StudyRef(name, url, name).options())
    assert [results, *rest] == [name, "--study", name]
    assert make_url(storage) == make_url(url)


def test_password_is_masked_in_options():
    text = StudyRef(storage="postgresql://me:pa'ss@host/db").options()
    assert shlex.split(text) == ["--storage", "postgresql://me:***@host/db"]


def test_default_study_is_search_in_results_folder():
    ref = StudyRef()
    assert (ref.folder, ref.name, ref.url) == (Path("results"), "search", "sqlite:///results/studies.db")
    assert StudyRef("other", "postgresql://me:secret@host/db").url == "postgresql://me:secret@host/db"


@pytest.mark.parametrize("name", ["a", "a" * 100, "größe", "two words", ".."])
def test_valid_study_name_is_accepted(name):
    StudyRef(study=name).check_name()


@pytest.mark.parametrize("name", ["a" * 101, "a/b", "a\nb", "a\0b"])
def test_invalid_study_name_is_rejected(name):
    with pytest.raises(StudyError, match=r"expected at most 100 printable characters without /$"):
        StudyRef(study=name).check_name()
