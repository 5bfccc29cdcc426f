"""Training on a Ray cluster: a task for each job. Ray places it, queues it, and runs it again where a node is lost."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

from nas.errors import NasError, first_line
from nas.training import TrainingData, num_cores
from nas.workers.jobs import Ended, Job, Report
from nas.workers.ray_task import packed, versions

DEVICES = ("auto", "cpu", "cuda")
LOCAL = "local"

ANSWER_SECONDS = 30.0
"""How long a cluster may take to answer, its first import of Ray included; where all is well it takes two or three."""

RETRIES = 3
"""How often Ray runs a task again whose node or process was lost. What fails by itself is not run again."""

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
    sys.exit(f"{type(error).__name__}: " + " ".join(str(error).split()))
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

    def _join(self, ray: Any) -> None:
        quiet = {"log_to_driver": False, "logging_level": "CRITICAL"}
        if self.address != LOCAL:
            _probe(self.address)
        with _own_signals():
            self._joined = True
            if self.address == LOCAL:
                ray.init(LOCAL, num_cpus=self._asked[0] or num_cores(), include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        # Ray prints what it does about a lost node to standard output, whatever it is asked, among our lines of JSON.
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None

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
        parts = [_counted(len(alive), "node"), _counted(num_cpus, "CPU")]
        parts += [_counted(num_gpus, "GPU")] * bool(num_gpus) + [f"{gpus:g} GPU a trial"] * bool(gpus)
        self.description = f"Ray {self.address} ({', '.join(parts)})"


@dataclass(slots=True)
class _Running:
    """A job in training: the generator of its reports, and the last epoch that was passed on."""

    stream: Any
    epoch: int = 0


class RayTasks:
    """`num` jobs at a time, each a task with one CPU and `gpus` of a GPU; a process is used again by the next task.

    The images are put into Ray's object store once, which copies them once to each node that trains.
    """

    def __init__(self, data: TrainingData, *, num: int, gpus: float, exact: bool) -> None:
        self._ray = ray_package()
        self.capacity = self.most = num
        self._images = self._ray.put(packed(data))
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": RETRIES}
        self._task = self._ray.remote(**options)(_task(dict(versions()), on_gpu=gpus > 0, exact=exact))
        self._running: dict[int, _Running] = {}

    def submit(self, job: Job) -> None:
        # As bytes, which are opened once the versions are known to be alike.
        stream = self._task.options(name=f"nas trial {job.key}").remote(pickle.dumps(job), self._images)
        self._running[job.key] = _Running(stream)

    def reports(self) -> list[Report]:
        found: list[Report] = []
        while not found and self._running:
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

    def _cancel(self, stream: Any, *, force: bool) -> None:
        with suppress(Exception):  # it has ended, or so has the cluster
            self._ray.cancel(stream, force=force)

    def _next(self, key: int, stream: Any) -> list[Report]:
        """The next report of a job that has one."""
        try:
            item: Report | str = self._ray.get(next(stream))
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
        # A task that is run again begins at its first epoch. Ray hands out each place of a stream once; if it did not,
        # this would: an epoch is the same whenever it is trained.
        running = self._running[key]
        if item.metrics.epoch <= running.epoch:
            return []
        running.epoch = item.metrics.epoch
        return [item]

    def _ended(self, report: Ended) -> list[Report]:
        del self._running[report.key]
        return [report]


def _task(wanted: Mapping[str, str], *, on_gpu: bool, exact: bool) -> Callable[..., Generator[Any, None, None]]:
    """What a node runs. It is sent as code, for a node may have another `nas`, or none; then it says so in words."""

    def train_candidate(job: bytes, arrays: Mapping[str, Any]) -> Generator[Any, None, None]:
        import pickle
        import platform

        try:
            from nas.workers.ray_task import reports, versions
        except ImportError as error:
            yield f"node {platform.node()} of the Ray cluster has not this version of nas: {error}"
            return
        if found := [
            f"{name} {there}, not {wanted[name]}" for name, there in versions().items() if there != wanted[name]
        ]:
            yield f"node {platform.node()} of the Ray cluster has {'; '.join(found)}: install the same on every node"
            return
        yield from reports(pickle.loads(job), arrays, on_gpu=on_gpu, exact=exact)

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


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
