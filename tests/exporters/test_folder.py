"""The folder of an export is replaced as a whole; files of the user are never lost."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.custom import Softsign
from support.exports import provenance_of, random_weights, small

from nas.commands.export import export_trial
from nas.data import datasets
from nas.errors import NasError, StudyError
from nas.exporters.export import export
from nas.exporters.folder import FILES, OPTIONAL_FILES, check_output
from nas.exporters.provenance import VerificationData
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_export_replaces_earlier_export(exported, tmp_path):
    architecture, output = small(), tmp_path / "model"
    export(
        architecture,
        random_weights(architecture),
        output=output,
        provenance=provenance_of(architecture),
        formats=("c",),
    )
    (output / "__pycache__").mkdir()
    export(architecture, random_weights(architecture, 1), output=output, provenance=provenance_of(architecture))
    assert {path.name for path in output.iterdir()} == set(FILES)
    stored = torch.load(output / "weights.pt", weights_only=True)
    assert torch.equal(stored["head.2.weight"], random_weights(architecture, 1)["4.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no temporary folder is left


def test_folder_with_other_files_is_rejected(study_folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(NasError, match=r"model: thesis\.txt found, which no export writes, expected a new or empty"):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["arduino/mine.ino", "arduino/src/mine/thesis.txt", "makefile/main.o", "arduino"])
def test_project_with_other_files_is_rejected(name, tmp_path):
    for path in OPTIONAL_FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "makefile" / "build" / "host").mkdir(parents=True)
    (tmp_path / "makefile" / "build" / "host" / "main").touch()  # from `make`, replaced with the export
    check_output(tmp_path)
    if name == "arduino":
        shutil.rmtree(tmp_path / name)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(NasError) as caught:
        check_output(tmp_path)
    found = "arduino/src/mine" if "thesis" in name else name
    assert str(caught.value) == (
        f"{tmp_path}: {found} found, which no export writes, expected a new or empty folder, or an earlier export"
    )


def test_folder_is_rejected_before_start_is_reported(study_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    said = []
    with pytest.raises(NasError, match=r"thesis\.txt found"):
        export_trial(results=study_folder, output=tmp_path, on_start=said.append)
    assert said == []


def test_existing_file_as_output_is_rejected(study_folder, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NasError, match=r"model: a file found, expected a new or empty folder, or an earlier export"):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("is_there", [False, True])
def test_symlink_is_kept_and_its_target_is_written(tmp_path, is_there):
    architecture, link = small(), tmp_path / "link"
    link.symlink_to("target")
    if is_there:
        (tmp_path / "target").mkdir()
    done = export(architecture, random_weights(architecture), output=link, provenance=provenance_of(architecture))
    assert link.is_symlink()
    assert done.folder == link
    assert {path.name for path in (tmp_path / "target").iterdir()} == set(FILES)


def test_circular_symlink_is_rejected(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NasError, match=r"/[ab]: a broken link found, expected a new or empty folder"):
        check_output(tmp_path / "a")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_unwritable_folder_error_names_folder(tmp_path):
    with pytest.raises(NasError, match=r"^/proc: [A-Z][a-z ]+$"):
        check_output(Path("/proc/model"))


def test_discarded_or_unknown_trial_is_rejected(study_folder, tmp_path):
    discarded = next(t for t in StudyRecords.open(StudyRef(study_folder)).trials() if t.outcome == "discarded")
    with pytest.raises(StudyError) as caught:
        export_trial(discarded.number, results=study_folder, output=tmp_path / "model")
    assert (
        str(caught.value) == f"trial {discarded.number}: it is discarded and has no weights, expected a trained trial"
    )
    with pytest.raises(StudyError, match=r"^no trial 10000 found, expected 0 to "):
        export_trial(10000, results=study_folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unknown_format_is_rejected(tmp_path):
    expected = r"'tflite' found, expected one of int8, c, c-int8, arduino, makefile$"
    with pytest.raises(NasError, match=rf"^`formats=\('tflite',\)`: {expected}"):
        export(
            small(),
            random_weights(small()),
            output=tmp_path / "m",
            provenance=provenance_of(small()),
            formats=("tflite",),
        )


@pytest.mark.parametrize("kind", ["c", "c-int8", "arduino", "makefile"])
def test_layer_without_c_kernel_is_rejected_before_anything_is_written(kind, tmp_path):
    data = VerificationData.of(datasets.load("digits"), is_seen=False)
    architecture = replace(small(), layers=(Softsign(), *small().layers))
    text = (
        f"`formats=('{kind}',)`: layer kind softsign has no C kernel, expected one of conv, depthwise_separable, "
        "batch_norm, activation, dropout, max_pool, avg_pool, global_avg_pool, flatten, linear, squeeze_excite, "
        "residual, repeat"
    )
    with pytest.raises(NasError) as caught:
        export(
            architecture,
            random_weights(architecture),
            output=tmp_path / "model",
            provenance=provenance_of(architecture),
            verification_data=data,
            formats=(kind,),
        )
    assert str(caught.value) == text
    assert list(tmp_path.iterdir()) == []
