"""Options that several commands share: type, help and default text of each."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from nas.errors import NasError, RecipeError, argument_text, one_of, suggestion
from nas.exporters.formats import FORMATS
from nas.recipe import RECIPE_FIELDS, Recipe
from nas.schema import DEFAULT_TARGET, check_counts, parse_number

SPACE_HELP = "Name of a shipped search space, or a TOML file."
DATASET_HELP = (
    "mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, or folder:PATH with train/CLASS/*.png and optionally"
    " test/CLASS/*.png."
)
SEARCH, DATA, STUDY, LIMITS = "Search", "Data and training", "Study", "Limits"


def number(
    parameter: str, kind: type[int] | type[float] = int, *, least: int | None = None
) -> Callable[[object], int | float]:
    """Returns a parser for the value of an option that is a number, such as "8000", "8k" or "1.5M".

    It raises `NasError` if the value is not a number.

    Args:
        parameter: name of the option's parameter, for messages.
        kind: int for integers only, or float.
        least: smallest value; None if the library checks the range.
    """

    def parse(text: object) -> int | float:
        try:
            found = parse_number(str(text))
            if kind is int and not isinstance(found, int):
                raise ValueError
        except ValueError:
            expected = "an integer, such as 12 or 8k" if kind is int else "a number, such as 0.5"
            raise NasError(f"{argument_text(parameter, text)}: expected {expected}") from None
        if least is not None:
            check_counts(**{parameter: (int(found), least)})
        return kind(found)

    parse.__name__ = kind.__name__  # shown in the help
    return parse


def word(parameter: str, words: Sequence[str]) -> Callable[[object], str]:
    """Returns a parser for the value of an option that is one of a few words; it raises `NasError` for others."""

    def parse(text: object) -> str:
        if text not in words:
            guess = suggestion(text, words)
            raise NasError(f"{argument_text(parameter, text)}{guess}: expected {one_of(words)}")
        return str(text)

    return parse


File = Annotated[
    Path,
    typer.Argument(
        help="Name of a known network, such as nas-3686, architecture file (JSON), or folder of an export.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
MaxParams = Annotated[
    int | None,
    typer.Option(
        parser=number("max_params"),
        help="Maximum number of trainable parameters.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
MinReceptiveField = Annotated[
    int | None,
    typer.Option(
        parser=number("min_receptive_field"),
        help="Minimum receptive field of the last feature map, in pixels.",
        rich_help_panel=LIMITS,
        show_default="longer side of the images",
    ),
]
MaxMacs = Annotated[
    int | None,
    typer.Option(
        parser=number("max_macs"),
        help="Maximum multiply-accumulates per image.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
MaxActivationBytes = Annotated[
    int | None,
    typer.Option(
        parser=number("max_activation_bytes"),
        help="Maximum peak of float32 activations for one image, in bytes.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
MaxWeightBytes = Annotated[
    int | None,
    typer.Option(
        parser=number("max_weight_bytes"),
        help="Maximum size of the exported weights, in bytes.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
BoardName = Annotated[
    str | None,
    typer.Option(
        "--board",
        metavar="NAME",
        help="Board (see nas boards, or FILE.toml:NAME): the int8 C code must fit into half of its RAM and flash.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
MaxLatencyMs = Annotated[
    float | None,
    typer.Option(
        parser=number("max_latency_ms", kind=float),
        help="Maximum time of one image on the board, in ms, if every instruction takes one cycle; needs --board.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        metavar="METRIC<=VALUE",
        help="Limit on a metric of nas cost, with <= or >=. Repeatable.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help=SPACE_HELP,
        rich_help_panel=SEARCH,
        show_default="grey for grey images, rgb for colour; a study keeps a shipped one",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="accuracy, or accuracy,params (or another cost) for a Pareto front.",
        rich_help_panel=SEARCH,
        show_default="the study's, else accuracy",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="Proposes candidates: elite, evolution, tpe, gp, nsga2 or random.",
        rich_help_panel=SEARCH,
        show_default="the study's, else elite",
    ),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="Stops unpromising trials early: none, median, asha or hyperband.",
        rich_help_panel=SEARCH,
        show_default="the study's, else none",
    ),
]
StartFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--start-from",
        metavar="FILE",
        help="Known network to train first: an architecture file, an export folder, or the name of a known"
        " network. It is not scaled, and is left out if the space or a limit excludes it; one must fit. Repeatable.",
        rich_help_panel=SEARCH,
        show_default=False,
    ),
]
Portfolio = Annotated[
    bool | None,
    typer.Option(
        "--portfolio/--no-portfolio",
        help="Train the known designs of the search space first, scaled to the limits.",
        rich_help_panel=SEARCH,
        show_default="the study's, else --portfolio",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help=DATASET_HELP,
        rich_help_panel=DATA,
        show_default="mnist if available, else digits; a study keeps its own",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Folder for downloaded datasets.",
        rich_help_panel=DATA,
        show_default="$NAS_DATA, else the user's cache",
    ),
]
Device = Annotated[
    str,
    typer.Option(help="auto (CUDA, else MPS, else CPU), cuda (all GPUs), cuda:N, mps or cpu.", rich_help_panel=DATA),
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=number("workers"),
        help="Number of training processes, one thread each.",
        rich_help_panel=DATA,
        show_default="one per GPU, on CPU one per core",
    ),
]
Target = Annotated[
    float,
    typer.Option(
        parser=number("target", float),
        help="Accuracy that each seed is to reach in each of the last 5 epochs, as a fraction.",
    ),
]
ConfirmTarget = Annotated[
    float | None,
    typer.Option(
        parser=number("target", float),
        help="Accuracy that each seed is to reach in each of the last 5 epochs, as a fraction.",
        show_default=f"that of the study's last confirmation, else {DEFAULT_TARGET}",
    ),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Train on a Ray cluster: auto, HOST:PORT, or local (on this machine only).",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(
        parser=number("gpus_per_trial", float),
        metavar="0...1",
        help="GPU share of a candidate with --ray: 0, or 0.01 to 1.",
        rich_help_panel=DATA,
        show_default="1 if the cluster has GPUs, else 0",
    ),
]
Exact = Annotated[bool, typer.Option("--exact", help="Make GPU training bitwise reproducible.", rich_help_panel=DATA)]
Epochs = Annotated[int, typer.Option(parser=number("epochs"), help="Epochs per training.", rich_help_panel=DATA)]
Results = Annotated[Path, typer.Option(help="Folder of studies, weights, reports and exports.", rich_help_panel=STUDY)]
Storage = Annotated[
    str | None,
    typer.Option(
        help="URL of the study's database.",
        rich_help_panel=STUDY,
        show_default="SQLite file in the results folder",
    ),
]
Study = Annotated[str | None, typer.Option(help="Name of the study.", rich_help_panel=STUDY, show_default="search")]


Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        parser=word("formats", FORMATS),
        help="Also write int8 (ONNX), c (C in float32), c-int8 (C in integers), or a project with this C in integers:"
        " arduino, makefile. Repeatable.",
        metavar="FORMAT",
        show_default=False,
    ),
]


def with_settings(recipe: Recipe, settings: list[str], epochs: int | None) -> Recipe:
    """Returns the recipe after applying `FIELD=VALUE` settings and then `epochs`.

    Raises `RecipeError` for unknown fields and invalid values.
    """
    fields = recipe.to_json()
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in RECIPE_FIELDS:
            form = f"FIELD=VALUE with FIELD {one_of(RECIPE_FIELDS)}"
            raise RecipeError(f"{argument_text('set', setting)}{suggestion(name, RECIPE_FIELDS)}: expected {form}")
        try:
            fields[name] = json.loads(value)
        except (ValueError, RecursionError):
            fields[name] = value  # not JSON: a plain word
        if not RECIPE_FIELDS[name].accepts(fields[name]):
            raise RecipeError(f"{argument_text('set', setting)}: expected {RECIPE_FIELDS[name]}")
    if epochs is not None:
        check_counts(RecipeError, epochs=(epochs, 1))
        fields["epochs"] = epochs
    return Recipe.from_json(fields)
