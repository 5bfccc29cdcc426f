"""Trains a network on with the rounding of int8 in its forward pass, so that its weights suit that rounding.

The gradient ignores the rounding, except that numbers outside an encoding's range get none: "fake quantisation",
Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018.
Encodings of values stay as calibrated; scales of weights follow the weights.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.exporters.c.calibration import Calibration
from nas.exporters.c.float_program import run_float
from nas.exporters.c.int8_numbers import HIGH, LOW
from nas.exporters.c.int8_parameters import Int8Parameters
from nas.exporters.c.quantise import Int8Network, quantise
from nas.inference.program import Step
from nas.recipe import Recipe
from nas.training import reference
from nas.training.data import TrainingData

LEARNING_RATE = 1e-4
"""Peak rate of Adam: moves weights of about 0.1 by a few steps of int8."""


class RoundedNetwork(nn.Module):
    """An int8 program in float whose weights and values are rounded to what int8 can represent.

    Parameters are the weights and biases of the program's convolutions. Input: normalised images (N, channels, height,
    width), as other networks take them; output: logits (N, classes), which are not rounded.
    """

    def __init__(self, calibration: Calibration, data: TrainingData) -> None:
        """`data` says how images are normalised."""
        super().__init__()
        self.calibration = calibration
        self.names = list(calibration.parameters)
        affines = calibration.parameters.values()
        self.weights = nn.ParameterList(affine.weight.clone() for affine in affines)
        self.biases = nn.ParameterList(affine.bias.clone() for affine in affines)
        self.mean, self.std = (torch.tensor(numbers)[:, None, None] for numbers in (data.mean, data.std))

    def forward(self, images: Tensor) -> Tensor:
        program, encodings = self.calibration.program, self.calibration.encodings
        scales = self.tuned().weight_scales()
        rounded = {
            name: replace(affine, weight=_rounded_weight(affine.weight, torch.from_numpy(scales[name]).float()))
            for name, affine in self._parameters_by_name().items()
        }

        def rounded_value(step: Step, out: Tensor) -> Tensor:
            if step.output.index == program.output.index:
                return out
            encoding = encodings[step.output.index]
            # One fused kernel with a gradient. `quantise` rounds in separate steps, which differ from it at ties.
            return torch.fake_quantize_per_tensor_affine(out, encoding.scale, encoding.zero, LOW, HIGH)

        pixels = 255 * (images * self.std + self.mean)
        *_, (_, logits) = run_float(program, rounded, pixels, on_value=rounded_value)
        return logits.flatten(1)

    def tuned(self) -> Calibration:
        """Returns the calibration with the present weights and biases, which share memory with the parameters."""
        parameters = {
            name: replace(affine, weight=affine.weight.detach(), bias=affine.bias.detach())
            for name, affine in self._parameters_by_name().items()
        }
        return replace(self.calibration, parameters=parameters)

    def _parameters_by_name(self) -> dict[str, Int8Parameters]:
        return {
            name: replace(self.calibration.parameters[name], weight=weight, bias=bias)
            for name, weight, bias in zip(self.names, self.weights, self.biases, strict=True)
        }


def fine_tuned(
    calibration: Calibration, recipe: Recipe, data: TrainingData, *, epochs: int, seed: int = 0
) -> Int8Network:
    """Returns the network in int8 after training it on, on the CPU.

    Args:
        calibration: From `calibrate`.
        recipe: Recipe that trained the network: its batches, augmentation and label smoothing are used again.
        data: Training images; the validation split is evaluated after each epoch, but changes nothing.
        epochs: Number of epochs; the rate falls to 0 along a cosine.
        seed: Order of the examples and augmentation.

    Raises:
        TrainingDiverged: The loss of an epoch is not finite.
    """
    recipe = replace(
        recipe,
        epochs=epochs,
        optimizer="adam",
        momentum=0.9,
        learning_rate=LEARNING_RATE,
        weight_decay=0.0,
        schedule="cosine",
        average_epochs=0.0,
    )
    module = RoundedNetwork(calibration, data)
    for _ in reference.train(module, recipe, data, seed=seed, device=torch.device("cpu")):
        pass
    return quantise(module.tuned(), is_bias_corrected=False)


def _rounded_weight(weight: Tensor, scales: Tensor) -> Tensor:
    zeros = torch.zeros(len(scales), dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -HIGH, HIGH)
