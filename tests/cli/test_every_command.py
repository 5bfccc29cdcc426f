"""Every command once, one after another on the same study, as a user would."""

import json
import os
import signal
import subprocess
import sys

import typer
from support.paths import ROOT

from nas.cli import main as cli


def test_every_command_does_its_part_on_a_study(nas, tmp_path, tiny_space):
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
    assert "Val accuracy: final " in run("train", network, "--dataset", "digits", "--epochs", 1, "--device", "cpu")
    ran.add("dashboard")
    assert_serves(results)
    assert ran == set(typer.main.get_command(cli.app).commands)


def assert_serves(results):
    """Starts the dashboard on a free port, hears its address, ends it as Ctrl-C does."""
    command = [sys.executable, "-m", "nas", "dashboard", "--results", results, "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who ignores Ctrl-C hands that down
    try:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
