"""Trains jobs on a Ray cluster, each as one Ray task.

Ray places and queues the tasks, and retries them if a process or a node is lost.
"""

import os
import pickle
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from nas.errors import NasError, argument_text, first_line, one_of
from nas.text import count_text
from nas.training.data import TrainingData
from nas.training.device import num_cores
from nas.workers.protocol import RETRIES, EndReport, Job, Report
from nas.workers.ray_task import data_to_arrays, versions

DEVICES = ("auto", "cpu", "cuda")
LOCAL = "local"

ANSWER_SECONDS = 30.0
"""Seconds to wait for the answer of a cluster, the import of Ray included; normally it takes two or three."""

NODE_CHECK_SECONDS = 3.0
"""Seconds between two checks for lost nodes.

Ray reports a dead process at once, but a cut network link only after seven minutes, when the connection of the task
gives up (gRPC's keepalive, 5 + 2 minutes). The head counts the node as dead much earlier. A shorter keepalive is no
solution: the other side takes it for an attack and ends healthy tasks."""

POLL_SECONDS = 0.5
"""Seconds of one wait for reports: Ctrl-C takes effect after at most this time."""

# Run in a separate process with a timeout: Ray tries an address that does not answer for more than two minutes, prints
# messages meanwhile, and cannot be stopped in any other way.
PROBE = """
import sys
try:
    import ray
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="CRITICAL", configure_logging=False)
except Exception as error:
    said = " ".join(str(error).split())
    while error.__cause__:
        error = error.__cause__
    if "AuthenticationError" in str(error):
        said = "the cluster asks for its token: set RAY_AUTH_MODE=token here, too (docs/cluster.md)"
    sys.exit(said)
"""


class RayCluster:
    """A Ray cluster to train on, which this process joins on entering the context and leaves on exit.

    If the process has already joined a cluster, that one is used and not left.

    Args:
        address: "local" starts a Ray cluster on this machine for the duration of the context; "auto" is the running
            cluster of this machine or of `RAY_ADDRESS`; otherwise HOST:PORT.
        device: "auto", "cpu" or "cuda".
        workers: Number of tasks at a time; None: as many as the cluster has room for.
        gpus_per_trial: GPUs of a task: 0, or 0.01 to 1. None: 1 on GPUs, otherwise 0.
    """

    def __init__(self, address: str, *, device: str, workers: int | None, gpus_per_trial: float | None) -> None:
        self.address = address
        self.device = device
        self.num_workers = workers or 0  # None is resolved when the cluster is joined
        self.gpus_per_trial = gpus_per_trial or 0.0
        self.description = f"Ray {address}"
        self._asked = workers, gpus_per_trial
        self._joined = False
        self._variables_to_unset: list[str] = []

    @classmethod
    def from_options(cls, address: str, *, device: str, workers: int | None, gpus_per_trial: float | None) -> Self:
        """Returns the cluster, not joined yet; raises `NasError` if the options are invalid or Ray is not installed."""
        if device not in DEVICES:
            text = f"expected {one_of(DEVICES)} with `ray`, since Ray picks the GPU"
            raise NasError(f"{argument_text('device', device)}: {text}")
        if gpus_per_trial is not None:
            share = argument_text("gpus_per_trial", gpus_per_trial)
            if not (gpus_per_trial == 0 or 0.01 <= gpus_per_trial <= 1):
                raise NasError(f"{share}: expected 0, or a number from 0.01 to 1 (0.25: four trials on one GPU)")
            if (device == "cpu" and gpus_per_trial > 0) or (device == "cuda" and gpus_per_trial == 0):
                wanted = "0" if device == "cpu" else "a number above 0"
                raise NasError(f"{share}: expected {wanted} with {argument_text('device', device)}")
        if address.startswith("ray://"):
            raise NasError(
                f"{argument_text('ray', address)}: Ray's client cannot stream results; search on a machine of the"
                " cluster with `ray='auto'` (docs/cluster.md), or submit the search with `ray job submit`"
            )
        ray_package()
        return cls(address, device=device, workers=workers, gpus_per_trial=gpus_per_trial)

    def open(self, data: TrainingData, *, exact: bool = False) -> "RayTasks":
        return RayTasks(data, num=self.num_workers, gpus=self.gpus_per_trial, exact=exact)

    def __enter__(self) -> Self:
        ray = ray_package()
        try:
            if not ray.is_initialized():
                self._join(ray)
            self._read_cluster_resources(ray.nodes())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._joined:
            self._joined = False
            with _restored_sigterm_handler():
                ray_package().shutdown()
            for name in self._variables_to_unset:
                os.environ.pop(name, None)

    def _join(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
        self._variables_to_unset = [name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN") if name not in os.environ]
        if self.address != LOCAL:
            _check_reachable(self.address)
        with _restored_sigterm_handler():
            self._joined = True
            if self.address == LOCAL:
                # Otherwise Ray writes the token that authenticates its processes into the user's home directory.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                ray.init(LOCAL, num_cpus=self._asked[0] or num_cores(), include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        # Regardless of its options, Ray prints messages about lost nodes to standard output, between lines of JSON.
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None  # noqa: SLF001

    def _read_cluster_resources(self, nodes: list[dict[str, Any]]) -> None:
        """Determines GPUs per trial, number of workers and description from the cluster's present nodes.

        Nodes that an autoscaler adds later are used as far as the number of workers allows.
        """
        workers, gpus = self._asked
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        num_cpus, num_gpus = (int(sum(node.get(kind, 0) for node in alive)) for kind in ("CPU", "GPU"))
        if gpus is None:
            gpus = 0.0 if self.device == "cpu" or (self.device == "auto" and not num_gpus) else 1.0
        self.gpus_per_trial = gpus
        self.num_workers = workers or sum(_num_trials_that_fit(node, gpus) for node in alive)
        if not self.num_workers:
            raise NasError(
                f"{argument_text('ray', self.address)}: {count_text(num_cpus, 'CPU')} and"
                f" {count_text(num_gpus, 'GPU')} found, expected at least 1 CPU and {gpus:g} GPU for each trial;"
                " if an autoscaler adds nodes, give `workers`"
            )
        parts = [count_text(len(alive), "node"), count_text(num_cpus, "CPU")]
        parts += [count_text(num_gpus, "GPU")] * bool(num_gpus) + [f"{gpus:g} GPU a trial"] * bool(gpus)
        self.description = f"Ray {self.address} ({', '.join(parts)})"


@dataclass(slots=True)
class _RunningJob:
    """A job in training.

    Attributes:
        job: The job.
        stream: Ray's generator of the task's results.
        node: ID of the node that trains it; empty before the task has begun.
        epoch: Last epoch that was reported.
        times_lost: Number of nodes that were lost while they trained the job.
    """

    job: Job
    stream: Any
    node: str = ""
    epoch: int = 0
    times_lost: int = 0


class RayTasks:
    """Trains up to `num` jobs at a time, each as a task with one CPU and `gpus` GPUs.

    Ray reuses a worker process for the next task. The images are put into Ray's object store once, which copies them
    once to each node that trains.
    """

    def __init__(self, data: TrainingData, *, num: int, gpus: float, exact: bool) -> None:
        self._ray = ray_package()
        self.capacity = self.max_capacity = num
        self._images = self._ray.put(data_to_arrays(data))
        self._gpus, self._exact = gpus, exact
        self._task = self._new_task(0)
        self._running: dict[int, _RunningJob] = {}
        self._known_dead_nodes = self._dead_nodes()
        self._node_check_time = time.monotonic()

    def submit(self, job: Job) -> None:
        self._running[job.key] = _RunningJob(job, self._stream(job))

    def reports(self) -> list[Report]:
        found: list[Report] = []
        while not found and self._running:
            if time.monotonic() - self._node_check_time > NODE_CHECK_SECONDS:
                found += self._resubmit_lost_jobs()
                self._node_check_time = time.monotonic()
                continue
            # Waits briefly, because Ctrl-C does not interrupt a long wait.
            keys = {id(running.stream): key for key, running in self._running.items()}
            streams = [running.stream for running in self._running.values()]
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=POLL_SECONDS)
            for stream in ready:
                found += self._next_reports(keys[id(stream)], stream)
        return found

    def stop(self, key: int) -> None:
        if running := self._running.pop(key, None):
            self._cancel(running.stream, force=False)  # keeps the started process for the next task

    def close(self) -> None:
        while self._running:
            _, running = self._running.popitem()
            self._cancel(running.stream, force=True)
        self._images = None  # the last reference: Ray now frees the images on every node

    def _new_task(self, number: int) -> Any:
        """Returns the remote function; for Ray, each `number` gives a different function."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_retries": RETRIES}
        code = _task(number, dict(versions()), on_gpu=self._gpus > 0, exact=self._exact)
        return self._ray.remote(**options)(code)

    def _stream(self, job: Job) -> Any:
        """Starts the task of a job. The job is pickled here, so that the task compares versions before it loads it."""
        return self._task.options(name=f"nas trial {job.key}").remote(pickle.dumps(job), self._images)

    def _dead_nodes(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self._ray.nodes() if not node["Alive"])

    def _resubmit_lost_jobs(self) -> list[Report]:
        """Submits again the jobs on nodes lost since the last check, and those that have not begun anywhere yet."""
        dead = self._dead_nodes()
        new, self._known_dead_nodes = dead - self._known_dead_nodes, dead
        found: list[Report] = []
        if new:
            # Ray requests worker processes for all tasks of a function together. A request to the lost node ends only
            # when its connection gives up, after more than two minutes. Tasks of a new function do not wait for it.
            self._task = self._new_task(len(dead))
        for key, running in list(self._running.items()) if new else ():
            if running.node and running.node not in new:
                continue
            self._cancel(running.stream, force=False)  # if Ray has noticed the loss, this cancels its retry
            running.times_lost += bool(running.node)
            if running.times_lost > RETRIES:
                found += self._remove_job(
                    EndReport(key=key, outcome="failed", reason=f"{RETRIES + 1} nodes died while they trained it")
                )
            else:
                running.stream, running.node = self._stream(running.job), ""
        return found

    def _cancel(self, stream: Any, *, force: bool) -> None:
        with suppress(Exception):  # the task or the cluster has ended
            self._ray.cancel(stream, force=force)

    def _next_reports(self, key: int, stream: Any) -> list[Report]:
        """Returns the next report of a job whose stream is ready, if it is a new one."""
        try:
            node, item = self._ray.get(next(stream))
        except StopIteration:
            return self._remove_job(EndReport(key=key, outcome="failed", reason="the Ray task ended without a result"))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            reason = f"{type(cause or error).__name__}: {first_line(cause or error)}"
            return self._remove_job(EndReport(key=key, outcome="failed", reason=reason))
        if isinstance(item, str):
            raise NasError(item)
        if isinstance(item, EndReport):
            return self._remove_job(item)
        running = self._running[key]
        running.node = node
        # A retried task trains from its first epoch, with the same results. If Ray retries it, the stream continues
        # after the results already taken. If it was submitted again, the new stream repeats epochs already reported.
        if item is None or item.metrics.epoch <= running.epoch:
            return []
        running.epoch = item.metrics.epoch
        return [item]

    def _remove_job(self, report: EndReport) -> list[Report]:
        del self._running[report.key]
        return [report]


def _task(
    number: int, wanted: Mapping[str, str], *, on_gpu: bool, exact: bool
) -> Callable[..., Generator[tuple[str, Any], None, None]]:
    """Returns the function that a node runs. It is sent as code, so that it can report a missing or different `nas`."""

    def train_candidate(
        job: bytes, arrays: Mapping[str, Any], number: int = number
    ) -> Generator[tuple[str, Any], None, None]:
        import pickle
        import platform

        import ray

        node = ray.get_runtime_context().get_node_id()
        name = f"node {platform.node()} of the Ray cluster"
        yield node, None  # reports the node before any slow work
        try:
            from nas.workers.ray_task import train_job, versions
        except ImportError as error:
            yield node, f"{name} does not have this version of nas: {error}"
            return
        there = versions()
        if differences := [
            f"{what} is {there[what]}, expected {wanted[what]}" for what in wanted if there[what] != wanted[what]
        ]:
            yield node, f"{name}: {'; '.join(differences)}; install the same versions on every node"
            return
        for report in train_job(pickle.loads(job), arrays, on_gpu=on_gpu, exact=exact):
            yield node, report

    return train_candidate


def ray_package() -> Any:
    """Imports and returns Ray; raises `NasError` if it is not installed."""
    # Ray reads this on import. By default it reports each started cluster to its developers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise NasError("`ray`: Ray is not installed; run pip install 'smallnas[ray]'") from None
    return ray


def _check_reachable(address: str) -> None:
    """Raises `NasError` if no cluster answers in time, or if it refuses the connection."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, address],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NasError(
            f"{argument_text('ray', address)}: no Ray cluster answered within {ANSWER_SECONDS:.0f} s"
        ) from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NasError(f"{argument_text('ray', address)}: {said}")


@contextmanager
def _restored_sigterm_handler() -> Iterator[None]:
    """Restores the handler of SIGTERM at the end of the context, since Ray installs its own when it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _num_trials_that_fit(node: Mapping[str, float], gpus: float) -> int:
    """Returns how many trials a node has room for; a trial's share must lie on one GPU."""
    cpus = int(node.get("CPU", 0))
    return min(cpus, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9)) if gpus else cpus
