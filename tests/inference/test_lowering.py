"""Lowering folds norms only where that is exact, and names parameters as the state dict does."""

import pytest
from hypothesis import given
from support.architectures import architectures
from support.custom import Softsign

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Repeat, Residual
from nas.architecture.cost import cost_of
from nas.architecture.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    SqueezeExcite,
)
from nas.errors import ArchitectureError
from nas.inference.lowering import C_KINDS, kinds_without_kernel, lower
from nas.inference.program import Scale


def lowered(*layers, input_shape=(2, 6, 6)):
    return lower(Architecture(input_shape=input_shape, layers=layers))


def kinds(program):
    """First letters of the classes of the steps: N(ormalise), C(onvolution), L(inear), S(cale), …"""
    return "".join(type(step).__name__[0] for step in program.steps)


CONV = Conv(out_channels=2, kernel_size=3, padding="same")
NO_BIAS = Conv(out_channels=2, kernel_size=3, padding="same", bias=False)
NORM, RELU = BatchNorm(), Activation()


@pytest.mark.parametrize(
    ("layers", "steps"),
    [
        ((CONV, Dropout(rate=0.5), NORM), "NC"),  # dropout is omitted
        ((CONV, NORM, NORM), "NC"),
        ((NORM, CONV), "NC"),  # the norm of the pixels is folded into their normalisation
        ((RELU, NORM, CONV), "NASC"),
        ((CONV, RELU, NORM), "NCAS"),
        ((CONV, MaxPool(kernel_size=2), NORM), "NCPS"),
        ((CONV, Residual(layers=(NORM,))), "NCSA"),  # the shortcut reads the input of the norm, too
        ((CONV, Residual(layers=(CONV, NORM), projection=True), NORM), "NCCCAS"),
        ((RELU, Residual(layers=(Dropout(rate=0.5),))), "NAA"),  # doubles its input
        ((CONV, GlobalAvgPool(), Flatten(), Linear(out_features=3), NORM), "NCML"),
        ((CONV, Flatten(), NORM), "NCS"),  # the norm has a scale per pixel, not per channel
        ((Conv(out_channels=3, kernel_size=6), Flatten(), NORM), "NC"),  # one pixel per channel
        ((RELU, SqueezeExcite()), "NAMLALAG"),
    ],
    ids=str,
)
def test_norms_are_folded_only_where_exact(layers, steps):
    assert kinds(lowered(*layers)) == steps


def test_shared_weights_are_folded_only_with_equally_shared_norm():
    program = lowered(RELU, Repeat(layers=(CONV, NORM), times=2, shared=True))
    assert kinds(program) == "NACC"
    assert set(program.affines) == {"input", "1.body.0"}
    program = lowered(RELU, Repeat(layers=(CONV,), times=2, shared=True), NORM)
    assert kinds(program) == "NACCS"
    program = lowered(RELU, Repeat(layers=(NORM, CONV), times=2, shared=True), NORM)
    assert kinds(program) == "NASCSCS"
    program = lowered(RELU, Repeat(layers=(NORM,), times=3, shared=True))
    assert kinds(program) == "NASSS"
    program = lowered(RELU, CONV, Repeat(layers=(NORM,), times=3, shared=True))
    assert kinds(program) == "NAC"
    program = lowered(RELU, Repeat(layers=(CONV, NORM), times=2))
    assert kinds(program) == "NACC"
    assert set(program.affines) == {"input", "1.0", "1.2"}


def test_folded_norms_are_named_in_order():
    program = lowered(CONV, NORM, NORM, RELU)
    conv = program.steps[1]
    assert (conv.parameters, conv.norms) == ("0", ("1", "2"))
    assert conv.layers == ("0 Conv2d", "1 BatchNorm2d", "2 BatchNorm2d")
    assert lowered(NO_BIAS).steps[1].bias is False
    assert lowered(NO_BIAS, NORM).steps[1].bias is True  # the norm's


@given(architecture=architectures(C_KINDS))
def test_steps_use_every_parameter_of_the_network_once(architecture):
    """State dict prefixes and numbers of parameters are those of the modules that torch builds."""
    program, state = lower(architecture), architecture.build().state_dict()
    norms = {name.rpartition(".")[0] for name in state if name.endswith("running_mean")}
    used = {norm for step in program.affines.values() for norm in step.norms}
    used |= {name for name, step in program.affines.items() if isinstance(step, Scale)}
    assert used == norms
    affines = {n: s for n, s in program.affines.items() if n != "input" and n not in norms}
    assert set(affines) == {name.rpartition(".")[0] for name in state} - norms
    for name, step in affines.items():
        assert step.channels * step.weights_per_channel == state[f"{name}.weight"].numel()
        assert step.bias == (f"{name}.bias" in state or bool(step.norms))


@given(architecture=architectures(C_KINDS))
def test_values_have_the_shapes_that_torch_computes(architecture):
    assert lower(architecture).output.shape == architecture.output_shape


def test_shared_parameters_count_once():
    layers = (RELU, Repeat(layers=(CONV,), times=5, shared=True))
    architecture = Architecture(input_shape=(2, 6, 6), layers=layers)
    assert lower(architecture).parameter_bytes == 4 * (
        4 + cost_of(architecture).params
    )  # 4: scales and shifts of pixels


def test_supported_kinds_are_those_of_today():
    assert (
        *("conv", "depthwise_separable", "batch_norm", "activation", "dropout", "max_pool", "avg_pool"),
        *("global_avg_pool", "flatten", "linear", "squeeze_excite", "residual", "repeat"),
    ) == C_KINDS


def test_kinds_without_kernel_are_found_inside_composites():
    layers = (CONV, Residual(layers=(Repeat(layers=(Softsign(),), times=2),)), Softsign())
    assert kinds_without_kernel(layers) == ["softsign"]
    assert kinds_without_kernel((CONV, Residual(layers=(NORM, RELU)))) == []
    with pytest.raises(ArchitectureError, match=r"^layer kind softsign has no C kernel, expected one of conv, "):
        lowered(CONV, Softsign())
