"""Training on a Ray cluster: a task for each job. Ray places it, queues it, and runs it again where a node is lost."""

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

from nas.errors import NasError, first_line
from nas.text import counted
from nas.training.data import TrainingData
from nas.training.device import num_cores
from nas.workers.protocol import RETRIES, Ended, Job, Report
from nas.workers.ray_task import packed, versions

DEVICES = ("auto", "cpu", "cuda")
LOCAL = "local"

ANSWER_SECONDS = 30.0
"""How long a cluster may take to answer, its first import of Ray included; where all is well it takes two or three."""

LOOK_SECONDS = 3.0
"""How often is asked which nodes are lost. Of a dead process Ray hears at once, of a cut link only seven minutes later:
the head has long counted the node as dead when the task's own connection gives up (gRPC's keepalive, 5 + 2 minutes; a
shorter one is taken for an attack by the other side and ends tasks that are well)."""

POLL_SECONDS = 0.5
"""How long Ctrl-C may have to wait."""

# Without a limit of our own: Ray tries an address where nobody answers for two minutes and more, and writes of it all
# the while. In a process of its own, for nothing else can end the attempt.
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
    """A place for workers: the cluster at an address, joined when the context is entered and left at its end.

    `address`: "local" is a Ray of this machine's own that ends with the context, "auto" the cluster of this machine or
    of `RAY_ADDRESS`, else HOST:PORT. Where the process has joined a cluster already, that one is used, and not left.
    """

    def __init__(self, address: str, *, device: str, workers: int | None, gpus_per_trial: float | None) -> None:
        self.address = address
        self.device = device
        self.num_workers = workers or 0  # known when the cluster is
        self.gpus_per_trial = gpus_per_trial or 0.0
        self.description = f"Ray {address}"
        self._asked = workers, gpus_per_trial
        self._joined = False
        self._not_set: list[str] = []

    @classmethod
    def named(cls, address: str, *, device: str, workers: int | None, gpus_per_trial: float | None) -> Self:
        """What the options say, checked as far as it can be without the cluster."""
        if device not in DEVICES:
            raise NasError(f"--device {device} with --ray, allowed: {', '.join(DEVICES)}: Ray picks the GPU")
        if gpus_per_trial is not None:
            if not (gpus_per_trial == 0 or 0.01 <= gpus_per_trial <= 1):
                raise NasError(f"--gpus-per-trial {gpus_per_trial}, allowed: 0, or 0.01 to 1 (0.25: four on a GPU)")
            if (device == "cpu" and gpus_per_trial > 0) or (device == "cuda" and gpus_per_trial == 0):
                raise NasError(f"--gpus-per-trial {gpus_per_trial} contradicts --device {device}")
        if address.startswith("ray://"):
            raise NasError(
                f"--ray {address}: Ray's client cannot stream results; search on a machine of the cluster"
                " (--ray auto; docs/cluster.md) or submit the search with `ray job submit`"
            )
        ray_package()
        return cls(address, device=device, workers=workers, gpus_per_trial=gpus_per_trial)

    def open(self, data: TrainingData, *, exact: bool = False) -> "RayTasks":
        return RayTasks(data, num=self.num_workers, gpus=self.gpus_per_trial, exact=exact)

    def __enter__(self) -> Self:
        ray = ray_package()
        if not ray.is_initialized():
            self._join(ray)
        try:
            self._look_round(ray.nodes())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._joined:
            self._joined = False
            with _own_signals():
                ray_package().shutdown()
            for name in self._not_set:
                os.environ.pop(name, None)

    def _join(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
        self._not_set = [name for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN") if name not in os.environ]
        if self.address != LOCAL:
            _probe(self.address)
        with _own_signals():
            self._joined = True
            if self.address == LOCAL:
                # Ray would write a token for its processes, by which they know each other, into the user's home.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
                ray.init(LOCAL, num_cpus=self._asked[0] or num_cores(), include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        # Ray prints what it does about a lost node to standard output, whatever it is asked, among our lines of JSON.
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None  # noqa: SLF001

    def _look_round(self, nodes: list[dict[str, Any]]) -> None:
        """What the cluster has now; what an autoscaler adds later is used as far as there are workers for it."""
        workers, gpus = self._asked
        alive = [node["Resources"] for node in nodes if node["Alive"]]
        num_cpus, num_gpus = (int(sum(node.get(kind, 0) for node in alive)) for kind in ("CPU", "GPU"))
        if gpus is None:
            gpus = 0.0 if self.device == "cpu" or (self.device == "auto" and not num_gpus) else 1.0
        self.gpus_per_trial = gpus
        self.num_workers = workers or sum(_room(node, gpus) for node in alive)
        if not self.num_workers:
            raise NasError(
                f"--ray {self.address}: the cluster has {num_cpus} CPUs and {num_gpus} GPUs, a trial needs 1 and"
                f" {gpus:g}; where its autoscaler adds some, say with --workers how many trials may wait for them"
            )
        parts = [counted(len(alive), "node"), counted(num_cpus, "CPU")]
        parts += [counted(num_gpus, "GPU")] * bool(num_gpus) + [f"{gpus:g} GPU a trial"] * bool(gpus)
        self.description = f"Ray {self.address} ({', '.join(parts)})"


@dataclass(slots=True)
class _Running:
    """A job in training. `node` is known once it has begun, `epoch` is the last one that was passed on."""

    job: Job
    stream: Any
    node: str = ""
    epoch: int = 0
    times_lost: int = 0


class RayTasks:
    """`num` jobs at a time, each a task with one CPU and `gpus` of a GPU; a process is used again by the next task.

    The images are put into Ray's object store once, which copies them once to each node that trains.
    """

    def __init__(self, data: TrainingData, *, num: int, gpus: float, exact: bool) -> None:
        self._ray = ray_package()
        self.capacity = self.most = num
        self._images = self._ray.put(packed(data))
        self._gpus, self._exact = gpus, exact
        self._task = self._new_task(0)
        self._running: dict[int, _Running] = {}
        self._dead = self._dead_nodes()
        self._looked = time.monotonic()

    def submit(self, job: Job) -> None:
        self._running[job.key] = _Running(job, self._stream(job))

    def reports(self) -> list[Report]:
        found: list[Report] = []
        while not found and self._running:
            if time.monotonic() - self._looked > LOOK_SECONDS:
                found += self._look_for_the_lost()
                self._looked = time.monotonic()
                continue
            # In short waits, because Ctrl-C does not end a long one.
            keys = {id(running.stream): key for key, running in self._running.items()}
            streams = [running.stream for running in self._running.values()]
            ready, _ = self._ray.wait(streams, num_returns=1, timeout=POLL_SECONDS)
            for stream in ready:
                found += self._next(keys[id(stream)], stream)
        return found

    def stop(self, key: int) -> None:
        if running := self._running.pop(key, None):
            self._cancel(running.stream, force=False)  # the process is kept: it is warm

    def close(self) -> None:
        while self._running:
            _, running = self._running.popitem()
            self._cancel(running.stream, force=True)
        self._images = None  # the last reference: Ray frees it on every node

    def _new_task(self, number: int) -> Any:
        """The remote function; of each number a function of its own, in Ray's eyes."""
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_retries": RETRIES}
        code = _task(number, dict(versions()), on_gpu=self._gpus > 0, exact=self._exact)
        return self._ray.remote(**options)(code)

    def _stream(self, job: Job) -> Any:
        """A task that trains the job; as bytes, which are opened once the versions are known to be alike."""
        return self._task.options(name=f"nas trial {job.key}").remote(pickle.dumps(job), self._images)

    def _dead_nodes(self) -> frozenset[str]:
        return frozenset(node["NodeID"] for node in self._ray.nodes() if not node["Alive"])

    def _look_for_the_lost(self) -> list[Report]:
        """Hands to Ray again what was on a node that has died since the last look, or was perhaps on its way there."""
        dead = self._dead_nodes()
        new, self._dead = dead - self._dead, dead
        found: list[Report] = []
        if new:
            # Tasks of one function wait for workers together. What was asked of the lost node is answered by nobody:
            # who waited for that, too, would wait until the connection gives up, for two minutes and more.
            self._task = self._new_task(len(dead))
        for key, running in list(self._running.items()) if new else ():
            if running.node and running.node not in new:
                continue
            self._cancel(running.stream, force=False)  # where Ray has noticed, too, its new attempt
            running.times_lost += bool(running.node)
            if running.times_lost > RETRIES:
                found += self._ended(Ended(key=key, outcome="failed", reason=f"{RETRIES + 1} nodes died under it"))
            else:
                running.stream, running.node = self._stream(running.job), ""
        return found

    def _cancel(self, stream: Any, *, force: bool) -> None:
        with suppress(Exception):  # it has ended, or so has the cluster
            self._ray.cancel(stream, force=force)

    def _next(self, key: int, stream: Any) -> list[Report]:
        """The next report of a job that has one."""
        try:
            node, item = self._ray.get(next(stream))
        except StopIteration:
            return self._ended(Ended(key=key, outcome="failed", reason="the Ray task ended without a result"))
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            reason = f"{type(cause or error).__name__}: {first_line(cause or error)}"
            return self._ended(Ended(key=key, outcome="failed", reason=reason))
        if isinstance(item, str):
            raise NasError(item)
        if isinstance(item, Ended):
            return self._ended(item)
        running = self._running[key]
        running.node = node
        # A task that is run again begins at its first epoch, and an epoch is the same whenever it is trained. Where Ray
        # does it, the stream goes on behind what was taken from it; a stream of our own making begins anew.
        if item is None or item.metrics.epoch <= running.epoch:
            return []
        running.epoch = item.metrics.epoch
        return [item]

    def _ended(self, report: Ended) -> list[Report]:
        del self._running[report.key]
        return [report]


def _task(
    number: int, wanted: Mapping[str, str], *, on_gpu: bool, exact: bool
) -> Callable[..., Generator[tuple[str, Any], None, None]]:
    """What a node runs. It is sent as code, for a node may have another `nas`, or none; then it says so in words."""

    def train_candidate(
        job: bytes, arrays: Mapping[str, Any], number: int = number
    ) -> Generator[tuple[str, Any], None, None]:
        import pickle
        import platform

        import ray

        node = ray.get_runtime_context().get_node_id()
        name = f"node {platform.node()} of the Ray cluster"
        yield node, None  # before anything long
        try:
            from nas.workers.ray_task import reports, versions
        except ImportError as error:
            yield node, f"{name} has not this version of nas: {error}"
            return
        there = versions()
        if differences := [
            f"{what} {there[what]}, not {wanted[what]}" for what in wanted if there[what] != wanted[what]
        ]:
            yield node, f"{name} has {'; '.join(differences)}: install the same on every node"
            return
        for report in reports(pickle.loads(job), arrays, on_gpu=on_gpu, exact=exact):
            yield node, report

    return train_candidate


def ray_package() -> Any:
    """Ray itself, imported when it is asked for."""
    # Read when Ray is imported. It would tell its makers of each cluster that is started.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise NasError("--ray needs Ray, which is not installed: pip install 'nas[ray]'") from None
    return ray


def _probe(address: str) -> None:
    """Raises `NasError` where no cluster answers in time, or it does not take us."""
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
        raise NasError(f"--ray {address}: no Ray cluster answered within {ANSWER_SECONDS:.0f} s") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise NasError(f"--ray {address}: {said}")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; what the program did about it is put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _room(node: Mapping[str, float], gpus: float) -> int:
    """How many trials a node has room for; no trial has parts of several GPUs."""
    cpus = int(node.get("CPU", 0))
    return min(cpus, int(node.get("GPU", 0)) * int(1 / gpus + 1e-9)) if gpus else cpus
