"""The commands space, cost, show and train."""

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli.option_names import with_option_names
from nas.cli.options import (
    DATA,
    DATASET_HELP,
    SEARCH,
    SPACE_HELP,
    BoardName,
    Constraints,
    DataRoot,
    Device,
    Exact,
    File,
    Formats,
    Json,
    MaxActivationBytes,
    MaxLatencyMs,
    MaxMacs,
    MaxParams,
    MaxWeightBytes,
    MinReceptiveField,
    Target,
    Workers,
    number,
    with_settings,
)
from nas.errors import NasError, argument_text
from nas.schema import DEFAULT_TARGET, check_target

if TYPE_CHECKING:
    from nas.exporters.export import Exported
    from nas.training.fit import Fit, Repeats


def space(
    max_params: MaxParams = None,
    min_receptive_field: MinReceptiveField = None,
    max_macs: MaxMacs = None,
    max_activation_bytes: MaxActivationBytes = None,
    max_weight_bytes: MaxWeightBytes = None,
    board: BoardName = None,
    max_latency_ms: MaxLatencyMs = None,
    constraints: Constraints = None,
    space: Annotated[
        str | None,
        typer.Option(help=SPACE_HELP, rich_help_panel=SEARCH, show_default="grey for grey images, rgb for colour"),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Take image shape and number of classes from this dataset, as nas search does.",
            rich_help_panel=DATA,
            show_default="those of the search space",
        ),
    ] = None,
    data_root: DataRoot = None,
    draws: Annotated[int, typer.Option(parser=number("draws", least=100), help="Number of random draws.")] = 10_000,
    seed: Annotated[int, typer.Option(parser=number("seed", least=0), help="Seed of the draws.")] = 0,
    use_json: Json = False,
) -> None:
    """Survey a search space without training: feasible share, smallest network, binding limits.

    A study keeps its dataset and a shipped space for later commands; nas search needs the limits every time.
    """
    from nas.resources import default_space
    from nas.space.constraints import limits
    from nas.space.search_space import SearchSpace
    from nas.space.survey import survey

    if dataset is None:
        loaded = SearchSpace.load(space or default_space((1, 28, 28)))
    else:
        from nas.data import datasets

        data = datasets.load(dataset, data_root=data_root)
        loaded = SearchSpace.load(space or default_space(data.input_shape))
        loaded = loaded.bind(input_shape=data.input_shape, num_classes=data.num_classes, epochs=loaded.epochs)
    bounds = limits(
        loaded.input_shape,
        max_params=max_params,
        min_receptive_field=min_receptive_field,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        max_weight_bytes=max_weight_bytes,
        board=board,
        max_latency_ms=max_latency_ms,
        constraints=constraints or (),
    )
    report = survey(loaded, bounds, num_draws=draws, seed=seed)
    typer.echo(json.dumps(report.to_json(), indent=2) if use_json else "\n".join(report.lines()))


def cost(file: File, use_json: Json = False) -> None:
    """Print a network's cost: parameters, MACs, receptive field, memory in bytes."""
    from nas.commands.networks import cost_of

    found = dataclasses.asdict(cost_of(file))
    typer.echo(json.dumps(found) if use_json else "\n".join(f"{key:<22} {value:>12,}" for key, value in found.items()))


def boards(use_json: Json = False) -> None:
    """List the boards that nas search --board knows, and what their memory allows a network in int8 C."""
    from nas.boards import load_boards
    from nas.tables import board_table, print_table

    known = load_boards()
    if use_json:
        typer.echo(json.dumps([dataclasses.asdict(board) | board.bounds() for board in known], indent=2))
    else:
        print_table(board_table(known))


def show(file: File) -> None:
    """Print a network's layers with output shape, parameters, MACs and receptive field."""
    from nas.architecture.architecture import Architecture
    from nas.architecture.cost import cost_of
    from nas.architecture.diagram import architecture_table
    from nas.tables import print_table

    architecture = Architecture.load(file)
    print_table(architecture_table(architecture))
    typer.echo("\n" + "\n".join(cost_of(architecture).lines()))


def train(
    context: typer.Context,
    file: File,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="Recipe file (JSON), such as recipe.json of an export.",
            show_default="that of a known network, else recipe.json in the folder of the file, else a default",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Override a field of the recipe, such as learning_rate=0.05. Repeatable.",
            show_default=False,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(parser=number("epochs"), help="Number of epochs.", show_default="the recipe's, else 15"),
    ] = None,
    seed: Annotated[
        int, typer.Option(parser=number("seed", least=0), help="Seed of weights, batches and augmentation.")
    ] = 0,
    seeds: Annotated[
        int, typer.Option(parser=number("seeds", least=1), help="Number of seeds to train with, from --seed on.")
    ] = 1,
    target: Target = DEFAULT_TARGET,
    dataset: Annotated[
        str | None,
        typer.Option(help=DATASET_HELP, rich_help_panel=DATA, show_default="mnist if available, else digits"),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Workers = None,
    exact: Exact = False,
    test: Annotated[
        bool,
        typer.Option("--test", help="Train on train + val, evaluate on the test split. Not for choosing networks."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to export the network to (with several seeds, the first seed's). An earlier export there is"
            " replaced.",
            show_default=False,
        ),
    ] = None,
    formats: Formats = None,
    board: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Board (see nas boards, or FILE.toml:NAME): the int8 C code must fit into half of its RAM and flash."
            " With --output, also write it, and run it on an emulated core of this board.",
            show_default=False,
        ),
    ] = None,
    use_json: Json = False,
) -> None:
    """Train one network with one recipe, once or with several seeds.

    No study keeps these options: repeat them for each training, except the recipe in the folder of --output.
    """
    from nas.commands.networks import SourcedRecipe, default_recipe
    from nas.commands.train import train as train_once
    from nas.commands.train import train_seeds
    from nas.exporters.folder import check_output
    from nas.recipe import Recipe
    from nas.tables import epoch_table, print_table

    base = default_recipe(file) if recipe is None else SourcedRecipe.of(Recipe.load(recipe), str(recipe))
    changed = with_settings(base, set_ or [], epochs)
    chosen = SourcedRecipe.of(changed, ", ".join([base.source, *(set_ or [])]))
    check_target(target)
    extra = formats or []
    if output is not None:
        check_output(output)
    elif extra:
        raise NasError(f"{argument_text('formats', extra)}: only for an export; give `output`, too")
    where: dict[str, Any] = {
        "dataset": dataset,
        "data_root": data_root,
        "device": device,
        "exact": exact,
        "test": test,
        "board": board,
        "progress": not use_json,
    }
    result: Fit | Repeats
    if seeds == 1:
        result = train_once(file, chosen, seed=seed, **where)
        lines = result.lines()
    else:
        result = train_seeds(file, chosen, seeds=seeds, first_seed=seed, target=target, workers=workers, **where)
        lines = result.result.lines()
        if not use_json:
            print_table(epoch_table(result.result, result.fit.judged_on))
    typer.echo(json.dumps(result.to_json()) if use_json else "\n".join(lines))
    if output is not None:
        exported = _export(result, output, extra, board)
        if not use_json:
            typer.echo(f"written to {exported.folder}, every file verified on the val split")
            for remark in exported.lines() if board is not None else ():
                typer.echo(with_option_names(remark, context))


def _export(result: "Fit | Repeats", output: Path, formats: list[str], board: str | None) -> "Exported":
    """Exports the network of a training, for a board if one is given.

    Raises `NasError` if the training with the first seed diverged, so that there are no weights.
    """
    from nas.boards import Board
    from nas.exporters.export import export
    from nas.exporters.provenance import Provenance, VerificationData
    from nas.training.fit import Fit

    fit = result if isinstance(result, Fit) else result.fit
    if not fit.weights:
        raise NasError(f"the training with seed {fit.seed} diverged, so {output} is not written; give another `seed`")
    is_test = fit.judged_on == "test"
    provenance = Provenance.of_fit(result, result.lines()) if isinstance(result, Fit) else Provenance.of_repeats(result)
    return export(
        fit.architecture,
        fit.weights,
        output=output,
        formats=formats,
        board=None if board is None else Board.load(board),
        provenance=provenance if board is None else provenance.limited_to(board),
        verification_data=VerificationData.of(
            fit.data, is_seen=is_test, accuracy=None if is_test else fit.history[-1].val_accuracy
        ),
    )
