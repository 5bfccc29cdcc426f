"""Loads exported files in a process that cannot import `nas` and stores their logits.

python verify_subprocess.py FOLDER QUESTION.npz ANSWER.npz FILE [FILE ...]

QUESTION contains `images`, uint8 (N, channels, height, width), `mean` and `std`, (channels,), and `num_classes`. ANSWER
receives for each FILE its logits under its name, (N, classes), float32 or, for int8 C, int16. For files that torch
loads it receives the number of parameters under FILE:params. This module must not import `nas`.
"""

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 1000
EXIT_NOT_COMPILED = 3
"""Exit status if the C source does not compile; the reason is on standard error."""
CC = ("cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC")


Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Function from a batch of pixels, uint8, and the same pixels normalised, float32, to logits."""


class CompilationError(Exception):
    """Raised with the C compiler's message if the C source does not compile."""


def _model_py(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("model", path.parent / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _state_dict(path: Path, num_classes: int) -> tuple[Predict, int | None]:
    return _torch(_model_py(path).load(path))


def _safetensors(path: Path, num_classes: int) -> tuple[Predict, int | None]:
    from safetensors.torch import load_file

    network = _model_py(path).Network()
    network.load_state_dict(load_file(path))
    return _torch(network.eval())


def _pt2(path: Path, num_classes: int) -> tuple[Predict, int | None]:
    import torch

    return _torch(torch.export.load(path).module())


def _torch(network: Any) -> tuple[Predict, int | None]:
    import torch

    def predict(pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits: np.ndarray = network(torch.from_numpy(images)).numpy()
        return logits

    return predict, sum(weight.numel() for weight in network.parameters())


def _onnx(path: Path, num_classes: int) -> tuple[Predict, int | None]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def predict(pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(None, {"images": images})[0]
        return logits

    return predict, None


def _c(path: Path, num_classes: int) -> tuple[Predict, int | None]:
    library = path.with_suffix(".so").absolute()
    _compile(path, library)
    function = ctypes.CDLL(str(library)).predict
    library.unlink()  # the loaded library no longer needs its file
    logit_type = np.int16 if path.stem.endswith("_int8") else np.float32

    def predict(pixels: np.ndarray, images: np.ndarray) -> np.ndarray:
        logits = np.empty((len(pixels), num_classes), logit_type)
        for image, row in zip(np.ascontiguousarray(pixels), logits, strict=True):
            found = function(image.ctypes.data_as(ctypes.c_void_p), row.ctypes.data_as(ctypes.c_void_p))
            assert found == row.argmax(), f"{path.name}: predict() is {found}, its largest logit {row.argmax()}"
        return logits

    return predict, None


def _compile(path: Path, library: Path) -> None:
    # Compile in the file's folder, so that messages show only its name; in English, so that errors can be found.
    command = [*CC, "-o", library.name, path.name, "-lm"]
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, cwd=path.parent, env=environment, capture_output=True, check=False)
    except OSError as error:
        raise CompilationError(f"{CC[0]}: {error.strerror}") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or [
            f"{CC[0]} ended with status {done.returncode}"
        ]
        raise CompilationError(next((line for line in lines if "error:" in line), lines[0]))


READERS = {".pt": _state_dict, ".safetensors": _safetensors, ".pt2": _pt2, ".onnx": _onnx, ".c": _c}


def main(folder: Path, question: Path, answer: Path, *names: str) -> None:
    """Writes the logits of the named files in `folder`, for the images in `question`, to `answer`."""
    asked = np.load(question)
    pixels, mean, std = asked["images"], asked["mean"], asked["std"]
    scaled = (pixels.astype(np.float32) / 255 - mean[:, None, None]) / std[:, None, None]
    found: dict[str, Any] = {}
    for name in names:
        predict, params = READERS[Path(name).suffix](folder / name, int(asked["num_classes"]))
        parts = [slice(start, start + BATCH) for start in range(0, len(pixels), BATCH)]
        found[name] = np.concatenate([predict(pixels[part], scaled[part]) for part in parts])
        if params is not None:
            found[f"{name}:params"] = params
    np.savez(answer, **found)


if __name__ == "__main__":
    sys.modules["nas"] = None  # type: ignore[assignment]  # makes every later import of `nas` fail
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), *sys.argv[4:])
    except CompilationError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_NOT_COMPILED)
