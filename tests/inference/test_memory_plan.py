"""The memory plan keeps live values apart, in as little memory as they need."""

import pytest
from hypothesis import given
from support.architectures import architectures
from support.draws import architecture_or_none, draws

from nas.architecture.architecture import Architecture
from nas.architecture.composites import Residual
from nas.architecture.cost import cost_of
from nas.architecture.layers import Activation, BatchNorm, Conv, SqueezeExcite, num_elements
from nas.inference.lowering import C_KINDS, lower
from nas.inference.memory_plan import plan_memory
from nas.resources import shipped_spaces
from nas.space.search_space import SearchSpace

CONV = Conv(out_channels=2, kernel_size=3, padding="same")
NORM, RELU = BatchNorm(), Activation()


def lowered(*layers):
    return lower(Architecture(input_shape=(2, 6, 6), layers=layers))


def run_through(program, plan):
    """Runs the steps on an arena of value indices; asserts that every read finds its value complete."""
    arena = [None] * plan.length

    def places(value):
        start = plan.offsets[value.index]
        found = range(start, start + num_elements(value.shape))
        assert found.stop <= plan.length
        return found

    for step in program.steps:
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
    assert all(arena[place] == program.output.index for place in places(program.output))


@given(architecture=architectures(C_KINDS))
def test_memory_plan_overwrites_no_live_value(architecture):
    program = lower(architecture)
    plan = plan_memory(program)
    run_through(program, plan)
    assert plan.length <= sum(num_elements(step.output.shape) for step in program.steps)
    assert set(plan.offsets) == {step.output.index for step in program.steps}


def test_run_through_rejects_wrong_memory_plan():
    program = lowered(RELU, Residual(layers=(CONV, RELU)))
    plan = plan_memory(program)
    for index in (1, 2):
        plan.offsets[index] = plan.offsets[3 - index]
    with pytest.raises(AssertionError):
        run_through(program, plan)


def most_live_elements(program):
    """Largest number of elements that are alive during one step: no arena is smaller."""
    alive, most = {program.output.index: program.output}, 0
    for step in reversed(program.steps):
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
        program = lower(architecture)
        plan = plan_memory(program)
        run_through(program, plan)
        assert plan.length == most_live_elements(program)


def test_memory_plan_of_thousand_layers():
    program = lowered(*[CONV] * 1200)
    assert plan_memory(program).length == 2 * 72


@pytest.mark.parametrize(
    "name", ["mnist-3928", "mnist-6136", "mnist-7825", "mnist-18962", "mnist-26756", "mnist-88584"]
)
def test_published_networks_need_scratch_of_their_largest_step(name):
    architecture = Architecture.load(name)
    program = lower(architecture)
    most = max(
        4 * sum(num_elements(v.shape) for v in (*step.inputs, step.output))
        for step in program.steps
        if not step.is_elementwise
    )
    assert 4 * plan_memory(program).length == most <= cost_of(architecture).peak_activation_bytes


def test_elementwise_steps_reuse_memory_of_dead_values():
    program = lowered(CONV, RELU, Residual(layers=(NORM, RELU)), RELU, SqueezeExcite())
    assert plan_memory(program).length == 2 * 72  # two maps; the gates reuse the memory of one
