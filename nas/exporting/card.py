"""The model card: README.md of an export, what there is to know of a network, measured."""

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from nas.architecture import Architecture
from nas.blocks import blocks, receptive_fields
from nas.constraints import Constraint
from nas.cost import Cost, cost_of, layer_table
from nas.exporting.formats import INT8, Quantised
from nas.exporting.origin import Evidence, Origin
from nas.exporting.proof import Proof
from nas.exporting.source import plain, recipe_rows, shape_text


def card(
    architecture: Architecture,
    origin: Origin,
    proofs: Sequence[Proof],
    *,
    formats: Sequence[str],
    evidence: Evidence | None,
    quantised: Quantised | None = None,
    unproved: Sequence[Path] = (),
    remarks: Sequence[str] = (),
) -> str:
    """Markdown: result, limits, use, files and their proof, layers, training.

    quantised: the int8 weights, where they were written. unproved: files that nothing here could load. remarks: what
    was not proved, and why.
    """
    cost = cost_of(architecture)
    lines = [
        f"# {_text(origin.dataset)} in {cost.params:,} parameters",
        "",
        f"**{_text(origin.result)}**, {cost.macs:,} multiply-accumulates an image, receptive field"
        f" {cost.receptive_field} pixels.",
        "",
        *(f"- {_text(fact)}" for fact in origin.facts),
        "",
        *_limits(origin, cost),
        "## Use",
        "",
        *_use(architecture, formats),
        "## Files",
        "",
        *_files(cost, proofs, evidence, quantised, unproved),
        *(f"- {_text(remark)}" for remark in remarks),
        *[""] * bool(remarks),
        "## Network",
        "",
        *_network(architecture),
        "## Training",
        "",
        *_training(origin),
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Text that Markdown shows as it stands."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|" else char for char in plain(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: int) -> Iterator[str]:
    """A Markdown table whose columns from `right` on are aligned to the right."""
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' if i < right else '---:' for i in range(len(head)))} |"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _limits(origin: Origin, cost: Cost) -> Iterator[str]:
    if not origin.limits:
        return
    yield from ("## Limits kept", "")
    limits = [Constraint.parse(text) for text in origin.limits]
    rows = [(f"`{limit}`", f"{getattr(cost, limit.metric):,}") for limit in limits]
    yield from _table(("limit", "this network"), rows, right=1)


def _use(architecture: Architecture, formats: Sequence[str]) -> Iterator[str]:
    shape = ", ".join(map(str, architecture.input_shape))
    zeros = f"torch.zeros(1, {shape})"
    yield from _block("An image file; needs torch and Pillow:", "sh", "python predict.py image.png")
    yield from _block(
        "From Python, `model.py` with `weights.pt`; needs torch:",
        "python",
        "import torch\nfrom model import CLASSES, load\n\nnetwork = load()",
        f"logits = network({zeros})  # normalised: (pixel / 255 - MEAN) / STD",
    )
    yield from _block(
        "The same weights as safetensors:",
        "python",
        "from safetensors.torch import load_file\nfrom model import Network\n\nnetwork = Network().eval()",
        'network.load_state_dict(load_file("model.safetensors"))',
    )
    yield from _block(
        "As a graph, without `model.py`:",
        "python",
        f'import torch\n\nnetwork = torch.export.load("model.pt2").module()\nlogits = network({zeros})',
    )
    for title, name in [("ONNX", "model.onnx"), *[("Quantised to int8", INT8)] * ("int8" in formats)]:
        yield from _block(
            f"{title}; needs onnxruntime and numpy:",
            "python",
            "import numpy as np\nimport onnxruntime\n",
            f'session = onnxruntime.InferenceSession("{name}")',
            f'(logits,) = session.run(None, {{"images": np.zeros((1, {shape}), np.float32)}})',
        )
    if "c" in formats:
        yield from _block(
            "C99, for a microcontroller; pixels as they come, 0 to 255, normalisation inside:",
            "c",
            '#include "network.h"\n',
            "static unsigned char pixels[NETWORK_CHANNELS * NETWORK_HEIGHT * NETWORK_WIDTH];",
            "static float logits[NETWORK_CLASSES];\n",
            "const char *name_of_image(void)\n{\n    return network_classes[predict(pixels, logits)];\n}",
        )


def _block(title: str, language: str, *lines: str) -> Iterator[str]:
    yield from (title, "", f"```{language}", *lines, "```", "")


def _files(
    cost: Cost,
    proofs: Sequence[Proof],
    evidence: Evidence | None,
    quantised: Quantised | None,
    unproved: Sequence[Path],
) -> Iterator[str]:
    images = f"{proofs[0].num_images:,} {'images of the validation split' if evidence else 'random images'}"
    but = "".join(f" but `{path.name}`" for path in unproved)
    yield f"Each file listed here{but} was loaded in a process of its own and compared with the network it was written"
    yield f"from, on {images}."
    yield ""
    head = ["file", "bytes", "largest difference of a logit", "same class"]
    if evidence:
        head.append("val accuracy")
    rows = []
    for proof in proofs:
        difference = "quantised" if proof.difference is None else f"{proof.difference:.1e}"
        row = [f"`{proof.name}`", f"{proof.num_bytes:,}", difference, f"{proof.num_same:,} of {proof.num_images:,}"]
        rows.append([*row, f"{proof.accuracy:.2%}"] if proof.accuracy is not None else row)
    for path in unproved:
        rows.append([f"`{path.name}`", f"{path.stat().st_size:,}", "not proved", *[""] * (len(head) - 3)])
    yield from _table(head, rows, right=1)
    memory = [("float32", cost.weight_bytes, cost.peak_activation_bytes)]
    if quantised is not None:
        memory.append(("int8", quantised.num_bytes, cost.peak_activation_bytes // 4))
        yield "int8: a range for each channel of the weights and each tensor of activations, read from"
        yield f"{quantised.num_images:,} training images; batch norm is folded. Its weights: with biases and scales."
        yield ""
    rows = [[name, f"{weights:,}", f"{activations:,}"] for name, weights, activations in memory]
    yield from _table(("", "bytes of weights", "bytes of activations at the peak"), rows, right=1)


def _network(architecture: Architecture) -> Iterator[str]:
    rows = []
    starts = {str(part.start): part for part in blocks(architecture)}
    for row, seen in zip(layer_table(architecture), receptive_fields(architecture), strict=True):
        part = starts.get(row.position)
        layer = "&nbsp;&nbsp;" * row.depth + f"`{row.module}`"
        counts = [f"{x:,}" if x else "" for x in (row.params, row.macs)]
        counts.append("" if seen is None else str(seen))
        rows.append([f"`{part.name}`" if part else "", layer, shape_text(row.output_shape), *counts])
    head = ("block", "layer", "output", "parameters", "MACs", "receptive field")
    yield from _table(head, rows, right=2)


def _training(origin: Origin) -> Iterator[str]:
    yield f"On {_text(origin.split)} of {_text(origin.dataset)}, seed {origin.seed}."
    yield f"Pixels are scaled to 0..1, then (pixel - {_numbers(origin.mean)}) / {_numbers(origin.std)}."
    yield ""
    yield from _table(("recipe", ""), [[f"`{name}`", value] for name, value in recipe_rows(origin.recipe)], right=1)
    if origin.commands:
        yield from _block("Found by:", "sh", *(plain(command) for command in origin.commands))
    made = f"Exported by nas {version('nas')}"
    yield f"{made}; trained on {_text(origin.machine)}." if origin.machine else f"{made}."


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:.6g}" if len(values) == 1 else f"({', '.join(f'{x:.6g}' for x in values)})"
