"""Export: a trained network as files that need nothing of ours, each of which has proved itself."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture.architecture import Architecture
from nas.errors import NasError
from nas.exporters.c.codegen import c_bytes, c_files
from nas.exporters.folder import copy_beside, replacing
from nas.exporters.graphs import INT8, MOST_CALIBRATION, exported_program, write_int8, write_onnx, write_pt2
from nas.exporters.model_card import Written, card
from nas.exporters.model_source import model_source, state_names
from nas.exporters.provenance import Evidence, Origin
from nas.exporters.verify import Proof, has_compiler, normalised, prove

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMATS = ("int8", "c")
"""What can be written besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A folder that was written, what its files proved, and what could not be proved."""

    folder: Path
    proofs: tuple[Proof, ...]
    remarks: tuple[str, ...]


def export(
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    *,
    output: str | Path,
    origin: Origin,
    evidence: Evidence | None = None,
    formats: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> Exported:
    """Writes the folder `output`; one of an earlier export is replaced whole.

    README.md (a model card), model.py and predict.py (readable, torch and Pillow alone), weights.pt (a state dict) and
    model.safetensors, model.pt2 (torch.export), model.onnx, architecture.json, recipe.json; with "int8"
    model_int8.onnx, with "c" network.h and network.c. `weights` is a state dict of `architecture.build()`.
    Nothing appears at `output` before every file was loaded again in a process of its own and found to be the network:
    parameters counted, logits equal to 1e-5 (C: 1e-4) of the largest, accuracy as `evidence` says. Raises `NasError`
    otherwise. `remarks` go into the card.
    """
    if unknown := set(formats) - set(FORMATS):
        raise NasError(f"format {sorted(unknown)[0]!r}, allowed: {', '.join(FORMATS)}, besides what is always written")
    if "int8" in formats and evidence is None:
        raise NasError(
            f"format 'int8' needs the training images to find its ranges: {' '.join(remarks) or 'none given'}"
        )
    output, said = Path(output), list(remarks)
    if evidence and evidence.is_seen:
        said.append("The weights were trained on the val split, too: accuracy on it proves the files, not the network.")
    with replacing(output) as folder:
        (folder / "architecture.json").write_text(architecture.dumps(), encoding="utf-8")
        (folder / "recipe.json").write_text(json.dumps(origin.recipe.to_json(), indent=2) + "\n", encoding="utf-8")
        copy_beside("predict.py", folder)
        (folder / "model.py").write_text(model_source(architecture, origin), encoding="utf-8")
        names = _write_weights(folder, architecture, weights)
        names += _write_graphs(folder, architecture.input_shape)
        quantised, in_c, unproved = None, None, []
        if "int8" in formats and evidence is not None:
            step = max(1, len(evidence.train.images) // MOST_CALIBRATION)
            images = normalised(evidence.train.images[::step][:MOST_CALIBRATION], origin)
            quantised = write_int8(folder / "model.onnx", folder / INT8, images)
            names.append(INT8)
        if "c" in formats:
            in_c = _write_c(folder, architecture, weights, origin)
            if has_compiler():
                names.append("network.c")
            else:
                unproved.append(folder / "network.c")
                said.append("network.c was not proved: no C compiler (cc) here.")
        proofs = prove(folder, names, architecture, weights, origin, evidence)
        written = Written(formats=formats, proofs=proofs, quantised=quantised, in_c=in_c, unproved=unproved)
        text = card(architecture, origin, written, evidence=evidence, remarks=said)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Exported(folder=output, proofs=tuple(proofs), remarks=tuple(said))


def _write_weights(folder: Path, architecture: Architecture, weights: "Mapping[str, Tensor]") -> list[str]:
    """The state dict under the names of model.py, twice; the names of the files."""
    import torch
    from safetensors.torch import save

    names = state_names(architecture)
    renamed = {}
    for key, tensor in weights.items():
        index, _, rest = key.partition(".")
        renamed[f"{names[int(index)]}.{rest}"] = tensor.detach().to("cpu", copy=True).contiguous()
    torch.save(renamed, folder / "weights.pt")
    (folder / "model.safetensors").write_bytes(save(renamed))
    return ["weights.pt", "model.safetensors"]


def _write_c(
    folder: Path, architecture: Architecture, weights: "Mapping[str, Tensor]", origin: Origin
) -> tuple[int, int]:
    """C99 source and its header; the bytes that the header says, of flash and of RAM."""
    facts = [f"{origin.dataset}: {origin.result}.", *origin.facts]
    files = c_files(architecture, weights, mean=origin.mean, std=origin.std, classes=origin.classes, facts=facts)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")
    return c_bytes(files["network.h"])


def _write_graphs(folder: Path, input_shape: tuple[int, ...]) -> list[str]:
    """What other programs read, from the model.py and the weights that were just written; the names of the files."""
    spec = importlib.util.spec_from_file_location("exported_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load(folder / "weights.pt")
    program = exported_program(network, input_shape)
    write_pt2(program, folder / "model.pt2")
    write_onnx(program, folder / "model.onnx")
    return ["model.pt2", "model.onnx"]
