"""Ray cluster on this machine: trainings give the same results as locally, even if a process dies."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from support.processes import descendants, processes, wait_for_the_end
from support.workers import CPU, NETWORK, RECIPE, job, numbers, run, weights

from nas.architecture.architecture import Architecture
from nas.commands.confirm import confirm
from nas.commands.events import SearchStarted
from nas.commands.search import search
from nas.commands.trials import trials
from nas.data import datasets
from nas.errors import NasError
from nas.training.data import TrainingData
from nas.training.reference import initialise
from nas.training.select import train
from nas.workers import ray_backend as ray_cluster
from nas.workers.backend import Compute
from nas.workers.protocol import RETRIES, EndReport, EpochReport
from nas.workers.ray_task import SPLITS, arrays_to_data, data_to_arrays

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'smallnas[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

LONG = replace(RECIPE, epochs=100_000)


@pytest.fixture(scope="module")
def data():
    return TrainingData.from_dataset(datasets.load("digits"))


@pytest.fixture(scope="module")
def cluster():
    with Compute(device="cpu", workers=2, ray="local").backend() as backend:
        yield backend


@pytest.fixture
def tasks(cluster, data):
    opened = cluster.open(data)
    yield opened
    opened.close()


def trainer_of(key):
    """Returns the descendant process that trains a job; Ray names it after the task."""
    every = processes()
    (pid,) = (pid for pid in descendants(os.getpid()) if every.get(pid, ("",))[0] == f"ray::nas trial {key}")
    return pid


def wait_until_ended(tasks, reports):
    while not (reports and isinstance(reports[-1], EndReport)):
        reports += tasks.reports()
    return reports


def test_job_reports_epochs_and_weights_of_direct_training(cluster, tasks, data):
    assert cluster.description == "Ray local (1 node, 2 CPUs)"
    assert cluster.num_workers == tasks.capacity == tasks.max_capacity == 2
    found = run(tasks, job(1), job(2), job(3))
    for key in (1, 2, 3):
        module = initialise(NETWORK, seed=key)
        alone = [replace(metrics, seconds=0.0) for metrics in train(module, RECIPE, data, seed=key, device=CPU)]
        assert numbers(found[key]) == alone
        assert [type(report) for report in found[key]] == [EpochReport, EpochReport, EndReport]
        stored = weights(found[key][-1])
        assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())


def test_failed_job_reports_reason_and_affects_no_other_job(tasks):
    plain = replace(NETWORK, layers=tuple(layer for layer in NETWORK.layers if layer.kind != "batch_norm"))
    diverging = replace(RECIPE, learning_rate=1e30, schedule="constant")
    broken = Architecture(input_shape=(3, 28, 28), layers=NETWORK.layers)  # the images have one channel
    found = run(tasks, job(1, architecture=broken), job(2, architecture=plain, recipe=diverging), job(3))
    assert found[1][-1].outcome == "failed"
    assert re.match(r"\w+Error: [^\n]+$", found[1][-1].reason)
    assert found[2][-1].reason.startswith("diverged: loss ")
    assert found[3][-1].outcome == "trained"


def test_stopped_job_reports_nothing_more_and_keeps_its_process_alive(tasks):
    tasks.submit(job(1, recipe=LONG))
    assert isinstance(tasks.reports()[0], EpochReport)
    pid = trainer_of(1)
    tasks.stop(1)
    tasks.stop(1)
    tasks.stop(77)
    assert tasks.reports() == []
    assert [report.key for report in run(tasks, job(2))[2]] == [2, 2, 2]
    assert pid in processes()


def test_more_jobs_than_cpus_are_all_trained(cluster, data, monkeypatch):
    monkeypatch.setattr(cluster, "num_workers", 5)
    tasks = cluster.open(data)
    found = run(tasks, *(job(key) for key in range(5)))
    assert all(reports[-1].outcome == "trained" for reports in found.values())
    tasks.close()


def test_killed_process_is_replaced_and_no_epoch_is_reported_twice(tasks, data):
    recipe = replace(RECIPE, epochs=20)
    tasks.submit(job(1, recipe=recipe))
    reports = []
    while len(reports) < 3:
        reports += tasks.reports()
    os.kill(trainer_of(1), signal.SIGKILL)
    wait_until_ended(tasks, reports)
    assert [report.metrics.epoch for report in reports[:-1]] == list(range(1, 21))
    module = initialise(NETWORK, seed=1)
    assert numbers(reports) == [replace(m, seconds=0.0) for m in train(module, recipe, data, seed=1, device=CPU)]
    assert all(torch.equal(weights(reports[-1])[name], tensor) for name, tensor in module.state_dict().items())


def test_job_without_retries_fails_when_its_process_dies(cluster, data, monkeypatch):
    monkeypatch.setattr(ray_cluster, "RETRIES", 0)
    tasks = cluster.open(data)
    tasks.submit(job(1, recipe=LONG))
    reports = tasks.reports()
    os.kill(trainer_of(1), signal.SIGKILL)
    last = wait_until_ended(tasks, reports)[-1]
    assert (last.key, last.outcome) == (1, "failed")
    assert last.reason.startswith("WorkerCrashedError: The worker died unexpectedly while executing this task.")
    assert run(tasks, job(2))[2][-1].outcome == "trained"
    tasks.close()


@pytest.fixture
def lose_node(cluster, monkeypatch):
    """Makes the cluster report its node as lost once, and then as alive again."""
    looks, nodes = [], ray.nodes
    monkeypatch.setattr(ray_cluster, "NODE_CHECK_SECONDS", 0.05)
    monkeypatch.setattr(ray, "nodes", lambda: [node | {"Alive": looks.pop(0) if looks else True} for node in nodes()])

    def lose(tasks, reports):
        looks.extend([False, True])
        while looks and not isinstance(reports[-1], EndReport):
            reports += tasks.reports()

    return lose


def wait_for_epochs(tasks, reports, epochs):
    """Waits for `epochs` further epochs."""
    enough = len(reports) + epochs
    while len(reports) < enough:
        reports += tasks.reports()


def test_job_of_lost_node_is_retrained_and_no_epoch_is_reported_twice(lose_node, tasks, data):
    tasks.submit(job(1, recipe=LONG))
    reports = []
    wait_for_epochs(tasks, reports, 3)
    for _ in range(RETRIES):
        lose_node(tasks, reports)
        wait_for_epochs(tasks, reports, 3)
    told = numbers(reports)
    assert len(told) == len(reports)
    alone = train(initialise(NETWORK, seed=1), LONG, data, seed=1, device=CPU)
    assert told == [replace(metrics, seconds=0.0) for metrics in islice(alone, len(told))]


def test_job_fails_after_too_many_lost_nodes(lose_node, tasks):
    tasks.submit(job(1, recipe=LONG))
    reports = []
    for _ in range(RETRIES + 1):
        wait_for_epochs(tasks, reports, 1)
        assert isinstance(reports[-1], EpochReport)
        lose_node(tasks, reports)
    assert reports[-1] == EndReport(key=1, outcome="failed", reason=f"{RETRIES + 1} nodes died while they trained it")
    assert tasks.reports() == []


def test_close_leaves_no_task(tasks):
    for key in (1, 2):
        tasks.submit(job(key, recipe=LONG))
    seen = set()
    while len(seen) < 2:
        seen |= {report.key for report in tasks.reports()}
    trainers = [os.pidfd_open(trainer_of(key)) for key in (1, 2)]
    tasks.close()
    tasks.close()
    assert tasks.reports() == []
    wait_for_the_end(trainers)


def test_tasks_read_images_from_shared_memory(cluster, data):
    """All tasks of a node map one copy of the 2 MB of images; each tensor points into it."""

    @ray.remote
    def mapped(arrays):
        addresses = [getattr(arrays_to_data(arrays), name).data_ptr() for name in SPLITS]
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [(*(int(end, 16) for end in span.split("-")), file) for span, *_, file in maps if len(_) == 4]
        return [[file for low, high, file in spans if low <= address < high] for address in addresses]

    names = ray.get(mapped.remote(ray.put(data_to_arrays(data))))
    assert all(len(files) == 1 and "plasma" in files[0] for files in names), names


def test_other_package_version_on_node_raises_error(cluster, data, monkeypatch):
    there = ray_cluster.versions()
    monkeypatch.setattr(ray_cluster, "versions", lambda: dict(there) | {"torch": "1.0", "nas": "0.0.1"})
    tasks = cluster.open(data)
    tasks.submit(job(1))
    differences = f"torch is {there['torch']}, expected 1.0; nas is {there['nas']}, expected 0.0.1"
    expected = f" of the Ray cluster: {differences}; install the same versions on every node"
    with pytest.raises(NasError, match=re.escape(expected)):
        tasks.reports()
    tasks.close()


def test_search_on_ray_equals_search_with_local_processes(cluster, tmp_path, tiny_space):
    given = {"dataset": "digits", "space": tiny_space, "epochs": 2, "trials": 8, "device": "cpu", "workers": 2}
    given |= {"max_params": 900, "min_receptive_field": 10, "pruner": "median"}
    heard = []
    search(**given, results=tmp_path / "processes")
    result = search(**given, results=tmp_path / "ray", ray="local", on_event=heard.append)
    assert isinstance(heard[0], SearchStarted)
    assert (heard[0].device, heard[0].workers) == ("Ray local (1 node, 2 CPUs)", 2)
    assert result.tally.spent >= 7
    ours, theirs = (
        {
            (trial.architecture.fingerprint(), trial.recipe, trial.outcome, trial.objective)
            for trial in trials(results=tmp_path / name)
            if trial.outcome in ("trained", "pruned")
        }
        for name in ("ray", "processes")
    )
    assert ours == theirs
    confirm(top=2, seeds=2, results=tmp_path / "ray", device="cpu", workers=2, ray="local")
    assert ray.is_initialized()  # `confirm` does not shut down a cluster that it did not start


def test_interrupted_search_leaves_no_process(tmp_path, tiny_space):
    command = [sys.executable, "-m", "nas", "search", "--ray", "local", "--workers", "2", "--json"]
    command += ["--dataset", "digits", "--space", tiny_space, "--epochs", "1000", "--max-params", "900"]
    command += ["--min-receptive-field", "10", "--results", str(tmp_path / "results")]
    with ExitStack() as stack:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        stack.callback(process.kill)
        line = ""
        while "EpochFinished" not in line:
            line = process.stdout.readline()
            assert json.loads(line)["event"]
        below = descendants(process.pid)
        (trainer, *_) = (pid for pid, (name, _) in processes().items() if pid in below and "ray::nas trial" in name)
        left = [os.pidfd_open(pid) for pid in below]
        os.kill(trainer, signal.SIGKILL)  # makes Ray print a message
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err == "Interrupted: finished trials are kept, the same command goes on.\n"
    assert all(json.loads(line) for line in out.splitlines())
    assert len(left) > 3
    wait_for_the_end(left)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus_per_trial": 0.5}, "`gpus_per_trial=0.5`: only for a Ray cluster; give `ray`, too"),
        (
            {"ray": "local", "gpus_per_trial": 2.0},
            "`gpus_per_trial=2.0`: expected 0, or a number from 0.01 to 1 (0.25: four trials on one GPU)",
        ),
        ({"ray": "local", "gpus_per_trial": float("nan")}, "`gpus_per_trial=nan`: expected "),
        (
            {"ray": "local", "device": "cpu", "gpus_per_trial": 0.5},
            "`gpus_per_trial=0.5`: expected 0 with `device='cpu'`",
        ),
        (
            {"ray": "local", "device": "cuda", "gpus_per_trial": 0},
            "`gpus_per_trial=0`: expected a number above 0 with `device='cuda'`",
        ),
        (
            {"ray": "local", "device": "cuda:1"},
            "`device='cuda:1'`: expected one of auto, cpu, cuda with `ray`, since Ray picks the GPU",
        ),
        ({"ray": "ray://head:10001"}, "`ray='ray://head:10001'`: Ray's client cannot stream results; "),
    ],
)
def test_inconsistent_ray_options_are_rejected(options, message):
    with pytest.raises(NasError, match=re.escape(message)):
        Compute(**options).backend()


def test_missing_ray_error_names_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NasError, match=re.escape("`ray`: Ray is not installed; run pip install 'smallnas[ray]'")):
        Compute(ray="auto").backend()


@pytest.fixture
def no_cluster(cluster, monkeypatch):
    """Simulates a process that has joined no cluster, on a machine without one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "`ray='127.0.0.1:9'`: no Ray cluster answered within 4 s"),
        ("nonsense", "`ray='nonsense'`: Invalid address format: nonsense"),
    ],
)
def test_unreachable_cluster_raises_one_line_error(no_cluster, monkeypatch, address, message):
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 4.0)
    with pytest.raises(NasError, match=re.escape(message)) as caught, Compute(ray=address).backend():
        pass
    assert "\n" not in str(caught.value)


@pytest.fixture
def cluster_of(monkeypatch):
    """Simulates a process that has joined a cluster of nodes with the given resources and one lost node."""

    def joined(*resources):
        nodes = [{"NodeID": str(i), "Alive": True, "Resources": node} for i, node in enumerate(resources)]
        monkeypatch.setattr(ray, "is_initialized", lambda: True)
        monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"NodeID": "lost", "Alive": False, "Resources": GPUS}])

    return joined


CPUS, GPUS = {"CPU": 16.0}, {"CPU": 16.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("resources", "options", "trials_at_once", "gpus"),
    [
        ([CPUS, CPUS], {}, 32, 0.0),
        ([CPUS, GPUS], {}, 4, 1.0),
        ([CPUS, GPUS], {"gpus_per_trial": 0.25}, 16, 0.25),
        ([GPUS, GPUS], {"gpus_per_trial": 0.3}, 24, 0.3),  # three on each GPU: no trial spans two GPUs
        ([GPUS], {"gpus_per_trial": 0.1}, 16, 0.1),  # one CPU each
        ([GPUS], {"gpus_per_trial": 0.0}, 16, 0.0),
        ([CPUS, GPUS], {"device": "cpu"}, 32, 0.0),
        ([CPUS], {"workers": 100}, 100, 0.0),
        ([], {"workers": 3, "device": "cuda"}, 3, 1.0),
    ],
)
def test_number_of_parallel_trials_follows_from_cluster_resources(cluster_of, resources, options, trials_at_once, gpus):
    cluster_of(*resources)
    with Compute(ray="auto", **options).backend() as backend:
        assert (backend.num_workers, backend.gpus_per_trial) == (trials_at_once, gpus)


def test_cluster_without_required_gpu_is_rejected(cluster_of):
    cluster_of(CPUS)
    message = "`ray='auto'`: 16 CPUs and 0 GPUs found, expected at least 1 CPU and 1 GPU for each trial; "
    with pytest.raises(NasError, match=re.escape(message)), Compute(ray="auto", device="cuda").backend():
        pass
