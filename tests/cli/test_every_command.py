"""Runs every command once, one after another, on the same study."""

import json
import os
import sys

import typer
from support.paths import ROOT
from support.serving import assert_serves

from nas.cli import main as cli


def test_every_command_succeeds_on_one_study(nas, tmp_path, tiny_space):
    results = tmp_path / "results"
    limits = ["--max-params", 900, "--min-receptive-field", 10]
    ran = set()

    def run(command, *arguments):
        ran.add(command)
        status, out, err = nas(command, *arguments)
        assert status == 0, err
        return out

    assert "draws keep the limits" in run("space", "--space", tiny_space, "--draws", 100, *limits)
    given = ["--dataset", "digits", "--space", tiny_space, "--epochs", 1, "--trials", 2, *limits]
    assert "nas export" in run("search", *given, "--device", "cpu", "--workers", 1, "--results", results)
    rows = json.loads(run("trials", "--results", results, "--format", "json"))
    assert [row["outcome"] for row in rows].count("trained") == 2
    asked = ["--top", 2, "--seeds", 2, "--target", 0.1, "--device", "cpu", "--workers", 1]
    assert "Target " in run("confirm", *asked, "--results", results)
    run("report", "--results", results, "--output", tmp_path / "report.html")
    assert "</html>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    run("export", "--trial", "confirmed", "--results", results, "--output", tmp_path / "model")
    network = tmp_path / "model" / "architecture.json"
    assert int(json.loads(run("cost", network, "--json"))["params"]) <= 900
    assert "receptive field" in run("show", network)
    assert "Raspberry Pi Pico" in run("boards")
    assert "Val accuracy: final " in run("train", network, "--dataset", "digits", "--epochs", 1, "--device", "cpu")
    ran.add("dashboard")
    command = [sys.executable, "-m", "nas", "dashboard", "--results", results, "--port", "0"]
    assert_serves(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert ran == set(typer.main.get_command(cli.app).commands)
