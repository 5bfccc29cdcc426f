"""Exported files load without this package and give the outputs of the trained network."""

import re

import numpy as np
import onnxruntime
import pytest
import torch
from support.effort import seeds
from support.exports import (
    check_graph_files,
    drawn,
    loaded_source,
    onnx_model,
    provenance_of,
    random_weights,
    renamed,
    run_alone,
    small,
)

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands.export import export_trial
from nas.data import datasets
from nas.errors import NasError
from nas.exporters.export import evenly_spaced
from nas.exporters.folder import FILES, OPTIONAL_FILES
from nas.exporters.model_source import model_source
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


def test_folder_holds_expected_files_without_local_paths(exported):
    files = [path for path in exported.folder.rglob("*") if path.is_file()]
    assert {str(path.relative_to(exported.folder)) for path in files} == {*FILES, *OPTIONAL_FILES}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}
    for path in files:  # no paths of this machine
        text = path.read_bytes().partition(b"The search that found")[0]  # the user's command may contain paths
        for word in (b"/site-packages", str(exported.folder.parent).encode()):
            assert word not in text, path


def test_exported_best_trial_gives_same_logits_without_nas(study_folder, exported, tmp_path):
    records = StudyRecords.open(StudyRef(study_folder))
    (best,) = records.best(1)
    folder = exported.folder
    assert Architecture.load(folder / "architecture.json") == best.architecture
    module = best.architecture.build()
    module.load_state_dict(records.weights(best.number))
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images.pt")
    with torch.inference_mode():
        expected = module.eval()(images)
    place = str(tmp_path)
    code = f"import torch, model; torch.save(model.load()(torch.load({place!r} + '/images.pt')), {place!r} + '/out.pt')"
    done = run_alone(folder, "-c", code)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "out.pt"), expected, rtol=0, atol=1e-6)


def test_source_states_dataset_parameters_and_accuracy(study_folder, exported):
    (best,) = StudyRecords.open(StudyRef(study_folder)).best(1)
    text = (exported.folder / "model.py").read_text()
    assert f"digits in {best.params:,} parameters: {best.history[-1].val_accuracy:.2%} val accuracy, one run." in text
    assert "not MNIST" in text
    assert "        self.block1 = nn.Sequential(\n" in text
    assert "batch_size" in text
    assert max(map(len, text.splitlines())) <= 120
    done = run_alone(exported.folder, "model.py")
    assert f"\n{best.params:,} parameters\n" in done.stdout, done.stderr


def test_every_file_is_verified_on_validation_split(study_folder, exported):
    (best,) = StudyRecords.open(StudyRef(study_folder)).best(1)
    val = datasets.load("digits").val
    verifications = {each.name: each for each in exported.verifications}
    graphs = ["weights.pt", "model.safetensors", "model.pt2", "model.onnx", "model_int8.onnx"]
    assert list(verifications) == [*graphs, "network.c", "network_int8.c"]
    for name, each in verifications.items():
        assert each.num_images == len(val.images)
        assert each.num_bytes == (exported.folder / name).stat().st_size
        if "int8" in name:
            assert each.difference is None
            assert abs(each.accuracy - best.history[-1].val_accuracy) < 0.05
        else:
            assert each.difference < 1e-4
            assert each.num_same == each.num_images
            assert each.accuracy == best.history[-1].val_accuracy
    assert not exported.remarks


def test_onnx_accepts_any_batch_size_and_int8_is_quantised(exported):
    for name in ("model.onnx", "model_int8.onnx"):
        session = onnxruntime.InferenceSession(exported.folder / name)
        for size in (1, 7):
            (logits,) = session.run(["logits"], {"images": np.zeros((size, 1, 28, 28), np.float32)})
            assert logits.shape == (size, 10)
    types = {tensor.data_type for tensor in onnx_model(exported.folder / "model_int8.onnx").graph.initializer}
    assert 3 in types  # INT8
    kinds = [node.op_type for node in onnx_model(exported.folder / "model_int8.onnx").graph.node]
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds)
    assert "BatchNormalization" not in kinds


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", seeds(40))
def test_source_of_any_architecture_gives_identical_logits(seed):
    architecture = drawn(seed)
    weights = random_weights(architecture, seed)
    network = loaded_source(architecture, provenance_of(architecture))["Network"]()
    network.load_state_dict(renamed(architecture, weights))
    module = architecture.build()
    module.load_state_dict(weights)
    images = torch.rand(3, *architecture.input_shape)
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), module.eval()(images))
    assert sum(weight.numel() for weight in network.parameters()) == cost_of(architecture).params


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", [100 + n for n in seeds(12)])
def test_pt2_and_onnx_of_any_architecture_match_torch(seed, tmp_path):
    architecture = drawn(seed)
    module = architecture.build()
    module.load_state_dict(random_weights(architecture, seed))
    check_graph_files(module.eval(), architecture.input_shape, tmp_path)


HOSTILE = (
    '"""',
    "'''",
    "\\",
    "a\nb",
    "\x00",
    "é",
    "*/",
    "|",
    "`",
    "<script>",
    "{x}",
    "%s",
    "\ud800",
    '\\"""\nimport os\n',
)


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_names_cannot_inject_code_into_source(word):
    architecture = small(2)
    provenance = provenance_of(
        architecture, classes=(word, "other"), dataset=word, facts=(word, f"{word}\n{word}"), result=word
    )
    text = model_source(architecture, provenance)
    text.encode("utf-8")
    namespace = loaded_source(architecture, provenance)
    assert namespace["CLASSES"] == (word, "other")
    assert "os" not in namespace


@pytest.mark.parametrize("num", [1, 7, 1000, 1001, 1999, 2999, 50_000])
def test_calibration_images_span_whole_training_split(num):
    chosen = evenly_spaced(num, 1000)
    assert len(chosen) == min(num, 1000) == len(set(chosen))
    assert chosen[0] == 0
    assert num - 1 - chosen[-1] <= num / 1000


def test_fine_tuned_int8_is_exported_only_if_its_accuracy_is_higher(study_folder, tmp_path):
    found = export_trial(results=study_folder, output=tmp_path / "tuned", formats="c-int8", finetune=2)
    (note,) = [remark for remark in found.remarks if "fine-tuned" in remark]
    after, without = (float(share) for share in re.findall(r"(\d+\.\d+)%", note))
    (accuracy,) = [each.accuracy for each in found.verifications if each.name == "network_int8.c"]
    assert accuracy is not None
    assert f"{accuracy:.2%}" == f"{max(after, without):.2f}%"
    assert ("is not fine-tuned" in note) == (after <= without)
    assert note in (found.folder / "README.md").read_text().replace("\\", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"finetune": 1}, r"^`finetune=1`: only for the format c-int8$"),
        ({"finetune": -1, "formats": "c-int8"}, r"^`finetune=-1`: expected an integer of at least 0$"),
    ],
)
def test_fine_tuning_that_makes_no_sense_leaves_no_folder(study_folder, tmp_path, arguments, message):
    with pytest.raises(NasError, match=message):
        export_trial(results=study_folder, output=tmp_path / "tuned", **arguments)
    assert not (tmp_path / "tuned").exists()
