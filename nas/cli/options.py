"""The command line's options: each one's type, help and default text, shared by the commands that take it."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from nas.errors import RecipeError
from nas.recipe import ALLOWED, Recipe

SEARCH, DATA, STUDY, LIMITS = "Search", "Data and training", "Study", "Limits"

File = Annotated[
    Path, typer.Argument(help="An architecture file (JSON), or the name of a published network.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
MaxParams = Annotated[
    int | None, typer.Option(help="Most trainable parameters.", rich_help_panel=LIMITS, show_default=False)
]
MinReceptiveField = Annotated[
    int | None,
    typer.Option(help="Smallest receptive field, in pixels.", rich_help_panel=LIMITS, show_default="the images' side"),
]
MaxMacs = Annotated[
    int | None,
    typer.Option(help="Most multiply-accumulates an image.", rich_help_panel=LIMITS, show_default=False),
]
MaxActivationBytes = Annotated[
    int | None,
    typer.Option(help="Most bytes of float32 activations alive at a time.", rich_help_panel=LIMITS, show_default=False),
]
MaxWeightBytes = Annotated[
    int | None, typer.Option(help="Most bytes of stored float32 weights.", rich_help_panel=LIMITS, show_default=False)
]
Constraints = Annotated[
    list[str] | None,
    typer.Option(
        "--constraint",
        metavar="METRIC<=VALUE",
        help="A limit on any metric, also >=; give it as often as you like.",
        rich_help_panel=LIMITS,
        show_default=False,
    ),
]
Space = Annotated[
    str | None,
    typer.Option(
        help="Search space: the name of one that comes along, or a TOML file.",
        rich_help_panel=SEARCH,
        show_default="the study's, or grey for grey images, rgb for others",
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help="accuracy; or for a Pareto front accuracy,params or accuracy with another cost.",
        rich_help_panel=SEARCH,
        show_default="the study's, or accuracy",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="What proposes candidates: elite, evolution, tpe, gp, nsga2, random.",
        rich_help_panel=SEARCH,
        show_default="the study's, or elite",
    ),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        help="What stops hopeless trials early: none, median, asha, hyperband.",
        rich_help_panel=SEARCH,
        show_default="the study's, or none",
    ),
]
StartFrom = Annotated[
    list[str] | None,
    typer.Option(
        "--start-from",
        metavar="FILE",
        help="A known network to train first: an architecture file, the folder of an export, or the name of a"
        " published one; give it as often as you like.",
        rich_help_panel=SEARCH,
        show_default=False,
    ),
]
Portfolio = Annotated[
    bool | None,
    typer.Option(
        "--portfolio/--no-portfolio",
        help="Train the known designs first that come with the search space, scaled to the limits.",
        rich_help_panel=SEARCH,
        show_default="the study's, or --portfolio",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        help="mnist, fashion-mnist, kmnist, emnist-digits, cifar10, digits, or folder:PATH with train/CLASS/*.png"
        " and, if there is one, test/CLASS/*.png.",
        rich_help_panel=DATA,
        show_default="mnist if it can be had, else digits",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        help="Where datasets lie and are downloaded to.",
        rich_help_panel=DATA,
        show_default="$NAS_DATA, or the user's cache",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (CUDA, then MPS, then CPU), cuda (every GPU there is), cuda:N, mps or cpu.", rich_help_panel=DATA
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that train, one thread each.", rich_help_panel=DATA, show_default="one a core, or one a GPU"
    ),
]
Target = Annotated[float, typer.Option(help="Accuracy to be kept in each of the last epochs, a fraction of 1.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Train on a Ray cluster: auto, HOST:PORT, or local for one of this machine's own.",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
GpusPerTrial = Annotated[
    float | None,
    typer.Option(
        metavar="0...1",
        help="Share of a GPU that a candidate gets, with --ray.",
        rich_help_panel=DATA,
        show_default="1 where the cluster has a GPU",
    ),
]
Exact = Annotated[
    bool, typer.Option("--exact", help="Bitwise repeatable on a GPU, too, and slower there.", rich_help_panel=DATA)
]
Epochs = Annotated[int, typer.Option(help="Epochs a candidate.", rich_help_panel=DATA)]
Results = Annotated[Path, typer.Option(help="Folder of studies, weights, exports.", rich_help_panel=STUDY)]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Database URL of the study.",
        rich_help_panel=STUDY,
        show_default="SQLite in the results folder",
    ),
]
Study = Annotated[str | None, typer.Option(help="Name of the study.", rich_help_panel=STUDY, show_default="search")]


class ExtraFormat(StrEnum):
    """What `nas export` writes besides: those of `nas.exporters.export.FORMATS`."""

    int8 = "int8"
    c = "c"


class ReportFormat(StrEnum):
    """What `nas report` writes: those of `nas.commands.report.FORMATS`."""

    html = "html"
    csv = "csv"
    parquet = "parquet"
    json = "json"


class TableFormat(StrEnum):
    """How `nas trials` prints."""

    table = "table"
    csv = "csv"
    json = "json"


def chosen_recipe(file: Path | None, settings: list[str], epochs: int | None) -> Recipe:
    """The recipe of a file, or the default one, with `FIELD=VALUE` settings and a number of epochs put over it."""
    fields = Recipe.load(file).to_json() if file is not None else {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in ALLOWED:
            raise RecipeError(f"--set {setting}: allowed: FIELD=VALUE with a field of {', '.join(ALLOWED)}")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value  # a word
    if epochs is not None:
        fields["epochs"] = epochs
    return Recipe.from_json(fields)
