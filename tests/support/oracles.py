"""What torch says about the cost of a network: parameters, bytes, FLOPs, memory, and which pixels an output sees.

Nothing here uses `Layer.measure`, so that these numbers are independent of the code that they check.
"""

import dataclasses

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from nas.architecture import modules
from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.architecture.layers import Layer, Shape

CONTAINERS = (nn.Sequential, modules.Residual, modules.SharedRepeat)
"""Modules whose children are layers. Any other module is one layer, with one input and one output."""
INNER_ELEMENTS = {modules.SqueezeExcite: lambda module: module.excite.out_features}
"""Elements that the cost of a layer counts beside its input and output, alive at the same time: a gate per channel."""


def check_cost_against_module(architecture: Architecture) -> None:
    """Asserts that parameters, bytes, MACs and output shape are those of the built module."""
    cost, module = cost_of(architecture), architecture.build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = module(torch.zeros(1, *architecture.input_shape))
    expected = {
        "params": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "weight_bytes": sum(t.numel() * t.element_size() for t in module.state_dict().values()),
        "macs": counter.get_total_flops() / 2,
        "output_shape": tuple(output.shape[1:]),
    }
    found = {
        "params": cost.params,
        "weight_bytes": cost.weight_bytes,
        "macs": cost.macs,
        "output_shape": architecture.output_shape,
    }
    assert found == expected, f"{found}, but torch has {expected}"
    assert all(type(value) is int for value in dataclasses.astuple(cost)), f"{cost} holds other numbers than int"


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not isinstance(m, CONTAINERS)


class _Sizes(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.sizes: dict[fx.Node, int] = {}

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        self.sizes[n] = result.numel()
        return result


def peak_by_liveness(architecture: Architecture) -> int:
    """Largest number of bytes alive at the same time. A tensor lives from the node that makes it to its last reader."""
    module = architecture.build().eval()
    graph = _Tracer().trace(module)
    traced = fx.GraphModule(module, graph)
    interpreter = _Sizes(traced)
    with torch.no_grad():
        interpreter.run(torch.zeros(1, *architecture.input_shape))
    nodes = [node for node in graph.nodes if node.op != "output"]
    made_by: dict[fx.Node, fx.Node] = {}  # nn.Identity returns its input, not a new tensor
    last_read: dict[fx.Node, int] = {}
    for index, node in enumerate(nodes):
        inputs = [made_by[source] for source in node.all_input_nodes]
        called = traced.get_submodule(node.target) if node.op == "call_module" else None
        made_by[node] = inputs[0] if isinstance(called, nn.Identity) else node
        last_read.update(dict.fromkeys(inputs, index))
    peak = 0
    for index, node in enumerate(nodes):
        if node.op == "placeholder" or made_by[node] is not node:
            continue
        alive = [other for other in nodes[:index] if made_by[other] is other and last_read.get(other, -1) >= index]
        called = traced.get_submodule(node.target) if node.op == "call_module" else None
        inner = INNER_ELEMENTS[type(called)](called) if type(called) in INNER_ELEMENTS else 0
        peak = max(peak, sum(interpreter.sizes[other] for other in alive) + interpreter.sizes[node] + inner)
    return 4 * peak


def windows(layer: Layer, shape: Shape, axis: int) -> list[tuple[int, int]]:
    """Returns the first and last input row (axis 0) or column (axis 1) that each output row or column depends on.

    A NaN in the input spreads to every output that is computed from it, whatever the weights and the function are.
    """
    side = shape[1 + axis]
    images = torch.zeros(side, *shape)
    for index, image in enumerate(images):
        image.select(1 + axis, index).fill_(torch.nan)
    with torch.no_grad():
        output: Tensor = layer.module_call(shape).build().eval()(images)
    seen = output.isnan().movedim(2 + axis, 1).flatten(2).any(2).T  # (outputs, inputs)
    pixels = [row.nonzero().flatten().tolist() for row in seen]
    return [(each[0], each[-1]) for each in pixels if each]
