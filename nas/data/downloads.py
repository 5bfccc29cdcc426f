"""Datasets that torchvision can download: their files and classes, and the download itself."""

import hashlib
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.errors import DatasetError

PROBE_SECONDS = 5.0  # to wait for an answer from the server of a dataset, before a download
DOWNLOAD_TIMEOUT_SECONDS = 30.0  # a download that sends nothing for this long has failed
DATA_ROOT_HINT = "name another folder with `data_root` or the environment variable NAS_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionDataset:
    """A dataset that torchvision can download.

    Attributes:
        kind: name of the class in `torchvision.datasets`, which downloads and unpacks it.
        folder: folder of its files, relative to the data root.
        classes: names of the classes.
    """

    kind: str
    folder: str
    classes: tuple[str, ...]

    def torchvision_class(self) -> Any:
        """Returns the class in `torchvision.datasets`."""
        import torchvision

        return getattr(torchvision.datasets, self.kind)

    def archives(self, root: Path) -> tuple[str, dict[Path, str]]:
        """Returns the URL of the first archive, and the MD5 of each archive by its path."""
        source = self.torchvision_class()
        if self.kind == "CIFAR10":
            return source.url, {root / source.filename: source.tgz_md5}
        if self.kind == "EMNIST":
            return source.url, {root / self.folder / Path(source.url).name: source.md5}
        files = {root / self.folder / filename: md5 for filename, md5 in source.resources}
        return source.mirrors[0] + source.resources[0][0], files

    def unpacked_files(self, root: Path, *, test: bool) -> list[Path]:
        """Returns the files of the test split, or of all other examples: idx files with images and with labels.

        For CIFAR-10 it is one file that is there if the archive is unpacked; torchvision checks the others itself.
        """
        if self.kind == "CIFAR10":
            return [root / self.folder / "batches.meta"]
        if self.kind == "EMNIST":
            stem = "emnist-digits-test" if test else "emnist-digits-train"
        else:
            stem = "t10k" if test else "train"
        return [root / self.folder / f"{stem}-{ending}" for ending in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def download_if_missing(name: str, source: TorchvisionDataset, root: Path, *, download: bool, test: bool) -> None:
    """Downloads and unpacks the dataset unless its unpacked files are present.

    Raises `DatasetError` if an archive is damaged, or cannot be downloaded or unpacked.
    """
    if all(path.is_file() for path in source.unpacked_files(root, test=test)):
        return
    url, archives = source.archives(root)
    missing = [path for path in archives if not path.is_file()]
    for path, md5 in archives.items():
        # torchvision would treat a damaged archive as missing and download it again
        if path not in missing and (found := _md5(path)) != md5:
            mend = "delete the file and run again to download it anew"
            if source.kind != "CIFAR10":  # torchvision also checks its unpacked files
                mend += "; if it differs on purpose, unpack it yourself"
            raise DatasetError(f"{path}: MD5 is {found}, expected {md5}; {mend}")
    if missing and (reason := why_unreachable(url) if download else "downloads are off"):
        files = ", ".join(str(path.relative_to(root)) for path in archives)
        raise DatasetError(f"{name}: not found in {root}, and {reason}; expected {files}; {DATA_ROOT_HINT}")
    _download_and_unpack(name, source, root, {path: archives[path] for path in missing}, test=test)


def _download_and_unpack(
    name: str, source: TorchvisionDataset, root: Path, missing: Mapping[Path, str], *, test: bool
) -> None:
    """Downloads the missing archives, given with their MD5, and unpacks all; raises `DatasetError` if that fails."""
    from http.client import HTTPException

    options = {"split": "digits"} if source.kind == "EMNIST" else {}
    timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
        source.torchvision_class()(root, train=not test, download=True, **options)
    except (OSError, RuntimeError, HTTPException) as error:
        for path, md5 in missing.items():  # an incomplete archive would block the next attempt
            if path.is_file() and _md5(path) != md5:
                path.unlink()
        reason = " ".join(str(error).split())  # torchvision's message has several lines
        text = f"{name} cannot be downloaded and unpacked ({reason}), expected a writable folder; {DATA_ROOT_HINT}"
        raise DatasetError(f"{root / source.folder}: {text}") from None
    finally:
        socket.setdefaulttimeout(timeout)


def why_unreachable(url: str) -> str:
    """Returns why a URL cannot be reached, or an empty string. torchvision itself would wait much longer for it."""
    from http.client import HTTPException
    from urllib import request

    host = url.split("/")[2]
    try:
        request.urlopen(request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)  # a URLError wraps the cause
        return f"could not {'resolve' if isinstance(reason, socket.gaierror) else 'reach'} host {host}: {reason}"
    return ""


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


TEN = tuple("0123456789")
FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot")
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TORCHVISION_DATASETS = {
    "mnist": TorchvisionDataset(kind="MNIST", folder="MNIST/raw", classes=TEN),
    "fashion-mnist": TorchvisionDataset(kind="FashionMNIST", folder="FashionMNIST/raw", classes=FASHION),
    "kmnist": TorchvisionDataset(kind="KMNIST", folder="KMNIST/raw", classes=KUZUSHIJI),
    "emnist-digits": TorchvisionDataset(kind="EMNIST", folder="EMNIST/raw", classes=TEN),
    "cifar10": TorchvisionDataset(kind="CIFAR10", folder="cifar-10-batches-py", classes=CIFAR10),
}
