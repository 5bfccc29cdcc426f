"""Writes a network as graph files for other programs: torch.export, ONNX and int8 ONNX."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx
    from torch import nn
    from torch.export import ExportedProgram

INT8 = "model_int8.onnx"
MAX_CALIBRATION_IMAGES = 1000
"""Maximum number of training images for int8 calibration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantisationInfo:
    """Size and calibration of an int8 model.

    num_bytes: Bytes of weights, biases, scales and zero points.
    num_images: Number of calibration images.
    """

    num_bytes: int
    num_images: int


def exported_program(network: "nn.Module", input_shape: tuple[int, ...]) -> "ExportedProgram":
    """Returns the graph of `network`, which must be in eval mode, for batches of any size.

    `input_shape` is (channels, height, width).
    """
    import torch

    example = torch.zeros(2, *input_shape)
    with _quiet_libraries():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:  # this metadata contains local file paths
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    return program


def write_pt2(program: "ExportedProgram", path: Path) -> None:
    """Writes the graph and its weights as a file for `torch.export.load`."""
    import torch

    with _quiet_libraries():
        torch.export.save(program, path)


def write_onnx(program: "ExportedProgram", path: Path) -> None:
    """Writes the graph as ONNX: input "images", output "logits", batch norm folded into preceding convolutions."""
    import torch

    with _quiet_libraries():
        written = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], external_data=False, verbose=False
        )
    assert written is not None
    model = written.model_proto
    _remove_metadata(model)
    path.write_bytes(model.SerializeToString())


def _remove_metadata(model: "onnx.ModelProto") -> None:
    """Removes debugging metadata, most of a small network's file, and names the batch dimension "batch"."""
    for thing in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del thing.metadata_props[:]
        thing.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]


def write_int8(source: Path, path: Path, images: np.ndarray) -> QuantisationInfo:
    """Writes an int8 version of the ONNX file `source` to `path`.

    Weights are quantised per channel, activations per tensor, with ranges from minimum and maximum. The graph contains
    QuantizeLinear and DequantizeLinear nodes (QDQ format), which other tools can convert further.

    Args:
        source: float32 ONNX file.
        path: File to write.
        images: Calibration images, float32 (N, channels, height, width), normalised.

    Returns:
        Bytes of the quantised weights and number of calibration images.
    """
    import onnx
    from onnx import TensorProto, numpy_helper
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[np.ndarray] = iter(np.array_split(images, max(1, len(images) // 100)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    with _quiet_libraries():
        quantize_static(
            source,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
    model = onnx.load(path)
    _remove_metadata(model)
    _shorten_names(model)
    path.write_bytes(model.SerializeToString())
    # `to_array` reads every storage format of a tensor. int64 tensors hold shapes, not weights.
    stored = (tensor for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)
    num_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in stored)
    return QuantisationInfo(num_bytes=num_bytes, num_images=len(images))


def _shorten_names(model: "onnx.ModelProto") -> None:
    """Shortens all names except those of input and output: the quantiser's names take more bytes than the weights."""
    kept = {"", *(value.name for value in (*model.graph.input, *model.graph.output))}
    every = [*(tensor.name for tensor in model.graph.initializer)]
    every += [name for node in model.graph.node for name in node.output]
    short = {name: f"{index:x}" for index, name in enumerate(dict.fromkeys(every)) if name not in kept}
    for tensor in model.graph.initializer:
        tensor.name = short.get(tensor.name, tensor.name)
    for node in model.graph.node:
        node.name = ""
        node.input[:] = [short.get(name, name) for name in node.input]
        node.output[:] = [short.get(name, name) for name in node.output]


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Suppresses deprecation warnings inside the libraries, and their advice on steps that are already done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
