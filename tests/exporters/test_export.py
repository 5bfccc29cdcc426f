"""Exported files are loaded where nothing of ours is, and must give the outputs of the trained network."""

import math
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from PIL import Image, ImageOps
from support.architectures import draw_architecture

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.architecture.layers import BatchNorm, Conv, Flatten, GlobalAvgPool, Linear
from nas.commands.export import export_trial
from nas.data import datasets
from nas.errors import NasError, StudyError
from nas.exporters import export as exporting
from nas.exporters import verify as proof
from nas.exporters.export import export
from nas.exporters.folder import EXTRA, FILES
from nas.exporters.graphs import exported_program, write_onnx, write_pt2
from nas.exporters.model_card import Written, card
from nas.exporters.model_source import model_source, state_names
from nas.exporters.provenance import Evidence, Origin
from nas.exporters.verify import Proof
from nas.recipe import Recipe
from nas.study.reader import StudyRecords
from nas.study.trial import noted

PROOF = Proof.__dataclass_fields__

pytestmark = pytest.mark.usefixtures("one_thread")


def run_alone(folder, *arguments):
    """Runs Python in `folder` without this package, the user's packages or any environment variable of ours."""
    blocked = "import sys; sys.modules['nas'] = None\n"
    if arguments[0] == "-c":
        arguments = ("-c", blocked + arguments[1], *arguments[2:])
    command = [sys.executable, "-E", "-s", "-B", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def origin_of(architecture, **changes):
    channels = architecture.input_shape[0]
    values = {
        "dataset": "noise",
        "split": "train",
        "recipe": Recipe(),
        "seed": 0,
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
        "classes": tuple(f"class {index}" for index in range(architecture.output_shape[0])),
        "result": "untrained",
        "facts": ("Nobody trained it.",),
    }
    return Origin(**values | changes)


def small(num_classes=3):
    layers = (Conv(out_channels=2, kernel_size=3), BatchNorm(), GlobalAvgPool(), Flatten())
    return Architecture(input_shape=(1, 6, 6), layers=(*layers, Linear(out_features=num_classes)))


def random_weights(architecture, seed=0):
    torch.manual_seed(seed)
    module = architecture.build()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(0, 0.3)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return module.state_dict()


def loaded_source(architecture, origin):
    """The module that model.py would be."""
    namespace = {"__name__": "model", "__file__": "model.py"}
    exec(compile(model_source(architecture, origin), "model.py", "exec"), namespace)
    return namespace


def renamed(architecture, weights):
    names = state_names(architecture)
    return {f"{names[int(key.split('.')[0])]}.{key.partition('.')[2]}": tensor for key, tensor in weights.items()}


def drawn(seed):
    architecture = draw_architecture(Random(seed))
    if len(architecture.output_shape) != 1:
        architecture = replace(architecture, layers=(*architecture.layers, Flatten()))
    return architecture


@pytest.fixture(scope="module")
def exported(study_folder, tmp_path_factory):
    """The best trial of the study with every format. Read only."""
    output = tmp_path_factory.mktemp("exported") / "model"
    return export_trial(results=study_folder, output=output, formats=exporting.FORMATS)


# -- the files -----------------------------------------------------------------------------------------------


def test_the_folder_holds_what_was_promised(exported):
    assert {path.name for path in exported.folder.iterdir()} == {*FILES, *EXTRA}
    assert {path.stat().st_mode & 0o777 for path in exported.folder.iterdir()} == {0o644}
    for path in exported.folder.iterdir():  # nothing of the machine it was made on
        text = path.read_bytes().partition(b"Found by")[0]  # the command is the user's own
        for word in (b"/site-packages", str(exported.folder.parent).encode()):
            assert word not in text, path


def test_the_best_trial_runs_without_this_package(study_folder, exported, tmp_path):
    records = StudyRecords.open(results=study_folder)
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


def test_the_source_tells_what_the_network_is(study_folder, exported):
    (best,) = StudyRecords.open(results=study_folder).best(1)
    text = (exported.folder / "model.py").read_text()
    assert (
        f"digits in {best.params:,} parameters: {best.history[-1].val_accuracy:.2%} val accuracy (after the last epoch;"
        in text
    )
    assert "not MNIST" in text
    assert "        self.block1 = nn.Sequential(\n" in text
    assert "batch_size" in text
    assert max(map(len, text.splitlines())) <= 120
    done = run_alone(exported.folder, "model.py")
    assert f"\n{best.params:,} parameters\n" in done.stdout, done.stderr


def test_every_file_proves_itself_on_the_validation_split(study_folder, exported):
    (best,) = StudyRecords.open(results=study_folder).best(1)
    val = datasets.load("digits").val
    proofs = {each.name: each for each in exported.proofs}
    graphs = ["weights.pt", "model.safetensors", "model.pt2", "model.onnx", "model_int8.onnx", "network.c"]
    assert list(proofs) == graphs
    for name, each in proofs.items():
        assert each.num_images == len(val.images)
        assert each.num_bytes == (exported.folder / name).stat().st_size
        if name == "model_int8.onnx":
            assert each.difference is None
            assert abs(each.accuracy - best.history[-1].val_accuracy) < 0.05
        else:
            assert each.difference < 1e-4
            assert each.num_same == each.num_images
            assert each.accuracy == best.history[-1].val_accuracy
    assert not exported.remarks


def test_onnx_takes_batches_of_any_size_and_int8_is_smaller(exported):
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


def test_the_card_counts_the_bytes_of_int8_whichever_field_they_lie_in(exported):
    sizes = {TensorProto.INT8: 1, TensorProto.INT32: 4, TensorProto.FLOAT: 4}
    tensors = onnx_model(exported.folder / "model_int8.onnx").graph.initializer
    num_bytes = sum(math.prod(t.dims) * sizes[t.data_type] for t in tensors if t.data_type != TensorProto.INT64)
    text = (exported.folder / "README.md").read_text()
    assert f"| int8, `model_int8.onnx` | {num_bytes:,} | " in text
    assert "read from\n1,000 training images; " in text


def test_the_card_tells_how_many_images_int8_was_calibrated_on(tmp_path):
    layers = (Conv(out_channels=2, kernel_size=3), GlobalAvgPool(), Flatten(), Linear(out_features=10))
    architecture, digits = Architecture(input_shape=(1, 28, 28), layers=layers), datasets.load("digits")
    few = datasets.Split(images=digits.train.images[:7], labels=digits.train.labels[:7])
    done = export(
        architecture,
        random_weights(architecture),
        output=tmp_path / "model",
        origin=origin_of(architecture),
        evidence=Evidence(train=few, val=digits.val, is_seen=False),
        formats=("int8",),
    )
    assert "read from\n7 training images; " in (done.folder / "README.md").read_text()


def onnx_model(path):
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", range(40))
def test_the_source_of_any_network_is_that_network(seed):
    architecture = drawn(seed)
    weights = random_weights(architecture, seed)
    network = loaded_source(architecture, origin_of(architecture))["Network"]()
    network.load_state_dict(renamed(architecture, weights))
    module = architecture.build()
    module.load_state_dict(weights)
    images = torch.rand(3, *architecture.input_shape)
    with torch.inference_mode():
        assert torch.equal(network.eval()(images), module.eval()(images))
    assert sum(weight.numel() for weight in network.parameters()) == cost_of(architecture).params


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("seed", range(100, 112))
def test_any_network_can_be_a_graph(seed, tmp_path):
    architecture = drawn(seed)
    module = architecture.build()
    module.load_state_dict(random_weights(architecture, seed))
    module.eval()
    program = exported_program(module, architecture.input_shape)
    write_pt2(program, tmp_path / "model.pt2")
    write_onnx(program, tmp_path / "model.onnx")
    images = torch.rand(3, *architecture.input_shape)
    with torch.inference_mode():
        expected = module(images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own, of what it deprecates within
            loaded = torch.export.load(tmp_path / "model.pt2").module()(images)
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)
    onnx_model(tmp_path / "model.onnx")
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max()))


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
def test_no_name_breaks_out_of_the_source(word):
    architecture = small(2)
    origin = origin_of(
        architecture, classes=(word, "other"), dataset=word, facts=(word, f"{word}\n{word}"), result=word
    )
    text = model_source(architecture, origin)
    text.encode("utf-8")
    namespace = loaded_source(architecture, origin)
    assert namespace["CLASSES"] == (word, "other")
    assert "os" not in namespace


# -- the card ------------------------------------------------------------------------------------------------


def test_the_card_tells_limits_layers_and_recipe(study_folder, exported):
    (best,) = StudyRecords.open(results=study_folder).best(1)
    text = (exported.folder / "README.md").read_text()
    assert text.startswith(f"# digits in {best.params:,} parameters\n")
    assert f"| `params<=900` | {best.params:,} |" in text
    assert f"| `receptive_field>=10` | {best.receptive_field} |" in text
    assert f"| `batch_size` | {best.recipe.batch_size} |" in text
    rows = re.findall(r"^\|.*\| (?:&nbsp;)*`(?:nn\.|Global|residual|repeat|Depthwise|Squeeze)", text, re.M)
    assert len(rows) >= len(best.architecture.layers)
    for each in exported.proofs:
        assert re.search(
            rf"^\| `{re.escape(each.name)}` \| {each.num_bytes:,} \| .* \| {each.accuracy:.2%} \|$", text, re.M
        )


def test_the_card_leads_with_what_the_weights_reach(study_folder, exported):
    (best,) = StudyRecords.open(results=study_folder).best(1)
    text = (exported.folder / "README.md").read_text()
    final = f"{best.history[-1].val_accuracy:.2%}"
    assert (
        f"**{final} val accuracy (after the last epoch; mean of the last 2 epochs, the search's objective:"
        f" {best.objective:.2%}), one run**" in text
    )
    assert f"| `weights.pt` | {exported.proofs[0].num_bytes:,} | 0.0e+00 | 240 of 240 | {final} |" in text


def test_the_card_says_what_images_must_look_like(exported):
    text = (exported.folder / "README.md").read_text()
    digits = datasets.load("digits")
    mean, std = f"{digits.mean[0]:.6g}", f"{digits.std[0]:.6g}"
    assert "- Images: grey, 28 pixels high and 28 wide.\n" in text
    assert f"- Light on dark, as in training (mean pixel {digits.mean[0]:.2f} of 0..1); `predict.py --invert`" in text
    assert f"minus mean {mean}, divided by standard\n  deviation {std}. `predict.py` and `network.c` do" in text
    assert "- Classes, in the order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.\n" in text


def test_what_is_light_and_what_is_dark_is_said_where_it_is_known(tmp_path):
    for mean, words in ((0.8, "Dark on light, as in training (mean pixel 0.80 of 0..1)"), (0.5, "")):
        origin = origin_of(small(), mean=(mean,))
        text = card(small(), origin, Written(formats=(), proofs=[Proof(**dict.fromkeys(PROOF, 0))]), evidence=None)
        assert words in text
        assert ("on dark" in text or "on light" in text) == bool(words)


def test_images_of_three_channels_are_normalised_a_channel(tmp_path):
    layers = (GlobalAvgPool(), Flatten(), Linear(out_features=2))
    architecture = Architecture(input_shape=(3, 4, 4), layers=layers)
    origin = origin_of(architecture, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    done = export(architecture, random_weights(architecture), output=tmp_path / "model", origin=origin)
    module = loaded_source(architecture, origin)["Network"]()
    module.load_state_dict(torch.load(done.folder / "weights.pt", weights_only=True))
    images = -torch.tensor(origin.mean).view(1, 3, 1, 1).expand(1, 3, 4, 4) / torch.tensor(origin.std).view(3, 1, 1)
    blocks = re.findall(r"```python\n(.*?)```", (done.folder / "README.md").read_text(), re.S)
    assert len(blocks) == 4
    for code in blocks:
        run = run_alone(done.folder, "-c", f"{code}\nprint(*logits.flatten().tolist())")
        found = torch.tensor([float(word) for word in run.stdout.splitlines()[-1].split()])
        torch.testing.assert_close(found, module.eval()(images).flatten(), rtol=0, atol=1e-5)


def test_the_card_has_the_bytes_that_the_header_says(exported):
    header = (exported.folder / "network.h").read_text()
    flash, ram = (int(x) for x in re.findall(r"#define NETWORK_\w+_BYTES (\d+)", header))
    text = (exported.folder / "README.md").read_text()
    assert f"| float32, `network.c` | {flash:,} | {ram:,} |\n" in text
    assert "four bytes a parameter" in text


def test_of_weights_that_saw_the_val_split_the_card_says_what_int8_proves(tmp_path):
    layers = (Conv(out_channels=2, kernel_size=3), GlobalAvgPool(), Flatten(), Linear(out_features=10))
    architecture = Architecture(input_shape=(1, 28, 28), layers=layers)
    for is_seen in (False, True):
        done = export(
            architecture,
            random_weights(architecture),
            output=tmp_path / "model",
            origin=origin_of(architecture),
            evidence=Evidence.of(datasets.load("digits"), is_seen=is_seen),
            formats=("int8",),
        )
        text = (done.folder / "README.md").read_text()
        assert ("The weights were trained on the images that int8 is judged on here" in text) == is_seen
        assert ("accuracy on val, seen in training |" in text) == is_seen


def test_every_block_of_the_card_runs(exported, tmp_path):
    """All but the command that found it, which is the study's."""
    text = (exported.folder / "README.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.S)
    assert [language for language, _ in blocks] == ["sh", *["python"] * 5, "c", "sh"]
    module = loaded(exported.folder)
    expected = module["network"](module["normalised"](torch.zeros(1, 1, 28, 28))).flatten()
    for _, code in (block for block in blocks if block[0] == "python"):
        done = run_alone(exported.folder, "-c", f"{code}\nprint(*logits.flatten().tolist())")
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        logits = torch.tensor([float(word) for word in done.stdout.splitlines()[-1].split()])
        tolerance = 0.5 if "int8" in code else 1e-4
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
    (tmp_path / "main.c").write_text(next(code for language, code in blocks if language == "c"))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", exported.folder, "-c", tmp_path / "main.c"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "main.o"], check=True)
    Image.new("L", (28, 28)).save(tmp_path / "image.png")
    _, command = blocks[0]
    done = run_alone(exported.folder, *command.replace("image.png", str(tmp_path / "image.png")).split()[1:])
    assert done.returncode == 0, done.stderr


# -- predict.py ----------------------------------------------------------------------------------------------


def test_predict_reads_images_as_training_did(exported, tmp_path):
    val = datasets.load("digits").val
    module = loaded(exported.folder)
    for index in range(3):
        pixels = val.images[index, 0].numpy()
        grey = Image.fromarray(pixels)
        grey.save(tmp_path / "grey.png")
        Image.fromarray(255 - pixels).save(tmp_path / "inverted.png")
        grey.convert("RGB").save(tmp_path / "colour.png")
        grey.convert("P").save(tmp_path / "palette.png")
        shares = module["network"](module["normalised"](val.images[index : index + 1])).softmax(1)[0]
        best = int(shares.argmax())
        expected = f"{best} ({shares[best]:.2%})"
        names = ["grey.png", "colour.png", "palette.png"]
        done = run_alone(tmp_path, exported.folder / "predict.py", "--top", "1", *names)
        assert done.stdout.splitlines() == [f"{name}: {expected}" for name in names], done.stderr
        done = run_alone(tmp_path, exported.folder / "predict.py", "--top", "1", "--invert", "inverted.png")
        assert done.stdout == f"inverted.png: {expected}\n"


def loaded(folder):
    namespace = {"__name__": "model", "__file__": str(folder / "model.py")}
    exec(compile((folder / "model.py").read_text(), "model.py", "exec"), namespace)
    mean, std = namespace["MEAN"][0], namespace["STD"][0]
    return {"network": namespace["load"](), "normalised": lambda pixels: (pixels.float() / 255 - mean) / std}


def test_predict_cuts_and_resizes_as_the_guide_does_and_says_so(exported, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    ImageOps.fit(Image.fromarray(noise), (28, 28)).save(tmp_path / "small.png")
    Image.new("RGB", (50, 40)).save(tmp_path / "colour.jpg")
    Image.new("L", (56, 56)).save(tmp_path / "square.png")
    names = ["large.png", "small.png", "colour.jpg", "square.png"]
    done = run_alone(tmp_path, exported.folder / "predict.py", *names)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "large.png: the middle 40x40 of 50x40 cut out, resized to 28x28",
        "colour.jpg: colours made grey, the middle 40x40 of 50x40 cut out, resized to 28x28",
        "square.png: resized to 28x28",
    ]
    large, small, *_ = done.stdout.splitlines()
    assert large.removeprefix("large.png") == small.removeprefix("small.png")
    assert re.fullmatch(r"small\.png: (\d \(\d+\.\d\d%\)(, |$)){3}", small)


def test_predict_reads_what_is_transparent_as_white(exported, tmp_path):
    digit = datasets.load("digits").val.images[0, 0].numpy() // 128 * np.uint8(255)  # a palette holds it exactly
    Image.fromarray(255 - digit).save(tmp_path / "opaque.png")
    ink = Image.new("L", (28, 28), 0)
    ink.putalpha(Image.fromarray(digit))
    modes = ["LA", "RGBA", "P"]
    for mode in modes:
        drawing = ink.convert("RGBA").quantize(256) if mode == "P" else ink.convert(mode)
        drawing.save(tmp_path / f"{mode}.png")
    Image.open(tmp_path / "opaque.png").convert("RGBA").save(tmp_path / "filled.png")
    names = ["opaque.png", "filled.png", *(f"{mode}.png" for mode in modes)]
    done = run_alone(tmp_path, exported.folder / "predict.py", "--invert", *names)
    assert len({line.partition(": ")[2] for line in done.stdout.splitlines()}) == 1, done.stdout
    grey = ", colours made grey"
    assert done.stderr.splitlines() == [
        "filled.png: colours made grey",
        *(f"{mode}.png: transparent pixels made white{grey * (mode != 'LA')}" for mode in modes),
    ]


def test_predict_names_the_file_that_it_cannot_read_and_goes_on(exported, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    Image.new("I;16", (28, 28)).save(tmp_path / "deep.png")
    Image.new("L", (28, 28)).save(tmp_path / "good.png")
    done = run_alone(tmp_path, exported.folder / "predict.py", "text.png", "missing.png", "deep.png", "good.png")
    assert done.returncode == 2
    assert done.stdout.startswith("good.png: ")
    errors = done.stderr.splitlines()
    assert [line.partition(" (")[0] for line in errors] == [
        "error: text.png: not a readable image",
        "error: missing.png: No such file or directory",
        "error: deep.png: not a readable image",
    ]


# -- proof ---------------------------------------------------------------------------------------------------


def digits_evidence(accuracy=None):
    return Evidence.of(datasets.load("digits"), is_seen=False, accuracy=accuracy)


@pytest.mark.parametrize(
    ("name", "file"), [("write_onnx", "model.onnx"), ("write_pt2", "model.pt2"), ("_write_weights", "weights.pt")]
)
def test_a_file_that_is_not_the_network_leaves_nothing(name, file, tmp_path, monkeypatch):
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
        NasError, match=rf"^{re.escape(file)}: its logits differ by .* from the network's, allowed: 1e-05$"
    ):
        export(architecture, random_weights(architecture), output=tmp_path / "model", origin=origin_of(architecture))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_the_earlier_one(exported, tmp_path, monkeypatch):
    architecture = small()
    export(architecture, random_weights(architecture), output=tmp_path / "model", origin=origin_of(architecture))
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    monkeypatch.setattr(exporting, "write_pt2", lambda program, path: path.write_bytes(b"nothing"))
    with pytest.raises(NasError, match=r"^an exported file cannot be loaded again: "):
        export(architecture, random_weights(architecture, 1), output=tmp_path / "model", origin=origin_of(architecture))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_are_not_what_was_measured_are_refused(study_folder, tmp_path, monkeypatch):
    records = StudyRecords.open(results=study_folder)
    (best,) = records.best(1)
    changed = {
        name: torch.randn_like(x) if x.is_floating_point() else x for name, x in records.weights(best.number).items()
    }
    changed |= {name: x.abs() for name, x in changed.items() if name.endswith("running_var")}
    monkeypatch.setattr(StudyRecords, "weights", lambda self, number: changed)
    stored = f"{best.history[-1].val_accuracy:.2%}"
    with pytest.raises(
        NasError, match=rf"^val accuracy is [0-9.]+%, allowed: {re.escape(stored)}, as when these weights"
    ):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_parameters_are_counted_again(tmp_path, monkeypatch):
    architecture = small()
    monkeypatch.setattr(proof, "cost_of", lambda _: replace(cost_of(architecture), params=7))
    with pytest.raises(NasError, match=r"^weights\.pt: 33 parameters found, allowed: 7, the network's$"):
        export(architecture, random_weights(architecture), output=tmp_path / "model", origin=origin_of(architecture))


def test_without_the_data_the_card_says_so(study_folder, tmp_path, monkeypatch):
    def missing(*_, **__):
        raise datasets.DatasetError("digits: lost")

    monkeypatch.setattr(datasets, "load", missing)
    done = export_trial(results=study_folder, output=tmp_path / "model")
    assert done.remarks == ("Not proved on the validation split: digits: lost.",)
    assert {each.accuracy for each in done.proofs} == {None}
    text = (done.folder / "README.md").read_text()
    assert "- Not proved on the validation split: digits: lost." in text
    assert "random images" in text
    with pytest.raises(NasError, match=r"^format 'int8' needs the training images .* digits: lost"):
        export_trial(results=study_folder, output=tmp_path / "other", formats=("int8",))
    assert not (tmp_path / "other").exists()


def test_a_compiler_that_refuses_says_why(tmp_path, monkeypatch):
    architecture, write = small(), exporting.c_files

    def broken(*args, **options):
        files = write(*args, **options)
        return {**files, "network.c": files["network.c"] + "int broken(void) { return undeclared; }\n"}

    monkeypatch.setattr(exporting, "c_files", broken)
    given = {"output": tmp_path / "model", "origin": origin_of(architecture), "formats": ("c",)}
    with pytest.raises(NasError) as caught:
        export(architecture, random_weights(architecture), **given)
    assert re.fullmatch(
        r"the C source could not be compiled: network\.c:\d+:\d+: error: .*undeclared.*", str(caught.value)
    )
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_cannot_be_run_is_said(tmp_path, monkeypatch):
    (tmp_path / "cc").write_bytes(b"no program")
    (tmp_path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {"output": tmp_path / "model", "origin": origin_of(small()), "formats": ("c",)}
    with pytest.raises(NasError, match=r"^the C source could not be compiled: cc: Exec format error$"):
        export(small(), random_weights(small()), **given)


def test_without_a_compiler_the_card_says_what_was_not_proved(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    given = {"output": tmp_path / "model", "origin": origin_of(small()), "formats": ("c",)}
    done = export(small(), random_weights(small()), **given)
    assert done.remarks == ("network.c was not proved: no C compiler (cc) here.",)
    text = (done.folder / "README.md").read_text()
    size = (done.folder / "network.c").stat().st_size
    assert f"| `network.c` | {size:,} | not proved |  |\n" in text
    assert "Each file listed here but `network.c` was loaded in a process of its own" in text


# -- the folder ----------------------------------------------------------------------------------------------


def test_an_export_over_another_replaces_it(exported, tmp_path):
    architecture, output = small(), tmp_path / "model"
    export(architecture, random_weights(architecture), output=output, origin=origin_of(architecture), formats=("c",))
    (output / "__pycache__").mkdir()
    export(architecture, random_weights(architecture, 1), output=output, origin=origin_of(architecture))
    assert {path.name for path in output.iterdir()} == set(FILES)
    stored = torch.load(output / "weights.pt", weights_only=True)
    assert torch.equal(stored["head.2.weight"], random_weights(architecture, 1)["4.weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no temporary folder is left


def test_a_folder_with_something_else_in_it_is_refused(study_folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(NasError, match=r"model: thesis\.txt is in it, which no export wrote; allowed: a new or empty"):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert (tmp_path / "model" / "thesis.txt").read_text() == "mine"


def test_a_folder_is_refused_before_anything_is_said_to_be_written(study_folder, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    said = []
    with pytest.raises(NasError, match=r"thesis\.txt is in it"):
        export_trial(results=study_folder, output=tmp_path, on_start=said.append)
    assert said == []


def test_a_file_in_the_way_is_refused(study_folder, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NasError, match=r"model: not a folder, allowed: a new or empty folder, or one of an earlier"):
        export_trial(results=study_folder, output=tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("is_there", [False, True])
def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path, is_there):
    architecture, link = small(), tmp_path / "link"
    link.symlink_to("target")
    if is_there:
        (tmp_path / "target").mkdir()
    done = export(architecture, random_weights(architecture), output=link, origin=origin_of(architecture))
    assert link.is_symlink()
    assert done.folder == link
    assert {path.name for path in (tmp_path / "target").iterdir()} == set(FILES)


def test_a_link_that_leads_nowhere_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(NasError, match=r"/[ab]: a link that leads nowhere, allowed: a new or empty folder"):
        exporting.check_output(tmp_path / "a")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(NasError, match=r"^/proc: [A-Z][a-z ]+$"):
        exporting.check_output(Path("/proc/model"))


def test_a_trial_without_weights_is_refused(study_folder, tmp_path):
    discarded = next(t for t in StudyRecords.open(results=study_folder).trials() if t.outcome == "discarded")
    with pytest.raises(StudyError) as caught:
        export_trial(discarded.number, results=study_folder, output=tmp_path / "model")
    assert (
        str(caught.value)
        == f"trial {discarded.number} has no weights: it is discarded, allowed: a trial that is trained"
    )
    with pytest.raises(StudyError, match=r"^no trial 10000, allowed: 0 to "):
        export_trial(10000, results=study_folder, output=tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_that_cannot_be_opened_are_not_called_damaged(study_folder, tmp_path):
    results = shutil.copytree(study_folder, tmp_path / "own")
    (best,) = StudyRecords.open(results=results).best(1)
    artifact = results / "artifacts" / noted(StudyRecords.open(results=results).study.trials[best.number], "weights")
    artifact.unlink()
    artifact.mkdir()
    with pytest.raises(StudyError) as caught:
        export_trial(results=results, output=tmp_path / "model")
    assert str(caught.value) == f"{artifact}: Is a directory, it held the weights of trial {best.number}"


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(NasError, match=r"^format 'tflite', allowed: int8, c, besides what is always written$"):
        export(small(), random_weights(small()), output=tmp_path / "m", origin=origin_of(small()), formats=("tflite",))
