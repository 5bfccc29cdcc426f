"""Architecture: an immutable sequence of layers, and the one description of a network."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.architecture.composites import kind_of
from nas.architecture.layers import Layer, Shape, chain
from nas.errors import ArchitectureError, ShapeError
from nas.resources import shipped_or_file
from nas.schema import ImageShape, check_keys, refusal
from nas.text import read_json

if TYPE_CHECKING:
    from torch import nn

VERSION = 1
KEYS = ("input_shape", "layers", "version")
MAX_DEPTH = 20  # of layers within layers in a file: far more than is of use, far less than Python's stack


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Layers applied in a row to examples of `input_shape`, (channels, height, width).

    Constructing one checks the layers' own values; that they fit together is checked by whatever needs it
    (`output_shape`, `cost_of`, `build`), which raise `ShapeError` with the layer's position and the shapes met.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]

    @property
    def output_shape(self) -> Shape:
        """Shape of what comes out for one example."""
        return chain(self.layers, self.input_shape).output_shape

    def build(self) -> "nn.Sequential":
        """The network in torch's default initialisation: (N, channels, height, width) to (N, classes)."""
        from torch import nn

        self.output_shape  # noqa: B018  # raises where a layer does not fit, before any module is made
        modules: list[nn.Module] = []
        shape = self.input_shape
        for layer in self.layers:
            modules.append(layer.module(shape).build())
            shape = layer.measure(shape).output_shape
        return nn.Sequential(*modules)

    def to_json(self) -> dict[str, Any]:
        """Plain data for `json.dump`; values that equal a layer's defaults are left out."""
        return {
            "version": VERSION,
            "input_shape": list(self.input_shape),
            "layers": [_layer_to_json(layer) for layer in self.layers],
        }

    @classmethod
    def from_json(cls, data: object, *, where: str = "architecture") -> "Architecture":
        """The architecture in what `to_json` gave; raises `ArchitectureError` beginning with `where`."""
        try:
            fields = check_keys(data, KEYS, "", ArchitectureError, required=set(KEYS))
            version = fields["version"]
            if type(version) is not int or version != VERSION:
                raise ArchitectureError(f"version is {refusal(version, VERSION)}")
            shape, allowed = fields["input_shape"], ImageShape()
            if not allowed.holds(shape):
                raise ArchitectureError(f"input_shape is {refusal(shape, allowed)}")
            architecture = cls(input_shape=tuple(shape), layers=_layers_from_json(fields["layers"], "layers"))
            architecture.output_shape  # noqa: B018  # a file that cannot be built is refused when read
        except ArchitectureError as error:
            raise ArchitectureError(f"{where}: {error}") from None
        return architecture

    @classmethod
    def load(cls, path: str | Path) -> "Architecture":
        """The architecture in a JSON file, or the published one of that name, such as "mnist-7825"."""
        path = shipped_or_file(
            path, folder="published", suffix=".json", what="published network", error=ArchitectureError
        )
        return cls.from_json(read_json(path, ArchitectureError), where=str(path))

    def dumps(self) -> str:
        """The JSON text of a file, one layer a line."""
        data = self.to_json()
        lines = ",\n".join(f"    {json.dumps(layer)}" for layer in data["layers"])
        head = f'  "version": {VERSION},\n  "input_shape": {json.dumps(data["input_shape"])},\n'
        return f'{{\n{head}  "layers": [\n{lines}\n  ]\n}}\n'

    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal for equal architectures, on every machine and in every session."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": layer.kind}
    for field in dataclasses.fields(layer):
        value = getattr(layer, field.name)
        if value == field.default:
            continue
        data[field.name] = [_layer_to_json(x) for x in value] if field.name == "layers" else value
    return data


def _layers_from_json(data: object, position: str) -> tuple[Layer, ...]:
    if not isinstance(data, list) or not data:
        raise ArchitectureError(f"{position}: {refusal(data, 'a list of at least one layer')}")
    if position.count("layers") > MAX_DEPTH:
        raise ArchitectureError(f"{position}: too deep, allowed: {MAX_DEPTH} lists of layers within one another")
    layers = []
    for index, item in enumerate(data):
        where = f"{position}[{index}]"
        try:
            layers.append(_layer_from_json(item, where))
        except ShapeError:
            raise
        except ArchitectureError as error:
            nested = str(error).startswith(f"{where}.")
            raise error if nested else ArchitectureError(f"{where}: {error}") from None
    return tuple(layers)


def _layer_from_json(data: object, position: str) -> Layer:
    kind = kind_of(check_keys(data, None, "", ArchitectureError, required={"kind"})["kind"])
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    values = check_keys(data, sorted(("kind", *fields)), "", ArchitectureError, required=required)
    arguments = {name: value for name, value in values.items() if name != "kind"}
    if "layers" in arguments:
        arguments["layers"] = _layers_from_json(arguments["layers"], f"{position}.layers")
    return kind(**arguments)
