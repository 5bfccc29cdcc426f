"""Networks to export, and exported files loaded without this package."""

import subprocess
import sys
import warnings
from dataclasses import replace
from random import Random

import torch

from nas.architecture.architecture import Architecture
from nas.architecture.layers import BatchNorm, Conv, Flatten, GlobalAvgPool, Linear
from nas.exporters.graphs import exported_program, write_onnx, write_pt2
from nas.exporters.model_source import model_source, state_names
from nas.exporters.provenance import Provenance
from nas.exporters.verify import FileVerification
from nas.recipe import Recipe
from support.architectures import draw_architecture

VERIFICATION = FileVerification.__dataclass_fields__


def run_alone(folder, *arguments):
    """Runs Python in `folder` without this package, user packages and Python's environment variables."""
    blocked = "import sys; sys.modules['nas'] = None\n"
    if arguments[0] == "-c":
        arguments = ("-c", blocked + arguments[1], *arguments[2:])
    command = [sys.executable, "-E", "-s", "-B", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def provenance_of(architecture, **changes):
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
    return Provenance(**values | changes)


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


def loaded_source(architecture, provenance):
    """Returns the namespace of the generated model.py."""
    namespace = {"__name__": "model", "__file__": "model.py"}
    exec(compile(model_source(architecture, provenance), "model.py", "exec"), namespace)
    return namespace


def renamed(architecture, weights):
    names = state_names(architecture)
    return {f"{names[int(key.split('.')[0])]}.{key.partition('.')[2]}": tensor for key, tensor in weights.items()}


def drawn(seed):
    architecture = draw_architecture(Random(seed))
    if len(architecture.output_shape) != 1:
        architecture = replace(architecture, layers=(*architecture.layers, Flatten()))
    return architecture


def check_graph_files(module, input_shape, folder):
    """Writes the network as torch.export and ONNX files, and checks that they give its logits."""
    import onnxruntime

    program = exported_program(module, input_shape)
    write_pt2(program, folder / "model.pt2")
    write_onnx(program, folder / "model.onnx")
    images = torch.rand(3, *input_shape)
    with torch.inference_mode():
        expected = module(images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's deprecation warnings about itself
            loaded = torch.export.load(folder / "model.pt2").module()(images)
    torch.testing.assert_close(loaded, expected, rtol=0, atol=0)
    onnx_model(folder / "model.onnx")
    (logits,) = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-5, atol=1e-5 * max(1, expected.abs().max()))


def onnx_model(path):
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    return model


def loaded(folder):
    namespace = {"__name__": "model", "__file__": str(folder / "model.py")}
    exec(compile((folder / "model.py").read_text(), "model.py", "exec"), namespace)
    mean, std = namespace["MEAN"][0], namespace["STD"][0]
    return {"network": namespace["load"](), "normalised": lambda pixels: (pixels.float() / 255 - mean) / std}
