"""Every export proves itself: its files, loaded in a process of its own, against the network they were written from."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.errors import NasError
from nas.exporters.graphs import INT8
from nas.exporters.provenance import Evidence, Origin
from nas.exporters.verify_subprocess import NOT_COMPILED

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = {".c": 1e-4}
"""Largest difference of two logits, for logits of a size of at most 1 in float32; larger ones in proportion."""

NUM_RANDOM = 256
BATCH = 1000
CHANNELS_OF_FILES = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What a file gave in a process of its own.

    num_bytes: its size. difference: largest from the network's logits, None where they may differ. num_same: images of
    `num_images` that it puts into the same class as the network. accuracy: on the val split, where that is at hand.
    """

    name: str
    num_bytes: int
    difference: float | None
    num_same: int
    num_images: int
    accuracy: float | None


def normalised(images: "Tensor", origin: Origin) -> np.ndarray:
    """uint8 (N, channels, height, width) as float32, as the network takes them."""
    mean, std = (np.asarray(x, np.float32)[:, None, None] for x in (origin.mean, origin.std))
    scaled: np.ndarray = (images.numpy().astype(np.float32) / 255 - mean) / std
    return scaled


def prove(
    folder: Path,
    names: Sequence[str],
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    origin: Origin,
    evidence: Evidence | None,
) -> list[Proof]:
    """Loads the files `names` in `folder` as a stranger would; raises `NasError` where one is not the network.

    The network is built anew from the folder's architecture file and the weights it was trained to. Without evidence
    the images are random.
    """
    images = evidence.val.images if evidence else _random_images(architecture)
    expected = _logits(Architecture.load(folder / "architecture.json"), weights, normalised(images, origin))
    answers = _asked_elsewhere(folder, names, images.numpy(), origin, expected.shape[1])
    labels = evidence.val.labels.numpy() if evidence else None
    proofs = []
    for name in names:
        logits, difference = answers[name], float(np.abs(answers[name] - expected).max())
        params, counted = cost_of(architecture).params, answers.get(f"{name}:params")
        if counted is not None and int(counted) != params:
            raise NasError(f"{name}: {int(counted):,} parameters found, allowed: {params:,}, the network's")
        allowed = TOLERANCE.get(Path(name).suffix, 1e-5) * max(1.0, float(np.abs(expected).max()))
        if name != INT8 and not difference <= allowed:  # NaN is no agreement
            raise NasError(f"{name}: its logits differ by {difference:.2g} from the network's, allowed: {allowed:.2g}")
        proofs.append(
            Proof(
                name=name,
                num_bytes=(folder / name).stat().st_size,
                difference=None if name == INT8 else difference,
                num_same=int((logits.argmax(1) == expected.argmax(1)).sum()),
                num_images=len(images),
                accuracy=None if labels is None else float((logits.argmax(1) == labels).mean()),
            )
        )
    _check_accuracy(expected, labels, evidence)
    if images.shape[1] in CHANNELS_OF_FILES:
        ranked = np.sort(expected, 1)
        clearest = int((ranked[:, -1] - ranked[:, -2:][:, 0]).argmax())
        _prove_prediction(folder, images[clearest], origin.classes[expected[clearest].argmax()])
    return proofs


def _prove_prediction(folder: Path, image: "Tensor", name: str) -> None:
    """Runs predict.py on an image file; raises `NasError` unless it names that class."""
    from torchvision.transforms.functional import to_pil_image

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "image.png"
        to_pil_image(image).save(path)
        printed = _run([str(folder / "predict.py"), "--top", "1", str(path)])
    found = printed.removeprefix(f"{path}: ").rpartition(" (")[0]
    if found != name:
        raise NasError(f"predict.py: class {found!r} found, allowed: {name!r}, the network's")


def has_compiler() -> bool:
    """Whether C can be proved here."""
    return shutil.which("cc") is not None


def _check_accuracy(expected: np.ndarray, labels: np.ndarray | None, evidence: Evidence | None) -> None:
    """Raises where the network is not as accurate as when it was trained, but for images that hang in the balance."""
    if labels is None or evidence is None or evidence.accuracy is None:
        return
    found = float((expected.argmax(1) == labels).mean())
    if abs(found - evidence.accuracy) > max(2 / len(labels), 0.001):
        raise NasError(
            f"val accuracy is {found:.2%}, allowed: {evidence.accuracy:.2%}, as when these weights were trained;"
            " the weights or the data have changed since"
        )


def _random_images(architecture: Architecture) -> "Tensor":
    import torch

    shape = (NUM_RANDOM, *architecture.input_shape)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _logits(architecture: Architecture, weights: "Mapping[str, Tensor]", images: np.ndarray) -> np.ndarray:
    import torch

    module = architecture.build()
    module.load_state_dict(weights)
    module.eval()
    batches = [torch.from_numpy(images[start : start + BATCH]) for start in range(0, len(images), BATCH)]
    with torch.inference_mode():
        found: np.ndarray = torch.cat([module(batch) for batch in batches]).numpy()
    return found


def _asked_elsewhere(
    folder: Path, names: Sequence[str], images: np.ndarray, origin: Origin, num_classes: int
) -> dict[str, np.ndarray]:
    """What `verify_subprocess.py` finds, in one process for what needs torch and one for what does not."""
    answers: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        question, answer = Path(place) / "question.npz", Path(place) / "answer.npz"
        mean, std = (np.asarray(x, np.float32) for x in (origin.mean, origin.std))
        np.savez(question, images=images, mean=mean, std=std, num_classes=num_classes)
        without_torch = [name for name in names if Path(name).suffix in (".onnx", ".c")]
        for group in ([name for name in names if name not in without_torch], without_torch):
            if group:
                script = str(Path(__file__).with_name("verify_subprocess.py"))
                _run([script, str(folder), str(question), str(answer), *group])
                with np.load(answer) as found:
                    answers |= found
    return answers


def _run(arguments: list[str]) -> str:
    """What a fresh interpreter prints; where it fails, `NasError` with its last line."""
    # Neither the user's site packages nor PYTHONPATH; and no bytecode in a folder that is to be taken home.
    command = [sys.executable, "-E", "-s", "-B", "-X", "utf8", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        what = (
            "the C source could not be compiled"
            if done.returncode == NOT_COMPILED
            else "an exported file cannot be loaded again"
        )
        raise NasError(f"{what}: {last}")
    return done.stdout
