"""Commands that are shown to be copied name their study, and no password."""

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
def test_defaults_are_left_out(results, study, storage):
    assert StudyRef(results, storage, study).options() == ""


@pytest.mark.parametrize("name", ["r1", "my results", "it's", "$(reboot)", "a;b", "größe"])
def test_a_shell_reads_them_as_they_were_given(name):
    url = f"sqlite:///{name}.db"
    _, results, _, storage, *rest = shlex.split(StudyRef(name, url, name).options())
    assert [results, *rest] == [name, "--study", name]
    assert make_url(storage) == make_url(url)


def test_a_password_is_never_shown():
    text = StudyRef(storage="postgresql://me:pa'ss@host/db").options()
    assert shlex.split(text) == ["--storage", "postgresql://me:***@host/db"]


def test_without_names_it_is_the_study_search_in_the_folder_results():
    ref = StudyRef()
    assert (ref.folder, ref.name, ref.url) == (Path("results"), "search", "sqlite:///results/studies.db")
    assert StudyRef("other", "postgresql://me:secret@host/db").url == "postgresql://me:secret@host/db"


@pytest.mark.parametrize("name", ["a", "a" * 100, "größe", "two words", ".."])
def test_a_name_that_a_file_can_have_is_accepted(name):
    StudyRef(study=name).check_name()


@pytest.mark.parametrize("name", ["a" * 101, "a/b", "a\nb", "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(StudyError, match=r"expected at most 100 printable characters without /$"):
        StudyRef(study=name).check_name()
