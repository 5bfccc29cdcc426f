"""The commands trials, dashboard, report and export."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nas.cli.options import DataRoot, ExtraFormat, ReportFormat, Results, Storage, Study, TableFormat
from nas.errors import NasError


def trials(
    format_: Annotated[TableFormat, typer.Option("--format", help="csv and json hold stored discards too.")] = (
        TableFormat.table
    ),
    discards: Annotated[bool, typer.Option("--discards", help="Stored discards in the table, too.")] = False,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Only those that no other one beats in accuracy and cost.")
    ] = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """List the trials of a study."""
    from nas.cli.progress import discards_text
    from nas.cli.tables import print_table, trial_table
    from nas.study.reader import StudyRecords
    from nas.study.reference import StudyRef
    from nas.text import counted

    records = StudyRecords.open(StudyRef(results, storage, study))
    rows = records.pareto() if pareto else records.trials()
    if format_ is TableFormat.json:
        typer.echo(json.dumps([row.to_json() for row in rows]))
    elif format_ is TableFormat.csv:
        from nas.reports.dataframe import trials_frame

        typer.echo(trials_frame(rows).to_csv(index=False), nl=False)
    else:
        settings = records.settings
        typer.echo(f"dataset {settings.dataset}: {records.notes.dataset_note}")
        typer.echo(
            f"space {settings.space}, limits {', '.join(settings.constraints)}, {counted(settings.epochs, 'epoch')}"
        )
        how = f"objective {','.join(settings.objectives)}, sampler {settings.sampler}, pruner {settings.pruner}"
        typer.echo(f"{how}, seed {settings.seed}")
        shown = [row for row in rows if discards or row.outcome != "discarded"]
        title = f"Pareto front of accuracy and {settings.cost}" if pareto else f"Study {records.name}"
        print_table(trial_table(shown, title=title))
        typer.echo(discards_text(records.discards()))


def dashboard(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --allow-host.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name by which browsers may ask for it; give it as often as you like."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Open the address in a browser.")] = False,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Browse a study in optuna-dashboard, served to this machine alone unless told otherwise."""
    import webbrowser

    from nas.dashboard.server import serve_dashboard
    from nas.study.database import quiet_optuna

    quiet_optuna()

    def show(address: str) -> None:
        print(f"{address}   (Ctrl-C stops it)", flush=True)
        if open_:
            webbrowser.open(address)

    with suppress(KeyboardInterrupt):
        serve_dashboard(
            results=results,
            storage=storage,
            study=study,
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            read_only=read_only,
            on_ready=show,
        )


def report(
    output: Annotated[
        Path | None, typer.Option(help="File to write.", show_default="RESULTS/STUDY-report.FORMAT")
    ] = None,
    format_: Annotated[
        ReportFormat | None,
        typer.Option(
            "--format", help="One page for people, or the trials as a table.", show_default="as --output ends, or html"
        ),
    ] = None,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Write a study as one page that needs no network: question, answer, best networks, figures, how to do it again."""
    from nas.commands.report import report as write

    wanted = format_.value if format_ else None
    path = write(output=output, format=wanted, results=results, storage=storage, study=study)
    typer.echo(f"{path}  ({path.stat().st_size:,} bytes)")


def export(
    trial: Annotated[str, typer.Option(help="Number of a trial, best, or confirmed (by nas confirm).")] = "best",
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder to write: new, empty, or an earlier export, which is replaced whole, your edits too.",
            show_default="RESULTS/export/STUDY-trial-N",
        ),
    ] = None,
    format_: Annotated[
        list[ExtraFormat] | None,
        typer.Option("--format", help="What to write besides; give it as often as you like.", show_default=False),
    ] = None,
    data_root: DataRoot = None,
    results: Results = Path("results"),
    storage: Storage = None,
    study: Study = None,
) -> None:
    """Take a trained network home as files that need nothing of ours; each proves itself before it is yours."""
    from nas.cli.tables import print_table, proof_table
    from nas.commands.export import export_trial

    if trial not in ("best", "confirmed") and not trial.isdecimal():
        raise NasError(f"--trial is {trial!r}, allowed: a number, best, or confirmed")
    exported = export_trial(
        int(trial) if trial.isdecimal() else None if trial == "best" else "confirmed",
        formats=[each.value for each in format_ or ()],
        data_root=data_root,
        results=results,
        storage=storage,
        study=study,
        output=output,
        on_start=lambda number: typer.echo(f"Trial {number}: writing files, then loading each in a fresh process …"),
    )
    print_table(proof_table(exported.proofs, title=f"{exported.folder}"))
    for remark in exported.remarks:
        typer.echo(remark)
    typer.echo(f"README.md there is the model card. Try:\n  python {exported.folder / 'predict.py'} IMAGE")
