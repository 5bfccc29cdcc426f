"""Every script runs with minimal settings and prints the expected output: a table, or lines of JSON."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import FIXTURES, ROOT

from nas.boards import Board
from nas.exporters.core_test.emulate import missing_for

pytestmark = pytest.mark.slow  # each script imports torch in its own process

SCRIPTS = ROOT / "scripts"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
RUN_BY_OTHERS = {
    "bench/ceiling.py": "ways.py",
    "bench/ranking.py": "proxies.py",
    "bench/parity.py": "on_gpu.sh",
    "bench/tasks.py": "earn.py",
    "bench/together.py": "earn.py",
    "bench/training.py": "on_gpu.sh",
    "bench/ways.py": "training.py",
    "faults/checks.py": "campaign.py",
    "faults/kinds.py": "campaign.py",
    "faults/search.py": "campaign.py",
    "api_reference.py": "tests/scripts/test_api_reference.py",
    "architecture_table.py": "tests/docs/test_architecture_page.py",
}
EARN = ("--tasks", "digits", "--minutes", 0.05, "--max-macs", 500_000, "--epochs", 1, "--seeds", 1)
EARN = (*EARN, "--confirm-seeds", 2, "--processes", 1)
RECIPES = ("--task", "digits", "--designs", "nas-2678", "--changes", "own", "strong", "--seeds", 1, "--every", 9)
RECIPES = (*RECIPES, "--epochs", 1, "--workers", 1)
DRAWS = ("--task", "digits", "--space", FIXTURES / "tiny.toml", "--min-receptive-field", 10)
SMALL = {
    "bench/draws.py": ("train", *DRAWS, "--draws", 2, "--every", 5, "--epochs", 1, "--workers", 1, "--rows", "{out}"),
    "bench/earn.py": (*EARN, "--runs", "{out}/earn"),
    "bench/instructions.py": ["--networks", 8, "--core", "cortex-m4"],
    "bench/int8.py": ["nas-897", "--dataset", "digits", "--images", 50, "--finetune", 1, "--test"],
    "bench/memory.py": ("--dataset", "digits", "--space", FIXTURES / "tiny.toml", "--trials", 1, "--workers", 1),
    "bench/proxies.py": ("--dataset", "digits", "--candidates", 20, "--proxies", "grad_norm"),
    "bench/recipes.py": (*RECIPES, "--rows", "{out}/rows.jsonl"),
    "bench/scale.py": ("--workers", 2, "--seconds", 0.02, "--trials", 6, "--epochs", 2, "--sizes", 4, "--measured", 3),
    "bench/screening.py": (
        *("--json", "--screened", 300, "--built", 5, "--trained", 12, "--survivors", 2),
        *("--usual-seconds", 0.1),
    ),
    "bench/search.py": (
        *("--budgets", 2, "--seeds", 2, "--samplers", "random", "--pruners", "none", "median"),
        *("--choices", 1, "--processes", 1),
    ),
    "bench/search_table.py": (
        *("--dataset", "digits", "--candidates", 1, "--repeated", 0, "--workers", 1),
        *("--table", "{out}/table.csv"),
    ),
    "faults/campaign.py": ("--runs", 0),
    "leaderboard.py": ("compare", "nas-1192", "results/runs/nas-1192.json"),
    "mutants.py": ("--sample", 2, "nas/pareto.py"),
}
SHELL = {"on_gpu.sh", "reproduce.sh"}
WITH_A_BROWSER = {"bench/dashboard.py"}


def run(*words, **env):
    """Returns the standard output of a command that must succeed."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **env}
    found = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def python(script, *options, **env):
    return run(sys.executable, SCRIPTS / script, *options, **env)


def tables(text):
    """Returns the number of rows of each Markdown table; checks that rows are as wide as the head."""
    found = []
    for table in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        head, rule, *rows = table.splitlines()
        assert set(rule) <= set("| -")
        assert {row.count("|") for row in rows} <= {head.count("|")}
        found.append(len(rows))
    return found


def test_lists_of_this_module_cover_every_script():
    scripts = {str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*") if path.suffix in (".py", ".sh")}
    assert scripts == {*SMALL, *RUN_BY_OTHERS, *SHELL, *WITH_A_BROWSER}


class Kinds:
    """Checks of a script's output, one for each kind of output."""

    @staticmethod
    def json_lines(text, out):
        rows = [json.loads(line) for line in text.splitlines()]
        assert rows
        assert all(isinstance(row, dict) for row in rows)

    @staticmethod
    def one_json(text, out):
        assert isinstance(json.loads(text), dict)

    @staticmethod
    def table(text, out):
        assert tables(text)
        assert all(tables(text))

    @staticmethod
    def csv(text, out):
        head, *rows = (out / "table.csv").read_text().splitlines()
        assert len(rows) == 1
        assert rows[0].count(",") == head.count(",")

    @staticmethod
    def draws(text, out):
        rows = out / "tiny.jsonl"
        assert {json.loads(line)["draw"] for line in rows.read_text().splitlines()} == {0, 1}
        assert tables(python("bench/draws.py", "table", rows)) == [1]
        python("bench/draws.py", "figure", rows, "--to", out / "draws.svg")
        assert (out / "draws.svg").read_text().startswith("<?xml")

    @staticmethod
    def words(text, out):
        assert text.splitlines()[-1] == "reproduced"

    @staticmethod
    def mutants(text, out):
        assert text.splitlines()[-1] == "nas/pareto.py: 2 of 2 died (100.0%)"


KINDS = {
    "bench/draws.py": Kinds.draws,
    "bench/earn.py": Kinds.table,
    "bench/instructions.py": Kinds.json_lines,
    "bench/int8.py": Kinds.table,
    "bench/memory.py": Kinds.json_lines,
    "bench/proxies.py": Kinds.table,
    "bench/recipes.py": Kinds.table,
    "bench/scale.py": Kinds.json_lines,
    "bench/screening.py": Kinds.one_json,
    "bench/search.py": Kinds.table,
    "bench/search_table.py": Kinds.csv,
    "faults/campaign.py": Kinds.table,
    "leaderboard.py": Kinds.words,
    "mutants.py": Kinds.mutants,
}


@pytest.mark.parametrize("script", SMALL)
def test_script_prints_expected_output(script, tmp_path):
    if script == "bench/instructions.py" and (missing := missing_for(Board.load("pico"))):
        pytest.skip(missing)
    shutil.copyfile(ROOT / "results" / "search_table.toml", tmp_path / "table.toml")
    options = [str(option).format(out=tmp_path) for option in SMALL[script]]
    KINDS[script](python(script, *options), tmp_path)
    if script == "bench/earn.py":
        # `--table` only reads the studies and trains nothing.
        kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.db")}
        assert tables(python(script, *options, "--table")) == [4]
        assert kept == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.db")}


def test_searches_share_device(tmp_path):
    options = ("--tasks", "digits", "--trials", 2, "--epochs", 1, "--seeds", 2, "--confirm-seeds", 3)
    few = ("--ways", "default", "portfolio", "--max-macs", 300_000)
    text = python("bench/earn.py", *options, *few, "--runs", tmp_path, "--together", "cpu", "--group", 1)
    assert tables(text) == [2]
    assert {row.split("|")[4].strip() for row in text.splitlines() if row.startswith("| digits")} == {"2"}


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium in PATH")
def test_dashboard_benchmark_reports_timings():
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = json.loads(python("bench/dashboard.py", "--trained", 2, "--discarded", 1, "--runs", 1))
    assert {"trials, first visit", "study, third visit", "table, third visit"} <= set(found)


STAND_IN = """#!/bin/sh
case "$*" in
    *"-m pytest"*) exit 3;;
    *"--ways packed"*) exec tail -f /dev/null;;
esac
"""
ON_A_PROCESSOR = {
    **{"NAS_GPU_DEVICE": "cpu", "NAS_GPU_DATASET": "digits", "NAS_GPU_EPOCHS": "1", "NAS_GPU_SEEDS": "1"},
    **{"NAS_GPU_NETWORKS": "mnist-3928", "NAS_GPU_PARITY_NETWORKS": "mnist-3928"},
    "PYTHON": sys.executable,
}


class TestOnGpu:
    """The parts of `on_gpu.sh`, run on the CPU."""

    def part(self, name, out, **env):
        return run("bash", SCRIPTS / "on_gpu.sh", name, out, **{**ON_A_PROCESSOR, **env})

    def test_part_stores_its_results_and_runs_once(self, tmp_path):
        self.part("parity-2", tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "parity-2.jsonl").read_text().splitlines()]
        assert [(row["trainer"], row["seed"]) for row in rows] == [("reference", 1), ("engine", 1)]
        assert tables((tmp_path / "parity-2.txt").read_text()) == [0]
        assert self.part("parity-2", tmp_path).startswith("== parity-2 has ended already")

    def test_benchmark_reports_ways_and_networks_per_hour(self, tmp_path):
        self.part("bench-usual", tmp_path)
        rows = [json.loads(line) for line in (tmp_path / "bench-usual.jsonl").read_text().splitlines()]
        assert [row["way"] for row in rows] == ["ceiling", "usual"]
        assert "networks an hour" in (tmp_path / "bench-usual.txt").read_text()

    def test_other_parts_run_after_failure_or_timeout(self, tmp_path):
        """A stand-in for Python fails in one part and never ends in another."""
        program = tmp_path / "python"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        out = tmp_path / "out"
        settings = {**os.environ, **ON_A_PROCESSOR, "PYTHON": str(program), "NAS_GPU_LIMIT": "3"}
        command = ["bash", str(SCRIPTS / "on_gpu.sh"), "", str(out)]
        found = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert "tests did not end well: exit status 3\n" in found.stdout
        assert "bench-packed did not end well: exit status 124, after 3 s\n" in found.stdout
        ended = {path.stem for path in out.glob("*.txt")}
        assert ended == {"machine", "bench-alone", "bench-usual", *(f"parity-{number}" for number in range(1, 6))}

    def test_unknown_part_error_names_part_and_valid_parts(self, tmp_path):
        command = ["bash", str(SCRIPTS / "on_gpu.sh"), "nix", str(tmp_path)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (found.returncode, found.stdout) == (2, "")
        assert found.stderr.startswith("no part nix, allowed: machine tests bench-alone ")


def test_reproduce_script_rejects_unknown_row():
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(SCRIPTS / "reproduce.sh"), "nix"]
    found = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert found.stderr.startswith("no row 'nix', allowed: ")
