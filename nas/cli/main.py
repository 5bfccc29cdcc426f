"""Entry point of the command line, and the commands search and confirm.

Only this module ends the process with an exit status. Heavy modules are imported inside the commands, so that
`nas --help` stays fast.
"""

import dataclasses
import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas.cli import networks
from nas.cli import studies as study_commands
from nas.cli.option_names import Command
from nas.cli.options import (
    SEARCH,
    BoardName,
    ConfirmTarget,
    Constraints,
    DataRoot,
    Dataset,
    Device,
    Epochs,
    Exact,
    GpusPerTrial,
    Json,
    MaxActivationBytes,
    MaxLatencyMs,
    MaxMacs,
    MaxParams,
    MaxWeightBytes,
    MinReceptiveField,
    Objective,
    Portfolio,
    Pruner,
    Ray,
    Results,
    Sampler,
    Space,
    StartFrom,
    Storage,
    Study,
    Workers,
    number,
)
from nas.distribution import conflict_text, package_version
from nas.errors import NasError, TrainingDiverged, first_line

if TYPE_CHECKING:
    from nas.commands.search import SearchResult
    from nas.study.reference import StudyRef

app = typer.Typer(
    name="nas",
    help="Neural architecture search under hard constraints: finds, trains and exports small CNNs within given limits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    cls=Command, epilog="Example: [bold]nas search --max-params 8000 --epochs 15[/bold] (run it again to resume)"
)
def search(
    max_params: MaxParams = None,
    min_receptive_field: MinReceptiveField = None,
    max_macs: MaxMacs = None,
    max_activation_bytes: MaxActivationBytes = None,
    max_weight_bytes: MaxWeightBytes = None,
    board: BoardName = None,
    max_latency_ms: MaxLatencyMs = None,
    constraints: Constraints = None,
    trials: Annotated[
        int | None,
        typer.Option(
            parser=number("trials"),
            help="Trainings in the whole study. A trial stopped by a pruner counts as its share of the epochs.",
            rich_help_panel=SEARCH,
            show_default="20, or no limit with --minutes",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            parser=number("minutes", float),
            help="Minutes of training per worker in the whole study. A training that would exceed them is not started.",
            rich_help_panel=SEARCH,
            show_default=False,
        ),
    ] = None,
    space: Space = None,
    objective: Objective = None,
    sampler: Sampler = None,
    pruner: Pruner = None,
    start_from: StartFrom = None,
    portfolio: Portfolio = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=number("seed"),
            help="Random seed. The same seed and --workers give the same candidates.",
            rich_help_panel=SEARCH,
            show_default="the study's, else 0",
        ),
    ] = None,
    keep_discards: Annotated[
        int,
        typer.Option(
            parser=number("keep_discards"),
            help="Discarded candidates to store as trials, for browsing.",
            rich_help_panel=SEARCH,
        ),
    ] = 100,
    epochs: Epochs = 15,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_trial: GpusPerTrial = None,
    exact: Exact = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    use_json: Annotated[bool, typer.Option("--json", help="Print each event as one line of JSON.")] = False,
) -> None:
    """Draw candidates, discard those that break a limit, train and store the others.

    A study keeps dataset, shipped space, objective, sampler, pruner, portfolio and seed: repeat only the others.
    """
    import nas.commands.search
    from nas.cli.events import print_json
    from nas.study.budget import tally_text
    from nas.study.reference import StudyRef

    ref = StudyRef(results, storage, study)
    result = nas.commands.search.search(
        max_params=max_params,
        epochs=epochs,
        trials=trials,
        minutes=minutes,
        dataset=dataset,
        data_root=data_root,
        space=space,
        min_receptive_field=min_receptive_field,
        max_macs=max_macs,
        max_activation_bytes=max_activation_bytes,
        max_weight_bytes=max_weight_bytes,
        board=board,
        max_latency_ms=max_latency_ms,
        constraints=constraints or (),
        objective=objective,
        sampler=sampler,
        pruner=pruner,
        start_from=start_from or (),
        portfolio=portfolio,
        keep_discards=keep_discards,
        seed=seed,
        device=device,
        workers=workers,
        ray=ray,
        gpus_per_trial=gpus_per_trial,
        exact=exact,
        results=results,
        storage=storage,
        study=study,
        command=_command_line(ref),
        progress=not (quiet or use_json),
        on_event=print_json if use_json else lambda event: None,
    )
    if use_json:
        typer.echo(json.dumps(_search_summary(result)))
    else:
        _print_search(result, ref, quiet=quiet)
    if result.interrupted:
        typer.echo("Interrupted: finished trials are kept, the same command goes on.", err=True)
        raise typer.Exit(130)
    if result.exhausted:
        raise NasError(f"the search ended early with {tally_text(result.tally, result.budget)}: {result.exhausted}")


def _search_summary(result: "SearchResult") -> dict[str, Any]:
    """Returns the last line of `nas search --json` as plain data."""
    return {
        "event": "SearchFinished",
        **dataclasses.asdict(result.tally),
        "budget": result.budget.trials,
        "minutes": result.budget.minutes,
        "interrupted": result.interrupted,
        "exhausted": result.exhausted,
        "discards": dict(result.discards),
        "best": [trial.number for trial in result.best],
    }


def _print_search(result: "SearchResult", ref: "StudyRef", *, quiet: bool) -> None:
    """Prints the result of a search: text, the best trials and the commands to run next."""
    from nas.commands.search import BEST_TITLE
    from nas.tables import print_table, trial_table
    from nas.text import options_text

    gap = "" if quiet else "\n"
    typer.echo(gap + "\n".join(result.lines()))
    if result.best:
        print_table(trial_table(result.best, title=BEST_TITLE))
        typer.echo(f"The study is in {result.storage}, weights in {ref.folder / 'artifacts'}. Next:")
        front = " --pareto" * (len(result.objectives) > 1)
        export = f"export{options_text(result.export_arguments)}"
        for command in (f"trials{front}", "dashboard", "report", "confirm", export):
            typer.echo(f"  nas {command}{ref.options()}")


@app.command(cls=Command, epilog="Example: [bold]nas confirm --target 0.994[/bold] (run it again to resume)")
def confirm(
    top: Annotated[
        int | None,
        typer.Option(
            parser=number("top"),
            help="Number of best trials to retrain. Two or more are first compared by val accuracy.",
            show_default="1 if the search has repeated its best trials, else 5",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(parser=number("seeds"), help="Seeds per trial, at least 2.")] = 5,
    target: ConfirmTarget = None,
    again: Annotated[
        bool, typer.Option("--again", help="Open the test split once more. Every opening is counted.")
    ] = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Workers = None,
    ray: Ray = None,
    gpus_per_trial: GpusPerTrial = None,
    exact: Exact = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
    use_json: Json = False,
) -> None:
    """Retrain the best trials with several seeds, pick one by val accuracy, and test only that one."""
    from nas.commands.confirm import confirm as run
    from nas.commands.display import confirm_line
    from nas.commands.events import ConfirmEvent, Ranked
    from nas.study.reader import StudyRecords
    from nas.study.reference import StudyRef
    from nas.tables import epoch_table, print_table, ranking_table
    from nas.text import options_text

    def show(event: ConfirmEvent) -> None:
        if use_json:
            return
        if isinstance(event, Ranked):
            print_table(ranking_table(event.ranking, event.cost))
        typer.echo(confirm_line(event))

    try:
        found = run(
            top=top,
            seeds=seeds,
            target=target,
            again=again,
            data_root=data_root,
            device=device,
            workers=workers,
            ray=ray,
            gpus_per_trial=gpus_per_trial,
            exact=exact,
            results=results,
            storage=storage,
            study=study,
            on_event=show,
        )
    except KeyboardInterrupt:
        typer.echo("Interrupted: runs that have ended are kept, the same command goes on.", err=True)
        raise typer.Exit(130) from None
    if use_json:
        typer.echo(json.dumps(found.to_json()))
        return
    print_table(epoch_table(found.test))
    typer.echo("\n" + "\n".join(found.lines()))
    if found.test.final_accuracies[0]:  # there are no weights if the first seed diverged
        ref = StudyRef(results, storage, study)
        arguments = {"trial": "confirmed", **StudyRecords.open(ref).notes.export_arguments}
        typer.echo(f"Next:\n  nas export{options_text(arguments)}{ref.options()}")


EXAMPLES: dict[Callable[..., None], str] = {
    networks.space: "nas space --max-params 8000",
    networks.cost: "nas cost mnist-7825",
    networks.show: "nas show mnist-7825",
    networks.train: "nas train mnist-7825 --set rotation=7",
    networks.boards: "nas search --board pico",
    study_commands.trials: "nas trials --format csv > trials.csv",
    study_commands.dashboard: "nas dashboard --port 8080",
    study_commands.report: "nas report --output report.html",
    study_commands.export: "nas export --trial confirmed --output model",
}
for command, example in EXAMPLES.items():
    app.command(cls=Command, epilog=f"Example: [bold]{example}[/bold]")(command)


def _command_line(ref: "StudyRef") -> str:
    """Returns the command line without the program's folder and without the password in the database URL."""
    program = Path(sys.argv[0])
    words = ["nas" if program.stem == "__main__" else program.name, *sys.argv[1:]]
    return shlex.join(word.replace(ref.url, ref.masked_url) for word in words)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nas {package_version()}")
        raise typer.Exit


@app.callback()
def _root(
    version_: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of unexpected errors.")] = False,
) -> None:
    if not debug:
        sys.excepthook = _print_unexpected_error


def _print_unexpected_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Exception hook: prints two lines instead of a traceback. Python then exits with status 1."""
    command = shlex.join(["nas", "--debug", *sys.argv[1:]])
    typer.echo(f"error: {kind.__name__}: {first_line(error)}", err=True)
    typer.echo(f"This is a bug in nas. To see the traceback, run:\n  {command}", err=True)


UsageError: Any = typer.BadParameter.__bases__[0]
"""Errors of typer for unknown options, missing arguments and the like; typer exports only this subclass of them."""


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


OUTPUT_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Error numbers of a standard output that cannot be written. Errors of files that `nas` opens carry a file name."""


def main() -> None:
    """Runs the command line. Errors that users can cause are printed on standard error, with exit status 2."""
    # Must be set before torch is imported. By default OpenMP threads spin while they wait, which makes an epoch several
    # times slower if other programs use the same cores (results/README.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _interrupt)  # SIGTERM acts like Ctrl-C
    # So does a closed terminal (SIGHUP), unless the signal is ignored, as under nohup. Windows has no SIGHUP.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, _interrupt)
    if warning := conflict_text():
        typer.echo(f"warning: {warning}", err=True)
    try:
        sys.exit(app(standalone_mode=False) or 0)  # otherwise typer prints its own errors, in a box
    except UsageError as error:
        if message := error.format_message():  # empty if the help was printed because there is no command
            typer.echo(f"error: {message}", err=True)
        sys.exit(2)
    except (NasError, TrainingDiverged) as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_ERRNOS:
            raise
        typer.echo(f"error: the output cannot be written: {error.strerror}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)
