"""Is a layer complete? Every kind keeps the contract of `Layer`, and each failure names the file to change.

`CONTRIBUTING.md` ("Add a layer") runs this module. torch is the oracle: its parameters, FLOP counter, shapes, outputs.
"""

import dataclasses
import json
import math
from itertools import pairwise, product
from random import Random

import pytest
import torch
from support.architectures import ALL_KINDS, COMPOSITE_EXAMPLES, draw_layer
from support.effort import seeds
from support.exports import check_graph_files, loaded_source, provenance_of, random_weights, renamed
from support.golden import BEHAVIOUR
from support.images import noise
from support.oracles import check_cost_against_module, peak_by_liveness, windows

import nas.layers
from nas.architecture import composites, layers
from nas.architecture.architecture import Architecture
from nas.architecture.composites import KINDS, Composite
from nas.architecture.cost import cost_of
from nas.architecture.diagram import layer_text
from nas.architecture.layers import Conv, Flatten, GlobalAvgPool, Linear
from nas.errors import ArchitectureError, ShapeError
from nas.inference.lowering import C_KINDS, kinds_without_kernel, lower
from nas.recipe import Recipe
from nas.training.cpu import CpuEngine
from nas.training.metrics import EpochMetrics
from nas.training.reference import initialise

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("one_thread"),
]

CLASSES = {
    value.kind: value
    for module in (layers, composites)
    for value in vars(module).values()
    if isinstance(value, type) and issubclass(value, layers.Layer) and hasattr(value, "kind")
}
"""Every class of a layer, whether the tables name it or not."""
STORED_KINDS = (
    *("conv", "depthwise_separable", "batch_norm", "activation", "dropout", "max_pool", "avg_pool", "global_avg_pool"),
    *("flatten", "linear", "squeeze_excite", "residual", "repeat"),
)
"""Kinds that users' files and studies already hold."""


@pytest.fixture(params=CLASSES)
def kind(request):
    return request.param


@pytest.fixture
def cases(kind):
    """Random layers of the kind, each with the shape of an input that it fits: a feature map if it takes one."""
    return [fitting(kind, rng, (rng.randint(29, 36), rng.randint(29, 36))) for rng in map(Random, range(12))]


def fitting(kind, rng, sides):
    """A random layer of the kind, and the shape of an input that it fits, with up to 8 channels."""
    if kind not in KINDS or kind not in ALL_KINDS:
        pytest.skip("test_kind_is_in_every_table says what is missing")
    for place in (sides, ()):
        for _ in range(1000):
            shape = (rng.randint(1, 8), *place)
            try:
                layer = draw_layer(rng, kind, shape)
                layer.measure(shape)
            except ArchitectureError:
                continue
            return layer, shape
    raise AssertionError(f"tests/support/architectures.py: no example of {kind} fits an input of 1 to 8 channels")


def network(layer, shape):
    """A network of 10 classes in which the layer sees `shape`: a convolution before it and a linear layer after it."""
    to_vector = (GlobalAvgPool(), Flatten())
    before = (Conv(out_channels=shape[0], kernel_size=3, padding=1), *(to_vector if len(shape) == 1 else ()))
    after = (Flatten(),) if len(layer.measure(shape).output_shape) == 3 else ()
    return Architecture(
        input_shape=(1, *(shape[1:] or (12, 12))), layers=(*before, layer, *after, Linear(out_features=10))
    )


def about(kind, text):
    """Start of a failure's message: which class does what."""
    return f"\n{CLASSES[kind].__module__.replace('.', '/')}.py: {CLASSES[kind].__name__}{text}"


# Tables


def test_kind_is_in_every_table(kind):
    name = CLASSES[kind].__name__
    examples = "COMPOSITE_EXAMPLES" if issubclass(CLASSES[kind], Composite) else "EXAMPLES"
    golden = json.loads((BEHAVIOUR / "public_names.json").read_text())["layers"]
    update = "NAS_UPDATE_GOLDEN=1 python -m pytest -n 0 tests/behaviour/test_command_line.py -k public_names"
    missing = {
        f"nas/architecture/composites.py: import {name}, and name it in KINDS": kind not in KINDS,
        f"nas/layers.py: import {name}, and name it in __all__": name not in nas.layers.__all__,
        f'tests/support/architectures.py: add a line "{kind}": … to {examples}': kind not in ALL_KINDS,
        f"tests/behaviour/public_names.json: run {update}": name not in golden,
    }
    todo = "\n".join(text for text, is_missing in missing.items() if is_missing)
    assert not todo, f"\n{todo}"


def test_stored_kinds_can_still_be_read():
    assert set(STORED_KINDS) <= set(KINDS)
    assert [cls.kind for cls in KINDS.values()] == list(KINDS)


# Values


def test_layers_roundtrip_through_json(kind, cases):
    for layer, shape in cases:
        architecture = network(layer, shape)
        assert Architecture.from_json(json.loads(architecture.dumps())) == architecture
        assert hash(layer) == hash(dataclasses.replace(layer)), about(kind, " is not frozen")


def test_every_field_is_checked(kind, cases):
    layer, _ = cases[0]
    for field, value in product(dataclasses.fields(layer), ([], math.nan, {"x": 1})):
        try:
            dataclasses.replace(layer, **{field.name: value})
            found = "nothing"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        text = f".__post_init__ should reject {field.name}={value!r} with self._check, but raises {found}"
        assert found.startswith(f"ArchitectureError: {kind}: {field.name} is "), about(kind, text)


def test_layer_is_described(kind, cases):
    for layer, _ in cases:
        assert layer_text(layer)
        assert layer.title()
    assert CLASSES[kind].__doc__


# Cost


def test_cost_equals_that_of_torch_module(kind, cases):
    for layer, shape in cases:
        try:
            check_cost_against_module(network(layer, shape))
        except AssertionError as error:
            raise AssertionError(about(kind, f".measure: {layer} on {shape} makes a network with {error}")) from None


def test_layer_rejects_inputs_that_its_module_rejects(kind, cases):
    for layer, _ in cases:
        for shape in [(6,), (1,), (6, 1, 1), (6, 2, 3), (5, 9, 7)]:
            try:
                found = layer.measure(shape).output_shape
            except ShapeError:
                continue
            try:
                expected = tuple(layer.module_call(shape).build().eval()(torch.zeros(2, *shape)).shape[1:])
            except (RuntimeError, ValueError, IndexError) as error:
                text = f".measure accepts an input of {shape}, but torch does not ({error}): raise a ShapeError"
                pytest.fail(about(kind, text))
            assert found == expected, about(
                kind, f".measure gives {found} for {shape}, torch {expected}: raise a ShapeError if it does not fit"
            )


def test_peak_activation_equals_liveness_analysis(kind, cases):
    for layer, shape in cases:
        architecture = network(layer, shape)
        text = f".measure: peak_elements of {layer} on {shape} is not the largest number of input and output elements"
        hint = " (if the layer counts more, name it in INNER_ELEMENTS of tests/support/oracles.py)"
        assert cost_of(architecture).peak_activation_bytes == peak_by_liveness(architecture), about(kind, text + hint)


def test_window_equals_spread_of_nan(kind, cases):
    if kind in COMPOSITE_EXAMPLES:
        pytest.skip("the longest path counts: tests/architecture/test_receptive_field.py")
    for layer, shape in cases:
        m = layer.measure(shape)
        if len(m.output_shape) == 1:
            text = f".measure: a vector sees the whole map, so extent is the longer side of {shape}, not {m.extent}"
            assert m.extent == max(shape[1:], default=1), about(kind, text)
            continue
        for axis, side in enumerate(shape[1:]):
            seen = windows(layer, shape, axis)
            if all(each == (0, side - 1) for each in seen):  # every output sees the whole map
                extents, strides = {max(shape[1:])}, {m.stride}
            else:
                middle = seen[len(seen) // 3 : -(len(seen) // 3)]  # padding cuts off the windows at the border
                extents = {last - first + 1 for first, last in middle}
                strides = {after[0] - before[0] for before, after in pairwise(middle)}
            text = f".measure: {layer} on {shape} sees windows of {extents} pixels, {strides} apart, not {m}"
            assert (extents, strides) == ({m.extent}, {m.stride}), about(kind, text)


# Training


def test_every_parameter_gets_gradient(kind, cases):
    for layer, shape in cases:
        module = layer.module_call(shape).build()
        output = module(torch.rand(2, *shape, requires_grad=True))
        assert output.requires_grad, about(kind, ": its module passes no gradient to its input")
        output.sum().backward()
        unused = [name for name, parameter in module.named_parameters() if parameter.grad is None]
        assert not unused, about(kind, f": its module has parameters without a gradient: {unused}")


def test_layer_trains_repeatably(kind):
    architecture = network(*fitting(kind, Random(1), (12, 12)))
    recipe, runs = Recipe(epochs=2, batch_size=16, learning_rate=0.01), []
    for _ in range(2):
        engine = CpuEngine(noise(), torch.device("cpu"))
        engine.add(0, initialise(architecture, seed=0), recipe, seed=3)
        metrics = [engine.advance()[0][1] for _ in range(recipe.epochs)]
        assert all(isinstance(each, EpochMetrics) for each in metrics), metrics
        runs.append([(each.train_loss, each.val_loss, each.val_accuracy) for each in metrics])
    assert runs[0] == runs[1]
    assert all(math.isfinite(number) for epoch in runs[0] for number in epoch)


# Exports


@pytest.mark.parametrize("seed", seeds(5))
def test_model_source_gives_identical_logits(kind, cases, seed):
    architecture = network(*cases[seed])
    weights = random_weights(architecture, seed)
    exported = loaded_source(architecture, provenance_of(architecture))["Network"]()
    exported.load_state_dict(renamed(architecture, weights))
    module = architecture.build()
    module.load_state_dict(weights)
    images = torch.rand(3, *architecture.input_shape)
    with torch.inference_mode():
        assert torch.equal(exported.eval()(images), module.eval()(images))


def test_graph_files_give_same_logits(kind, cases, tmp_path):
    architecture = network(*cases[0])
    module = architecture.build()
    module.load_state_dict(random_weights(architecture))
    check_graph_files(module.eval(), architecture.input_shape, tmp_path)


def test_c_export_supports_kinds_that_it_names(kind, cases):
    if kind not in C_KINDS:
        pytest.skip("has no C kernel: nas export --format c says so")
    for layer, shape in cases:
        if kinds_without_kernel((layer,)):  # inside a composite
            continue
        architecture = network(layer, shape)
        lower(architecture)
