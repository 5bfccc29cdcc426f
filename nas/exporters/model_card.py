"""Writes the model card of an export, its README.md, from measured values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.architecture.architecture import Architecture
from nas.architecture.cost import METRIC_LABELS
from nas.architecture.summary import summarise
from nas.distribution import package_version
from nas.exporters.core_test.emulate import CoreRun
from nas.exporters.graphs import INT8, QuantisationInfo
from nas.exporters.provenance import Provenance, VerificationData
from nas.exporters.verify import QUANTISED, FileVerification
from nas.space.constraints import Constraint
from nas.space.feasibility import cost_for
from nas.templates import render_template


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFiles:
    """Files of an export and their verification results.

    Attributes:
        formats: Additional formats that were requested.
        verifications: Verification result of each file.
        quantised: Size of the int8 model; None if it was not written.
        c_bytes: Bytes of constants and of scratch memory that the header of each C file states, by file name.
        unverified: Files that could not be verified on this machine.
        core_run: Result of the run on the emulated core of a board; None without one.
        board_fit: Whether the network fits into a board whose core was not emulated; empty otherwise.
    """

    formats: Sequence[str]
    verifications: Sequence[FileVerification]
    quantised: QuantisationInfo | None = None
    c_bytes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unverified: Sequence[Path] = ()
    core_run: CoreRun | None = None
    board_fit: str = ""


def render_card(
    architecture: Architecture,
    provenance: Provenance,
    written: ExportedFiles,
    *,
    verification_data: VerificationData | None,
    remarks: Sequence[str] = (),
) -> str:
    """Returns the card in Markdown, from the template model_card.md.

    `remarks` are notes such as what could not be verified and why.
    """
    summary, (channels, height, width) = summarise(architecture), architecture.input_shape
    limits = [Constraint.parse(text) for text in provenance.limits]
    accuracy_column = (
        " val accuracy, seen in training |" if verification_data and verification_data.is_seen else " val accuracy |"
    )
    return render_template(
        Path(__file__).with_name("model_card.md"),
        provenance=provenance,
        written=written,
        verification_data=verification_data,
        remarks=remarks,
        cost=summary.cost,
        rows=summary.rows,
        limits=limits,
        limited=cost_for(limits, architecture),
        recipe=provenance.recipe.rows(),
        kind={1: "grey", 3: "in colour (red, green, blue)"}.get(channels, f"{channels} channels"),
        channels=channels,
        height=height,
        width=width,
        shape=f"{channels}, {height}, {width}",
        ground=_ground(provenance.mean),
        mean=_numbers(provenance.mean),
        std=_numbers(provenance.std),
        int8=[each for each in written.verifications if each.name in QUANTISED and each.accuracy is not None],
        graphs=["model.onnx", *[INT8] * ("int8" in written.formats)],
        accuracy_column=accuracy_column if verification_data else "",
        labels=METRIC_LABELS,
        version=package_version(),
    )


def _ground(mean: Sequence[float]) -> str:
    """Returns light on dark or dark on light, by the mean training pixel; empty if that is in the middle or unknown."""
    if len(mean) > 1 or 1 / 3 < mean[0] < 2 / 3:
        return ""
    return "Light on dark" if mean[0] < 0.5 else "Dark on light"


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:.6g}" if len(values) == 1 else f"({', '.join(f'{x:.6g}' for x in values)})"
