"""Measures how fast candidates train in the usual way, with the reference trainer, and with the engine of `nas search`.

    python scripts/bench/training.py [--networks mnist-7825 ...] [--ways usual reference packed] [--pairs 3]
    python scripts/bench/training.py --short                         # a rough estimate of one network in a minute
    python scripts/bench/training.py --device cuda --ways packed --networks mnist-7825 --output FILE --pairs 1

All ways train the same network with the same recipe, batch size and images, in turn, each in a new process. An epoch is
training on 50,000 images and validation on 10,000. Ways: *usual* and *reference* train one network with all cores;
*packed* is the engine with as many networks at a time as in `nas search`; *alone* is the engine with one network.
`networks an hour` counts 15 epochs and set-up: building, compiling and capturing, for *usual* and *reference* also
loading the data. With `--output` each measurement is appended to that file as one line of JSON; the file's measurements
are not repeated, and the table covers all of them, so that parts can be measured in separate calls.
`--short` trains on one in ten of the images and scales the result, so that set-up weighs too much.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.training.device import num_cores
from scripts.bench.ways import EPOCHS, NUM_TRAIN, NUM_VAL, WAYS

NETWORKS = ("mnist-7825", "mnist-6136", "mnist-26756")
USUALLY = ("usual", "reference", "packed")
EXTRA = ("chosen", "probe", "workers_start", "trained", "wall", "notes")  # further fields of a measurement
SHORT = 10
FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Measurements to make, and where to store them.

    Attributes:
        networks: Names of the networks.
        ways: Ways to train them.
        pairs: Number of measurements of each way and network.
        device: Device to train on.
        dataset: Dataset to train on.
        share: Divides the work, as in `ways.Task`.
        output: File of measurements; None to store none.
    """

    networks: Sequence[str]
    ways: Sequence[str]
    pairs: int
    device: str
    dataset: str
    share: int
    output: Path | None

    def facts(self) -> Row:
        """Returns the fields that a row of this plan has."""
        return {"device": self.device, "dataset": self.dataset, "share": self.share}

    def stored_rows(self) -> list[Row]:
        """Returns the file's rows of this plan; skips lines that were cut off."""
        if self.output is None or not self.output.exists():
            return []
        found = []
        for line in self.output.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            if self.facts().items() <= row.items():
                found.append(row)
        return found

    def measure(self, data_root: str) -> list[Row]:
        """Makes the measurements that the file lacks; returns all rows."""
        rows = self.stored_rows()
        wanted = [("ceiling", self.networks[0], 0)]
        wanted += [(way, network, pair) for network in self.networks for pair in range(self.pairs) for way in self.ways]
        for way, network, pair in wanted:
            had = {(row["way"], "" if way == "ceiling" else row["network"], row["pair"]) for row in rows}
            if (way, "" if way == "ceiling" else network, pair) in had:
                continue
            row = {**self.facts(), "way": way, "network": network, "pair": pair}
            row |= self._ceiling(network, data_root) if way == "ceiling" else self._run(way, network, data_root)
            rows.append(row)
            if self.output is not None:
                with self.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print(json.dumps(row), file=sys.stderr, flush=True)
        return rows

    def _start(self, way: str, network: str, data_root: str) -> subprocess.Popen[str]:
        words = [str(Path(__file__).with_name("ways.py")), way, network, self.device, self.dataset, data_root]
        return subprocess.Popen([sys.executable, *words, str(self.share)], stdout=subprocess.PIPE, text=True)

    def _run(self, way: str, network: str, data_root: str) -> Row:
        return result(self._start(way, network, data_root), f"{way} of {network}")

    def _ceiling(self, network: str, data_root: str) -> Row:
        """Measures the peak of all cores at the same time."""
        cores = num_cores() if self.device == "cpu" else 1
        spinning = [self._start("ceiling", network, data_root) for _ in range(cores)]
        limits = [result(process, "the machine's ceiling") for process in spinning]
        return {key: sum(limit[key] for limit in limits) for key in ("flops", "bytes")}


def result(process: subprocess.Popen[str], what: str) -> Row:
    """Returns the JSON that a measurement printed last; exits if the measurement failed."""
    text, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{what} could not be measured (exit status {process.returncode}): why is said above")
    found: Row = json.loads(text.splitlines()[-1])
    return found


@contextmanager
def unpacked(root: Path) -> Iterator[Path]:
    """Yields a data root with MNIST's four files as torchvision reads them, a temporary copy if any is gzipped."""
    folder = root / "MNIST" / "raw"
    if all((folder / name).is_file() for name in FILES):
        yield root
        return
    missing = [name for name in FILES if not ((folder / name).is_file() or (folder / f"{name}.gz").is_file())]
    if missing:
        sys.exit(
            f"{folder}: {', '.join(missing)} missing, packed (.gz) or not; --data-root or the environment variable"
            " NAS_DATA names another folder, `nas train mnist-7825 --dataset mnist` downloads them"
        )
    with tempfile.TemporaryDirectory(prefix="nas-mnist-") as place:
        copy = Path(place) / "MNIST" / "raw"
        copy.mkdir(parents=True)
        for name in FILES:
            packed = folder / f"{name}.gz"
            try:
                content = gzip.decompress(packed.read_bytes()) if packed.is_file() else (folder / name).read_bytes()
            except (OSError, EOFError) as error:
                sys.exit(f"{packed}: {error}; delete it and download it anew")
            (copy / name).write_bytes(content)
        yield Path(place)


def scaled(row: Row, key: str) -> float:
    """Returns a figure of an epoch, scaled to all training images."""
    return float(row[key] * NUM_TRAIN / row["num_train"])


def flops_an_epoch(network: str) -> int:
    """Returns FLOP per epoch, two per multiply-accumulate: forward, and backward except to the images."""
    architecture = Architecture.load(network)
    first = architecture.layers[0].measure(architecture.input_shape).macs
    macs = cost_of(architecture).macs
    return 2 * (NUM_TRAIN * (3 * macs - first) + NUM_VAL * macs)


def summary(rows: Sequence[Row]) -> Iterator[Row]:
    """Yields a summary of each network."""
    limit = next((row for row in rows if row["way"] == "ceiling"), None)
    for network in dict.fromkeys(row["network"] for row in rows if row["way"] != "ceiling"):
        found: Row = {"network": network}
        if limit is not None:
            found |= {"flops_ceiling": limit["flops"], "bytes_ceiling": limit["bytes"]}
        for way in WAYS:
            of_way = [row for row in rows if (row["way"], row["network"]) == (way, network)]
            if way != "ceiling" and of_way:
                found[way] = figures(of_way, flops_an_epoch(network), limit)
        for way in ("usual", "reference"):
            if way in found and "packed" in found:
                both = zip(found["packed"]["networks_an_hour"], found[way]["networks_an_hour"], strict=False)
                found[f"packed_over_{way}"] = [ours / other for ours, other in both]
        yield found


def figures(rows: Sequence[Row], flops: int, limit: Row | None) -> Row:
    """Returns the statistics of the measurements of one way and network."""
    epochs = [scaled(row, "epoch") / row["at_once"] for row in rows]
    each = [row["set_up"] / row["at_once"] + EPOCHS * epoch for row, epoch in zip(rows, epochs, strict=True)]
    return {
        "seconds_an_epoch": statistics.median(epochs),
        "networks_an_hour": [3600 / seconds for seconds in each],
        "set_up_seconds": statistics.median(row["set_up"] for row in rows),
        "peak_bytes": max(row["peak_bytes"] for row in rows),
        "share_of_flops": flops / statistics.median(epochs) / limit["flops"] if limit else None,
        **{key: rows[-1][key] for key in EXTRA if key in rows[-1]},
    }


def lines(row: Row) -> Iterator[str]:
    """Yields the summary of a network as text."""
    yield f"{row['network']}: ceiling {row['flops_ceiling'] / 1e9:.0f} GFLOP/s, {row['bytes_ceiling'] / 1e9:.0f} GB/s"
    for way in (way for way in WAYS if way in row):
        found = row[way]
        extra = "".join(f", {key} {found[key]}" for key in EXTRA if key in found)
        yield (
            f"  {way:<10} {found['seconds_an_epoch']:6.2f} s an epoch and network,"
            f" {statistics.median(found['networks_an_hour']):6.1f} networks an hour,"
            f" set-up {found['set_up_seconds']:.2f} s, peak {found['peak_bytes'] / 1e6:.0f} MB a process,"
            f" {found['share_of_flops']:.0%} of the arithmetic{extra}"
        )
    for way in ("usual", "reference"):
        if ratios := sorted(row.get(f"packed_over_{way}", [])):
            yield f"  packed / {way}: {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--ways", nargs="+", choices=[way for way in WAYS if way != "ceiling"], default=list(USUALLY))
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--dataset", choices=["mnist", "digits"], default="mnist")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAS_DATA", "data")))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    plan = Plan(
        networks=args.networks or (NETWORKS[:1] if args.short else NETWORKS),
        ways=args.ways,
        pairs=args.pairs if args.pairs is not None else (1 if args.short else 3),
        device=args.device,
        dataset=args.dataset,
        share=SHORT if args.short else 1,
        output=args.output,
    )
    if args.dataset == "mnist":
        with unpacked(args.data_root) as root:
            rows = plan.measure(str(root))
    else:
        rows = plan.measure(str(args.data_root))
    found = list(summary(rows))
    print(json.dumps(found) if args.json else "\n".join(line for row in found for line in lines(row)))


if __name__ == "__main__":
    main()
