"""Simulated hosts: network namespaces on a bridge, each with its own address, shared memory and /tmp/ray."""

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

FAST_HEALTH_CHECKS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
"""What the head looks for, and how often, before it takes a node for lost."""

WAIT_FOR_NODES = """
import sys, time, ray
while True:
    try:
        ray.init(sys.argv[1], log_to_driver=False, logging_level="CRITICAL")
        break
    except ConnectionError:
        time.sleep(0.2)
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.1)
"""


@cache
def why_not():
    """Returns why hosts cannot be simulated on this machine; empty if they can."""
    if sys.platform != "linux" or os.geteuid():
        return "network namespaces need root on Linux"
    if not (shutil.which("ip") and shutil.which("nsenter")):
        return "ip (iproute2) and nsenter (util-linux) are not installed"
    name = f"nas{os.getpid()}-probe"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"no network namespace may be made here: {tried.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


class Host:
    """Network namespace with one interface, which is connected to a port of the switch."""

    def __init__(self, net, number):
        self.net, self.address, self.processes = net, f"10.213.7.{number}", []
        self.name, self.port = f"{net.name}-{number}", f"{net.name}p{number}"
        _ip("netns", "add", self.name)
        _ip("-n", net.switch, "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("-n", net.switch, "link", "set", self.port, "master", "bridge", "up")
        for arguments in (
            ("addr", "add", f"{self.address}/24", "dev", "eth0"),
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", "10.213.7.254"),  # no host has this address: there is no route out
        ):
            _ip("-n", self.name, *arguments)
        # `ip netns exec` has its own mount namespace; mounts in it are visible only there.
        own = "mkdir -p /tmp/ray && mount -t tmpfs ray /tmp/ray && mount -t tmpfs shm /dev/shm && exec sleep infinity"
        self._holder = subprocess.Popen(["ip", "netns", "exec", self.name, "sh", "-c", own])
        self.inside = ["nsenter", f"--target={self._holder.pid}", "--net", "--mount"]
        while Path(f"/proc/{self._holder.pid}/comm").read_text() != "sleep\n":
            assert self._holder.poll() is None
            os.sched_yield()

    def start(self, *command, **options):
        """Starts a process on the host. Ray processes share a token of the test, and use no files of the user."""
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= FAST_HEALTH_CHECKS | {"RAY_USAGE_STATS_ENABLED": "0", "HOME": "/tmp/ray"}
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.net.token}
        command = [*self.inside, *map(str, command)]
        process = subprocess.Popen(command, start_new_session=True, env=environment, **options)
        self.processes.append(process)
        return process

    def run_ray(self, *arguments):
        """Runs `ray start` in the foreground with little memory."""
        command = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]
        command += ["--node-ip-address", self.address, "--object-store-memory", "80000000", *arguments]
        return self.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def pids(self):
        """Returns the IDs of all processes of the host, except the one that holds the namespace."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [pid for pid in map(int, listed.stdout.split()) if pid != self._holder.pid]

    def kill(self):
        """Kills all processes of the host, as a power failure does."""
        while pids := self.pids():
            ended = []
            for pid in pids:
                with suppress(ProcessLookupError):
                    ended.append(os.pidfd_open(pid))
                    signal.pidfd_send_signal(ended[-1], signal.SIGKILL)
            for pidfd in ended:
                select.select([pidfd], [], [], 30)
                os.close(pidfd)
            for process in self.processes:
                process.poll()  # reaps it; a zombie would stay in the list

    def cut(self):
        """Disconnects the host from the switch."""
        _ip("-n", self.net.switch, "link", "set", self.port, "down")

    def close(self):
        self.kill()
        for process in self.processes:
            process.wait()
            for pipe in filter(None, (process.stdout, process.stderr)):
                pipe.close()
        self._holder.kill()
        self._holder.wait()
        _ip("netns", "del", self.name)


class Net:
    """Switch and its hosts; the end of the context removes them."""

    def __init__(self):
        self.name = f"n{os.getpid()}"
        self.switch = f"{self.name}-switch"
        self.token = secrets.token_hex(32)
        self.hosts = []

    def __enter__(self):
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        return self

    def host(self):
        """Adds and returns a host."""
        self.hosts.append(Host(self, len(self.hosts) + 1))
        return self.hosts[-1]

    def __exit__(self, *exception):
        for host in reversed(self.hosts):
            host.close()
        _ip("netns", "del", self.switch)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
