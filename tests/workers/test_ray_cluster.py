"""Ray cluster of three hosts: a search gives the same result if one host is killed or disconnected."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import hosts

from nas.commands.search import search
from nas.commands.trials import trials

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'smallnas[ray]'")
pytestmark = [
    pytest.mark.skipif(bool(hosts.why_not()), reason=hosts.why_not()),
    pytest.mark.ray,
    pytest.mark.slow,
]

CPUS_A_NODE = 1
GIVEN = {"dataset": "digits", "epochs": 40, "trials": 6, "max_params": 900, "min_receptive_field": 10}


@pytest.fixture
def net():
    with hosts.Net() as made:
        yield made


@pytest.fixture
def cluster(net):
    """A head node that trains nothing, and two nodes that train one candidate each."""
    head, *nodes = (net.host() for _ in range(3))
    address = f"{head.address}:6379"
    head.run_ray("--head", "--port", "6379", "--num-cpus", "0", "--include-dashboard", "false")
    for node in nodes:
        node.run_ray("--address", address, "--num-cpus", str(CPUS_A_NODE))
    ready = head.start(sys.executable, "-c", hosts.WAIT_FOR_NODES, address, 3)
    assert ready.wait(timeout=120) == 0
    return address, head, nodes


@pytest.fixture
def undisturbed(tmp_path, tiny_space):
    """Histories of the same search with local processes."""
    search(**GIVEN, space=tiny_space, device="cpu", workers=2, results=tmp_path / "here")
    return histories(tmp_path / "here")


def histories(results):
    """Returns the epochs of each trained candidate, by fingerprint and without the seconds."""
    return {
        trial.architecture.fingerprint(): [
            {name: value for name, value in metrics.to_json().items() if name != "seconds"} for metrics in trial.history
        ]
        for trial in trials(results=results)
        if trial.outcome == "trained"
    }


def command(address, results, space):
    """Returns the command that runs the search of `GIVEN` on the cluster and prints its events as lines of JSON."""
    options = {"ray": address, "space": space, "results": results, **GIVEN}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", "nas", "search", "--json", *words]


def trainers(host):
    """Returns the processes of a host that train a candidate."""
    names = {pid: Path(f"/proc/{pid}/cmdline") for pid in host.pids()}
    return [pid for pid, file in names.items() if file.read_bytes().startswith(b"ray::nas trial")]


@pytest.mark.parametrize("harm", ["none", "kill", "cut"])
def test_search_on_cluster_gives_same_result_if_node_is_lost(cluster, tmp_path, tiny_space, undisturbed, harm):
    address, head, nodes = cluster
    process = head.start(
        *command(address, tmp_path / "there", tiny_space), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    epochs, started = [], {}
    for line in process.stdout:
        event = json.loads(line)  # fails if anything else is printed
        if event["event"] == "SearchStarted":
            started = event
        if event["event"] == "EpochFinished":
            epochs.append((event["number"], event["epoch"]))
        if len(epochs) == 2 * GIVEN["epochs"] + 20:  # the third or fourth trial is in training
            assert all(trainers(node) for node in nodes)
            if harm != "none":
                getattr(nodes[0], harm)()
    assert process.wait(timeout=60) == 0, process.stderr.read()
    assert process.stderr.read() == ""
    assert (started["device"], started["workers"]) == (f"Ray {address} (3 nodes, 2 CPUs)", 2)
    assert json.loads(line)["num_trained"] == GIVEN["trials"]
    numbers = dict.fromkeys(number for number, _ in epochs)
    for number in numbers:  # each epoch is reported once, in order
        assert [epoch for other, epoch in epochs if other == number] == list(range(1, GIVEN["epochs"] + 1))
    assert histories(tmp_path / "there") == undisturbed
    if harm != "cut":  # a disconnected node cannot be told to stop
        assert not any(trainers(node) for node in nodes)


def test_cluster_that_cannot_be_joined_is_reported_on_one_line(cluster, tmp_path, tiny_space):
    address, head, _ = cluster
    for asked, environment, message in (
        ("auto", {}, None),
        (address, {"RAY_AUTH_MODE": "disabled"}, "the cluster asks for its token: set RAY_AUTH_MODE=token here, too"),
        ("10.213.7.99:6379", {}, "no Ray cluster answered within 30 s"),
    ):
        words = command(asked, tmp_path / "results", tiny_space)
        words[words.index("--trials") + 1], words[words.index("--epochs") + 1] = "1", "1"
        prefix = ["env", *(f"{name}={value}" for name, value in environment.items())]
        done = head.start(*prefix, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        _, err = done.communicate(timeout=120)
        if message is None:
            assert (done.returncode, err) == (0, "")
        else:
            assert done.returncode == 2
            assert err.startswith(f"error: --ray {asked}: {message}")
            assert err.count("\n") == 1
