"""Lowering folds norms only where that is exact; the memory plan keeps live values apart."""

import pytest
import torch
from hypothesis import given
from support.architectures import architectures
from support.custom import Softsign
from support.draws import architecture_or_none, draws

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
    MaxPool,
    SqueezeExcite,
    num_elements,
)
from nas.architecture.layers import Linear as LinearLayer
from nas.exporters.c.lowering import C_KINDS, kinds_without_kernel, lower
from nas.exporters.c.memory_plan import plan_memory
from nas.resources import shipped_spaces
from nas.space.search_space import SearchSpace


def scattered(*layers, input_shape=(2, 6, 6), seed=0):
    """The lowered network with random weights and norms, and these weights."""
    architecture = Architecture(input_shape=input_shape, layers=layers)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.rand(tensor.shape, generator=generator) + 0.5 if tensor.dtype.is_floating_point else tensor
        for name, tensor in architecture.build().state_dict().items()
    }
    return lowered(architecture, weights), weights


def lowered(architecture, weights):
    channels = architecture.input_shape[0]
    return lower(architecture, weights, mean=(0.2,) * channels, std=(0.4,) * channels)


def kinds(inference):
    """First letters of the classes of the steps: N(ormalise), C(onvolution), L(inear), S(cale), …"""
    return "".join(type(step).__name__[0] for step in inference.steps)


CONV = Conv(out_channels=2, kernel_size=3, padding="same")
NO_BIAS = Conv(out_channels=2, kernel_size=3, padding="same", bias=False)
NORM, RELU = BatchNorm(), Activation()


@pytest.mark.parametrize("layer", [CONV, NO_BIAS], ids=["bias", "no bias"])
def test_norm_after_convolution_is_folded_into_it(layer):
    inference, weights = scattered(layer, NORM)
    assert kinds(inference) == "NC"
    assert set(inference.parameters) == {"input", "0"}
    weight, bias, mean, var = (
        weights[f"1.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (var + 1e-5).sqrt()
    folded = inference.parameters["0"]
    assert folded.weight.dtype == folded.bias.dtype == torch.float32
    assert torch.equal(folded.weight, (weights["0.weight"].double() * scale[:, None, None, None]).float())
    before = weights["0.bias"].double() if layer.bias else torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(folded.bias, ((before - mean) * scale + bias).float(), rtol=1e-6, atol=1e-6)
    assert inference.steps[1].layers == ("0 Conv2d", "1 BatchNorm2d")


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
        ((CONV, GlobalAvgPool(), Flatten(), LinearLayer(out_features=3), NORM), "NCML"),
        ((CONV, Flatten(), NORM), "NCS"),  # the norm has a scale per pixel, not per channel
        ((Conv(out_channels=3, kernel_size=6), Flatten(), NORM), "NC"),  # one pixel per channel
        ((RELU, SqueezeExcite()), "NAMLALAG"),
    ],
    ids=str,
)
def test_norms_are_folded_only_where_exact(layers, steps):
    assert kinds(scattered(*layers)[0]) == steps


def test_shared_weights_are_folded_only_with_equally_shared_norm():
    inference, _ = scattered(RELU, Repeat(layers=(CONV, NORM), times=2, shared=True))
    assert kinds(inference) == "NACC"
    assert set(inference.parameters) == {"input", "1.body.0"}
    inference, _ = scattered(RELU, Repeat(layers=(CONV,), times=2, shared=True), NORM)
    assert kinds(inference) == "NACCS"
    inference, _ = scattered(RELU, Repeat(layers=(NORM, CONV), times=2, shared=True), NORM)
    assert kinds(inference) == "NASCSCS"
    inference, _ = scattered(RELU, Repeat(layers=(NORM,), times=3, shared=True))
    assert kinds(inference) == "NASSS"
    inference, _ = scattered(RELU, CONV, Repeat(layers=(NORM,), times=3, shared=True))
    assert kinds(inference) == "NAC"
    inference, _ = scattered(RELU, Repeat(layers=(CONV, NORM), times=2))
    assert kinds(inference) == "NACC"
    assert set(inference.parameters) == {"input", "1.0", "1.2"}


def test_shared_parameters_count_once():
    inference, weights = scattered(RELU, Repeat(layers=(CONV,), times=5, shared=True))
    assert inference.parameter_bytes == 4 * (4 + sum(tensor.numel() for tensor in weights.values()))


def test_lowering_does_not_change_weights():
    architecture = Architecture(input_shape=(2, 6, 6), layers=(CONV, NORM, RELU))
    module = architecture.build()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    lowered(architecture, module.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


def run_through(inference, plan):
    """Runs the steps on an arena of value indices; asserts that every read finds its value complete."""
    arena = [None] * plan.length

    def places(value):
        start = plan.offsets[value.index]
        found = range(start, start + num_elements(value.shape))
        assert found.stop <= plan.length
        return found

    for step in inference.steps:
        for value in step.inputs:
            assert all(arena[place] == value.index for place in places(value))
        written = places(step.output)
        for value in step.inputs:
            read = places(value)
            # An elementwise step may write exactly over its input; partial overlap is an error.
            apart = read.stop <= written.start or written.stop <= read.start
            assert apart or (step.is_elementwise and read == written)
        for place in written:
            arena[place] = step.output.index
    assert all(arena[place] == inference.output.index for place in places(inference.output))


@given(architecture=architectures(C_KINDS))
def test_memory_plan_overwrites_no_live_value(architecture):
    inference = lowered(architecture, architecture.build().state_dict())
    plan = plan_memory(inference)
    run_through(inference, plan)
    assert plan.scratch_bytes <= 4 * sum(num_elements(step.output.shape) for step in inference.steps)
    assert set(plan.offsets) == {step.output.index for step in inference.steps}


def test_run_through_rejects_wrong_memory_plan():
    inference, _ = scattered(RELU, Residual(layers=(CONV, RELU)))
    plan = plan_memory(inference)
    for index in (1, 2):
        plan.offsets[index] = plan.offsets[3 - index]
    with pytest.raises(AssertionError):
        run_through(inference, plan)


def most_live_elements(inference):
    """Largest number of elements that are alive during one step: no arena is smaller."""
    alive, most = {inference.output.index: inference.output}, 0
    for step in reversed(inference.steps):
        reused = next((x for x in step.inputs if step.is_elementwise and x.index not in alive), None)
        reused = reused if reused and num_elements(reused.shape) == num_elements(step.output.shape) else None
        alive.pop(step.output.index, None)
        alive |= {value.index: value for value in step.inputs}
        others = sum(num_elements(value.shape) for value in alive.values() if reused is None or value is not reused)
        most = max(most, others + num_elements(step.output.shape))
    return most


@pytest.mark.parametrize("name", shipped_spaces())
def test_memory_plan_needs_no_more_than_live_values(name):
    space = SearchSpace.load(name)
    networks = [architecture_or_none(space, values) for values in draws(space, 40)]
    for architecture in filter(None, networks):
        inference = lowered(architecture, architecture.build().state_dict())
        plan = plan_memory(inference)
        run_through(inference, plan)
        assert plan.length == most_live_elements(inference)


def test_memory_plan_of_thousand_layers():
    inference, _ = scattered(*[CONV] * 1200)
    assert plan_memory(inference).length == 2 * 72


@pytest.mark.parametrize(
    "name", ["mnist-3928", "mnist-6136", "mnist-7825", "mnist-18962", "mnist-26756", "mnist-88584"]
)
def test_published_networks_need_scratch_of_their_largest_step(name):
    architecture = Architecture.load(name)
    inference = lowered(architecture, architecture.build().state_dict())
    most = max(
        4 * sum(num_elements(v.shape) for v in (*step.inputs, step.output))
        for step in inference.steps
        if not step.is_elementwise
    )
    assert plan_memory(inference).scratch_bytes == most <= cost_of(architecture).peak_activation_bytes


def test_elementwise_steps_reuse_memory_of_dead_values():
    inference, _ = scattered(CONV, RELU, Residual(layers=(NORM, RELU)), RELU, SqueezeExcite())
    assert plan_memory(inference).length == 2 * 72  # two maps; the gates reuse the memory of one


# Kinds without a kernel


def test_supported_kinds_are_those_of_today():
    assert (
        *("conv", "depthwise_separable", "batch_norm", "activation", "dropout", "max_pool", "avg_pool"),
        *("global_avg_pool", "flatten", "linear", "squeeze_excite", "residual", "repeat"),
    ) == C_KINDS


def test_kinds_without_kernel_are_found_inside_composites():
    layers = (CONV, Residual(layers=(Repeat(layers=(Softsign(),), times=2),)), Softsign())
    assert kinds_without_kernel(layers) == ["softsign"]
    assert kinds_without_kernel((CONV, Residual(layers=(NORM, RELU)))) == []
    with pytest.raises(NotImplementedError, match=r"^no inference step does what Softsign\(\) does: "):
        scattered(CONV, Softsign())
