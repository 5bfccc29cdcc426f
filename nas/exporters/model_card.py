"""Writes the model card of an export, its README.md, from measured values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.architecture.architecture import Architecture
from nas.architecture.cost import METRIC_LABELS, Cost
from nas.architecture.summary import NetworkSummary, summarise
from nas.distribution import package_version
from nas.exporters.graphs import INT8, Quantised
from nas.exporters.model_source import plain, recipe_rows, spaced
from nas.exporters.provenance import Evidence, Origin
from nas.exporters.verify import Proof
from nas.space.constraints import Constraint


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Files of an export and their verification results.

    Attributes:
        formats: Additional formats that were requested.
        proofs: Verification result of each file.
        quantised: Size of the int8 model; None if it was not written.
        in_c: Bytes of flash and RAM of the C code; None if it was not written.
        unproved: Files that could not be verified on this machine.
    """

    formats: Sequence[str]
    proofs: Sequence[Proof]
    quantised: Quantised | None = None
    in_c: tuple[int, int] | None = None
    unproved: Sequence[Path] = ()


def card(
    architecture: Architecture,
    origin: Origin,
    written: Written,
    *,
    evidence: Evidence | None,
    remarks: Sequence[str] = (),
) -> str:
    """Returns the card in Markdown: result, limits, usage, files and their verification, memory, layers, training.

    `remarks` are notes such as what could not be verified and why.
    """
    summary = summarise(architecture)
    cost = summary.cost
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
        *_use(architecture, origin, written.formats),
        "## Files",
        "",
        *_files(written, evidence),
        *(f"- {_text(remark)}" for remark in remarks),
        *[""] * bool(remarks),
        "## Memory",
        "",
        *_memory(cost, written),
        "## Network",
        "",
        *_network(summary),
        "## Training",
        "",
        *_training(origin),
    ]
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    """Escapes text so that Markdown shows it literally."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|" else char for char in plain(text))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: int) -> Iterator[str]:
    """Yields a Markdown table whose columns from index `right` on are right-aligned."""
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


def _use(architecture: Architecture, origin: Origin, formats: Sequence[str]) -> Iterator[str]:
    yield from _images(architecture, origin, formats)
    shape = ", ".join(map(str, architecture.input_shape))
    for_torch = (f"pixels = torch.zeros(1, {shape})  # your image, 0 to 255", *_normalised(origin, "torch.tensor"))
    yield from _block("An image file; needs torch and Pillow:", "sh", "python predict.py image.png")
    yield from _block(
        "From Python, `model.py` with `weights.pt`; needs torch:",
        "python",
        "from model import CLASSES, load\nimport torch\n",
        *for_torch,
        "logits = load()(images)\nprint(CLASSES[logits.argmax()])",
    )
    yield from _block(
        "The same weights as safetensors; needs torch and safetensors:",
        "python",
        "from model import Network\nimport torch\nfrom safetensors.torch import load_file\n",
        'network = Network().eval()\nnetwork.load_state_dict(load_file("model.safetensors"))',
        *for_torch,
        "logits = network(images)",
    )
    yield from _block(
        "As a graph, without `model.py`; needs torch, which may warn that it finds no NumPy and runs all the same:",
        "python",
        "import torch\n",
        *for_torch,
        'logits = torch.export.load("model.pt2").module()(images)',
    )
    for title, name in [("ONNX", "model.onnx"), *[("Quantised to int8", INT8)] * ("int8" in formats)]:
        yield from _block(
            f"{title}; needs onnxruntime and numpy:",
            "python",
            "import numpy as np\nimport onnxruntime\n",
            f"pixels = np.zeros((1, {shape}), np.uint8)  # your image, 0 to 255",
            *_normalised(origin, "np.array"),
            f'session = onnxruntime.InferenceSession("{name}")',
            '(logits,) = session.run(None, {"images": images.astype(np.float32)})',
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


def _images(architecture: Architecture, origin: Origin, formats: Sequence[str]) -> Iterator[str]:
    """Yields the requirements for images, their normalisation and the classes."""
    channels, height, width = architecture.input_shape
    kinds = {1: "grey, ", 3: "in colour (red, green, blue), "}
    yield f"- Images: {kinds.get(channels, f'of {channels} channels, ')}{height} pixels high and {width} wide."
    if channels == 1 and (ground := _ground(origin)):
        yield f"- {ground}; `predict.py --invert` turns others around."
    itself = "`predict.py` and `network.c` do it themselves" if "c" in formats else "`predict.py` does it itself"
    yield f"- Normalisation: pixels scaled to 0..1, then minus mean {_numbers(origin.mean)}, divided by standard"
    yield f"  deviation {_numbers(origin.std)}. {itself}."
    yield f"- Classes, in the order of the logits: {', '.join(map(_text, origin.classes))}."
    yield ""


def _ground(origin: Origin) -> str:
    """Returns light on dark or dark on light, judged by the mean training pixel; empty if that lies in the middle."""
    (mean,) = origin.mean
    if 1 / 3 < mean < 2 / 3:
        return ""
    return f"{'Light on dark' if mean < 0.5 else 'Dark on light'}, as in training (mean pixel {mean:.2f} of 0..1)"


def _normalised(origin: Origin, array: str) -> Iterator[str]:
    """Yields lines of Python that compute `images` from `pixels`."""
    mean, std = _numbers(origin.mean), _numbers(origin.std)
    if len(origin.mean) > 1:
        channels = f"reshape({len(origin.mean)}, 1, 1)"
        yield f"mean = {array}({mean}).{channels}"
        yield f"std = {array}({std}).{channels}"
        mean, std = "mean", "std"
    yield f"images = (pixels / 255 - {mean}) / {std}"


def _block(title: str, language: str, *lines: str) -> Iterator[str]:
    yield from (title, "", f"```{language}", *lines, "```", "")


def _files(written: Written, evidence: Evidence | None) -> Iterator[str]:
    proofs, quantised, unproved = written.proofs, written.quantised, written.unproved
    images = f"{proofs[0].num_images:,} {'images of the validation split' if evidence else 'random images'}"
    but = "".join(f" but `{path.name}`" for path in unproved)
    yield f"Each file listed here{but} was loaded in a process of its own and compared with the network it was written"
    yield f"from, on {images}."
    yield ""
    head = ["file", "bytes", "largest difference of a logit", "same class"]
    if evidence:
        head.append("accuracy on val, seen in training" if evidence.is_seen else "val accuracy")
    rows = []
    for proof in proofs:
        difference = "quantised" if proof.difference is None else f"{proof.difference:.1e}"
        row = [f"`{proof.name}`", f"{proof.num_bytes:,}", difference, f"{proof.num_same:,} of {proof.num_images:,}"]
        rows.append([*row, f"{proof.accuracy:.2%}"] if proof.accuracy is not None else row)
    for path in unproved:
        rows.append([f"`{path.name}`", f"{path.stat().st_size:,}", "not proved", *[""] * (len(head) - 3)])
    yield from _table(head, rows, right=1)
    if quantised is not None:
        yield "int8: a range for each channel of the weights and each tensor of activations, read from"
        yield f"{quantised.num_images:,} training images; batch norm is folded."
        if evidence and evidence.is_seen:
            yield "The weights were trained on the images that int8 is judged on here: on new ones it may cost more."
        yield ""


def _memory(cost: Cost, written: Written) -> Iterator[str]:
    quantised, in_c = written.quantised, written.in_c
    rows = [("float32", cost.weight_bytes, cost.peak_activation_bytes)]
    if quantised is not None:
        rows.append((f"int8, `{INT8}`", quantised.num_bytes, cost.peak_activation_bytes // 4))
    if in_c is not None:
        rows.append(("float32, `network.c`", *in_c))
    texts = [[name, f"{weights:,}", f"{activations:,}"] for name, weights, activations in rows]
    yield from _table(
        ("", *(METRIC_LABELS[metric].noun for metric in ("weight_bytes", "peak_activation_bytes"))), texts, right=1
    )
    yield "float32 is what limits count: four bytes a parameter and buffer, and the inputs and outputs that a layer of"
    yield "the network has at a time."
    if quantised is not None:
        yield "int8: with biases and scales, and a fourth of the activations."
    if in_c is not None:
        yield "`network.c` computes in float32, too, four bytes a parameter, not in int8. Its row is what `network.h`"
        yield "says: NETWORK_PARAMETER_BYTES of flash, NETWORK_SCRATCH_BYTES of RAM. It folds batch norm, uses places"
        yield "again, and so mostly takes less than the first row; code, pixels and logits come on top."
    yield ""


def _network(summary: NetworkSummary) -> Iterator[str]:
    rows = []
    for row in summary.rows:
        layer = row.layer
        words = "&nbsp;&nbsp;" * layer.depth + f"`{layer.module}`"
        counts = [f"{x:,}" if x else "" for x in (layer.params, layer.macs)]
        counts.append("" if row.receptive_field is None else str(row.receptive_field))
        rows.append([f"`{row.block}`" if row.block else "", words, spaced(layer.output_shape), *counts])
    labels = [METRIC_LABELS[metric].short for metric in ("params", "macs", "receptive_field")]
    head = ("block", "layer", "output", *labels)
    yield from _table(head, rows, right=2)


def _training(origin: Origin) -> Iterator[str]:
    yield f"On {_text(origin.split)} of {_text(origin.dataset)}, seed {origin.seed}."
    yield ""
    yield from _table(("recipe", ""), [[f"`{name}`", value] for name, value in recipe_rows(origin.recipe)], right=1)
    if origin.commands:
        language = "python" if origin.commands[0] == "import nas" else "sh"
        yield from _block("Found by:", language, *(plain(command) for command in origin.commands))
    made = f"Exported by nas {package_version()}"
    yield f"{made}; trained on {_text(origin.machine)}." if origin.machine else f"{made}."


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:.6g}" if len(values) == 1 else f"({', '.join(f'{x:.6g}' for x in values)})"
