"""The files that other programs read: torch.export, ONNX, and int8 ONNX."""

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
MOST_CALIBRATION = 1000
"""Training images that int8's ranges are read from, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """What the quantiser wrote: bytes of weights, biases, scales and zero points; images that ranges are from."""

    num_bytes: int
    num_images: int


def exported_program(network: "nn.Module", input_shape: tuple[int, ...]) -> "ExportedProgram":
    """The network in eval mode as a graph that takes batches of any size."""
    import torch

    example = torch.zeros(2, *input_shape)
    with _no_advice():
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:  # they hold the paths of this machine
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    return program


def write_pt2(program: "ExportedProgram", path: Path) -> None:
    """The graph with its weights, for `torch.export.load`."""
    import torch

    with _no_advice():
        torch.export.save(program, path)


def write_onnx(program: "ExportedProgram", path: Path) -> None:
    """The same for ONNX: input "images", output "logits", batch norm folded into the convolutions before it."""
    import torch

    with _no_advice():
        written = torch.onnx.export(
            program, input_names=["images"], output_names=["logits"], external_data=False, verbose=False
        )
    assert written is not None
    model = written.model_proto
    _slim(model)
    path.write_bytes(model.SerializeToString())


def _slim(model: "onnx.ModelProto") -> None:
    """Without what the exporter notes for debugging, most of a small network's file; the batch gets its name."""
    for thing in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del thing.metadata_props[:]
        thing.doc_string = ""
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]


def write_int8(source: Path, path: Path, images: np.ndarray) -> Quantised:
    """An ONNX file quantised to int8: weights a channel, activations a tensor, ranges from the least and the most.

    `images`, float32 (N, channels, height, width), normalised, are what the ranges are read from. Quantised and
    dequantised values stand in the graph (QDQ), which other tools take as their starting point.
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

    with _no_advice():
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
    _slim(model)
    _shorten(model)
    path.write_bytes(model.SerializeToString())
    # Each holds its numbers in whichever field its writer chose. Whole numbers of 64 bits are shapes.
    stored = (tensor for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)
    num_bytes = sum(numpy_helper.to_array(tensor).nbytes for tensor in stored)
    return Quantised(num_bytes=num_bytes, num_images=len(images))


def _shorten(model: "onnx.ModelProto") -> None:
    """Short names for all but the input and the output: the quantiser's long ones outweigh the weights."""
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
def _no_advice() -> Iterator[None]:
    """While it lasts, libraries keep to themselves what they deprecate within, and advice that was taken already."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
