"""Maintains the leaderboard: networks that are evaluated on the test split with several seeds.

    python scripts/leaderboard.py train [NAME ...]     # trains the named rows, or all rows without runs
    python scripts/leaderboard.py keep NAME FOLDER     # confirms and exports a search in a results folder
    python scripts/leaderboard.py table                # writes results/leaderboard.json and the tables in the READMEs
    python scripts/leaderboard.py compare NAME FILE    # compares the output of `nas train --json` with a row

`results/rows.toml` defines the rows: a network and a recipe to train (`architecture`, `recipe`, `set`, `seeds`), or the
commands that search, confirm and export (`commands`). `train` and `keep` store the runs of a row (every epoch of every
seed) in `results/runs/NAME.json` and its network in `results/models/NAME`, and write the tables; `keep` also stores the
trials of the search in `results/searches/NAME.csv`, and the network as a known design in `search_spaces/designs`.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from nas.architecture.architecture import Architecture
from nas.pareto import dominates
from nas.resources import spaces_folder
from nas.training.device import describe, pick_device

RESULTS = Path(__file__).parents[1] / "results"
FIGURES = ("final_accuracy_mean", "final_accuracy_sd", "consistent_accuracy_mean")
HEADINGS = (
    *("network", "dataset", "what it is", "params", "MACs", "receptive field", "epochs", "seeds"),
    *("final %, mean ± sd", "lowest of the last 5 %, mean", "published: final, lowest of the last 5", "commit"),
)
KEPT_FILES = {"architecture.json", "recipe.json", "model.safetensors"}  # of rows that the README does not quote
BEGIN, END = "<!-- leaderboard -->\n", "<!-- end of the leaderboard -->\n"


def read_rows() -> dict[str, dict[str, Any]]:
    """Returns the rows of results/rows.toml by name."""
    return tomllib.loads((RESULTS / "rows.toml").read_text())


def command_of(name: str, row: dict[str, Any]) -> list[str]:
    """Returns the command that trains a row's network from scratch."""
    recipe = ["--recipe", row["recipe"]] if "recipe" in row else []
    recipe += [part for field, value in row.get("set", {}).items() for part in ("--set", f"{field}={value}")]
    return [
        *("nas", "train", row["architecture"], *recipe, "--dataset", "mnist", "--test"),
        *("--seeds", str(row["seeds"]), "--output", f"results/models/{name}", "--json"),
    ]


def train(name: str, row: dict[str, Any]) -> None:
    command = command_of(name, row)
    print(f"{name}: {' '.join(command)}", flush=True)
    write_runs(name, output_of(command))


def store_search(name: str, row: dict[str, Any], folder: Path) -> None:
    """Stores the trials of the row's search, confirms it if necessary, and exports the network."""
    search, confirm, export = (shlex.split(command) for command in row["commands"][:3])
    place = ["--results", str(folder)]
    study = search[search.index("--study") + 1]
    trials = output_of(["nas", "trials", "--study", study, "--format", "csv", *place])
    (RESULTS / "searches").mkdir(exist_ok=True)
    (RESULTS / "searches" / f"{name}.csv").write_text(trials)
    write_runs(name, output_of([*confirm, "--json", *place]))
    output_of([*export, *place])
    card = RESULTS / "models" / name / "README.md"
    card.write_text(card.read_text().replace(f" --results {folder}", ""))  # remove the local path
    write_design(name)


def write_design(name: str) -> None:
    """Writes the network and the recipe of a row as a known design, which `nas train` and the like know by name."""
    folder = RESULTS / "models" / name
    architecture = Architecture.load(folder / "architecture.json").dumps().rstrip().replace("\n", "\n  ")
    recipe = json.dumps(json.loads((folder / "recipe.json").read_text()))
    fields = [f'"about": "row {name} of the leaderboard"', f'"architecture": {architecture}', f'"recipe": {recipe}']
    text = ",\n  ".join(fields)
    (spaces_folder() / "designs" / f"{name}.json").write_text(f"{{\n  {text}\n}}\n")


def output_of(command: list[str]) -> str:
    """Runs a `nas` command and returns its output."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=RESULTS.parent, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def write_runs(name: str, text: str) -> None:
    """Stores the output of a command with `--json`, together with the commit and the machine."""
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, text=True)
    found = {**json.loads(text), "commit": commit.strip(), "machine": describe(pick_device("auto"))}
    path = RESULTS / "runs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found) + "\n")
    print(f"{name}: final {found['final_accuracy_mean']:.4%}, consistent {found['consistent_accuracy_mean']:.4%}")


def entry(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as stored in `leaderboard.json`."""
    found = json.loads((RESULTS / "runs" / f"{name}.json").read_text())
    commands = row.get("commands") or [shlex.join(command_of(name, row))]
    return {
        "name": name,
        **{key: found[key] for key in ("dataset", "params", "macs", "receptive_field")},
        "images": row.get("images", found["dataset"]),
        "epochs": len(found["accuracies"][0]),
        "seeds": len(found["accuracies"]),
        **{key: round(found[key], 6) for key in FIGURES},
        "command": " && ".join(commands),
        "commit": found["commit"],
        "machine": found["machine"],
    }


def table(entries: list[dict[str, Any]], rows: dict[str, dict[str, Any]]) -> str:
    """Returns the leaderboard in Markdown."""
    lines = [
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
    ]
    for each in entries:
        row = rows[each["name"]]
        published = ", ".join(f"{value:.2f}" for value in row.get("published", ()))
        lines.append(
            f"| [`{each['name']}`](models/{each['name']}) | {each['images']} | {row['what']}"
            f" | {each['params']:,} | {each['macs']:,}"
            f" | {each['receptive_field']} | {each['epochs']} | {each['seeds']}"
            f" | {100 * each['final_accuracy_mean']:.2f} ± {100 * each['final_accuracy_sd']:.2f}"
            f" | {100 * each['consistent_accuracy_mean']:.2f} | {published} | {each['commit']} |"
        )
    return "\n".join(lines) + "\n"


def write_table(rows: dict[str, dict[str, Any]]) -> None:
    entries = [entry(name, row) for name, row in rows.items() if (RESULTS / "runs" / f"{name}.json").exists()]
    lines = ",\n".join(json.dumps(each) for each in entries)
    (RESULTS / "leaderboard.json").write_text(f"[\n{lines}\n]\n")
    replace_between_markers(RESULTS / "README.md", table(entries, rows))
    found = [each for each in entries if "commands" in rows[each["name"]]]
    replace_between_markers(RESULTS.parent / "README.md", readme_table(found))
    quoted = {each["name"] for each in non_dominated(found)}
    for each in entries:
        if each["name"] not in quoted:
            remove_extra_files(RESULTS / "models" / each["name"])


def remove_extra_files(folder: Path) -> None:
    """Leaves of an export only what trains or loads its network again."""
    for path in folder.iterdir():
        if path.name not in KEPT_FILES:
            path.unlink()


def non_dominated(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other row beats."""
    return [each for each in found if not any(beats(other, each) for other in found)]


def readme_table(found: list[dict[str, Any]]) -> str:
    """Returns the table of the main README: searched rows that no other one beats, by dataset, largest first."""
    entries = non_dominated(found)
    datasets = [each["dataset"] for each in found]
    entries.sort(key=lambda each: (datasets.index(each["dataset"]), -each["params"]))
    lines = [
        "| searched, confirmed and exported by `nas` | dataset | params | MACs | test accuracy %"
        " | lowest of the last 5 epochs % | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(
            f"| [`{each['name']}`](results/models/{each['name']}) | {each['images']} | {each['params']:,}"
            f" | {each['macs']:,}"
            f" | {100 * each['final_accuracy_mean']:.2f} ± {100 * each['final_accuracy_sd']:.2f}"
            f" | {100 * each['consistent_accuracy_mean']:.2f} | {each['seeds']} |"
            for each in entries
        ),
    ]
    return "\n".join(lines) + "\n"


def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Returns whether `one` dominates `other` in parameters and consistent accuracy, on the same dataset."""
    points = [(-row["params"], row["consistent_accuracy_mean"]) for row in (one, other)]
    return bool(one["dataset"] == other["dataset"]) and dominates(*points)


def replace_between_markers(path: Path, text: str) -> None:
    """Replaces the text between the two markers of a file."""
    before, rest = path.read_text().split(BEGIN)
    path.write_text(before + BEGIN + text + END + rest.split(END)[1])


def compare(name: str, path: Path) -> bool:
    """Compares new runs with a row; returns whether they reproduce it.

    Costs must be equal, and mean accuracies must agree within four standard errors of their difference.
    """
    entries = {each["name"]: each for each in json.loads((RESULTS / "leaderboard.json").read_text())}
    row, found = entries[name], json.loads(path.read_text())
    same = found["accuracies"] == json.loads((RESULTS / "runs" / f"{name}.json").read_text())["accuracies"]
    print(f"{name}: {'every epoch of every seed is the same' if same else 'other accuracies than in the row'}")
    good = all(row[key] == found[key] for key in ("params", "macs", "receptive_field"))
    for figure in ("final_accuracy", "consistent_accuracy"):
        then, now, spread = row[f"{figure}_mean"], found[f"{figure}_mean"], found[f"{figure}_sd"]
        error = spread * math.sqrt(1 / row["seeds"] + 1 / len(found["accuracies"]))
        good &= abs(now - then) <= max(4 * error, 1e-6)
        print(f"  {figure}: {now:.4%}, in the row {then:.4%}, standard error of the difference {error:.4%}")
    print("reproduced" if good else "NOT reproduced")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("names", nargs="*")
    keeping = commands.add_parser("keep")
    keeping.add_argument("name")
    keeping.add_argument("folder", type=Path)
    commands.add_parser("table")
    comparing = commands.add_parser("compare")
    comparing.add_argument("name")
    comparing.add_argument("file", type=Path)
    args = parser.parse_args()
    rows = read_rows()
    if args.command == "compare":
        return 0 if compare(args.name, args.file) else 1
    if args.command == "keep":
        store_search(args.name, rows[args.name], args.folder.resolve())
    if args.command == "train":
        missing = [name for name in rows if not (RESULTS / "runs" / f"{name}.json").exists()]
        for name in args.names or missing:
            if "architecture" in rows[name]:
                train(name, rows[name])
    write_table(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
