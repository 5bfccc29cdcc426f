"""The committed leaderboard: each row matches its runs and the network in its folder."""

import json
import sys
from statistics import fmean, stdev

import pytest
from support.paths import ROOT

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.cli.options import with_settings
from nas.commands.networks import default_recipe
from nas.recipe import Recipe
from nas.resources import shipped_designs
from nas.space.portfolio import Design

sys.path.append(str(ROOT))

from scripts import leaderboard

ROWS = json.loads((ROOT / "results" / "leaderboard.json").read_text())
FOUND = [row for row in ROWS if "commands" in leaderboard.read_rows()[row["name"]]]
TYPES = {
    **{
        "name": str,
        "dataset": str,
        "images": str,
        "params": int,
        "macs": int,
        "receptive_field": int,
        "epochs": int,
        "seeds": int,
    },
    **{"final_accuracy_mean": float, "final_accuracy_sd": float, "consistent_accuracy_mean": float},
    **{"command": str, "commit": str, "machine": str},
}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
class TestRow:
    def test_row_has_every_field(self, row):
        assert {key: type(value) for key, value in row.items()} == TYPES

    def test_figures_match_runs(self, row):
        runs = json.loads((ROOT / "results" / "runs" / f"{row['name']}.json").read_text())["accuracies"]
        finals, lowest = [run[-1] for run in runs], [min(run[-5:]) for run in runs]
        assert (row["seeds"], row["epochs"]) == (len(runs), len(runs[0]))
        assert row["final_accuracy_mean"] == pytest.approx(fmean(finals), abs=1e-6)
        assert row["final_accuracy_sd"] == pytest.approx(stdev(finals), abs=1e-6)
        assert row["consistent_accuracy_mean"] == pytest.approx(fmean(lowest), abs=1e-6)

    def test_cost_and_epochs_match_stored_network(self, row):
        folder = ROOT / "results" / "models" / row["name"]
        cost = cost_of(Architecture.load(folder / "architecture.json"))
        assert (cost.params, cost.macs, cost.receptive_field) == (row["params"], row["macs"], row["receptive_field"])
        assert Recipe.load(folder / "recipe.json").epochs == row["epochs"]

    def test_folder_is_full_export_only_if_row_is_unbeaten(self, row):
        files = {path.name for path in (ROOT / "results" / "models" / row["name"]).iterdir()}
        if row in leaderboard.non_dominated(FOUND):
            assert {"model.py", "weights.pt", "model.onnx", "README.md"} | leaderboard.KEPT_FILES <= files
        else:
            assert files == leaderboard.KEPT_FILES

    def test_results_page_lists_row_and_readme_only_if_unbeaten(self, row):
        opening = f"| [`{row['name']}`](results/models/{row['name']}) |" in (ROOT / "README.md").read_text()
        assert opening == (row in leaderboard.non_dominated(FOUND))
        assert f"| [`{row['name']}`](models/{row['name']}) |" in (ROOT / "results" / "README.md").read_text()


@pytest.mark.parametrize("name", [row["name"] for row in FOUND])
def test_row_of_search_ships_as_design_of_same_name(name):
    folder = ROOT / "results" / "models" / name
    design = Design.load(shipped_designs()[name])
    assert design.architecture == Architecture.load(folder / "architecture.json")
    assert design.recipe == Recipe.load(folder / "recipe.json")
    assert f"row {name} of the leaderboard" in design.about


def test_written_design_equals_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "designs").mkdir()
    monkeypatch.setattr(leaderboard, "spaces_folder", lambda: tmp_path)
    leaderboard.write_design("nas-7840")
    assert (tmp_path / "designs" / "nas-7840.json").read_text() == shipped_designs()["nas-7840"].read_text()


def test_every_row_has_runs_and_valid_definition():
    defined = leaderboard.read_rows()
    runs = {path.stem for path in (ROOT / "results" / "runs").glob("*.json")}
    assert runs == {row["name"] for row in ROWS} <= set(defined)
    for row in defined.values():
        assert ("architecture" in row) != ("commands" in row)
        if "architecture" in row:
            Architecture.load(ROOT / row["architecture"] if "/" in row["architecture"] else row["architecture"])
        if "recipe" in row:
            Recipe.load(ROOT / row["recipe"])


TRAINED = [row["name"] for row in ROWS if row not in FOUND]


@pytest.mark.parametrize("name", TRAINED)
def test_row_states_recipe_of_its_runs(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    row = leaderboard.read_rows()[name]
    base = Recipe.load(row["recipe"]) if "recipe" in row else default_recipe(row["architecture"])
    settings = [f"{field}={value}" for field, value in row.get("set", {}).items()]
    stored = ROOT / "results" / "models" / name / "recipe.json"
    assert with_settings(base, settings, None) == Recipe.load(stored)


@pytest.mark.parametrize(
    ("changes", "beaten"),
    [
        ({}, False),
        ({"params": 99}, True),
        ({"consistent_accuracy_mean": 0.991}, True),
        ({"params": 101, "consistent_accuracy_mean": 0.999}, False),
        ({"params": 99, "consistent_accuracy_mean": 0.989}, False),
        ({"params": 99, "dataset": "digits"}, False),
    ],
)
def test_row_beats_dominated_row_of_same_dataset(changes, beaten):
    row = {"dataset": "mnist", "params": 100, "consistent_accuracy_mean": 0.99}
    assert leaderboard.beats({**row, **changes}, row) == beaten


def test_opening_lists_unbeaten_rows_largest_first_by_dataset():
    figures = {"macs": 1, "final_accuracy_mean": 0.99, "final_accuracy_sd": 0.0, "seeds": 5}
    found = [
        {"name": name, "images": dataset, "params": params, "consistent_accuracy_mean": accuracy, **figures}
        | {"dataset": dataset}
        for name, dataset, params, accuracy in [
            ("small", "mnist", 900, 0.98),
            ("other", "digits", 500, 0.97),
            ("beaten", "mnist", 2000, 0.97),
            ("large", "mnist", 7000, 0.99),
        ]
    ]
    lines = leaderboard.readme_table(found).splitlines()[2:]
    assert [line.split("`")[1] for line in lines] == ["large", "small", "other"]


def test_training_command_contains_recipe_and_changes():
    row = {"architecture": "mnist-7825", "recipe": "recipe.json", "set": {"rotation": 7}, "seeds": 5}
    command = leaderboard.command_of("name", row)
    assert command[:7] == ["nas", "train", "mnist-7825", "--recipe", "recipe.json", "--set", "rotation=7"]
    assert {"--dataset", "mnist", "--test", "--seeds", "5"} <= set(command)


@pytest.mark.parametrize(("shift", "good"), [(0.0, True), (0.0002, True), (0.01, False)])
def test_runs_reproduce_row_only_within_their_spread(tmp_path, shift, good):
    runs = json.loads((ROOT / "results" / "runs" / f"{ROWS[0]['name']}.json").read_text())
    found = {key: value - shift if key.endswith("_mean") else value for key, value in runs.items()}
    found["accuracies"] = [[value - shift for value in run] for run in runs["accuracies"]]
    file = tmp_path / "found.json"
    file.write_text(json.dumps(found))
    assert leaderboard.compare(ROWS[0]["name"], file) == good
