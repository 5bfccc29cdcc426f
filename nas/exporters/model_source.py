"""Writes `model.py` of an export: readable torch source of one network."""

import inspect
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import Block, split_into_blocks
from nas.architecture.cost import cost_of
from nas.architecture.layers import Shape, shape_text
from nas.architecture.module_call import ModuleCall
from nas.exporters.provenance import Provenance
from nas.text import one_line

LINE = 100


def model_source(architecture: Architecture, provenance: Provenance) -> str:
    """Returns Python source that needs only torch: a class `Network` with named blocks, and `load()`.

    The state dict of `Network` is that of `architecture.build()` with the layers renamed by `state_names`.
    """
    parts = split_into_blocks(architecture)
    calls = {part.name: list(_calls(part)) for part in parts}
    own = sorted({name for part in calls.values() for call, _ in part for name in _package_modules(call)})
    channels, height, width = architecture.input_shape
    logits = readable_shape(architecture.output_shape)
    lines = [
        '"""' + docstring(_summary(architecture, provenance)),
        '"""',
        "",
        "import warnings",
        "from pathlib import Path",
        "",
        'warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch runs without it',
        "",
        "import torch  # noqa: E402",
        "from torch import Tensor, nn  # noqa: E402",
        "",
        f"INPUT_SHAPE = {architecture.input_shape}  # channels, height, width",
        f"MEAN = {provenance.mean}  # of the pixels, scaled to 0..1",
        f"STD = {provenance.std}",
        *_tuple_lines("CLASSES", provenance.classes),
        "",
        "",
    ]
    for name in own:
        lines += [*_module_source(name).splitlines(), "", ""]
    lines += [
        "class Network(nn.Module):",
        f'    """(N, {channels}, {height}, {width}) normalised images to (N, {logits}) logits."""',
        "",
        "    def __init__(self) -> None:",
        "        super().__init__()",
        f"        # {readable_shape(architecture.input_shape)}",
    ]
    shape = architecture.input_shape
    for part in parts:
        lines.append(f"        self.{part.name} = nn.Sequential(")
        for call, output_shape in calls[part.name]:
            *head, tail = _wrapped_source(call, 12)
            comment = f"  # {readable_shape(output_shape)}" if output_shape != shape else ""
            lines += [*head, f"{tail},{comment}"]
            shape = output_shape
        lines.append("        )")
    lines += ["", "    def forward(self, images: Tensor) -> Tensor:", *_forward(parts), "", "", *_LOAD]
    return "\n".join(lines) + "\n"


def state_names(architecture: Architecture) -> dict[int, str]:
    """Returns the state dict prefix in model.py of each layer index; the prefix of layer 9 may be "block2.0"."""
    return {
        part.start + i: f"{part.name}.{i}" for part in split_into_blocks(architecture) for i in range(len(part.layers))
    }


def exported_keys(architecture: Architecture, keys: Iterable[str]) -> dict[str, str]:
    """Returns the key in model.py's state dict of each key of `architecture.build()`'s."""
    names = state_names(architecture)
    parts = {key: key.partition(".") for key in keys}
    return {key: f"{names[int(index)]}.{rest}" for key, (index, _, rest) in parts.items()}


def readable_shape(shape: Shape) -> str:
    """Returns a shape as readable text: 8 x 28 x 28."""
    return shape_text(shape, " x ")


def docstring(paragraphs: Sequence[str]) -> str:
    """Returns paragraphs as the wrapped and escaped content of a triple-quoted docstring."""
    text = "\n".join(textwrap.fill(one_line(paragraph), LINE) for paragraph in paragraphs)
    return text.replace("\\", "\\\\").replace('"', r"\"") if '"""' in text or "\\" in text else text


def _summary(architecture: Architecture, provenance: Provenance) -> list[str]:
    cost = cost_of(architecture)
    channels, height, width = architecture.input_shape
    recipe = provenance.recipe.text()
    return [
        f"{provenance.dataset} in {cost.params:,} parameters: {provenance.result}.",
        "",
        f"{cost.macs:,} multiply-accumulates an image, receptive field {cost.receptive_field} pixels.",
        f"Input: float32 (N, {channels}, {height}, {width}), pixels scaled to 0..1, then (pixel - MEAN) / STD.",
        f"Output: (N, {readable_shape(architecture.output_shape)}) logits, in the order of CLASSES.",
        "",
        f"Trained on {provenance.split} of {provenance.dataset} with seed {provenance.seed}: {recipe}.",
        "",
        *provenance.facts,
    ]


def _forward(parts: Sequence[Block]) -> Iterator[str]:
    names = ["images", *["x"] * (len(parts) - 1)]
    for name, part in zip(names, parts[:-1], strict=False):
        yield f"        x = self.{part.name}({name})  # {readable_shape(part.output_shape)}"
    yield f"        return self.{parts[-1].name}({names[-1]})"


_LOAD = '''\
def load(weights: str | Path = Path(__file__).with_name("weights.pt")) -> Network:
    """The trained network, ready for inference."""
    network = Network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


if __name__ == "__main__":
    network = load()
    print(network)
    print(f"{sum(weight.numel() for weight in network.parameters()):,} parameters")
    print("logits of an empty image:", network(torch.zeros(1, *INPUT_SHAPE)).tolist())'''.splitlines()


def _tuple_lines(name: str, words: tuple[str, ...]) -> list[str]:
    line = f"{name} = {words!r}"
    return [line] if len(line) <= LINE else [f"{name} = (", *(f"    {word!r}," for word in words), ")"]


def _calls(part: Block) -> Iterator[tuple[ModuleCall, Shape]]:
    shape = part.input_shape
    for layer in part.layers:
        call = layer.module_call(shape)
        shape = layer.measure(shape).output_shape
        yield call, shape


def _package_modules(call: ModuleCall) -> Iterator[str]:
    if not call.name.startswith("nn."):
        yield call.name
    for arg in call.args:
        if isinstance(arg, ModuleCall):
            yield from _package_modules(arg)


def _module_source(name: str) -> str:
    from nas.architecture import modules

    return inspect.getsource(getattr(modules, name))


def _wrapped_source(call: ModuleCall, indent: int) -> list[str]:
    """Returns the call's source, with nested calls on separate lines if one line is too long."""
    line = " " * indent + call.source()
    if len(line) <= LINE or not any(isinstance(arg, ModuleCall) for arg in call.args):
        return [line]
    lines = [" " * indent + call.name + "("]
    for arg in call.args:
        inner = _wrapped_source(arg, indent + 4) if isinstance(arg, ModuleCall) else [" " * (indent + 4) + repr(arg)]
        lines += [*inner[:-1], inner[-1] + ","]
    return [*lines, " " * indent + ")"]
