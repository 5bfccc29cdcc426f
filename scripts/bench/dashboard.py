"""Measures how long Chromium takes to show the dashboard's pages of a large study.

    python scripts/bench/dashboard.py [--trained 300] [--discarded 100] [--runs 5]

The study is synthetic: networks of the space `mnist` with random metrics, 15 reported epochs each, artifacts as a
search stores them. Each run starts a new browser with an empty profile; all runs use one server. Prints one line of
JSON: median and range for each page (trial list, study, table), size of the study's data, and the machine.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

import optuna
from optuna.trial import TrialState, create_trial
from playwright.sync_api import sync_playwright

from nas.architecture.cost import METRICS, cost_of
from nas.reports.overview import update_note_and_figures
from nas.space.constraints import Constraint
from nas.space.domains import Value
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import Settings
from nas.training.metrics import EpochMetrics
from nas.training.trial_files import files_of_training

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
EPOCHS = 15
PAGES = {
    "trials": ("trials", "text=Trial 0"),
    "study": ("", "[id='user-defined-plot:layers'] .plot-container"),
    "table": ("smartSelection", "table tbody tr"),
}


def build(results: Path, *, trained: int, discarded: int) -> StudyRecords:
    """Stores a study as a search would have left it."""
    rng, space, limits = Random(0), SearchSpace.load("mnist"), (Constraint("params", "<=", 8000),)
    settings = Settings(
        dataset="mnist",
        data_fingerprint="0",
        split="val 10000 of 60000, stratified, seed 0",
        space=space.name,
        space_fingerprint=space.fingerprint(),
        epochs=EPOCHS,
        consistency=5,
        constraints=tuple(map(str, limits)),
        seed=0,
    )
    notes = StudyNotes(
        dataset_note="made up",
        mean=(0.13,),
        std=(0.31,),
        classes=tuple(str(digit) for digit in range(10)),
        command="scripts/bench/dashboard.py",
        machine=platform.node(),
    )
    records = StudyRecords.create(StudyRef(results), settings, notes)
    records.artifacts.prepare()
    left = {"trained": trained, "discarded": discarded}
    while any(left.values()):
        values = space.draw(rng)
        verdict = judge(space, limits, values)
        outcome = "discarded" if verdict.reason else "trained"
        if not left[outcome]:
            continue
        left[outcome] -= 1
        if verdict.reason:
            attrs = {"outcome": outcome, "reason": verdict.reason}
            trial = create_trial(
                state=TrialState.PRUNED,
                params=values,
                distributions=space.distributions(),
                user_attrs=attrs | ({name: getattr(verdict.cost, name) for name in METRICS} if verdict.cost else {}),
                system_attrs={"nas:drawn_for": 0},
            )
            records.study.add_trial(trial)
        else:
            add_trained(records, space, values, rng, index=trained - left["trained"] - 1)
    update_note_and_figures(records)
    return records


def add_trained(
    records: StudyRecords, space: SearchSpace, values: dict[str, Value], rng: Random, *, index: int
) -> None:
    candidate = space.candidate(values)
    cost = cost_of(candidate.architecture)
    top = rng.uniform(0.97, 0.994)
    curve = [top - 0.1 * rng.random() / epoch for epoch in range(1, EPOCHS + 1)]
    history = [
        EpochMetrics(
            epoch=epoch,
            train_loss=1.2 * (1 - accuracy),
            train_accuracy=accuracy,
            val_loss=1 - accuracy,
            val_accuracy=accuracy,
            learning_rate=0.01,
            seconds=rng.uniform(2, 9),
        )
        for epoch, accuracy in enumerate(curve, start=1)
    ]
    files = {
        **files_of_training(candidate.architecture, history, title=f"Candidate {index}"),
        "weights.pt": bytes(40_000),
    }
    begun = datetime(2026, 1, 1) + timedelta(minutes=index)
    trial = create_trial(
        state=TrialState.COMPLETE,
        value=statistics.fmean(curve[-5:]),
        params=values,
        distributions=space.distributions(),
        user_attrs={
            **{name: getattr(cost, name) for name in METRICS},
            "num_draws": rng.randint(1, 90),
            "candidate": index,
            "seed": rng.getrandbits(32),
            "fingerprint": candidate.fingerprint(),
            "consistent_accuracy": min(curve[-5:]),
            "seconds": sum(metrics.seconds for metrics in history),
            "outcome": "trained",
        },
        system_attrs={
            **stored(records, files),
            "nas:architecture": candidate.architecture.to_json(),
            "nas:recipe": candidate.recipe.to_json(),
            "nas:history": [metrics.to_json() for metrics in history],
            "nas:discards": {"params": rng.randint(0, 60), "receptive_field": rng.randint(0, 9)},
        },
        intermediate_values={metrics.epoch: metrics.val_accuracy for metrics in history},
    )
    trial.datetime_start, trial.datetime_complete = begun, begun + timedelta(seconds=50)
    records.study.add_trial(trial)


def stored(records: StudyRecords, files: dict[str, bytes]) -> dict[str, str]:
    """Stores artifacts and returns the attributes that link them; a complete trial cannot get attributes later."""
    attrs: dict[str, str] = {}
    for name, content in files.items():
        attrs |= records.artifacts.write(content, name)[1]
    return attrs


def seconds_until(address: str, page: str) -> tuple[float, float]:
    """Returns the seconds until a page is usable, on the first and on the third visit with a new browser."""
    path, selector = PAGES[page]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            tab = browser.new_page(viewport={"width": 1366, "height": 768})
            tab.set_default_timeout(300_000)  # milliseconds, enough for a busy machine
            seconds = []
            for _ in range(3):  # Chromium caches compiled scripts from the second visit on
                start = time.perf_counter()
                tab.goto(f"{address}/{path}", wait_until="commit")
                tab.wait_for_selector(selector, state="visible")
                seconds.append(time.perf_counter() - start)
                tab.goto("about:blank")
            return seconds[0], seconds[-1]
        finally:
            browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=int, default=300)
    parser.add_argument("--discarded", type=int, default=100)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("no Chromium in PATH")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        build(results, trained=options.trained, discarded=options.discarded)
        start = time.perf_counter()
        command = [sys.executable, "-m", "nas", "dashboard", "--port", "0", "--results", str(results)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                address = server.stdout.readline().split()[0]
                ready = time.perf_counter() - start
                site, _, study = address.partition("/dashboard")
                start = time.perf_counter()
                with urllib.request.urlopen(f"{site}/api{study}?after=0") as response:
                    size = len(response.read())
                data = time.perf_counter() - start
                pages = {page: [seconds_until(address, page) for _ in range(options.runs)] for page in PAGES}
            finally:
                server.terminate()
    report = {
        "trained": options.trained,
        "discarded": options.discarded,
        "runs": options.runs,
        "seconds_until_the_server_is_ready": round(ready, 2),
        "data_bytes": size,
        "data_seconds_first": round(data, 2),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }
    for page, runs in pages.items():
        for visit, seconds in zip(("first visit", "third visit"), zip(*runs, strict=True), strict=True):
            report[f"{page}, {visit}"] = {
                "median": round(statistics.median(seconds), 2),
                "range": [round(min(seconds), 2), round(max(seconds), 2)],
            }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
