"""Exported files are loaded where nothing of ours is, and must give the very outputs of the trained network."""

import subprocess
import sys
from dataclasses import replace
from random import Random

import pytest
import torch
from architectures import draw_architecture

from nas.architecture import Architecture
from nas.errors import NasError, StudyError
from nas.exporting import export, export_trial
from nas.layers import Flatten
from nas.recipe import Recipe
from nas.records import StudyRecords


def run_alone(folder, code):
    """Runs code in a fresh interpreter in `folder`, isolated from this checkout and the user's environment."""
    header = f"import sys; sys.path.insert(0, {str(folder)!r}); sys.modules['nas'] = None\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", header + code], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_best_trial_is_exported_and_runs_without_this_package(study_folder, tmp_path):
    records = StudyRecords.open(results=study_folder)
    (best,) = records.best(1)
    folder = export_trial(results=study_folder, output=tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == [
        "architecture.json",
        "model.py",
        "recipe.json",
        "weights.pt",
    ]
    assert Architecture.load(folder / "architecture.json") == best.architecture
    module = best.architecture.build()
    module.load_state_dict(records.weights(best.number))
    images = torch.rand(5, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    torch.save(images, tmp_path / "images.pt")
    with torch.inference_mode():
        expected = module.eval()(images)
    code = f"import torch, model; torch.save(model.load()(torch.load({str(tmp_path / 'images.pt')!r})), 'out.pt')"
    run_alone(folder, code)
    assert torch.equal(torch.load(folder / "out.pt"), expected)
    text = (folder / "model.py").read_text()
    assert f"A network of {best.params:,} parameters for images of 1x28x28, 10 classes." in text
    assert f"mean {best.objective:.4f} of the last 2 epochs, lowest of them {best.consistent_accuracy:.4f}." in text
    assert "Trained on digits" in text
    assert "not MNIST" in text
    assert run_alone(folder, "import model; print(model.CLASSES)") == f"{tuple(map(str, range(10)))}\n"
    assert max(map(len, text.splitlines())) <= 120


def test_the_exported_script_runs(study_folder, tmp_path):
    folder = export_trial(results=study_folder, output=tmp_path / "model")
    done = subprocess.run([sys.executable, "-I", folder / "model.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tensor([[")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", range(40))
def test_every_kind_of_network_can_be_exported(seed, tmp_path):
    """`export` itself compares the files' outputs with the network's, bit for bit, and raises where they differ."""
    architecture = draw_architecture(Random(seed))
    if len(architecture.output_shape) != 1:
        architecture = replace(architecture, layers=(*architecture.layers, Flatten()))
    torch.manual_seed(seed)
    channels = architecture.input_shape[0]
    normalisation = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    classes = tuple(f"class {index}" for index in range(architecture.output_shape[0]))
    weights = architecture.build().state_dict()
    export(
        architecture,
        weights,
        output=tmp_path / "model",
        recipe=Recipe(),
        facts=["Untrained."],
        classes=classes,
        **normalisation,
    )
    state = torch.load(tmp_path / "model" / "weights.pt", weights_only=True)
    assert all(torch.equal(state[name], weights[name]) for name in weights)


def test_an_export_over_another_replaces_it(study_folder, tmp_path):
    first, second = [trial.number for trial in StudyRecords.open(results=study_folder).best(2)]
    export_trial(first, results=study_folder, output=tmp_path / "model")
    export_trial(second, results=study_folder, output=tmp_path / "model")
    stored = torch.load(tmp_path / "model" / "weights.pt", weights_only=True)
    wanted = StudyRecords.open(results=study_folder).weights(second)
    assert stored.keys() == wanted.keys()
    assert all(torch.equal(stored[name], wanted[name]) for name in wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no temporary folder is left


def test_a_trial_without_weights_is_refused(study_folder, tmp_path):
    discarded = next(t for t in StudyRecords.open(results=study_folder).trials() if t.outcome == "discarded")
    with pytest.raises(StudyError) as caught:
        export_trial(discarded.number, results=study_folder, output=tmp_path / "model")
    assert str(caught.value) == f"trial {discarded.number} has no weights: it is PRUNED, not a finished training"
    with pytest.raises(StudyError, match=r"^no trial 10000, allowed: 0 to "):
        export_trial(10000, results=study_folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_in_the_way_is_refused(study_folder, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NasError, match=r"model: not a folder, allowed: a new or existing folder$"):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"
