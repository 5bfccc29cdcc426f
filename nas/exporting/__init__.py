"""Export: a trained network as files that need nothing of ours, each of which has proved itself."""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nas import datasets
from nas.architecture import Architecture
from nas.confirmed import ConfirmedRecords
from nas.errors import DatasetError, NasError, StudyError
from nas.exporting.c_source import c_bytes, c_files
from nas.exporting.card import card
from nas.exporting.folder import check_output as check_output
from nas.exporting.folder import copy_beside, replacing
from nas.exporting.formats import INT8, MOST_CALIBRATION, exported_program, write_int8, write_onnx, write_pt2
from nas.exporting.origin import Evidence as Evidence
from nas.exporting.origin import Origin as Origin
from nas.exporting.proof import Proof as Proof
from nas.exporting.proof import has_compiler, normalised, prove
from nas.exporting.source import model_source, state_names
from nas.records import StudyRecords
from nas.study_options import study_options

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


def export_trial(
    trial: int | Literal["confirmed"] | None = None,
    *,
    formats: Sequence[str] = (),
    data_root: str | Path | None = None,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    output: str | Path | None = None,
    on_start: Callable[[int], None] = lambda number: None,
) -> Exported:
    """Exports a finished trial of a study, the best one if None.

    "confirmed" is the trial that `confirm` picked, with the weights of its first seed, trained on train + val.
    `formats`: of `FORMATS`, besides what `export` always writes. The files are proved on the validation split; where
    the study's data are not at hand, on random images, which the card says. `on_start` hears the trial's number before
    anything slow is done, and after `output` was found to be a place to write to. Raises `StudyError` for a trial that
    cannot be exported and `NasError` for a file that is not the network.
    """
    records = StudyRecords.open(results=results, storage=storage, study=study)
    name = records.study.study_name
    stem = name.replace("/", "_")  # a study's name stays in its folder
    if trial == "confirmed":
        verdict = records.verdict
        if verdict is None:
            raise StudyError(f"study {name!r} is not confirmed yet: `nas confirm` does it")
        record, kind = records.trial(verdict.trial), "confirmed-trial"
        weights = ConfirmedRecords(records).weights(record.number)
        options = study_options(results=results, storage=storage, study=study)
        origin, accuracy = Origin.of_confirmed(records, record, verdict, options=options), None
    else:
        best = records.best(1)
        if trial is None and not best:
            raise StudyError(f"study {name!r} has no finished trial to export yet")
        record, kind = best[0] if trial is None else records.trial(trial), "trial"
        weights = records.weights(record.number)
        origin, accuracy = Origin.of_trial(records, record), record.history[-1].val_accuracy
    assert record.architecture is not None
    output = output or Path(results) / "export" / f"{stem}-{kind}-{record.number}"
    check_output(Path(output))
    on_start(record.number)
    evidence, missing = None, ""
    try:
        data = datasets.load(records.settings.dataset, data_root=data_root, download=False)
        if data.fingerprint != records.settings.data_fingerprint:
            missing = f"{data.name} here is not what the study was made with"
        else:
            evidence = Evidence.of(data, is_seen=trial == "confirmed", accuracy=accuracy)
    except DatasetError as error:
        missing = str(error)
    return export(
        record.architecture,
        weights,
        output=output,
        origin=origin,
        evidence=evidence,
        formats=formats,
        remarks=[f"Not proved on the validation split: {missing}."] if missing else [],
    )


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
        text = card(
            architecture,
            origin,
            proofs,
            formats=formats,
            evidence=evidence,
            quantised=quantised,
            in_c=in_c,
            unproved=unproved,
            remarks=said,
        )
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
