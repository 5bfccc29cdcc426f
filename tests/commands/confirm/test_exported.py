"""Export of a confirmed trial."""

import pytest
import torch
from support.confirmations import ASKED, SEEDS, finalists_of, keep

from nas.commands.confirm import confirm
from nas.commands.export import export_trial
from nas.errors import NasError, StudyError
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.study.runs import Run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_export_contains_weights_and_accuracy_of_first_seed(confirmed, whole, fits, tmp_path):
    exported = export_trial("confirmed", results=confirmed, output=tmp_path / "model")
    stored = torch.load(exported.folder / "weights.pt", weights_only=True)
    wanted = fits[Run(trial=whole[1].winner.number, judged_on="test", seed=0)].weights
    assert len(stored) == len(wanted)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(stored.values(), wanted.values(), strict=True))
    assert [remark[:40] for remark in exported.remarks] == ["The weights were trained on the val spli"]
    for name in ("model.py", "README.md"):
        text = (exported.folder / name).read_text()
        assert f"Trial {whole[1].winner.number} of study 'search', confirmed with {SEEDS} seeds." in text
        assert f"fixed beforehand: {whole[1].test.final_accuracies[0]:.2%} on the test split." in text
        assert "The test split was opened once for this study." in text
    assert f"nas.confirm(top={len(whole[1].ranking.finalists)}, seeds={SEEDS}, target=" in text
    assert f"results='{confirmed}')\n```\n" in text


def test_export_of_unconfirmed_study_raises_error(study, tmp_path):
    with pytest.raises(StudyError) as caught:
        export_trial("confirmed", results=study, output=tmp_path / "model")
    call = f"nas.confirm(results='{study}')"
    assert str(caught.value) == f"study 'search' is not confirmed yet; run `{call}` first"
    assert not (tmp_path / "model").exists()


def test_export_command_of_unconfirmed_study_suggests_whole_command(study, nas):
    text = f"study 'search' is not confirmed yet; run `nas confirm --results {study}` first"
    assert nas("export", "--trial", "confirmed", "--results", study) == (2, "", f"error: {text}\n")


def test_damaged_confirmed_weights_error_names_file_and_trial(confirmed, whole, tmp_path):
    before = {path.name for path in (confirmed / "artifacts").iterdir()}
    trials = StudyRecords.open(StudyRef(confirmed))
    for path in (confirmed / "artifacts").iterdir():
        path.write_bytes(b"x")
    with pytest.raises(StudyError) as caught:
        export_trial("confirmed", results=confirmed, output=tmp_path / "model")
    where, _, what = str(caught.value).partition(": ")
    assert where.rpartition("/")[2] in before
    assert what == (
        f"the confirmed weights of trial {whole[1].winner.number} cannot be read: the file is damaged"
        " ('File is not a zip file')"
    )
    assert trials.study.user_attrs["confirmed"]["trial"] == whole[1].winner.number


def test_export_raises_error_if_first_seed_diverged(study, tmp_path):
    small, large = sorted(finalists_of(study), key=lambda trial: trial.params)
    keep(study, "val", {small.number: [0.5, 0.5], large.number: [0.1, 0.1]})
    keep(study, "test", {small.number: [None]})
    confirm(**ASKED, results=study)
    with pytest.raises(NasError, match=f"trial {small.number}"):
        export_trial("confirmed", results=study, output=tmp_path / "model")
