"""The commands trials, dashboard, report and export."""

import json
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.option_names import with_option_names
from nas.cli.options import DataRoot, Formats, Results, Storage, Study, number, word


def trials(
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            parser=word("format", ("table", "csv", "json")),
            metavar="table|csv|json",
            help="Output format. csv and json include stored discards.",
        ),
    ] = "table",
    discards: Annotated[bool, typer.Option("--discards", help="Include stored discards in the table.")] = False,
    pareto: Annotated[
        bool,
        typer.Option(
            "--pareto",
            help="List only the Pareto front of accuracy and parameters, or the other objective of the study.",
        ),
    ] = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """List the trials of a study."""
    from nas.study.progress import discards_text
    from nas.study.reader import StudyRecords
    from nas.study.reference import StudyRef
    from nas.tables import print_table, trial_table
    from nas.text import count_text

    records = StudyRecords.open(StudyRef(results, storage, study))
    rows = records.pareto() if pareto else records.trials()
    if format_ == "json":
        typer.echo(json.dumps([row.to_json() for row in rows]))
    elif format_ == "csv":
        from nas.reports.dataframe import trials_frame

        typer.echo(trials_frame(rows).to_csv(index=False), nl=False)
    else:
        settings = records.settings
        typer.echo(f"dataset {settings.dataset}: {records.notes.dataset_note}")
        typer.echo(
            f"space {settings.space}, limits {', '.join(settings.constraints)}, {count_text(settings.epochs, 'epoch')}"
        )
        how = f"objective {','.join(settings.objectives)}, sampler {settings.sampler}, pruner {settings.pruner}"
        typer.echo(f"{how}, seed {settings.seed}")
        shown = [row for row in rows if discards or row.outcome != "discarded"]
        title = f"Pareto front of accuracy and {settings.cost}" if pareto else f"Study {records.name}"
        print_table(trial_table(shown, title=title))
        num_hidden = sum(row.outcome == "discarded" for row in records.trials()) if not discards else 0
        typer.echo(discards_text(records.discards(), num_stored=num_hidden))


def dashboard(
    port: Annotated[int, typer.Option(parser=number("port"), help="Port to listen on; 0 picks a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on. One that other machines can reach needs --allow-host.")
    ] = "127.0.0.1",
    allow_hosts: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Host name that browsers may use. Repeatable."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse requests that change the study.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the dashboard in a browser.")] = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Serve a study in optuna-dashboard, by default to this machine only."""
    import webbrowser

    from nas.dashboard.server import serve_dashboard
    from nas.study.database import quiet_optuna

    def show(address: str) -> None:
        print(f"{address}   (Ctrl-C stops it)", flush=True)
        if open_:
            webbrowser.open(address)

    with quiet_optuna(), suppress(KeyboardInterrupt):
        serve_dashboard(
            results=results,
            storage=storage,
            study=study,
            host=host,
            port=port,
            allow_hosts=allow_hosts or (),
            read_only=read_only,
            on_ready=show,
        )


def report(
    output: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="RESULTS/STUDY-report.FORMAT")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            parser=word("format", ("html", "csv", "parquet", "json")),
            metavar="html|csv|parquet|json",
            help="html writes one page, the others a table of trials.",
            show_default="suffix of --output, else html",
        ),
    ] = None,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Write a study as one self-contained HTML page, or its trials as a table."""
    from nas.commands.report import report as write

    path = write(output=output, format=format_, results=results, storage=storage, study=study)
    typer.echo(f"{path}  ({path.stat().st_size:,} bytes)")


def export(
    context: typer.Context,
    trial: Annotated[str, typer.Option(help="Trial number, best, or confirmed (picked by nas confirm).")] = "best",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write: new, empty, or an earlier export, which is replaced (edits are lost).",
            show_default="named after the trial, in RESULTS/export",
        ),
    ] = None,
    formats: Formats = None,
    board: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Also write int8 C, and run it on an emulated core of this board (see nas boards, or FILE.toml:NAME).",
            show_default=False,
        ),
    ] = None,
    finetune: Annotated[
        int,
        typer.Option(
            parser=number("finetune", least=0),
            metavar="EPOCHS",
            help="Train on with the rounding of int8 before writing int8 C; kept if the val accuracy is higher. About"
            " two minutes an epoch for MNIST.",
        ),
    ] = 0,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Export a trained network as files that run without nas, and verify each file."""
    from nas.commands.export import export_trial
    from nas.tables import print_table, verification_table

    exported = export_trial(
        int(trial) if trial.isdecimal() else trial,
        formats=formats or (),
        board=board,
        finetune=finetune,
        data_root=data_root,
        results=results,
        storage=storage,
        study=study,
        output=output,
        on_start=lambda number: typer.echo(f"Trial {number}: writing files, then loading each in a fresh process …"),
    )
    print_table(verification_table(exported.verifications, title=f"{exported.folder}"))
    for remark in exported.lines():
        typer.echo(with_option_names(remark, context))
    typer.echo(
        f"README.md there is the model card. Try:\n  python {shlex.quote(str(exported.folder / 'predict.py'))} IMAGE"
    )
