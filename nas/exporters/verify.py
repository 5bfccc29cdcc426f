"""Verifies exported files: loads them in separate processes and compares their outputs with the network."""

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
from nas.exporters.c.int8_reference import run_int8
from nas.exporters.c.quantise import Int8Network
from nas.exporters.graphs import INT8
from nas.exporters.provenance import Provenance, VerificationData
from nas.exporters.verify_subprocess import EXIT_NOT_COMPILED

if TYPE_CHECKING:
    from torch import Tensor

INT8_C = "network_int8.c"
QUANTISED = (INT8, INT8_C)
"""Files whose logits may differ from the network's."""
TOLERANCE = {".c": 1e-4}
"""Tolerance for differences of logits by file suffix, 1e-5 for others; times the largest logit if that exceeds 1."""

NUM_RANDOM = 256
BATCH = 1000
CHANNELS_OF_FILES = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVerification:
    """Verification result of one exported file.

    Attributes:
        name: File name.
        num_bytes: File size.
        difference: Largest absolute difference from the network's logits; None for int8 files, whose logits may differ.
        num_same: Number of images for which the file predicts the same class as the network.
        num_images: Number of compared images.
        accuracy: Accuracy on the val split, a fraction; None if the images are random.
    """

    name: str
    num_bytes: int
    difference: float | None
    num_same: int
    num_images: int
    accuracy: float | None


def normalise_images(images: "Tensor", provenance: Provenance) -> np.ndarray:
    """Returns uint8 images (N, channels, height, width) as float32, normalised for the network."""
    mean, std = (np.asarray(x, np.float32)[:, None, None] for x in (provenance.mean, provenance.std))
    scaled: np.ndarray = (images.numpy().astype(np.float32) / 255 - mean) / std
    return scaled


def verify_files(
    folder: Path,
    names: Sequence[str],
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    provenance: Provenance,
    verification_data: VerificationData | None,
    int8_network: Int8Network | None = None,
) -> list[FileVerification]:
    """Verifies an export and returns one result per file; raises `NasError` if a file does not match the network.

    The reference network is built from `architecture` and `weights`.

    Args:
        folder: Folder of the export.
        names: Model files in it to verify.
        architecture: Architecture of the network.
        weights: State dict of `architecture.build()`.
        provenance: Provenance, for normalisation and class names.
        verification_data: Data to verify on; None verifies on random images.
        int8_network: What network_int8.c must compute, bit by bit.
    """
    images = verification_data.val.images if verification_data else _random_images(architecture)
    expected = _logits(Architecture.load(folder / "architecture.json"), weights, normalise_images(images, provenance))
    outputs = _outputs_in_subprocesses(folder, names, images.numpy(), provenance, expected.shape[1])
    labels = verification_data.val.labels.numpy() if verification_data else None
    num_params = cost_of(architecture).params
    verifications = [_verify_file(folder / name, outputs, expected, labels, num_params) for name in names]
    _check_accuracy(expected, labels, verification_data)
    if int8_network is not None and INT8_C in names:
        _check_integers(int8_network, images.numpy()[:NUM_RANDOM], outputs[INT8_C])
    if images.shape[1] in CHANNELS_OF_FILES:
        clearest = _clearest_image(expected)
        _verify_prediction(folder, images[clearest], provenance.classes[expected[clearest].argmax()])
    return verifications


def _verify_file(
    path: Path,
    outputs: Mapping[str, np.ndarray],
    expected: np.ndarray,
    labels: np.ndarray | None,
    num_params: int,
) -> FileVerification:
    """Returns how a file's logits compare with the network's, `expected`; raises `NasError` if it does not match."""
    name, logits = path.name, outputs[path.name]
    difference = float(np.abs(logits - expected).max())
    found_params = outputs.get(f"{name}:params")
    if found_params is not None and int(found_params) != num_params:
        raise NasError(f"{name}: {int(found_params):,} parameters found, expected {num_params:,}")
    if name not in QUANTISED:
        _check_difference(path, difference, expected)
    predicted = logits.argmax(1)
    return FileVerification(
        name=name,
        num_bytes=path.stat().st_size,
        difference=None if name in QUANTISED else difference,
        num_same=int((predicted == expected.argmax(1)).sum()),
        num_images=len(expected),
        accuracy=None if labels is None else float((predicted == labels).mean()),
    )


def _check_difference(path: Path, difference: float, expected: np.ndarray) -> None:
    """Raises `NasError` if the largest difference of a file's logits exceeds the tolerance."""
    tolerance = TOLERANCE.get(path.suffix, 1e-5) * max(1.0, float(np.abs(expected).max()))
    if not difference <= tolerance:  # `not <=` also rejects NaN
        raise NasError(
            f"{path.name}: logits differ by {difference:.2g} from the network's, expected at most {tolerance:.2g}"
        )


def _check_integers(network: Int8Network, images: np.ndarray, logits: np.ndarray) -> None:
    """Raises `NasError` unless network_int8.c computes the integers of the NumPy reference on the images."""
    differs = (run_int8(network, images) != logits[: len(images)]).any(1)
    if differs.any():
        raise NasError(
            f"{INT8_C}: logits of {int(differs.sum())} of {len(images)} images differ from the NumPy reference,"
            " expected the same integers"
        )


def _clearest_image(logits: np.ndarray) -> int:
    """Returns the index of the image whose best class leads the second best by the largest margin."""
    ranked = np.sort(logits, 1)
    runner_up = ranked[:, -2:][:, 0]  # the best itself if there is only one class
    return int((ranked[:, -1] - runner_up).argmax())


def _verify_prediction(folder: Path, image: "Tensor", name: str) -> None:
    """Runs predict.py on an image file; raises `NasError` unless it prints the class `name`."""
    from torchvision.transforms.functional import to_pil_image

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "image.png"
        to_pil_image(image).save(path)
        printed = _run([str(folder / "predict.py"), "--top", "1", str(path)], failure="predict.py does not run")
    found = printed.removeprefix(f"{path}: ").rpartition(" (")[0]
    if found != name:
        raise NasError(f"predict.py: class {found!r} found, expected {name!r}")


def has_compiler() -> bool:
    """Returns whether the C compiler `cc` is installed, so that C files can be verified."""
    return shutil.which("cc") is not None


def _check_accuracy(
    expected: np.ndarray, labels: np.ndarray | None, verification_data: VerificationData | None
) -> None:
    """Raises `NasError` if the val accuracy is not the one measured in training.

    The tolerance, two images or 0.001 if that is more, is for images with almost equal logits.
    """
    if labels is None or verification_data is None or verification_data.accuracy is None:
        return
    found = float((expected.argmax(1) == labels).mean())
    if abs(found - verification_data.accuracy) > max(2 / len(labels), 0.001):
        raise NasError(
            f"val accuracy is {found:.2%}, expected {verification_data.accuracy:.2%} as measured in training;"
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


def _outputs_in_subprocesses(
    folder: Path, names: Sequence[str], images: np.ndarray, provenance: Provenance, num_classes: int
) -> dict[str, np.ndarray]:
    """Returns the results of `verify_subprocess.py`; files that do not need torch get a process without torch."""
    answers: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as place:
        question, answer = Path(place) / "question.npz", Path(place) / "answer.npz"
        mean, std = (np.asarray(x, np.float32) for x in (provenance.mean, provenance.std))
        np.savez(question, images=images, mean=mean, std=std, num_classes=num_classes)
        without_torch = [name for name in names if Path(name).suffix in (".onnx", ".c")]
        for group in ([name for name in names if name not in without_torch], without_torch):
            if group:
                script = str(Path(__file__).with_name("verify_subprocess.py"))
                _run([script, str(folder), str(question), str(answer), *group], failure="a file cannot be loaded")
                with np.load(answer) as found:
                    answers |= found
    return answers


def _run(arguments: list[str], *, failure: str) -> str:
    """Runs a new interpreter and returns its output; raises `NasError` with its last error line if it fails."""
    # -E and -s ignore PYTHONPATH and user packages; -B keeps bytecode out of the exported folder.
    command = [sys.executable, "-E", "-s", "-B", "-X", "utf8", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        what = "the C source could not be compiled" if done.returncode == EXIT_NOT_COMPILED else failure
        raise NasError(f"{what}: {last}")
    return done.stdout
