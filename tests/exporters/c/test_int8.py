"""int8 C computes exactly what the NumPy reference does, and nearly what the network in float does."""

import ctypes
import re
import subprocess
from random import Random

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.architectures import draw_architecture
from support.c_networks import (
    COMPILER,
    STRICT,
    every_kind,
    normalisation,
    random_images,
    random_weights,
    run,
    run_with_sanitizers,
    torch_logits,
    window_cases,
    written,
)
from support.effort import seeds

from nas.architecture.architecture import Architecture
from nas.architecture.layers import num_elements
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import quantise
from nas.exporters.c.source import stated_bytes
from nas.inference.int8 import int8_program, int8_weight_bytes, plan_int8_memory
from nas.inference.lowering import C_KINDS, lower
from nas.inference.program import Activation, Add, Convolution, Mean, Pool

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C compiler called cc"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.usefixtures("one_thread"),
]


def int8_network(architecture, seed=0, num_images=16):
    """A quantised network with random weights."""
    channels = architecture.input_shape[0]
    images = random_images(architecture.input_shape, num_images, seed=seed + 1)
    return quantise(calibrate(architecture, random_weights(architecture, seed), images, **normalisation(channels)))


def files_of(network):
    classes = [f"class {i}" for i in range(num_elements(network.program.output.shape))]
    return int8_c_files(network, classes=classes, facts=["Untrained."])


def run_c(network, images, folder, level="-O1"):
    """Logits (N, classes) and classes (N,) of the compiled network."""
    files = files_of(network)
    options = (level, "-fPIC", "-shared", "network_int8.c", "-o", "network.so")
    run(COMPILER, *STRICT, *options, folder=written(files, folder))
    library = ctypes.CDLL(str(folder / "network.so"))
    logits = np.zeros((len(images), num_elements(network.program.output.shape)), np.int16)
    found = [
        library.predict(image.tobytes(), row.ctypes.data_as(ctypes.c_void_p))
        for image, row in zip(images, logits, strict=True)
    ]
    return logits, np.array(found)


def check_c_equals_reference(architecture, folder, seed=0, level="-O1"):
    network = int8_network(architecture, seed)
    images = random_images(architecture.input_shape, seed=seed).numpy()
    expected = run_int8(network, images)
    logits, classes = run_c(network, images, folder, level)
    np.testing.assert_array_equal(logits, expected)
    np.testing.assert_array_equal(classes, expected.argmax(1))
    assert len(np.unique(expected)) > 1 or expected.size < 20


@pytest.mark.parametrize("seed", seeds(90))
def test_random_networks_equal_the_reference(seed, tmp_path):
    check_c_equals_reference(draw_architecture(Random(seed), kinds=C_KINDS), tmp_path, seed)


@pytest.mark.parametrize("layer", list(window_cases()), ids=str)
def test_windows_equal_the_reference(layer, tmp_path):
    check_c_equals_reference(Architecture(input_shape=(4, 9, 7), layers=(layer,)), tmp_path, 2)


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3"])
def test_every_kind_of_layer_equals_the_reference(level, tmp_path):
    check_c_equals_reference(every_kind(), tmp_path, 3, level)


def test_source_has_no_floating_point(tmp_path):
    """The compiler refuses floating-point operations when it may use general registers only."""
    written(files_of(int8_network(every_kind())), tmp_path)
    options = ("-std=c99", "-O2", "-mgeneral-regs-only", "-c")
    (tmp_path / "control.c").write_text("float half(float x) { return x / 2; }\n")
    control = subprocess.run([COMPILER, *options, "control.c"], cwd=tmp_path, capture_output=True, check=False)
    if b"unrecognized" in control.stderr:
        pytest.skip("the compiler has no -mgeneral-regs-only")
    assert control.returncode != 0
    done = subprocess.run([COMPILER, *options, "network_int8.c"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sanitizers_find_no_undefined_behaviour(tmp_path):
    written(files_of(int8_network(every_kind(), 3)), tmp_path)
    assert run_with_sanitizers(MAIN, "network_int8.c", tmp_path).startswith("class ")


MAIN = """
#include "network_int8.h"
#include <stdio.h>
int main(void)
{
    static unsigned char pixels[NETWORK_CHANNELS * NETWORK_HEIGHT * NETWORK_WIDTH];
    int16_t logits[NETWORK_CLASSES];
    for (unsigned i = 0; i < sizeof pixels; i++) {
        pixels[i] = (unsigned char)(i * 37);
    }
    puts(network_classes[predict(pixels, logits)]);
    return 0;
}
"""

BYTES = {"int8_t": 1, "uint8_t": 1, "int16_t": 2, "int32_t": 4}


@pytest.mark.parametrize("seed", range(6))
def test_header_states_the_bytes_of_the_arrays(seed):
    """They are known before training: from the architecture alone."""
    architecture = every_kind() if seed == 0 else draw_architecture(Random(seed), kinds=C_KINDS)
    network = int8_network(architecture)
    files = files_of(network)
    arrays = re.findall(r"^static (const FLASH )?(\w+) (\w+)\[(\d+)\]", files["network_int8.c"], re.MULTILINE)
    constants = sum(BYTES[kind] * int(n) for flash, kind, _, n in arrays if flash)
    scratch = sum(int(n) for _, _, name, n in arrays if name == "scratch")
    program = int8_program(lower(architecture))
    assert stated_bytes(files["network_int8.h"]) == (constants, scratch)
    assert (constants, scratch) == (int8_weight_bytes(program), plan_int8_memory(program).length)


def test_integers_are_close_to_the_network_in_float():
    """On images like those that it was calibrated with, int8 decides as float does unless two classes are close."""
    architecture = Architecture.load("mnist-7825")
    weights, images = random_weights(architecture, 1), random_images((1, 28, 28), 200, seed=5)
    network = quantise(calibrate(architecture, weights, images, **normalisation(1)))
    logits = run_int8(network, images.numpy()) * network.logit_scale
    expected = torch_logits(architecture, weights, images, **normalisation(1)).numpy()
    spread = expected.std()
    assert np.abs(logits - expected).max() < 0.2 * spread
    assert np.sqrt(((logits - expected) ** 2).mean()) < 0.05 * spread


def onnx_of(network):
    """The quantised network as ONNX in QDQ form, from the same scales and zeros; input: pixels as floats."""
    nodes, constants = [], []

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(op, inputs, output, **attributes):
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def quantised(name, index):
        """Rounds a real value to the integers of its encoding."""
        encoding = network.encodings[index]
        kind = np.int16 if index == network.program.output.index else np.int8
        pair = [constant(f"{name}:scale", np.float32(encoding.scale)), constant(f"{name}:zero", kind(encoding.zero))]
        return node("DequantizeLinear", [node("QuantizeLinear", [name, *pair], f"{name}:q"), *pair], f"{name}:dq")

    values = {}

    def read(value):
        shape = constant(f"shape{len(constants)}", np.array([-1, *value.shape]))
        return node("Reshape", [values[value.index], shape], f"reshaped{len(nodes)}")

    for index, each in enumerate(network.steps):
        step, name = each.step, f"step{index}"
        match step:
            case Convolution():
                out = convolution(each, name, network, constant, node, read)
            case Mean():
                out = node("GlobalAveragePool", [read(step.inputs[0])], name)
            case Pool():
                window = step.window
                geometry = {
                    "kernel_shape": [window.size] * 2,
                    "strides": [window.stride] * 2,
                    "pads": [window.padding] * 4,
                }
                if step.kind == "max":
                    out = node("MaxPool", [read(step.inputs[0])], name, **geometry)
                else:
                    out = node("AveragePool", [read(step.inputs[0])], name, count_include_pad=1, **geometry)
            case Add():
                out = node("Add", [read(value) for value in step.inputs], name)
            case Activation(function="silu"):
                x = read(step.inputs[0])
                out = node("Mul", [x, node("Sigmoid", [x], f"{name}:sigmoid")], name)
            case Activation():
                op = {"relu": "Relu", "leaky_relu": "LeakyRelu", "hardswish": "HardSwish"}[step.function]
                out = node(op, [read(step.inputs[0])], name)
        if step.relu:
            out = node("Relu", [out], f"{name}:relu")
        values[step.output.index] = quantised(out, step.output.index)
    shape = constant("flat", np.array([-1, num_elements(network.program.output.shape)]))
    node("Reshape", [values[network.program.output.index], shape], "logits")
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", *network.program.input_shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def convolution(each, name, network, constant, node, read):
    step, weight = each.step, network.weights[each.step.parameters]
    scale = network.encodings[step.output.index].scale * each.rescaling.multiplier / 2.0**each.rescaling.shift
    if step.inputs:
        shape, encoding = constant(f"{name}:in", np.array([-1, *step.in_shape])), network.encodings
        x = node("Reshape", [read(step.inputs[0]), shape], f"{name}:x")
        scale = scale / encoding[step.inputs[0].index].scale
    else:
        zeros = constant(f"{name}:pixel zeros", np.float32(each.zeros).reshape(1, -1, 1, 1))
        x = node("Sub", ["pixels", zeros], f"{name}:x")
    input_scale = network.encodings[step.inputs[0].index].scale if step.inputs else 1.0
    numbers = [weight, np.float32(scale), np.zeros(len(weight), np.int8)]
    names = [constant(f"{name}:weight{i}", number) for i, number in enumerate(numbers)]
    bias = constant(f"{name}:bias", np.float32(each.bias * scale * input_scale))
    window, out = step.window, (*step.output.shape, 1, 1)[:3]
    far = [
        (o - 1) * window.stride + window.dilation * (window.size - 1) + 1 - window.padding - side
        for o, side in zip(out[1:], step.in_shape[1:], strict=True)
    ]
    assert min(far) >= 0  # ONNX has no negative padding; the networks tested here need none
    return node(
        "Conv",
        [x, node("DequantizeLinear", names, f"{name}:w", axis=0), bias],
        name,
        group=step.groups,
        kernel_shape=[window.size] * 2,
        strides=[window.stride] * 2,
        dilations=[window.dilation] * 2,
        pads=[window.padding, window.padding, *far],
    )


@pytest.mark.parametrize("name", ["nas-2386-b", "nas-3686", "nas-7230", "mnist-7784", "mnist-9382"])
def test_logits_are_within_one_step_of_onnxruntime(name):
    """onnxruntime runs the QDQ graph with the same scales; a step is a 255th of the logits' range."""
    architecture, images = Architecture.load(name), random_images((1, 28, 28), 200, seed=9)
    network = quantise(calibrate(architecture, random_weights(architecture, 4), images, **normalisation(1)))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        onnx_of(network).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"pixels": images.numpy().astype(np.float32)})[0]
    found = run_int8(network, images.numpy()) * network.logit_scale
    steps = np.abs(found - expected) / (np.ptp(expected) / 255)
    assert np.quantile(steps, 0.999) <= 1
    assert steps.max() <= 3
