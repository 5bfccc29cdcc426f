"""Architecture: an immutable sequence of layers, the only description of a network."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture.composites import layer_class
from nas.architecture.layers import Layer, Shape, measure_sequence
from nas.errors import ArchitectureError, ShapeError
from nas.resources import network_file
from nas.schema import ImageShape, check_instance, check_keys, mismatch_text
from nas.text import read_json

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
KEYS = ("input_shape", "layers", "version")
"""Keys of an architecture file, all of them required."""
MAX_DEPTH = 20  # nesting of layer lists in a file: more than any network needs, far below Python's recursion limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Layers applied in sequence to images: the description of a network.

    A notebook shows it as a diagram, and `print` as a table of its layers.

    Each layer checks its own fields when it is constructed. `output_shape`, `cost_of` and `build` check that the layers
    fit together; they raise `ShapeError` with the position of the layer and the shapes.

    Attributes:
        input_shape: shape of an image, (channels, height, width).
        layers: layers of `nas.layers`.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    @property
    def output_shape(self) -> Shape:
        """Shape of the output for one example; raises `ShapeError` if a layer does not fit."""
        return measure_sequence(self.layers, self.input_shape).output_shape

    def build(self) -> "nn.Sequential":
        """Builds the network with torch's default initialisation: (N, channels, height, width) to (N, classes).

        Raises `ShapeError` if a layer does not fit.
        """
        from torch import nn

        self.output_shape  # noqa: B018  # raises before any module is built
        modules: list[nn.Module] = []
        shape = self.input_shape
        for layer in self.layers:
            modules.append(layer.module_call(shape).build())
            shape = layer.measure(shape).output_shape
        return nn.Sequential(*modules)

    def to_json(self) -> dict[str, Any]:
        """Returns plain data for `json.dump`; fields that have their default value are left out."""
        return {
            "version": VERSION,
            "input_shape": list(self.input_shape),
            "layers": [_layer_to_json(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, data: object, *, where: str = "architecture") -> "Architecture":
        """Returns the architecture in data from `to_json`.

        Args:
            data: parsed JSON.
            where: start of every error message, such as the path of the file.

        Raises:
            ArchitectureError: the data are not valid, or a layer does not fit.
        """
        try:
            fields = check_keys(data, KEYS, "", ArchitectureError, required=set(KEYS))
            version = fields["version"]
            if type(version) is not int or version != VERSION:
                raise ArchitectureError(f"version is {mismatch_text(version, VERSION)}")
            shape, expected = fields["input_shape"], ImageShape()
            if not expected.accepts(shape):
                raise ArchitectureError(f"input_shape is {mismatch_text(shape, expected)}")
            architecture = cls(input_shape=tuple(shape), layers=_layers_from_json(fields["layers"], "layers"))
            architecture.output_shape  # noqa: B018  # raises for a network that cannot be built
        except ArchitectureError as error:
            raise ArchitectureError(f"{where}: {error}") from None
        return architecture

    @classmethod
    def load(cls, path: str | Path) -> "Architecture":
        """Returns the architecture of a known network by name, such as "mnist-7825", or that in a file or a folder.

        A file (JSON) holds an architecture, or a design, which is an architecture with a recipe. A folder, such as an
        export, holds `architecture.json`. Raises `ArchitectureError` if there is none, or if it is not valid.
        """
        path = network_file(path)
        data = read_json(path, ArchitectureError)
        if isinstance(data, dict) and "architecture" in data:
            return cls.from_json(data["architecture"], where=f"{path}: architecture")
        return cls.from_json(data, where=str(path))

    def dumps(self) -> str:
        """Returns the text of a JSON file, with one layer per line."""
        data = self.to_json()
        lines = ",\n".join(f"    {json.dumps(layer)}" for layer in data["layers"])
        head = f'  "version": {VERSION},\n  "input_shape": {json.dumps(data["input_shape"])},\n'
        return f'{{\n{head}  "layers": [\n{lines}\n  ]\n}}\n'

    def __str__(self) -> str:
        """Returns the table of layers and the cost; the `repr` if a layer does not fit."""
        from nas.architecture.diagram import architecture_text

        try:
            return architecture_text(self)
        except ShapeError:
            return repr(self)

    def _repr_html_(self) -> str | None:
        """Returns the diagram and the cost as HTML, for notebooks; None if a layer does not fit."""
        from nas.architecture.diagram import architecture_html

        try:
            return architecture_html(self)
        except ShapeError:
            return None

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits, equal for equal architectures on every machine."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_architecture(architecture: object) -> None:
    """Raises `ArchitectureError` unless the argument `architecture` is an `Architecture`, not its name or file."""
    check_instance("architecture", architecture, Architecture, "Architecture.load('mnist-7825')", ArchitectureError)


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": layer.kind}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if value == field.default:
            continue
        data[field.name] = [_layer_to_json(x) for x in value] if field.name == "layers" else value
    return data


def _layers_from_json(data: object, position: str) -> tuple[Layer, ...]:
    """Returns the layers in a list; raises `ArchitectureError` with the position of the layer that is not valid."""
    if not isinstance(data, list) or not data:
        raise ArchitectureError(f"{position} is {mismatch_text(data, 'a list of at least one layer')}")
    if position.count("layers") > MAX_DEPTH:
        raise ArchitectureError(f"{position}: nested too deep, expected at most {MAX_DEPTH} nested lists of layers")
    layers = []
    for index, item in enumerate(data):
        where = f"{position}[{index}]"
        try:
            layers.append(_layer_from_json(item, where))
        except ArchitectureError as error:
            has_position = str(error).startswith(f"{where}.")  # that of a layer inside a composite
            raise error if has_position else ArchitectureError(f"{where}: {error}") from None
    return tuple(layers)


def _layer_from_json(data: object, position: str) -> Layer:
    """Returns a layer; raises `ArchitectureError`, without the position unless a layer inside it is not valid."""
    kind = layer_class(check_keys(data, None, "", ArchitectureError, required={"kind"})["kind"])
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    values = check_keys(data, sorted(("kind", *fields)), "", ArchitectureError, required=required)
    arguments = {name: value for name, value in values.items() if name != "kind"}
    if "layers" in arguments:
        arguments["layers"] = _layers_from_json(arguments["layers"], f"{position}.layers")
    return kind(**arguments)
