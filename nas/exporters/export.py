"""Exports a trained network to a folder of files that run without `nas`, and verifies each file."""

import contextlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nas.architecture.architecture import Architecture, check_architecture
from nas.boards import Board
from nas.errors import ArchitectureError, NasError, argument_text, one_of
from nas.exporters.c.calibration import calibrate
from nas.exporters.c.codegen import c_files
from nas.exporters.c.finetune import fine_tuned
from nas.exporters.c.int8_codegen import int8_c_files
from nas.exporters.c.int8_reference import accuracy_of_int8, run_int8
from nas.exporters.c.quantise import Int8Network, quantise
from nas.exporters.c.source import stated_bytes
from nas.exporters.core_test.emulate import NUM_CORE_IMAGES, CoreRun, missing_for, run_on_core
from nas.exporters.folder import copy_package_file, replace_folder
from nas.exporters.formats import CALIBRATED, FORMATS, PROJECTS
from nas.exporters.graphs import (
    INT8,
    MAX_CALIBRATION_IMAGES,
    QuantisationInfo,
    exported_program,
    write_int8,
    write_onnx,
    write_pt2,
)
from nas.exporters.model_card import ExportedFiles, render_card
from nas.exporters.model_source import exported_keys, model_source
from nas.exporters.projects.write import shown_image, write_project
from nas.exporters.provenance import Provenance, VerificationData
from nas.exporters.verify import INT8_C, FileVerification, has_compiler, normalise_images, verify_files
from nas.inference.lowering import check_kinds
from nas.schema import check_counts, sequence_of
from nas.text import html_lines, table_text

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_SHOWN = 100
"""Images of the validation split among which a project takes the one that it classifies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Result of an export.

    Attributes:
        folder: Folder that was written.
        verifications: Verification result of each file.
        remarks: Notes of the model card, such as what could not be verified and why.
        core_run: Result of the run on the emulated core of the board; None without one.
    """

    folder: Path
    verifications: tuple[FileVerification, ...]
    remarks: tuple[str, ...]
    core_run: CoreRun | None = None

    def __str__(self) -> str:
        """Returns the folder, its files with their verification, and the remarks as lines of text."""
        from nas.tables import verification_table

        files = table_text(verification_table(self.verifications, title=str(self.folder)))
        return "\n".join([files, *self.lines()])

    def lines(self) -> list[str]:
        """Returns the result on the board's core, if there is one, and the remarks."""
        return [*(self.core_run.lines() if self.core_run else ()), *self.remarks]

    def _repr_html_(self) -> str:
        """Returns the files, their verification and the remarks as HTML, for notebooks."""
        from nas.tables import table_html, verification_table

        return table_html(verification_table(self.verifications, title=str(self.folder))) + html_lines(
            self.lines()
        ) * bool(self.lines())


def export(
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    *,
    output: str | Path,
    provenance: Provenance,
    verification_data: VerificationData | None = None,
    formats: Sequence[str] = (),
    board: Board | None = None,
    finetune: int = 0,
    remarks: Sequence[str] = (),
) -> Exported:
    """Writes a verified export to the folder `output`; replaces an earlier export as a whole.

    Files: README.md (a model card), model.py and predict.py (need only torch and Pillow), weights.pt (a state dict),
    model.safetensors, model.pt2 (torch.export), model.onnx, architecture.json and recipe.json.

    Verification loads the files in separate processes and compares them with the network: the number of parameters,
    the logits (tolerance 1e-5, C: 1e-4, times the largest logit if that exceeds 1) and the val accuracy. Logits of the
    int8 model are only reported. `output` is not touched before verification has passed.

    Args:
        architecture (Architecture): Architecture of the network.
        weights (Mapping[str, Tensor]): State dict of `architecture.build()`.
        output (str | Path): New or empty folder, or one that holds an earlier export.
        provenance (Provenance): Facts about the network, for the model card and the sources.
        verification_data (VerificationData | None): Data to verify on. Default: None, random images.
        formats (Sequence[str]): Additional formats, one or several: "int8" writes model_int8.onnx and needs
            `verification_data`; "c" writes network.h and network.c; "c-int8" writes network_int8.h and network_int8.c,
            which have no floating point and need `verification_data`, too; "arduino" and "makefile" write projects
            that compile these two, to folders of these names. C is verified only if the compiler `cc` is installed.
            Default: none.
        board (Board | None): Board whose core runs network_int8.c in an emulator, if the tools for that are installed:
            its logits must equal the reference's. Adds the format "c-int8". Default: None.
        finetune (int): Number of epochs that the network trains on with the rounding of int8, on the images that it was
            trained on, for "c-int8". It is exported if its val accuracy is higher. One epoch of 50,000 small images
            takes about two minutes on one core. Default: 0, none.
        remarks (Sequence[str]): Notes for the model card. Default: none.

    Returns:
        The folder, the verification results and all notes of the model card.

    Raises:
        NasError: If `architecture` is not an `Architecture`, a format is unknown or lacks `verification_data`, a layer
            has no C kernel, `finetune` is not a number of epochs or there is no "c-int8", `output` cannot be written,
            or a file fails verification.
    """
    check_architecture(architecture)
    formats = sequence_of(formats)
    if board is not None:
        formats = list(dict.fromkeys([*formats, "c-int8"]))
    _check_formats(formats, architecture, verification_data, remarks)
    projects = [kind for kind in PROJECTS if kind in formats]
    if projects:
        formats = list(dict.fromkeys([*formats, "c-int8"]))
    check_counts(finetune=(finetune, 0))
    if finetune and "c-int8" not in formats:
        raise NasError(f"{argument_text('finetune', finetune)}: only for the format c-int8")
    output, notes = Path(output), list(remarks)
    if verification_data and verification_data.is_seen:
        notes.append(
            "The weights were trained on the val split, too, so its accuracy checks the files, not the network."
        )
    with replace_folder(output) as folder:
        _write_sources(folder, architecture, provenance)
        names = _write_weights(folder, architecture, weights) + _write_graphs(folder, architecture.input_shape)
        quantised = None
        if "int8" in formats and verification_data is not None:
            quantised = _write_int8(folder, verification_data, provenance)
            names.append(INT8)
        int8_network = None
        if "c-int8" in formats and verification_data is not None:
            int8_network, tuning = _quantise(architecture, weights, verification_data, provenance, finetune)
            notes += tuning
        headers = _write_c(folder, architecture, weights, provenance, int8_network, is_float="c" in formats)
        unverified = []
        if has_compiler():
            names += headers
        else:
            unverified = [folder / name for name in headers]
            notes += [f"{name} was not verified: the C compiler cc is not installed." for name in headers]
        c_bytes = {name: stated_bytes(header) for name, header in headers.items()}
        verifications = verify_files(
            folder, names, architecture, weights, provenance, verification_data, int8_network=int8_network
        )
        if int8_network is not None and verification_data is not None:
            _write_projects(folder, projects, int8_network, verification_data, provenance)
        core_run, board_fit = None, ""
        if board is not None and int8_network is not None and verification_data is not None:
            if reason := missing_for(board):
                notes.append(f"{INT8_C} was not run on the core of board {board.name}: {reason}.")
                board_fit = board.fit_text(*c_bytes[INT8_C])
            else:
                core_run = _run_on_core(folder, board, int8_network, verification_data)
        written = ExportedFiles(
            formats=formats,
            verifications=verifications,
            quantised=quantised,
            c_bytes=c_bytes,
            unverified=unverified,
            core_run=core_run,
            board_fit=board_fit,
        )
        card = render_card(architecture, provenance, written, verification_data=verification_data, remarks=notes)
        (folder / "README.md").write_text(card, encoding="utf-8")
    remarks = (*notes, *([board_fit] if board_fit else []))
    return Exported(folder=output, verifications=tuple(verifications), remarks=remarks, core_run=core_run)


def _check_formats(
    formats: Sequence[str],
    architecture: Architecture,
    verification_data: VerificationData | None,
    remarks: Sequence[str],
) -> None:
    """Raises `NasError` if a format is unknown, int8 lacks the images that calibrate it, or C a kernel."""
    if unknown := set(formats) - set(FORMATS):
        raise NasError(f"{argument_text('formats', formats)}: {sorted(unknown)[0]!r} found, expected {one_of(FORMATS)}")
    if verification_data is None and (calibrated := [name for name in formats if name in CALIBRATED]):
        reason = " ".join(remarks).removesuffix(".") or "give `verification_data`, too"
        raise NasError(f"{argument_text('formats', formats)}: {calibrated[0]} needs the training images: {reason}")
    if {"c", "c-int8", *PROJECTS} & set(formats):
        try:
            check_kinds(architecture)
        except ArchitectureError as error:
            raise NasError(f"{argument_text('formats', formats)}: {error}") from None


def evenly_spaced(num: int, most: int) -> list[int]:
    """Returns at most `most` indices below `num`, evenly spaced; the images of a folder are sorted by class."""
    chosen = min(num, most)
    return [num * i // chosen for i in range(chosen)]


def _write_sources(folder: Path, architecture: Architecture, provenance: Provenance) -> None:
    """Writes the files that do not depend on the weights: architecture, recipe, predict.py and model.py."""
    (folder / "architecture.json").write_text(architecture.dumps(), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps(provenance.recipe.to_json(), indent=2) + "\n", encoding="utf-8")
    copy_package_file("predict.py", folder)
    (folder / "model.py").write_text(model_source(architecture, provenance), encoding="utf-8")


def _write_weights(folder: Path, architecture: Architecture, weights: "Mapping[str, Tensor]") -> list[str]:
    """Writes the state dict, renamed as in model.py, in two file formats; returns the file names."""
    import torch
    from safetensors.torch import save

    renamed = {
        name: weights[key].detach().to("cpu", copy=True).contiguous()
        for key, name in exported_keys(architecture, weights).items()
    }
    torch.save(renamed, folder / "weights.pt")
    (folder / "model.safetensors").write_bytes(save(renamed))
    return ["weights.pt", "model.safetensors"]


def _write_int8(folder: Path, verification_data: VerificationData, provenance: Provenance) -> QuantisationInfo:
    """Writes the int8 model, calibrated on train images, from the model.onnx in `folder`; returns its size."""
    images = normalise_images(_calibration_images(verification_data), provenance)
    return write_int8(folder / "model.onnx", folder / INT8, images)


def _calibration_images(verification_data: VerificationData) -> "Tensor":
    train = verification_data.train.images
    return train[evenly_spaced(len(train), MAX_CALIBRATION_IMAGES)]


@contextlib.contextmanager
def _errors_of(name: str) -> Iterator[None]:
    """Turns errors of a network that cannot become C into `NasError` with the file's name."""
    try:
        yield
    except ValueError as error:
        raise NasError(f"{name}: {error}") from None


def _write_c(
    folder: Path,
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    provenance: Provenance,
    int8_network: Int8Network | None,
    *,
    is_float: bool,
) -> dict[str, str]:
    """Writes C in float32 if `is_float`, and of the int8 network if there is one.

    Returns the text of the header of each C file by the C file's name.
    """
    facts = [f"{provenance.dataset}: {provenance.result}.", *provenance.facts]
    sources: dict[str, str] = {}
    if is_float:
        with _errors_of("network.c"):
            sources |= c_files(
                architecture, weights, mean=provenance.mean, std=provenance.std, classes=provenance.classes, facts=facts
            )
    if int8_network is not None:
        with _errors_of(INT8_C):
            sources |= int8_c_files(int8_network, classes=provenance.classes, facts=facts)
    for name, text in sources.items():
        (folder / name).write_text(text, encoding="ascii")
    return {name: sources[name.replace(".c", ".h")] for name in sources if name.endswith(".c")}


def _quantise(
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    verification_data: VerificationData,
    provenance: Provenance,
    finetune: int,
) -> tuple[Int8Network, list[str]]:
    """Returns the network in int8, calibrated on training images, or fine-tuned if that is better on the val split.

    Also returns what fine-tuning came to, as notes for the model card.
    """
    images = _calibration_images(verification_data)
    with _errors_of(INT8_C):
        calibration = calibrate(architecture, weights, images, mean=provenance.mean, std=provenance.std)
        network = quantise(calibration)
        if not finetune:
            return network, []
        data = verification_data.training_data(mean=provenance.mean, std=provenance.std)
        tuned = fine_tuned(calibration, provenance.recipe, data, epochs=finetune)
    before, after = (accuracy_of_int8(each, verification_data.val) for each in (network, tuned))
    note = (
        f"{INT8_C} {'is' if after > before else 'is not'} fine-tuned with the rounding of int8: after {finetune}"
        f" {'epoch' if finetune == 1 else 'epochs'} the val accuracy is {after:.2%}, without {before:.2%}."
    )
    return tuned if after > before else network, [note]


def _write_projects(
    folder: Path,
    projects: Sequence[str],
    network: Int8Network,
    verification_data: VerificationData,
    provenance: Provenance,
) -> None:
    """Writes projects around network_int8.c, which classify an image of the validation split."""
    val = verification_data.val
    pixels, labels = val.images[:MAX_SHOWN].numpy(), val.labels[:MAX_SHOWN].numpy()
    logits = run_int8(network, pixels)
    shown = shown_image(logits, labels)
    for kind in projects:
        write_project(
            kind,
            folder,
            pixels=pixels[shown],
            logits=logits[shown],
            class_name=provenance.classes[labels[shown]],
            sentence=f"{provenance.dataset}: {provenance.result}.",
        )


def _run_on_core(folder: Path, board: Board, network: Int8Network, verification_data: VerificationData) -> CoreRun:
    """Runs network_int8.c on the emulated core of a board, on images of the validation split."""
    images = verification_data.val.images
    pixels = images[evenly_spaced(len(images), NUM_CORE_IMAGES)].numpy()
    return run_on_core(folder, board, pixels, run_int8(network, pixels))


def _write_graphs(folder: Path, input_shape: tuple[int, ...]) -> list[str]:
    """Writes model.pt2 and model.onnx from the model.py and weights.pt in `folder`; returns the file names."""
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
