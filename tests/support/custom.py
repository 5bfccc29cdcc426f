"""A kind of layer that the package does not have: no engine and no exporter knows it."""

from dataclasses import dataclass

from nas.architecture.layers import Layer, Measure, Shape, num_elements
from nas.architecture.module_call import ModuleCall


@dataclass(frozen=True, slots=True, kw_only=True)
class Softsign(Layer):
    kind = "softsign"

    def measure(self, shape: Shape) -> Measure:
        return Measure(shape, peak_elements=2 * num_elements(shape))

    def module_call(self, shape: Shape) -> ModuleCall:
        return ModuleCall("nn.Softsign")
