"""Export: a trained network as files that need nothing of ours."""

import importlib.util
import inspect
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nas.architecture import Architecture
from nas.confirmed import ConfirmedRecords
from nas.cost import cost_of
from nas.errors import NasError, StudyError
from nas.layers import Call, Shape
from nas.recipe import Recipe
from nas.records import StudyRecords
from nas.stored import TrialRecord

if TYPE_CHECKING:
    from torch import Tensor, nn

LINE = 100
FILES = ("model.py", "weights.pt", "architecture.json", "recipe.json")


def export_trial(
    trial: int | Literal["confirmed"] | None = None,
    *,
    results: str | Path = "results",
    storage: str | None = None,
    study: str | None = None,
    output: str | Path | None = None,
) -> Path:
    """Exports a finished trial of a study, the best one if None; the folder written.

    "confirmed" is the trial that `confirm` picked, with the weights of its first seed, trained on train + val.
    """
    records = StudyRecords.open(results=results, storage=storage, study=study)
    name = records.study.study_name
    if trial == "confirmed":
        found = records.study.user_attrs.get("confirmed")
        if found is None:
            raise StudyError(f"study {name!r} is not confirmed yet: `nas confirm` does it")
        record, kind = records.trial(found["trial"]), "confirmed-trial"
        weights = ConfirmedRecords(records).weights(record.number)
        facts = _confirmed_facts(found)
    else:
        best = records.best(1)
        if trial is None and not best:
            raise StudyError(f"study {name!r} has no finished trial to export yet")
        record, kind = best[0] if trial is None else records.trial(trial), "trial"
        weights = records.weights(record.number)
        facts = _search_facts(records, record)
    assert record.architecture is not None
    assert record.recipe is not None
    normalisation = records.study.user_attrs["normalisation"]
    return export(
        record.architecture,
        weights,
        output=output or Path(results) / "export" / f"{name}-{kind}-{record.number}",
        recipe=record.recipe,
        mean=tuple(normalisation["mean"]),
        std=tuple(normalisation["std"]),
        classes=tuple(records.study.user_attrs["classes"]),
        facts=facts,
    )


def _search_facts(records: StudyRecords, record: TrialRecord) -> list[str]:
    settings = records.settings
    last = min(settings.consistency, settings.epochs)
    return [
        f"Trained on {settings.dataset} ({settings.split}), {settings.epochs} epochs, seed {record.seed}:",
        f"trial {record.number} of study {records.study.study_name!r}.",
        *_not_mnist(settings.dataset),
        f"Accuracy on the validation split: mean {record.objective:.4f} of the last {last} epochs,"
        f" lowest of them {record.consistent_accuracy:.4f}.",
        "One run, and chosen by this figure among many: expect a little less on new images.",
    ]


def _confirmed_facts(found: Mapping[str, Any]) -> list[str]:
    accuracies = found["accuracies"]
    return [
        f"Trained on all of {found['dataset']} but its test split, {len(accuracies[0])} epochs, seed 0:",
        f"trial {found['trial']} of study {found['study']!r}, confirmed with {found['num_seeds']} seeds.",
        *_not_mnist(found["dataset"]),
        f"Final accuracy on the test split: {found['final_accuracy_mean']:.4f} (mean of the seeds), standard",
        f"deviation {found['final_accuracy_sd']:.4f}; of these weights, seed 0's, {accuracies[0][-1]:.4f}.",
        f"The test split was opened {found['num_openings']} time{'s' * (found['num_openings'] > 1)} for this study.",
    ]


def _not_mnist(dataset: str) -> list[str]:
    return ["The digits are scikit-learn's 8x8 scans, scaled to 28x28: not MNIST."] * (dataset == "digits")


def export(
    architecture: Architecture,
    weights: "Mapping[str, Tensor]",
    *,
    output: str | Path,
    recipe: Recipe,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: tuple[str, ...],
    facts: list[str],
) -> Path:
    """Writes `FILES` into the folder `output`, which it returns; those of an earlier export are replaced.

    `model.py` needs only torch; `weights.pt` is a state dict that loads with `weights_only=True`. `facts` are lines
    for its docstring. Before anything appears under `output`, the written files are loaded again and must give the
    same outputs, bit for bit, as the network they came from.
    """
    import torch

    output = Path(output)
    check_output(output)
    try:
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as temporary:
            folder = Path(temporary)
            (folder / "architecture.json").write_text(architecture.dumps(), encoding="utf-8")
            (folder / "recipe.json").write_text(json.dumps(recipe.to_json(), indent=2) + "\n", encoding="utf-8")
            text = model_source(architecture, mean=mean, std=std, classes=classes, facts=facts)
            (folder / "model.py").write_text(text, encoding="utf-8")
            torch.save(dict(weights), folder / "weights.pt")
            _prove(folder, architecture, weights)
            output.mkdir(exist_ok=True)
            for name in FILES:
                shutil.move(folder / name, output / name)
    except OSError as error:
        raise NasError(f"{error.filename or output}: {error.strerror}") from None
    return output


def check_output(output: Path) -> None:
    """Raises unless a folder can be written there: to be asked before a long training, not after it."""
    if output.exists() and not output.is_dir():
        raise NasError(f"{output}: not a folder, allowed: a new or existing folder")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent):
            pass
    except OSError as error:
        raise NasError(f"{error.filename or output}: {error.strerror}") from None


def model_source(
    architecture: Architecture,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: tuple[str, ...],
    facts: list[str],
) -> str:
    """Python source of a module with a class `Network`, equal in its state dict to what `architecture.build` gives."""
    cost = cost_of(architecture)
    calls = list(_calls(architecture))
    own = sorted({name for call, _ in calls for name in _own_names(call)})
    channels, height, width = architecture.input_shape
    images = f"{channels}x{height}x{width}"
    lines = [
        f'"""A network of {cost.params:,} parameters for images of {images}, {len(classes)} classes.',
        "",
        *facts,
        "",
        f"{cost.macs:,} multiply-accumulates an image, receptive field {cost.receptive_field} pixels.",
        f"Input: float32 (N, {channels}, {height}, {width}), pixels scaled to 0..1, then (pixel - MEAN) / STD.",
        f"Output: (N, {len(classes)}) logits, in the order of CLASSES.",
        '"""',
        "",
        "from pathlib import Path",
        "",
        "import torch",
        "from torch import Tensor, nn" if own else "from torch import nn",
        "",
        f"MEAN = {tuple(round(x, 6) for x in mean)}",
        f"STD = {tuple(round(x, 6) for x in std)}",
        *_tuple_lines("CLASSES", classes),
        "",
        "",
    ]
    for name in own:
        lines += [*_own_source(name).splitlines(), "", ""]
    lines += ["class Network(nn.Sequential):", "    def __init__(self) -> None:", "        super().__init__("]
    for call, shape in calls:
        text = _wrapped(call, 12)
        lines += [*text[:-1], f"{text[-1]},  # {' x '.join(map(str, shape))}"]
    lines += [
        "        )",
        "",
        "",
        "def load(weights: str | Path = Path(__file__).with_name('weights.pt')) -> Network:".replace("'", '"'),
        '    """The trained network, ready for inference."""',
        "    network = Network()",
        '    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))',
        "    return network.eval()",
        "",
        "",
        'if __name__ == "__main__":',
        "    network = load()",
        f"    print(network(torch.zeros(1, {channels}, {height}, {width})).softmax(1))",
    ]
    return "\n".join(lines) + "\n"


def _tuple_lines(name: str, words: tuple[str, ...]) -> list[str]:
    line = f"{name} = {words!r}"
    return [line] if len(line) <= LINE else [f"{name} = (", *(f"    {word!r}," for word in words), ")"]


def _calls(architecture: Architecture) -> Iterator[tuple[Call, Shape]]:
    shape = architecture.input_shape
    for layer in architecture.layers:
        call = layer.module(shape)
        shape = layer.measure(shape).output_shape
        yield call, shape


def _own_names(call: Call) -> Iterator[str]:
    if not call.name.startswith("nn."):
        yield call.name
    for arg in call.args:
        if isinstance(arg, Call):
            yield from _own_names(arg)


def _own_source(name: str) -> str:
    from nas import modules

    return inspect.getsource(getattr(modules, name))


def _wrapped(call: Call, indent: int) -> list[str]:
    """The call's source, nested calls on lines of their own where one line is too long."""
    line = " " * indent + call.source()
    if len(line) <= LINE or not any(isinstance(arg, Call) for arg in call.args):
        return [line]
    lines = [" " * indent + call.name + "("]
    for arg in call.args:
        inner = _wrapped(arg, indent + 4) if isinstance(arg, Call) else [" " * (indent + 4) + repr(arg)]
        lines += [*inner[:-1], inner[-1] + ","]
    return [*lines, " " * indent + ")"]


def _prove(folder: Path, architecture: Architecture, weights: "Mapping[str, Tensor]") -> None:
    """Raises unless the files in `folder` give the outputs of the network they were written from."""
    import torch

    spec = importlib.util.spec_from_file_location("exported_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    exported: nn.Module = module.load(folder / "weights.pt")
    original = Architecture.load(folder / "architecture.json").build()
    original.load_state_dict(weights)
    original.eval()
    images = torch.rand(4, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(exported(images), original(images)):
            raise AssertionError(f"{folder}: the exported model differs from the network it was written from")
