"""The model card describes the files and states which are verified."""

import math
import re
import subprocess

import pytest
import torch
from onnx import TensorProto
from PIL import Image
from support.exports import (
    VERIFICATION,
    loaded,
    loaded_source,
    onnx_model,
    provenance_of,
    random_weights,
    run_alone,
    small,
)

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Conv, Flatten, GlobalAvgPool, Linear
from nas.data import datasets
from nas.exporters.export import export
from nas.exporters.model_card import ExportedFiles, render_card
from nas.exporters.provenance import VerificationData
from nas.exporters.verify import FileVerification
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_card_reports_bytes_and_calibration_of_int8_file(exported):
    sizes = {TensorProto.INT8: 1, TensorProto.INT32: 4, TensorProto.FLOAT: 4}
    tensors = onnx_model(exported.folder / "model_int8.onnx").graph.initializer
    num_bytes = sum(math.prod(t.dims) * sizes[t.data_type] for t in tensors if t.data_type != TensorProto.INT64)
    text = (exported.folder / "README.md").read_text()
    assert f"| int8, `model_int8.onnx` | {num_bytes:,} | " in text
    assert "measured on 1,000 training images. " in text


@pytest.mark.slow
def test_card_reports_number_of_calibration_images(tmp_path):
    layers = (Conv(out_channels=2, kernel_size=3), GlobalAvgPool(), Flatten(), Linear(out_features=10))
    architecture, digits = Architecture(input_shape=(1, 28, 28), layers=layers), datasets.load("digits")
    few = datasets.Split(images=digits.train.images[:7], labels=digits.train.labels[:7])
    done = export(
        architecture,
        random_weights(architecture),
        output=tmp_path / "model",
        provenance=provenance_of(architecture),
        verification_data=VerificationData(train=few, val=digits.val, is_seen=False),
        formats=("int8",),
    )
    assert "measured on 7 training images. " in (done.folder / "README.md").read_text()


def test_card_lists_limits_layers_recipe_and_files(study_folder, exported):
    (best,) = StudyRecords.open(StudyRef(study_folder)).best(1)
    text = (exported.folder / "README.md").read_text()
    assert text.startswith(f"# digits in {best.params:,} parameters\n")
    assert f"| `params<=900` | {best.params:,} |" in text
    assert f"| `receptive_field>=10` | {best.receptive_field} |" in text
    assert f"| `batch_size` | {best.recipe.batch_size} |" in text
    rows = re.findall(r"^\|.*\| (?:&nbsp;)*`(?:nn\.|Global|residual|repeat|Depthwise|Squeeze)", text, re.M)
    assert len(rows) >= len(best.architecture.layers)
    for each in exported.verifications:
        assert re.search(
            rf"^\| `{re.escape(each.name)}` \| {each.num_bytes:,} \| .* \| {each.accuracy:.2%} \|$", text, re.M
        )


def test_card_reports_final_objective_and_consistent_accuracy(study_folder, exported):
    (best,) = StudyRecords.open(StudyRef(study_folder)).best(1)
    text = (exported.folder / "README.md").read_text()
    final = f"{best.history[-1].val_accuracy:.2%}"
    assert f"**{final} val accuracy, one run**" in text
    assert f"The search maximises the mean over the last 2 epochs, {best.objective:.2%}." in text
    assert f"the consistent accuracy, is {best.consistent_accuracy:.2%}." in text
    assert f"| `weights.pt` | {exported.verifications[0].num_bytes:,} | 0.0e+00 | 240 of 240 | {final} |" in text


def test_card_describes_input_images_and_classes(exported):
    text = (exported.folder / "README.md").read_text()
    digits = datasets.load("digits")
    mean, std = f"{digits.mean[0]:.6g}", f"{digits.std[0]:.6g}"
    assert "- Images: grey, 28 pixels high and 28 pixels wide.\n" in text
    assert (
        f"- Light on dark, as in training (mean pixel {digits.mean[0]:.2f} on a scale of 0 to 1). `predict.py" in text
    )
    assert f"subtract the mean {mean}, divide by the standard deviation {std}. `predict.py` and the C code do" in text
    assert "- Classes, in the order of the logits: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9.\n" in text


def test_top_of_card_states_accuracy_in_int8(exported):
    top = (exported.folder / "README.md").read_text().partition("\n## ")[0]
    measured = {each.name: f"{each.accuracy:.2%} (`{each.name}`)" for each in exported.verifications}
    assert f"\n- Val accuracy in int8: {measured['model_int8.onnx']}, {measured['network_int8.c']}.\n- Trial " in top


def test_card_marks_limits_of_board():
    board = {"board": "my_board", "board_limits": ("int8_arena_bytes<=900",)}
    provenance = provenance_of(small(), limits=("params<=900", "int8_arena_bytes<=900"), **board)
    text = render_card(
        small(),
        provenance,
        ExportedFiles(formats=(), verifications=[FileVerification(**dict.fromkeys(VERIFICATION, 0))]),
        verification_data=None,
    )
    assert "| `params<=900` | 33 |\n| `int8_arena_bytes<=900` (board my\\_board) | " in text


def test_names_in_card_are_escaped():
    name = "a|b<script>`x`\n# Heading\n"
    provenance = provenance_of(small(), dataset=name, classes=(name, "b", "c"), limits=("params<=900",), facts=(name,))
    text = render_card(
        small(),
        provenance,
        ExportedFiles(formats=(), verifications=[FileVerification(**dict.fromkeys(VERIFICATION, 0))]),
        verification_data=None,
    )
    escaped = "a\\|b\\<script\\>\\`x\\`\\\\n\\# Heading\\\\n"
    assert text.startswith(f"# {escaped} in 33 parameters\n")
    assert f"\n- {escaped}\n" in text
    assert f"the logits: {escaped}, b, c.\n" in text
    assert "\n# Heading" not in text
    assert "<script>" not in text


def test_card_states_polarity_unless_mean_pixel_is_half(tmp_path):
    for mean, words in ((0.8, "Dark on light, as in training (mean pixel 0.80 on a scale of 0 to 1)"), (0.5, "")):
        provenance = provenance_of(small(), mean=(mean,))
        text = render_card(
            small(),
            provenance,
            ExportedFiles(formats=(), verifications=[FileVerification(**dict.fromkeys(VERIFICATION, 0))]),
            verification_data=None,
        )
        assert words in text
        assert ("on dark" in text or "on light" in text) == bool(words)


@pytest.mark.slow
def test_code_in_card_normalises_each_channel(tmp_path):
    layers = (GlobalAvgPool(), Flatten(), Linear(out_features=2))
    architecture = Architecture(input_shape=(3, 4, 4), layers=layers)
    provenance = provenance_of(architecture, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    done = export(architecture, random_weights(architecture), output=tmp_path / "model", provenance=provenance)
    module = loaded_source(architecture, provenance)["Network"]()
    module.load_state_dict(torch.load(done.folder / "weights.pt", weights_only=True))
    images = -torch.tensor(provenance.mean).view(1, 3, 1, 1).expand(1, 3, 4, 4) / torch.tensor(provenance.std).view(
        3, 1, 1
    )
    blocks = re.findall(r"```python\n(.*?)```", (done.folder / "README.md").read_text(), re.S)
    assert len(blocks) == 4
    for code in blocks:
        run = run_alone(done.folder, "-c", f"{code}\nprint(*logits.flatten().tolist())")
        found = torch.tensor([float(word) for word in run.stdout.splitlines()[-1].split()])
        torch.testing.assert_close(found, module.eval()(images).flatten(), rtol=0, atol=1e-5)


def test_card_reports_flash_and_ram_bytes_of_c_header(exported):
    header = (exported.folder / "network.h").read_text()
    flash, ram = (int(x) for x in re.findall(r"#define NETWORK_\w+_BYTES (\d+)", header))
    text = (exported.folder / "README.md").read_text()
    assert f"| float32, `network.c` | {flash:,} | {ram:,} |\n" in text
    header = (exported.folder / "network_int8.h").read_text()
    flash, ram = (int(x) for x in re.findall(r"#define NETWORK_\w+_BYTES (\d+)", header))
    assert f"| int8, `network_int8.c` | {flash:,} | {ram:,} |\n" in text
    assert "Its logits equal those of a reference in NumPy bit by bit, on up to 256 of the images." in text
    assert "four bytes for each parameter" in text


@pytest.mark.slow
def test_card_warns_about_int8_if_weights_saw_val_split(tmp_path):
    layers = (Conv(out_channels=2, kernel_size=3), GlobalAvgPool(), Flatten(), Linear(out_features=10))
    architecture = Architecture(input_shape=(1, 28, 28), layers=layers)
    for is_seen in (False, True):
        done = export(
            architecture,
            random_weights(architecture),
            output=tmp_path / "model",
            provenance=provenance_of(architecture),
            verification_data=VerificationData.of(datasets.load("digits"), is_seen=is_seen),
            formats=("int8",),
        )
        text = (done.folder / "README.md").read_text()
        assert ("on new images int8 may lose more accuracy" in text) == is_seen
        assert ("| val accuracy, seen in training |" in text) == is_seen
        top = text.partition("\n## ")[0]
        assert "- Val accuracy in int8: " in top
        assert (" on these images, too, and int8 was not run on the test split.\n" in top) == is_seen


@pytest.mark.slow
def test_code_blocks_in_card_run_or_compile(exported, tmp_path):
    """Except the last block, which holds the calls of the study."""
    text = (exported.folder / "README.md").read_text()
    blocks = re.findall(r"```(\w+)\n(.*?)```", text, re.S)
    assert [language for language, _ in blocks] == ["sh", *["python"] * 5, "c", "c", "python"]
    assert blocks.pop()[1].startswith("import nas\nnas.search(")
    module = loaded(exported.folder)
    expected = module["network"](module["normalised"](torch.zeros(1, 1, 28, 28))).flatten()
    for _, code in (block for block in blocks if block[0] == "python"):
        done = run_alone(exported.folder, "-c", f"{code}\nprint(*logits.flatten().tolist())")
        assert done.returncode == 0, f"{code}\n{done.stderr}"
        logits = torch.tensor([float(word) for word in done.stdout.splitlines()[-1].split()])
        tolerance = 0.5 if "int8" in code else 1e-4
        torch.testing.assert_close(logits, expected, rtol=0, atol=tolerance)
    for code in (code for language, code in blocks if language == "c"):
        (tmp_path / "main.c").write_text(code)
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-I", exported.folder, "-c", tmp_path / "main.c"]
        subprocess.run(["cc", *flags, "-o", tmp_path / "main.o"], check=True)
    Image.new("L", (28, 28)).save(tmp_path / "image.png")
    _, command = blocks[0]
    done = run_alone(exported.folder, *command.replace("image.png", str(tmp_path / "image.png")).split()[1:])
    assert done.returncode == 0, done.stderr
