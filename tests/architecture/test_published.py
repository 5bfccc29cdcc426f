import json

import pytest
import torch
from support.paths import FIXTURES, ROOT

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of, layer_table

FOLDER = ROOT / "search_spaces" / "published"
SYSTEMS = {system["name"]: system for system in json.loads((FIXTURES / "published.json").read_text())}
OPS = {"relu": "activation"}


def test_every_published_system_has_file():
    assert sorted(SYSTEMS) == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert len(SYSTEMS) == 6


@pytest.mark.parametrize("name", SYSTEMS)
def test_file_equals_output_of_dumps(name):
    path = FOLDER / f"{name}.json"
    assert Architecture.load(path).dumps() == path.read_text()


@pytest.mark.parametrize("name", SYSTEMS)
def test_params_and_receptive_fields_equal_published_values(name):
    system, architecture = SYSTEMS[name], Architecture.load(FOLDER / f"{name}.json")
    cost = cost_of(architecture)
    assert cost.params == system["parameters"]
    assert cost.receptive_field == system["receptive_field_last_map"]
    assert layer_table(architecture)[-2].receptive_field == system["receptive_field_with_global_pool"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_layer_table_equals_published_table(name):
    table = SYSTEMS[name]["layers"]
    # A published table omits ReLU if the authors apply it as a function; no table has the flatten at the end.
    added = {"flatten"} if any(op == "relu" for op, *_ in table) else {"flatten", "activation"}
    rows = [row for row in layer_table(Architecture.load(FOLDER / f"{name}.json")) if row.kind not in added]
    ours = [[row.kind, list(row.output_shape), row.params, row.receptive_field] for row in rows]
    assert ours == [[OPS.get(op, op), output, params, seen] for op, output, params, seen in table]


@pytest.mark.parametrize("name", SYSTEMS)
def test_network_outputs_one_score_per_class(name):
    architecture = Architecture.load(FOLDER / f"{name}.json")
    assert architecture.input_shape == (1, 28, 28)
    assert architecture.output_shape == (10,)
    assert architecture.build()(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "num_activations", "num_dropouts"),
    [
        ("mnist-88584", 7, 0),  # after each convolution except the classifier
        ("mnist-26756", 7, 1),  # after each norm except the last
        ("mnist-7825", 6, 6),
        ("mnist-6136", 7, 6),
        ("mnist-3928", 7, 7),
        ("mnist-18962", 6, 2),
    ],
)
def test_networks_hold_expected_activations_and_dropouts(name, num_activations, num_dropouts):
    layers = Architecture.load(FOLDER / f"{name}.json").layers
    kinds = [layer.kind for layer in layers]
    assert (kinds.count("activation"), kinds.count("dropout")) == (num_activations, num_dropouts)
    assert all(layer.rate == 0.05 for layer in layers if layer.kind == "dropout")


def test_fingerprints_equal_recorded_values():
    assert {name: Architecture.load(FOLDER / f"{name}.json").fingerprint() for name in SYSTEMS} == {
        "mnist-88584": "52492705fad913d7",
        "mnist-26756": "06c2b801410a67c7",
        "mnist-7825": "8b8e6348e47dd544",
        "mnist-6136": "ce52fa02364b8447",
        "mnist-3928": "38f94914ead8d5fb",
        "mnist-18962": "d074f6f819e1d367",
    }
