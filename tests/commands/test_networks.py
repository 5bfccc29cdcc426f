"""Networks by name, file or folder, for the functions that take one network."""

import subprocess
import sys

import pytest
from support.paths import ROOT

import nas
from nas.architecture import cost
from nas.architecture.architecture import Architecture
from nas.errors import ArchitectureError
from nas.inference.full_cost import full_cost
from nas.resources import shipped_designs

DESIGN = shipped_designs()["nas-7840"]
FOLDER = ROOT / "results" / "models" / "nas-7840"


@pytest.mark.parametrize("network", ["nas-7840", DESIGN, str(DESIGN), FOLDER, FOLDER / "architecture.json"])
def test_cost_and_layers_of_named_network_equal_those_of_its_architecture(network):
    architecture = Architecture.load(FOLDER / "architecture.json")
    assert nas.cost_of(network) == nas.cost_of(architecture) == full_cost(architecture)
    assert nas.layer_table(network) == nas.layer_table(architecture) == cost.layer_table(architecture)


@pytest.mark.parametrize("function", [nas.cost_of, nas.layer_table, nas.train, nas.train_seeds])
def test_unknown_network_error_names_it(function):
    with pytest.raises(ArchitectureError, match=r"^network 'imagenet' is unknown, expected one of "):
        function("imagenet")


def test_cost_of_named_network_imports_neither_torch_nor_optuna():
    code = "import sys, nas; print(nas.cost_of('nas-897').params, {'torch', 'optuna'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "897 set()\n"
