"""Workers: a training gives the same result in any process, independent of other jobs."""

import math
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.paths import ROOT
from support.processes import below, wait_for_the_end
from support.workers import CPU, NETWORK, RECIPE, ended, job, numbers, run, weights

from nas.architecture.architecture import Architecture
from nas.commands import defaults
from nas.commands.events import TrialFinished
from nas.commands.search import search
from nas.commands.trials import trials
from nas.data import datasets
from nas.recipe import Recipe
from nas.training.data import SharedData, TrainingData
from nas.training.reference import initialise
from nas.training.select import train
from nas.workers import backend
from nas.workers.backend import Compute, open_workers
from nas.workers.in_process import InProcess
from nas.workers.process_pool import ProcessPool
from nas.workers.protocol import RETRIES, EndReport, EpochReport

pytestmark = pytest.mark.usefixtures("one_thread")

WORKER = "nas.workers.process_main"


@pytest.fixture(scope="module")
def data():
    return TrainingData.from_dataset(datasets.load("digits"))


@pytest.fixture(scope="module")
def two_processes(data):
    """A pool of two processes, shared by several tests."""
    workers = ProcessPool(data, [CPU, CPU], exact=False, max_per_device=1)
    yield workers
    workers.close()


@pytest.fixture(params=["here", "processes"])
def workers(request, data):
    return InProcess(data, CPU, exact=False) if request.param == "here" else request.getfixturevalue("two_processes")


def test_job_reports_epochs_and_weights_of_direct_training(workers, data):
    reports = run(workers, job(1))[1]
    assert [type(report) for report in reports] == [EpochReport, EpochReport, EndReport]
    module = initialise(NETWORK, seed=1)
    alone = [replace(metrics, seconds=0.0) for metrics in train(module, RECIPE, data, seed=1, device=CPU)]
    assert numbers(reports) == alone
    assert reports[-1].outcome == "trained"
    stored = weights(reports[-1])
    assert stored.keys() == module.state_dict().keys()
    assert all(torch.equal(stored[name], tensor) for name, tensor in module.state_dict().items())


def test_result_does_not_depend_on_other_jobs(two_processes, data):
    plain = replace(NETWORK, layers=tuple(layer for layer in NETWORK.layers if layer.kind != "batch_norm"))
    bad = {"architecture": plain, "recipe": Recipe(epochs=2, learning_rate=1e30, schedule="constant")}
    dilated = Architecture.from_json(
        {
            "version": 1,
            "input_shape": [1, 28, 28],
            "layers": [
                {"kind": "conv", "out_channels": 3, "kernel_size": 3, "dilation": 2},
                {"kind": "global_avg_pool"},
                {"kind": "flatten"},
                {"kind": "linear", "out_features": 10},
            ],
        }
    )
    mixed = run(two_processes, job(1), job(2, **bad), job(3, architecture=dilated), job(4), job(5, **bad), job(6))
    here = InProcess(data, CPU, exact=False)
    for key in (1, 4, 6):
        assert numbers(mixed[key]) == numbers(run(here, job(key))[key])
    assert numbers(mixed[3]) == numbers(run(here, job(3, architecture=dilated))[3])  # trained by the reference trainer
    for key in (2, 5):
        assert mixed[key][-1].outcome == "diverged"
        assert mixed[key][-1].reason.startswith("diverged: loss ")
        assert mixed[key][-1].weights == b""


def test_failed_job_reports_reason_and_affects_no_other_job(workers):
    broken = Architecture(input_shape=(3, 28, 28), layers=NETWORK.layers)  # the images have one channel
    found = run(workers, job(1, architecture=broken), job(2))
    assert found[1][-1].outcome == "failed"
    assert found[1][-1].reason.split(":")[0].endswith("Error")
    assert "\n" not in found[1][-1].reason
    assert found[2][-1].outcome == "trained"


def test_stopped_job_reports_nothing_more_and_frees_its_slot(workers):
    workers.submit(job(1, recipe=replace(RECIPE, epochs=1000)))
    assert isinstance(workers.reports()[0], EpochReport)
    workers.stop(1)
    workers.stop(1)
    workers.stop(77)
    assert [report.key for report in run(workers, job(2))[2]] == [2, 2, 2]


@pytest.fixture
def started():
    """Returns the running worker processes that were started during the test."""
    before = below(os.getpid(), WORKER)
    return lambda: below(os.getpid(), WORKER) - before


@pytest.mark.slow
def test_killed_process_is_replaced_and_its_job_runs_again(data, started):
    with closing(ProcessPool(data, [CPU], exact=False, max_per_device=1)) as workers:
        long = job(1, recipe=replace(RECIPE, epochs=40))
        undisturbed = run(workers, long)[1]
        workers.submit(long)
        found = workers.reports()
        (pid,) = started()
        os.kill(pid, signal.SIGKILL)
        while not ended(found):
            found += workers.reports()
        assert started() != {pid}
        assert numbers(found) == numbers(undisturbed), "each epoch is told once, and is what it would have been"


@pytest.mark.slow
def test_job_fails_after_too_many_killed_processes(data, started):
    with closing(ProcessPool(data, [CPU], exact=False, max_per_device=1)) as workers:
        workers.submit(job(1, recipe=replace(RECIPE, epochs=100_000)))
        killed, epochs = set(), []
        while not ended(found := workers.reports()):
            epochs += [report.metrics.epoch for report in found]
            for pid in started() - killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        assert len(killed) == RETRIES + 1
        assert epochs == list(range(1, len(epochs) + 1))
        reason = "4 worker processes died while they trained it, the last one by SIGKILL"
        assert found == [EndReport(key=1, outcome="failed", reason=reason)]
        assert run(workers, job(2))[2][-1].outcome == "trained"


def test_close_leaves_no_process_and_no_file(data, started, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    workers = open_workers(data, [CPU], num=2)
    assert workers.capacity == workers.max_capacity == 2
    workers.submit(job(1, recipe=replace(RECIPE, epochs=1000)))
    workers.reports()
    assert len(started()) == 1  # the second would be idle
    assert list(tmp_path.iterdir())
    workers.close()
    workers.close()
    assert started() == set()
    assert list(tmp_path.iterdir()) == []


def test_processes_are_distributed_over_gpus(data, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = []
    monkeypatch.setattr(backend, "ProcessPool", lambda data, devices, **options: given.extend(devices))
    place = Compute(device="cuda").backend()
    assert place.num_workers == 2
    place.open(data)
    assert given == [torch.device("cuda", index) for index in (0, 1)]
    given.clear()
    Compute(device="cuda", workers=3).backend().open(data)
    assert given == [torch.device("cuda", index) for index in (0, 1, 0)]
    assert (
        Compute(device="cuda:1").backend().num_workers == Compute(device="cuda:1", workers=1).backend().num_workers == 1
    )


@pytest.mark.slow
def test_worker_process_ends_when_parent_exits():
    script = f"""
        import os
        from dataclasses import replace
        from nas.data import datasets
        from nas.training.data import TrainingData
        from nas.workers.process_pool import ProcessPool
        from support.processes import below
        from support.workers import CPU, RECIPE, job

        workers = ProcessPool(TrainingData.from_dataset(datasets.load("digits")), [CPU], exact=False, max_per_device=1)
        workers.submit(job(1, recipe=replace(RECIPE, epochs=1_000_000)))
        workers.reports()
        print(*below(os.getpid(), {WORKER!r}), flush=True)
        os._exit(1)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=False
    )
    (pid,) = map(int, done.stdout.split())
    with suppress(ProcessLookupError):  # it has ended already
        wait_for_the_end([os.pidfd_open(pid)])


def test_images_are_memory_mapped_from_files(data, tmp_path):
    shared = SharedData.write(data, tmp_path)
    opened = shared.open()
    for name in ("train_images", "train_labels", "val_images", "val_labels"):
        assert torch.equal(getattr(opened, name), getattr(data, name))
        assert getattr(opened, name).dtype == getattr(data, name).dtype
    assert (opened.mean, opened.std) == (data.mean, data.std)
    assert Path("/proc/self/maps").read_text().count(str(tmp_path)) == 4
    assert math.prod(data.train_images.shape) == (tmp_path / "train_images").stat().st_size


@pytest.mark.slow
def test_script_without_main_guard_can_search(tmp_path, tiny_space):
    """A start method that runs the script again in each process would never end."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import nas
        print("once")
        result = nas.search(dataset="digits", space={tiny_space!r}, epochs=1, trials=2, max_params=900,
                            min_receptive_field=10, results={str(tmp_path / "results")!r}, device="cpu", workers=2)
        print(result.tally.num_trained)
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "once\n2\n"


@pytest.mark.slow
def test_interrupted_search_with_two_workers_equals_uninterrupted_search(tmp_path, tiny_space, monkeypatch):
    """The candidates and results are the same, although trainings end in another order."""
    monkeypatch.setattr(defaults, "NUM_STARTUP", 3)
    given = {"dataset": "digits", "space": tiny_space, "epochs": 1, "trials": 9, "device": "cpu", "workers": 2}
    given |= {"max_params": 900, "min_receptive_field": 10, "sampler": "tpe"}
    heard = []

    def interrupt(event):
        heard.append(event)
        if sum(isinstance(event, TrialFinished) for event in heard) == 5:
            raise KeyboardInterrupt

    search(**given, results=tmp_path / "whole")
    assert search(**given, results=tmp_path / "pieces", on_event=interrupt).interrupted
    assert search(**given, results=tmp_path / "pieces").tally.num_trained == 9
    whole, pieces = (
        {(t.architecture.fingerprint(), t.recipe, t.objective) for t in trials(results=tmp_path / name) if t.objective}
        for name in ("whole", "pieces")
    )
    assert len(whole) == 9
    assert whole == pieces


def test_killed_idle_process_is_replaced_for_next_job(data):
    with closing(ProcessPool(data, [CPU, CPU], exact=False, max_per_device=1)) as pool:
        pool.submit(job(1))
        pool.submit(job(2, recipe=replace(RECIPE, epochs=200)))
        while not any(isinstance(report, EndReport) for report in pool.reports()):
            pass
        (idle,) = [worker for worker in pool._workers if not worker.jobs]
        idle.process.kill()
        while idle in pool._workers:
            pool.reports()
        assert pool.capacity == 2
        pool.submit(job(3))
        assert len(pool._workers) == 2
