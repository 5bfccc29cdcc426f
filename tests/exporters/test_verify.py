"""Files that fail verification are rejected; unverified files are marked."""

import math
import re
import shutil
from dataclasses import replace

import pytest
import torch
from support.exports import provenance_of, random_weights, small

from nas.architecture.cost import cost_of
from nas.commands.export import export_trial
from nas.data import datasets
from nas.errors import NasError, StudyError
from nas.exporters import export as exporting
from nas.exporters import verify
from nas.exporters.export import export
from nas.exporters.graphs import exported_program
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.mark.parametrize(
    ("name", "file"), [("write_onnx", "model.onnx"), ("write_pt2", "model.pt2"), ("_write_weights", "weights.pt")]
)
def test_file_with_wrong_logits_fails_export_and_leaves_nothing(name, file, tmp_path, monkeypatch):
    architecture, other = small(), random_weights(small(), seed=1)
    write = getattr(exporting, name)

    def wrong(first, *others):
        if name == "_write_weights":
            return write(first, architecture, other)
        module = architecture.build().eval()
        module.load_state_dict(other)
        return write(exported_program(module, architecture.input_shape), *others)

    monkeypatch.setattr(exporting, name, wrong)
    with pytest.raises(
        NasError, match=rf"^{re.escape(file)}: logits differ by .* from the network's, expected at most 1e-05$"
    ):
        export(
            architecture,
            random_weights(architecture),
            output=tmp_path / "model",
            provenance=provenance_of(architecture),
        )
    assert list(tmp_path.iterdir()) == []


def test_failed_export_keeps_earlier_export(exported, tmp_path, monkeypatch):
    architecture = small()
    export(
        architecture, random_weights(architecture), output=tmp_path / "model", provenance=provenance_of(architecture)
    )
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    monkeypatch.setattr(exporting, "write_pt2", lambda program, path: path.write_bytes(b"nothing"))
    with pytest.raises(NasError, match=r"^a file cannot be loaded: "):
        export(
            architecture,
            random_weights(architecture, 1),
            output=tmp_path / "model",
            provenance=provenance_of(architecture),
        )
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_with_other_accuracy_than_measured_are_rejected(study_folder, tmp_path, monkeypatch):
    records = StudyRecords.open(StudyRef(study_folder))
    (best,) = records.best(1)
    changed = {
        name: torch.randn_like(x) if x.is_floating_point() else x for name, x in records.weights(best.number).items()
    }
    changed |= {name: x.abs() for name, x in changed.items() if name.endswith("running_var")}
    monkeypatch.setattr(StudyRecords, "weights", lambda self, number: changed)
    stored = f"{best.history[-1].val_accuracy:.2%}"
    with pytest.raises(
        NasError, match=rf"^val accuracy is [0-9.]+%, expected {re.escape(stored)} as measured in training; the weights"
    ):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_wrong_parameter_count_is_rejected(tmp_path, monkeypatch):
    architecture = small()
    monkeypatch.setattr(verify, "cost_of", lambda _: replace(cost_of(architecture), params=7))
    with pytest.raises(NasError, match=r"^weights\.pt: 33 parameters found, expected 7$"):
        export(
            architecture,
            random_weights(architecture),
            output=tmp_path / "model",
            provenance=provenance_of(architecture),
        )


def test_missing_dataset_is_remarked_in_card_and_prevents_int8(study_folder, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise datasets.DatasetError("digits: lost")

    monkeypatch.setattr(datasets, "load", missing)
    done = export_trial(results=study_folder, output=tmp_path / "model")
    assert done.remarks == ("Not verified on the validation split: digits: lost.",)
    assert {each.accuracy for each in done.verifications} == {None}
    text = (done.folder / "README.md").read_text()
    assert "- Not verified on the validation split: digits: lost." in text
    assert "random images" in text
    with pytest.raises(NasError, match=r"^`formats=\('int8',\)`: int8 needs the training images: .* digits: lost$"):
        export_trial(results=study_folder, output=tmp_path / "other", formats=("int8",))
    assert not (tmp_path / "other").exists()


def test_infinite_weights_are_rejected_for_c(tmp_path):
    weights = random_weights(small())
    next(iter(weights.values())).fill_(math.inf)
    given = {"output": tmp_path / "model", "provenance": provenance_of(small()), "formats": ("c",)}
    with pytest.raises(NasError, match=r"^network\.c: a weight is (inf|nan), expected a finite number$"):
        export(small(), weights, **given)
    assert list(tmp_path.iterdir()) == []


def test_compiler_error_is_reported(tmp_path, monkeypatch):
    architecture, write = small(), exporting.c_files

    def broken(*args, **options):
        files = write(*args, **options)
        return {**files, "network.c": files["network.c"] + "int broken(void) { return undeclared; }\n"}

    monkeypatch.setattr(exporting, "c_files", broken)
    given = {"output": tmp_path / "model", "provenance": provenance_of(architecture), "formats": ("c",)}
    with pytest.raises(NasError) as caught:
        export(architecture, random_weights(architecture), **given)
    assert re.fullmatch(
        r"the C source could not be compiled: network\.c:\d+:\d+: error: .*undeclared.*", str(caught.value)
    )
    assert list(tmp_path.iterdir()) == []


def test_int8_c_must_compute_the_integers_of_the_reference(study_folder, tmp_path, monkeypatch):
    write = exporting.int8_c_files

    def off_by_one(*args, **options):
        files = write(*args, **options)
        changed = re.sub(r"(bias_\d+\[\d+\] = \{\s*)(-?\d+)", r"\1 100 + \2", files["network_int8.c"], count=1)
        assert changed != files["network_int8.c"]
        return {**files, "network_int8.c": changed}

    monkeypatch.setattr(exporting, "int8_c_files", off_by_one)
    expected = (
        r"^network_int8\.c: logits of \d+ of \d+ images differ from the NumPy reference, expected the same integers$"
    )
    with pytest.raises(NasError, match=expected):
        export_trial(results=study_folder, output=tmp_path / "model", formats=("c-int8",))
    assert not (tmp_path / "model").exists()


def test_compiler_that_cannot_start_is_reported(tmp_path, monkeypatch):
    (tmp_path / "cc").write_bytes(b"no program")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {"output": tmp_path / "model", "provenance": provenance_of(small()), "formats": ("c",)}
    with pytest.raises(NasError, match=r"^the C source could not be compiled: cc: Exec format error$"):
        export(small(), random_weights(small()), **given)


def test_card_marks_c_source_as_not_verified_without_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {"output": tmp_path / "model", "provenance": provenance_of(small()), "formats": ("c",)}
    done = export(small(), random_weights(small()), **given)
    assert done.remarks == ("network.c was not verified: the C compiler cc is not installed.",)
    text = (done.folder / "README.md").read_text()
    size = (done.folder / "network.c").stat().st_size
    assert f"| `network.c` | {size:,} | not verified |  |\n" in text
    assert "loaded each file of this table except the C code in a separate process" in text


def test_unreadable_weights_error_names_path_and_reason(study_folder, tmp_path):
    results = shutil.copytree(study_folder, tmp_path / "own")
    (best,) = StudyRecords.open(StudyRef(results)).best(1)
    artifact = results / "artifacts" / StudyRecords.open(StudyRef(results)).stored_trials()[best.number].weights
    artifact.unlink()
    artifact.mkdir()
    with pytest.raises(StudyError) as caught:
        export_trial(results=results, output=tmp_path / "model")
    assert str(caught.value) == f"{artifact}: the weights of trial {best.number} cannot be read: Is a directory"
