"""Tasks that searches are compared on, and their images.

    python scripts/bench/tasks.py small-mnist FOLDER

Writes a task's images as an image folder. `--data-root` contains torchvision's downloads and, for the task `colour`, a
file `CIFAR-10-subset/images.zip` with train/CLASS/*.jpg and test/CLASS/*.jpg.
"""

import argparse
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas.training.data import TrainingData

ZIP = Path("CIFAR-10-subset") / "images.zip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Images to classify, and the settings of searches.

    Attributes:
        name: Name of the task.
        published: Name of the dataset for `nas`, if `images` is None.
        images: Function that writes an image folder, given the data root and the folder; None for published datasets.
        max_params: Limit on parameters.
        epochs: Epochs of a training run.
        earlier: Search space that was the default before draws were scaled to fill the limits.
    """

    name: str
    published: str = ""
    images: Callable[[Path, Path], None] | None = None
    max_params: int = 8_000
    epochs: int = 15
    earlier: str = "mnist"

    def dataset(self, data_root: str | Path | None, folder: Path) -> str:
        """Returns the dataset's name for `nas`; writes its image folder below `folder` if it does not exist."""
        if self.images is None:
            return self.published
        place = folder / self.name
        if not place.is_dir():
            part = place.with_suffix(f".part{os.getpid()}")
            part.mkdir(parents=True)
            self.images(Path(data_root or os.environ.get("NAS_DATA", "")), part)
            part.replace(place)
        return f"folder:{place}"


def every_nth_image(data: "TrainingData", every: int) -> "TrainingData":
    """Returns the data with one in `every` training images."""
    images, labels = data.train_images[::every].contiguous(), data.train_labels[::every].contiguous()
    return replace(data, train_images=images, train_labels=labels)


def first(dataset: str, per_class: int, data_root: Path, folder: Path) -> None:
    """Writes the first `per_class` training images of each class of a torchvision dataset, and all test images."""
    import torchvision

    for split in ("train", "test"):
        counts = [0] * 10
        images = getattr(torchvision.datasets, dataset)(str(data_root), train=split == "train", download=True)
        for image, label in images:
            if split == "train" and counts[label] == per_class:
                continue
            place = folder / split / str(label)
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{counts[label]:04}.png")
            counts[label] += 1


def colour(data_root: Path, folder: Path) -> None:
    """Unpacks 1,000 images per class of CIFAR-10 for train and val, and 200 for test."""
    with zipfile.ZipFile(data_root / ZIP) as archive:
        archive.extractall(folder)


TASKS = {
    task.name: task
    for task in (
        Task(name="mnist", published="mnist"),
        Task(name="fashion", published="fashion-mnist"),
        Task(name="small-mnist", images=partial(first, "MNIST", 600)),  # 5,000 for train, 1,000 for val
        Task(name="small-fashion", images=partial(first, "FashionMNIST", 1000)),
        Task(name="colour", images=colour, max_params=20_000, epochs=30, earlier="colour"),
        Task(name="digits", published="digits"),  # to test the scripts
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-root")
    args = parser.parse_args()
    print(TASKS[args.task].dataset(args.data_root, args.folder))


if __name__ == "__main__":
    main()
