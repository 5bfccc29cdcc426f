"""Datasets by name or folder: train and val to search on and, by a door of its own, the test split.

Whole datasets are held in memory as bytes; `nas.training` scales and augments them.
"""

import contextlib
import difflib
import hashlib
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas.errors import DatasetError

if TYPE_CHECKING:
    from torch import Tensor

SPLIT_SEED = 0  # of its own: a study's seed must not move examples between train, val and test
PROBE_SECONDS = 5.0
SILENCE_SECONDS = 30.0  # a download that sends nothing for so long has failed
ELSEWHERE = "another data root is named by --data-root or the environment variable NAS_DATA"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """Examples: `images` uint8 (N, channels, height, width) and `labels` int64 (N,)."""

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """What a search may see of a dataset; the test split is not in it.

    mean, std: per channel, of the train split's pixels scaled to 0..1.
    split_id: how train and val were parted, in words.
    fingerprint: 16 hexadecimal digits over every byte of train and val, so that a study can refuse changed data.
    """

    name: str
    train: Split
    val: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    split_id: str
    fingerprint: str

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one example: (channels, height, width)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """How many classes there are to tell apart."""
        return len(self.classes)


def resolve(name: str | None = None, *, data_root: str | Path | None = None, download: bool = True) -> tuple[str, str]:
    """The name of the dataset to load, and one sentence why: without a name MNIST where it can be had, else digits."""
    if name is not None:
        _check_name(name)
        return name, f"{name} was asked for"
    mnist, root = PUBLISHED["mnist"], _data_root(data_root)
    place = root / mnist.folder
    if not mnist.missing(root, test=False):
        return "mnist", f"MNIST found in {place}"
    if not (reason := _unreachable(mnist.url()) if download else "downloads are off"):
        return "mnist", f"MNIST is not in {place} yet and will be downloaded to it"
    digits = "scikit-learn's digits (1,797 real 8x8 scans, scaled to 28x28)"
    return "digits", f"MNIST is neither in {place} nor downloadable here ({reason}): using {digits}"


def load(name: str | None = None, *, data_root: str | Path | None = None, download: bool = True) -> Dataset:
    """The dataset of that name (or the one that `resolve` picks), split into train and val, the same every time."""
    name, _ = resolve(name, data_root=data_root, download=download)
    pool, classes = _read(name, data_root, download=download, test=False)
    kept, held_out = _hold_out(pool.labels, classes, parts=6, where=name)
    train, val = (Split(images=pool.images[i], labels=pool.labels[i]) for i in (kept, held_out))
    mean, std = _statistics(train.images)
    return Dataset(
        name=name,
        train=train,
        val=val,
        classes=classes,
        mean=mean,
        std=std,
        split_id=f"val {len(held_out)} of {len(pool.labels)}, stratified, seed {SPLIT_SEED}",
        fingerprint=_fingerprint(train, val),
    )


def load_test(name: str, *, data_root: str | Path | None = None) -> Split:
    """The test split. Only `confirm` and `nas train --test` may call this: whoever chooses by it has none left."""
    _check_name(name)
    return _read(name, data_root, download=True, test=True)[0]


def merged(dataset: Dataset) -> Split:
    """Train and val as one split, to retrain on what a search has chosen."""
    import torch

    parts = (dataset.train, dataset.val)
    return Split(images=torch.cat([x.images for x in parts]), labels=torch.cat([x.labels for x in parts]))


def _check_name(name: str) -> None:
    if name in PUBLISHED or name == "digits" or (name.startswith("folder:") and name != "folder:"):
        return
    names = [*PUBLISHED, "digits", "folder:PATH"]
    close = difflib.get_close_matches(name.lower(), names, n=1)
    guess = f", did you mean {close[0]}?" if close else ","
    raise DatasetError(f"dataset {name!r} is unknown{guess} allowed: {', '.join(names)}")


def _data_root(argument: str | Path | None) -> Path:
    """The one place where published datasets are looked for and downloaded to."""
    if place := argument or os.environ.get("NAS_DATA"):
        return Path(place).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nas" / "data"


def _read(name: str, data_root: str | Path | None, *, download: bool, test: bool) -> tuple[Split, tuple[str, ...]]:
    """The test split or everything else, and the names of the classes."""
    if name == "digits":
        return _read_digits(test=test)
    if name.startswith("folder:"):
        return _read_folder(Path(name.removeprefix("folder:")).expanduser(), test=test)
    source, root = PUBLISHED[name], _data_root(data_root)
    source.provide(name, root, download=download, test=test)
    return (_read_cifar10 if name == "cifar10" else _read_idx)(source, root, test=test), source.classes


def _hold_out(
    labels: "Tensor", classes: tuple[str, ...], *, parts: int, where: str, least: int | None = None
) -> tuple["Tensor", "Tensor"]:
    """Indices, each ascending: of what is kept, and of one part in `parts` held out, stratified.

    Rounding up, and `parts` of each class at the least, leave no class without an example on either side.
    """
    import torch
    from sklearn.model_selection import train_test_split

    least = least or parts
    for label, count in zip(classes, torch.bincount(labels, minlength=len(classes)).tolist(), strict=True):
        if count < least:
            raise DatasetError(f"{where}: class {label!r} has {count} images to split, allowed: at least {least}")
    size = -(-len(labels) // parts)
    sides = train_test_split(range(len(labels)), test_size=size, random_state=SPLIT_SEED, stratify=labels.numpy())
    kept, held_out = (torch.tensor(sorted(side)) for side in sides)
    return kept, held_out


def _statistics(images: "Tensor") -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of 0..1; from histograms, thus exact and the same on every machine."""
    import torch

    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        total = sum(counts)
        mean = sum(value * count for value, count in enumerate(counts)) / total
        variance = sum((value - mean) ** 2 * count for value, count in enumerate(counts)) / total
        means.append(mean / 255)
        stds.append(variance**0.5 / 255 or 1.0)  # a constant channel says nothing; dividing by 1 keeps it finite
    return tuple(means), tuple(stds)


def _fingerprint(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.contiguous().numpy())
        digest.update(split.labels.numpy())
    return digest.hexdigest()[:16]


# Published datasets: torchvision downloads and unpacks them; what it leaves unchecked is checked here.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    kind: str  # the class in torchvision.datasets
    folder: str  # where, below the data root, torchvision unpacks
    classes: tuple[str, ...]
    train: tuple[str, ...] = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    test: tuple[str, ...] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    options: Mapping[str, str] = field(default_factory=dict)
    transposed: bool = False

    def torchvision_class(self) -> Any:
        import torchvision

        return getattr(torchvision.datasets, self.kind)

    def url(self) -> str:
        """Address of the (first) archive."""
        kind = self.torchvision_class()
        return str(kind.url if hasattr(kind, "url") else kind.mirrors[0] + kind.resources[0][0])

    def archives(self, root: Path) -> dict[Path, str]:
        """MD5 of each archive, by its path."""
        kind = self.torchvision_class()
        if hasattr(kind, "tgz_md5"):  # CIFAR10
            return {root / kind.filename: kind.tgz_md5}
        if hasattr(kind, "url"):  # EMNIST: one for all its parts
            return {root / self.folder / Path(kind.url).name: kind.md5}
        return {root / self.folder / filename: md5 for filename, md5 in kind.resources}

    def unpacked(self, root: Path, *, test: bool) -> list[Path]:
        """Paths of the files to read."""
        return [root / self.folder / filename for filename in (self.test if test else self.train)]

    def missing(self, root: Path, *, test: bool) -> list[Path]:
        """Archives that would have to be downloaded; none where the unpacked files are already there."""
        if all(path.is_file() for path in self.unpacked(root, test=test)):
            return []
        return [path for path in self.archives(root) if not path.is_file()]

    def provide(self, name: str, root: Path, *, download: bool, test: bool) -> None:
        """Nothing; afterwards the unpacked files are there."""
        from http.client import HTTPException

        if all(path.is_file() for path in self.unpacked(root, test=test)):
            return
        archives, missing = self.archives(root), self.missing(root, test=test)
        for path, md5 in archives.items():
            # torchvision would take a damaged archive for a missing one, and go to the network
            if path not in missing and (found := _md5(path)) != md5:
                raise DatasetError(f"{path}: MD5 is {found}, allowed: {md5}; delete it and run again to download it")
        if missing and (reason := _unreachable(self.url()) if download else "downloads are off"):
            files = ", ".join(str(path.relative_to(root)) for path in archives)
            raise DatasetError(f"{name}: not in {root}: {reason}; allowed there: {files}; {ELSEWHERE}")
        try:
            (root / self.folder).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=root / self.folder).close()
        except OSError as error:
            advice = f"copy the data to a writable place; {ELSEWHERE}"
            raise DatasetError(f"{root / self.folder}: cannot be written ({error.strerror}): {advice}") from None
        try:
            with _socket_timeout():
                self.torchvision_class()(root, train=not test, download=True, **self.options)
        except (OSError, RuntimeError, HTTPException) as error:
            for path in missing:  # half an archive would stand in the way of the next attempt
                if path.is_file() and _md5(path) != archives[path]:
                    path.unlink()
            reason = " ".join(str(error).split())
            raise DatasetError(f"{name}: not downloaded and unpacked to {root / self.folder}: {reason}") from None


def _unreachable(url: str) -> str:
    """Why nothing can be downloaded from there; empty where it can. torchvision itself would wait for ever."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    host = url.split("/")[2]
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
        return f"{url} answers {error.code}"
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror):
            return f"could not resolve host {host}"
        if isinstance(reason, TimeoutError):
            return f"no answer from {host} in {PROBE_SECONDS:g} s"
        return f"{host}: {reason}"
    return ""


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _md5(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from None


def _read_idx(source: _Published, root: Path, *, test: bool) -> Split:
    images_path, labels_path = source.unpacked(root, test=test)
    images, labels = _idx(images_path, num_axes=3), _idx(labels_path, num_axes=1).long()
    if len(images) != len(labels):
        raise DatasetError(f"{labels_path}: {len(labels)} labels found, allowed: {len(images)}, one an image")
    if len(labels) and (highest := int(labels.max())) >= len(source.classes):
        raise DatasetError(f"{labels_path}: label {highest} found, allowed: 0 to {len(source.classes) - 1}")
    if source.transposed:
        images = images.transpose(1, 2)
    return Split(images=images.unsqueeze(1).contiguous(), labels=labels)


def _idx(path: Path, *, num_axes: int) -> "Tensor":
    """The uint8 array in an unpacked idx file, whose size must be what its header says: never half a dataset."""
    import torch

    try:
        data = bytearray(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from None
    start = 4 + 4 * num_axes
    if data[:4] != bytes((0, 0, 8, num_axes)) or len(data) <= start:
        raise DatasetError(f"{path}: not an idx file of bytes with {num_axes} axes; delete it and run again")
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    expected = start + torch.Size(shape).numel()
    if len(data) != expected:
        raise DatasetError(
            f"{path}: {len(data)} bytes found, allowed: {expected} by its header; delete it and run again"
        )
    return torch.frombuffer(data, dtype=torch.uint8, offset=start).reshape(shape)


def _read_cifar10(source: _Published, root: Path, *, test: bool) -> Split:
    import torch

    try:
        data = source.torchvision_class()(root, train=not test)  # checks every file's MD5
    except (OSError, RuntimeError):
        folder = root / source.folder
        raise DatasetError(
            f"{folder}: damaged, a file's MD5 is not the published one; delete it and run again"
        ) from None
    return Split(images=torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), labels=torch.tensor(data.targets))


# What needs no download.


def _read_digits(*, test: bool) -> tuple[Split, tuple[str, ...]]:
    import torch
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    small = torch.from_numpy(digits.images).unsqueeze(1)  # (1797, 1, 8, 8), 0 to 16
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    images = (large * (255 / 16)).round().to(torch.uint8)
    chosen = _hold_out(labels, TEN, parts=5, where="digits")[test]
    return Split(images=images[chosen], labels=labels[chosen]), TEN


def _read_folder(path: Path, *, test: bool) -> tuple[Split, tuple[str, ...]]:
    """PATH/train/CLASS/* and PATH/test/CLASS/*; without test/, a sixth of train/ is its test split."""
    import torch

    files, labels, classes = _list(path / "train")
    if (path / "test").is_dir():
        test_files, test_labels, test_classes = _list(path / "test")
        if odd := sorted(set(test_classes) ^ set(classes)):
            found = "train/ has none of that name" if odd[0] in test_classes else "in train/ only"
            raise DatasetError(f"{path / 'test'}: class {odd[0]!r}: {found}, allowed: {', '.join(classes)}")
    else:
        # of 8 at most 2 go to test, and the 6 that are left can be split into train and val
        kept, held_out = _hold_out(labels, classes, parts=6, where=str(path / "train"), least=8)
        test_files, test_labels = [files[i] for i in held_out.tolist()], labels[held_out]
        files, labels = [files[i] for i in kept.tolist()], labels[kept]
    mode = _common_mode([*files, *test_files])  # reads headers only: a misfit in test/ must not surface after a search
    if test:
        files, labels = test_files, test_labels
    return Split(images=torch.stack([_pixels(file, mode) for file in files]), labels=labels), classes


def _list(folder: Path) -> tuple[list[Path], "Tensor", tuple[str, ...]]:
    """Image files, their labels (N,), and the names of the classes."""
    import torch
    from torchvision.datasets.folder import IMG_EXTENSIONS, ImageFolder

    try:
        listing = ImageFolder(folder, allow_empty=True)
    except OSError:
        layout = f"{folder}/CLASS/*.png"
        raise DatasetError(f"{folder}: no folder with a folder for each class found, allowed: {layout}") from None
    labels = torch.tensor([label for _, label in listing.samples], dtype=torch.int64)
    for label, count in zip(listing.classes, torch.bincount(labels, minlength=len(listing.classes)), strict=True):
        if not count:
            raise DatasetError(f"{folder / label}: no images found, allowed: {', '.join(IMG_EXTENSIONS)}")
    if len(listing.classes) < 2:
        raise DatasetError(f"{folder}: only class {listing.classes[0]!r} found, allowed: at least 2 classes")
    return [Path(file) for file, _ in listing.samples], labels, tuple(listing.classes)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from PIL import Image

    try:
        with Image.open(file) as image:
            yield image
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for damaged files
        raise DatasetError(f"{file}: not a readable image ({' '.join(str(error).split())})") from None


def _common_mode(files: list[Path]) -> str:
    """ "L" if every image is grey, else "RGB"; all must have one size."""
    size, mode = None, "L"
    for file in files:
        with _opened(file) as image:
            found, kind = image.size, image.mode
        if kind.startswith(("I", "F")):  # Pillow would clip them
            raise DatasetError(f"{file}: mode {kind} found, allowed: 8 bits a channel")
        if found != (size := size or found):
            text = f"{found[0]}x{found[1]} pixels found, allowed: {size[0]}x{size[1]}, the size of {files[0]}"
            raise DatasetError(f"{file}: {text}")
        if kind not in ("1", "L", "LA"):
            mode = "RGB"
    return mode


def _pixels(file: Path, mode: str) -> "Tensor":
    """uint8 (channels, height, width)."""
    from torchvision.transforms.functional import pil_to_tensor

    with _opened(file) as image:
        opaque = image.convert("RGBA") if image.mode == "P" else image  # a palette may hold transparency
        pixels: Tensor = pil_to_tensor(opaque.convert(mode))
    return pixels


TEN = tuple("0123456789")
PUBLISHED = {
    "mnist": _Published(kind="MNIST", folder="MNIST/raw", classes=TEN),
    "fashion-mnist": _Published(
        kind="FashionMNIST",
        folder="FashionMNIST/raw",
        classes=tuple("t-shirt trouser pullover dress coat sandal shirt sneaker bag boot".split()),
    ),
    "kmnist": _Published(
        kind="KMNIST", folder="KMNIST/raw", classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
    ),
    "emnist-digits": _Published(
        kind="EMNIST",
        folder="EMNIST/raw",
        classes=TEN,
        train=("emnist-digits-train-images-idx3-ubyte", "emnist-digits-train-labels-idx1-ubyte"),
        test=("emnist-digits-test-images-idx3-ubyte", "emnist-digits-test-labels-idx1-ubyte"),
        options={"split": "digits"},
        transposed=True,
    ),
    "cifar10": _Published(
        kind="CIFAR10",
        folder="cifar-10-batches-py",
        classes=tuple("airplane automobile bird cat deer dog frog horse ship truck".split()),
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test=("test_batch",),
    ),
}
