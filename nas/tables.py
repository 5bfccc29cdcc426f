"""Tables of trials, accuracies and exported files, for the terminal and as HTML for notebooks."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas.architecture.cost import METRIC_LABELS
from nas.boards import Board
from nas.seed_stats import Ranking, SeedAccuracies, spread_text
from nas.space.feasibility import reason_text
from nas.study.trial import TrialRecord, runs_text

if TYPE_CHECKING:
    from nas.exporters.verify import FileVerification


def trial_table(trials: Sequence[TrialRecord], *, title: str) -> Table:
    """Returns a table with one row for each trial."""
    table = Table(title=Text(title, "table.title"), title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("trial", "val accuracy", "lowest", *_short_labels("params", "macs", "receptive_field"), "seconds"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for trial in trials:
        percent = [f"{x:.2%}" if x is not None else "" for x in (trial.objective, trial.consistent_accuracy)]
        counts = [f"{x:,}" if x is not None else "" for x in (trial.params, trial.macs, trial.receptive_field)]
        seconds = f"{trial.seconds:.0f}" if trial.seconds is not None else ""
        state = trial.state.lower() if trial.state in ("RUNNING", "WAITING") else ""
        reason = reason_text(trial.reason) if trial.outcome == "discarded" else trial.reason
        note = ", ".join(filter(None, (trial.source, runs_text(trial), reason, state)))
        table.add_row(str(trial.number), *percent, *counts, seconds, Text(note))
    return table


def board_table(boards: Sequence[Board]) -> Table:
    """Returns a table of boards, with their memory and the limits on a network's int8 C code, in bytes."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("board", "", "core"):
        table.add_column(name, overflow="fold")
    for name in ("MHz", "RAM", "flash", "arena at most", "constants at most"):
        table.add_column(name, justify="right", no_wrap=True)
    for board in boards:
        numbers = (board.ram_bytes, board.flash_bytes, *board.bounds().values())
        table.add_row(board.name, board.title, board.core, f"{board.clock_mhz:g}", *(f"{x:,}" for x in numbers))
    return table


def ranking_table(ranking: Ranking, cost: str) -> Table:
    """Returns a table of finalists, best first, with the objective of each seed; `cost` is the metric for ties."""
    table = Table(
        title="Mean val accuracy of the last epochs, by seed", title_justify="left", box=None, header_style="bold"
    )
    num_seeds = len(ranking.finalists[0].objectives)
    for name in ("trial", METRIC_LABELS[cost].axis, _spread_heading(num_seeds)):
        table.add_column(name, justify="right", no_wrap=True)
    for seed in range(num_seeds):
        table.add_column(f"seed {seed}", justify="right")
    table.add_column("")
    for finalist in ranking.finalists:
        note = "tied with the best" if finalist in ranking.tied and finalist != ranking.finalists[0] else ""
        if finalist == ranking.winner:
            note = "picked" + (", the smallest of those tied" if len(ranking.tied) > 1 else "")
        runs = [f"{x:.2%}" if x else "diverged" for x in finalist.objectives]
        table.add_row(str(finalist.trial), f"{finalist.cost:,}", spread_text(finalist.objectives), *runs, note)
    return table


def epoch_table(result: SeedAccuracies, judged_on: str = "test") -> Table:
    """Returns a table with the accuracy over the seeds for each epoch."""
    title = f"{judged_on.capitalize()} accuracy by epoch"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    for name in ("epoch", _spread_heading(len(result.accuracies)), "lowest", "highest", "seeds on target"):
        table.add_column(name, justify="right", no_wrap=True)
    for epoch, values in enumerate(zip(*result.accuracies, strict=True), start=1):
        on_target = sum(value >= result.target for value in values)
        table.add_row(
            str(epoch), spread_text(values), f"{min(values):.2%}", f"{max(values):.2%}", f"{on_target}/{len(values)}"
        )
    return table


def verification_table(verifications: "Sequence[FileVerification]", *, title: str) -> Table:
    """Returns a table of an export's files: size, and agreement with the network they were written from."""
    table = Table(title=Text(title, "table.title"), title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("file", no_wrap=True)
    for name in ("bytes", "logits differ by", "same class", "val accuracy"):
        table.add_column(name, justify="right", no_wrap=True)
    for verification in verifications:
        difference = "quantised" if verification.difference is None else f"{verification.difference:.1e}"
        accuracy = "" if verification.accuracy is None else f"{verification.accuracy:.2%}"
        same = f"{verification.num_same:,} of {verification.num_images:,}"
        table.add_row(verification.name, f"{verification.num_bytes:,}", difference, same, accuracy)
    return table


def _spread_heading(num_seeds: int) -> str:
    return f"mean ± std of {num_seeds} seeds"


def _short_labels(*metrics: str) -> list[str]:
    return [METRIC_LABELS[metric].short for metric in metrics]


def table_html(table: Table) -> str:
    """Returns a table of this module as HTML, with all text escaped."""

    def row(tag: str, contents: Sequence[object]) -> str:
        aligned = zip(table.columns, contents, strict=True)
        cells = (f'<{tag} style="text-align: {column.justify}">{escape(str(each))}</{tag}>' for column, each in aligned)
        return f"<tr>{''.join(cells)}</tr>"

    heads = row("th", [column.header for column in table.columns])
    rows = (row("td", each) for each in zip(*(column.cells for column in table.columns), strict=True))
    return f"<p><b>{escape(str(table.title or ''))}</b></p><table>{heads}{''.join(rows)}</table>"


def print_table(table: Table) -> None:
    """Prints a table at the width of the terminal."""
    # Without a terminal rich would wrap at 80 columns; 200 columns keep each row on one line.
    console = Console(highlight=False)
    Console(highlight=False, width=None if console.is_terminal else 200).print(table)
