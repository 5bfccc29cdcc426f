import dataclasses
import subprocess
import sys
from collections import Counter
from random import Random

import pytest
import torch
from hypothesis import given, settings
from support.architectures import architectures, draw_architecture
from support.effort import examples, seeds
from support.oracles import check_cost_against_module, peak_by_liveness
from support.paths import ROOT
from torch import nn

from nas.architecture.architecture import Architecture
from nas.architecture.composites import KINDS, Repeat, Residual
from nas.architecture.cost import METRIC_LABELS, METRICS, Cost, LayerRow, cost_of, layer_table
from nas.architecture.layers import (
    Activation,
    BatchNorm,
    Conv,
    Flatten,
    GlobalAvgPool,
    Layer,
    Linear,
    MaxPool,
    SqueezeExcite,
)
from nas.architecture.modules import SharedRepeat
from nas.errors import ShapeError
from nas.inference.full_cost import C_CODE_METRICS

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),
    pytest.mark.usefixtures("one_thread"),
]


NUM_RANDOM = 2000


# Params, macs, weight bytes and shapes, compared with the built module


def test_cost_equals_hand_computed_values():
    architecture = Architecture(
        input_shape=(1, 4, 4),
        layers=(
            Conv(out_channels=2, kernel_size=3, padding=1),  # 20 parameters, 288 multiply-accumulates
            BatchNorm(),  # 4 parameters, 24 bytes of buffers
            Conv(out_channels=3, kernel_size=1),  # 9 parameters, 96 multiply-accumulates
            BatchNorm(),  # 6 parameters, 32 bytes of buffers; input and output are 96 values
            GlobalAvgPool(),
            Flatten(),
            Linear(out_features=2),  # 8 parameters, 6 multiply-accumulates
        ),
    )
    assert cost_of(architecture) == Cost(
        params=47, macs=390, receptive_field=3, peak_activation_bytes=4 * 96, weight_bytes=4 * 47 + 24 + 32
    )


@pytest.mark.parametrize("part", seeds(8))
def test_cost_of_random_architectures_matches_built_module(part):
    for seed in range(part, NUM_RANDOM, 8):
        check_cost_against_module(draw_architecture(Random(seed)))


@settings(max_examples=examples(50))
@given(architectures())
def test_cost_of_any_architecture_matches_built_module(architecture):
    check_cost_against_module(architecture)


def test_random_architectures_cover_all_kinds_and_listed_options():
    seen: Counter[str] = Counter()

    def look(layers: tuple[Layer, ...], inside: str) -> None:
        for layer in layers:
            seen[layer.kind] += 1
            seen[f"{layer.kind} in {inside}"] += 1
            for field in dataclasses.fields(layer):
                value = getattr(layer, field.name)
                seen[
                    f"{layer.kind} {field.name} {value if isinstance(value, bool | str) else value != field.default}"
                ] += 1
            look(layer.children(), layer.kind)

    for seed in range(NUM_RANDOM):
        architecture = draw_architecture(Random(seed))
        look(architecture.layers, "architecture")
    wanted = [
        *KINDS,
        *(f"conv {field} True" for field in ("stride", "padding", "dilation", "groups", "bias")),
        "conv padding same",  # stays a word: the kernel is even
        "depthwise_separable padding same",
        "depthwise_separable dilation True",
        "dropout per channel",
        "max_pool padding True",
        "residual projection True",
        "residual projection False",
        "residual in residual",
        "residual in repeat",
        "repeat in residual",
        "repeat in repeat",
        "repeat shared True",
        "squeeze_excite in residual",
    ]
    assert {name: seen[name] for name in wanted if seen[name] < 20} == {}


# Peak activation bytes, compared with a liveness analysis of the traced module


def test_peak_activation_bytes_equal_liveness_analysis():
    for seed in range(400):
        architecture = draw_architecture(Random(f"peak {seed}"))
        assert cost_of(architecture).peak_activation_bytes == peak_by_liveness(architecture), architecture


def test_sequential_peak_activation_bytes_equal_forward_hook_maximum():
    kinds = tuple(kind for kind in KINDS if kind not in ("residual", "squeeze_excite"))
    for seed in range(100):
        architecture = draw_architecture(Random(f"hooks {seed}"), kinds=kinds)
        module = architecture.build().eval()
        seen = []
        for layer in module.modules():
            if not isinstance(layer, nn.Sequential | SharedRepeat):
                layer.register_forward_hook(
                    lambda _, inputs, output: seen.append(inputs[0].nbytes + output.nbytes)  # noqa: B023
                )
        module(torch.zeros(1, *architecture.input_shape))
        assert cost_of(architecture).peak_activation_bytes == max(seen)


def peak(*layers: Layer) -> int:
    return cost_of(Architecture(input_shape=(2, 4, 4), layers=layers)).peak_activation_bytes


def test_peak_activation_bytes_equal_hand_computed_values():
    three = Conv(out_channels=3, kernel_size=3, padding=1)
    two = Conv(out_channels=2, kernel_size=3, padding=1)
    # 2x4x4 has 32 values, 3x4x4 has 48.
    assert peak(three, two) == 4 * (32 + 48)
    # Identity: the input stays alive during the second convolution: 32 + 48 + 32; at the sum 3 * 32.
    assert peak(Residual(layers=(three, two))) == 4 * 112
    # Projection: branch 32 + 48; projection, with the branch's output alive, 32 + 48 + 48; sum 3 * 48.
    assert peak(Residual(layers=(three,), projection=True)) == 4 * 144
    # Stride 2: branch 32 + 12, projection 32 + 12 + 12, sum 36.
    halved = Conv(out_channels=3, kernel_size=3, stride=2, padding=1)
    assert peak(Residual(layers=(halved,), projection=True)) == 4 * 56
    # Identity in an identity: both share the input of 32 values, so the peak is again 112 at the second convolution.
    assert peak(Residual(layers=(Residual(layers=(three, two)),))) == 4 * 112
    # Projection in a projection: at the inner sum 3 * 48, with the outer input of 32 values alive.
    inner = Residual(layers=(three,), projection=True)
    assert peak(Residual(layers=(inner,), projection=True)) == 4 * (144 + 32)
    # Squeeze-excite: input, output and one gate per channel.
    assert peak(SqueezeExcite()) == 4 * (32 + 32 + 2)


# Layer table


def test_layer_table_rows_equal_expected_rows():
    architecture = Architecture(
        input_shape=(1, 10, 10),
        layers=(
            Conv(out_channels=4, kernel_size=3),
            Repeat(layers=(Residual(layers=(Conv(out_channels=4, kernel_size=3, padding=1),)), Activation()), times=2),
            MaxPool(kernel_size=2),
            GlobalAvgPool(),
            Flatten(),
            Linear(out_features=2),
        ),
    )
    conv = "nn.Conv2d(4, 4, 3, padding=1)"
    assert layer_table(architecture) == [
        LayerRow("0", "conv", "nn.Conv2d(1, 4, 3)", (4, 8, 8), 40, 2304, 3, 0),
        LayerRow("1", "repeat", "repeat 2 times", (4, 8, 8), 296, 18432, 7, 0),
        LayerRow("1.0", "residual", "residual", (4, 8, 8), 148, 9216, 5, 1),
        LayerRow("1.0.0", "conv", conv, (4, 8, 8), 148, 9216, 5, 2),
        LayerRow("1.1", "activation", "nn.ReLU()", (4, 8, 8), 0, 0, 5, 1),
        LayerRow("2", "max_pool", "nn.MaxPool2d(2)", (4, 4, 4), 0, 0, 8, 0),
        LayerRow("3", "global_avg_pool", "GlobalAvgPool()", (4, 1, 1), 0, 0, 14, 0),
        LayerRow("4", "flatten", "nn.Flatten()", (4,), 0, 0, 14, 0),
        LayerRow("5", "linear", "nn.Linear(4, 2)", (2,), 10, 8, 14, 0),
    ]


def test_layer_table_rows_add_up_to_cost():
    for seed in range(500):
        architecture = draw_architecture(Random(f"table {seed}"))
        rows = layer_table(architecture)
        own, cost = [row for row in rows if row.depth == 0], cost_of(architecture)
        assert [row.kind for row in own] == [layer.kind for layer in architecture.layers]
        assert sum(row.params for row in own) == cost.params
        assert sum(row.macs for row in own) == cost.macs
        assert own[-1].output_shape == architecture.output_shape
        ends = [index for index, layer in enumerate(architecture.layers) if layer.ends_features]
        before = own[: ends[0]] if ends else own
        assert (before[-1].receptive_field if before else 1) == cost.receptive_field
        assert len({row.position for row in rows}) == len(rows)


# Errors, imports


def test_shape_error_names_layer_position():
    inner = Repeat(layers=(Activation(), Conv(out_channels=1, kernel_size=3)), times=9)
    architecture = Architecture(input_shape=(1, 8, 8), layers=(Activation(), inner))
    for measure in (cost_of, layer_table):
        with pytest.raises(ShapeError) as caught:
            measure(architecture)
        assert (
            str(caught.value)
            == "layers[1].layers[1]: conv: input shape is (1, 2, 2), expected at least 3x3 (its window)"
        )


def test_metrics_are_fields_of_cost():
    assert METRICS == ("params", "macs", "receptive_field", "peak_activation_bytes", "weight_bytes")
    assert [field.name for field in dataclasses.fields(Cost)] == list(METRICS)


def test_cost_needs_no_torch_optuna_or_numpy():
    code = (
        "import sys, nas.architecture.cost, nas.recipe; from nas import Architecture;"
        "from nas.architecture.layers import Conv;"
        "a = Architecture(input_shape=(1, 8, 8), layers=(Conv(out_channels=2, kernel_size=3),));"
        "print(nas.architecture.cost.cost_of(a).params, sorted({'torch', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "20 []"


def test_every_metric_has_label():
    assert tuple(METRIC_LABELS) == (*METRICS, *C_CODE_METRICS)
    assert METRIC_LABELS["macs"].axis == "MACs, one example"
    assert METRIC_LABELS["params"].axis == "parameters"
