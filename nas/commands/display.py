"""Displays the progress of a search: a live panel in a terminal or a notebook, plain lines elsewhere."""

import io
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from nas.commands.events import (
    ConfirmEvent,
    ConfirmStarted,
    EpochFinished,
    Event,
    FinalRunFinished,
    FinalsStarted,
    OthersAwaited,
    RunFinished,
    SearchStarted,
    StageStarted,
    TrialStarted,
)
from nas.study.budget import Budget, tally_text
from nas.study.progress import Tally, discards_text
from nas.study.trial import TrialRecord, cost_text, result_text
from nas.text import count_text, last_epochs_text
from nas.training.metrics import EpochMetrics
from nas.training.results import NUM_LAST_EPOCHS, accuracies_text, objective

MAX_SHOWN_TRIALS = 4  # trials side by side in the live panel
NUM_FIRST, NUM_LAST = 8, 12  # lines above the panel in a notebook; those between them are left out
PREFORMATTED = '<pre style="line-height: 1.3; font-family: monospace">{code}</pre>'
NOTEBOOK_UPDATE_SECONDS = 0.2  # seconds between two updates of a notebook for epochs

OnEvent = Callable[[Event], None]


def epoch_line(metrics: EpochMetrics, epochs: int, judged_on: str = "val") -> str:
    """Returns an epoch's metrics on one line, for `nas train` and `nas search`."""
    return (
        f"epoch {metrics.epoch:>2}/{epochs}  train loss {metrics.train_loss:.4f}  train {metrics.train_accuracy:.2%}"
        f"  {judged_on} loss {metrics.val_loss:.4f}  {judged_on} {metrics.val_accuracy:.2%}"
        f"  lr {metrics.learning_rate:.2g}  {metrics.seconds:.1f} s"
    )


def start_lines(event: SearchStarted) -> list[str]:
    """Returns the lines that a search prints when it starts, before `warning_lines`."""
    known = {"known networks, as they are": event.start_from, "known designs, scaled to the limits": event.portfolio}
    starts = [f"{kind}: {', '.join(names)}" for kind, names in known.items() if names and not event.tally.num_trained]
    waits = event.num_queued and event.budget.admits(event.tally)
    return [
        f"dataset {event.dataset}: {event.dataset_note}",
        f"space {event.space}, limits {', '.join(event.constraints)}",
        f"{count_text(event.epochs, 'epoch')} a candidate on {event.device}, {count_text(event.workers, 'worker')},"
        f" seed {event.seed}",
        f"objective {','.join(event.objectives)}, sampler {event.sampler}, pruner {event.pruner}",
        *([f"starts with {'; then with '.join(starts)}"] if starts else []),
        *event.unfit_designs,
        f"study {event.study} in {event.storage}: {tally_text(event.tally, event.budget)}"
        + (f", {event.num_queued} to train first" if waits else ""),
    ]


def warning_lines(event: SearchStarted) -> list[str]:
    """Returns a line for each network that the user gave and that the search leaves out."""
    return [f"warning: {line}" for line in event.unfit]


def event_line(event: OthersAwaited | FinalsStarted | FinalRunFinished) -> str:
    """Returns one line for an event that is not about a single trial."""
    if isinstance(event, OthersAwaited):
        return (
            f"waiting for {count_text(event.num_running, 'trial')} that other searches on this study have in training"
        )
    if isinstance(event, FinalsStarted):
        runs, trials = count_text(event.num_runs, "further run"), ", ".join(map(str, event.trials))
        return f"finalists, {runs} with other seeds: trials {trials}"
    reached = [metrics.val_accuracy for metrics in event.history]
    text = f"{objective(reached, NUM_LAST_EPOCHS):.2%}" if reached else event.reason or "diverged"
    return f"  {event.num_done}/{event.num_runs}  trial {event.run.trial}, another seed: {text}"


def duration_text(seconds: float) -> str:
    """Returns a duration as rough text, such as "about 2 h 5 min"."""
    hours, minutes = divmod(int(seconds) // 60, 60)
    if hours:
        return f"about {hours} h {minutes} min"
    return f"about {minutes} min" if minutes else f"about {int(seconds)} s"


class PlainDisplay:
    """Prints each event as plain lines."""

    def __init__(self) -> None:
        self.epochs, self.budget = 0, Budget()

    def __call__(self, event: Event) -> None:
        for line in self.lines(event):
            print(line, flush=True)

    def lines(self, event: Event) -> list[str]:
        """Returns the lines of one event."""
        if isinstance(event, SearchStarted):
            self.epochs, self.budget = event.epochs, event.budget
            return [*start_lines(event), *warning_lines(event)]
        if isinstance(event, TrialStarted):
            discards = discards_text(event.discards, num_stored=event.num_stored_discards)
            return [f"trial {event.number}: {cost_text(event.cost)}; so far {discards}"]
        if isinstance(event, EpochFinished):
            return [f"  trial {event.number}  {epoch_line(event.metrics, self.epochs)}"]
        if isinstance(event, OthersAwaited | FinalsStarted | FinalRunFinished):
            return [event_line(event)]
        best = f"; best {event.best.objective:.2%} (trial {event.best.number})" if event.best else ""
        return [f"trial {event.trial.number}: {result_text(event.trial)}; {tally_text(event.tally, self.budget)}{best}"]


@dataclass(slots=True)
class _RunningTrial:
    """A trial in training: when it began (`time.monotonic`), and its last epoch."""

    started: TrialStarted
    start_time: float
    metrics: EpochMetrics | None = None


class Panel(ABC):
    """Display of the spent budget, running trials, the best trial, discards and the time left.

    A subclass says with `print` where lines go that stay.
    """

    how_to_stop = "Ctrl-C stops it; the same command goes on"

    def __init__(self) -> None:
        self.started: SearchStarted | None = None
        self.running: dict[int, _RunningTrial] = {}
        self.best: TrialRecord | None = None
        self.discards: Mapping[str, int] = {}
        self.tally = Tally(num_trained=0, num_pruned=0, spent=0.0)
        self.num_parallel = 1  # most trials at a time so far
        self.session_seconds = self.spent_before = 0.0  # seconds of this session's trials; budget spent before it

    @abstractmethod
    def print(self, text: Text) -> None:
        """Shows a line that stays."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, SearchStarted):
            self.started, self.tally, self.spent_before = event, event.tally, event.tally.spent
            self.best, self.discards = event.best, event.discards
            for line in start_lines(event):
                self.print(Text(line))
            for line in warning_lines(event):
                self.print(Text(line, style="bold yellow"))
        elif isinstance(event, TrialStarted):
            self.running[event.number] = _RunningTrial(event, time.monotonic())
            self.num_parallel = max(self.num_parallel, len(self.running))
            self.discards = event.discards
        elif isinstance(event, EpochFinished):
            self.running[event.number].metrics = event.metrics
        elif isinstance(event, OthersAwaited | FinalsStarted | FinalRunFinished):
            self.print(Text(event_line(event), style="dim"))
            if isinstance(event, FinalRunFinished):
                if done := self.tally.spent - self.spent_before:  # counted as a training of average length
                    self.session_seconds *= (event.tally.spent - self.spent_before) / done
                self.tally = event.tally
        else:
            trial = event.trial
            ended = self.running.pop(trial.number)
            if event.tally.spent > self.tally.spent:
                self.session_seconds += time.monotonic() - ended.start_time
            self.tally, self.best = event.tally, event.best
            style = "green" if trial.objective is not None else "yellow" if trial.outcome == "pruned" else "red"
            text = Text(f"trial {trial.number}: {cost_text(trial)}: ").append(result_text(trial), style=style)
            self.print(text)

    def render(self) -> RenderableType:
        """Returns the panel in its present state."""
        if self.started is None:
            return Text("loading the data, drawing the first candidates ...", style="dim")
        budget = self.started.budget
        share = budget.spent_share(self.tally)
        bar = Progress(BarColumn(bar_width=30), TextColumn(tally_text(self.tally, budget)))
        bar.add_task("", total=100, completed=round(100 * share))
        facts = Table.grid(padding=(0, 2))
        for running in list(self.running.values())[:MAX_SHOWN_TRIALS]:
            facts.add_row("now", f"trial {running.started.number}, {cost_text(running.started.cost)}")
            facts.add_row("", self._progress(running.metrics))
        if len(self.running) > MAX_SHOWN_TRIALS:
            facts.add_row("", f"and {len(self.running) - MAX_SHOWN_TRIALS} more")
        if self.best is not None:
            facts.add_row("best", f"trial {self.best.number}, {result_text(self.best)}, {cost_text(self.best)}")
        facts.add_row("drawn", discards_text(self.discards))
        facts.add_row("left", self.time_left())
        facts.add_row("", Text(self.how_to_stop, style="dim"))
        return Group(bar, facts)

    def _progress(self, metrics: EpochMetrics | None) -> str:
        assert self.started is not None
        if metrics is None:
            return f"epoch 1/{self.started.epochs}"
        done = f"epoch {metrics.epoch}/{self.started.epochs} done"
        return f"{done}, val {metrics.val_accuracy:.2%}, {metrics.seconds:.1f} s an epoch"

    def time_left(self) -> str:
        """Returns the estimated time left as text, from the trials and epochs of this session."""
        assert self.started is not None
        known = [running.metrics.seconds for running in self.running.values() if running.metrics]
        if self.session_seconds:
            each = self.session_seconds / (self.tally.spent - self.spent_before)
        elif known:
            each = sum(known) / len(known) * self.started.epochs
        else:
            return "unknown until an epoch is done"
        budget, left = self.started.budget, []
        if budget.trials is not None:  # wall-clock time: parallel trials slow each other down
            spent = sum(min(time.monotonic() - running.start_time, each) for running in self.running.values())
            left.append((each * (budget.trials - self.tally.spent) - spent) / (len(self.running) or self.num_parallel))
        if budget.seconds is not None:  # time as the budget counts it
            spent = sum(m.seconds * m.epoch for m in (running.metrics for running in self.running.values()) if m)
            left.append((budget.seconds - self.tally.spent_seconds - spent) / budget.workers)
        seconds = max(0.0, min(left))
        return duration_text(seconds)


class LivePanel(Panel):
    """A panel below the lines of a terminal. It disappears at the end of the `with` block of `live`."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.live = Live(console=console, get_renderable=self.render, refresh_per_second=4, transient=True)

    def print(self, text: Text) -> None:
        self.console.print(text)


class NotebookPanel(Panel):
    """A panel in the output of a notebook's cell. `show` replaces it by lines alone at the end."""

    how_to_stop = "Interrupt the kernel to stop it; the same call goes on"

    def __init__(self) -> None:
        from IPython.display import display

        super().__init__()
        self.lines: list[Text] = []
        self.update_time = time.monotonic()
        self.handle = display(self._bundle(self.render()), raw=True, display_id=True)

    def print(self, text: Text) -> None:
        self.lines.append(text)

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if not isinstance(event, EpochFinished) or time.monotonic() > self.update_time + NOTEBOOK_UPDATE_SECONDS:
            self.show(self.render())

    def show(self, *panel: RenderableType) -> None:
        """Shows the lines and, below them, the panel if there is one."""
        self.update_time = time.monotonic()
        self.handle.update(self._bundle(*panel), raw=True)

    def _bundle(self, *panel: RenderableType) -> dict[str, str]:
        lines = self.lines
        if len(lines) > NUM_FIRST + NUM_LAST:
            lines = [*lines[:NUM_FIRST], Text("..."), *lines[-NUM_LAST:]]
        console = Console(file=io.StringIO(), width=100, record=True, force_jupyter=False, color_system="truecolor")
        console.print(*lines, *panel, sep="\n")
        text = console.export_text(clear=False)
        return {"text/plain": text, "text/html": console.export_html(code_format=PREFORMATTED, inline_styles=True)}


TARGET_SOURCES = {
    "given": "as given",
    "study": "as in the last confirmation of this study",
    "default": "the default",
}


def confirm_start_lines(event: ConfirmStarted) -> list[str]:
    """Returns the target with its source, and what a confirmation is going to train."""
    seeds, epochs = count_text(event.seeds, "seed"), last_epochs_text(event.consistency, event.epochs)
    plan = f"{count_text(event.num_runs, 'training')} of {count_text(event.epochs, 'epoch')}: "
    if len(event.trials) > 1:
        plan += f"the best {len(event.trials)} trials with {seeds} each, then the winner with {seeds} on train + val"
    else:
        plan += f"trial {event.trials[0]} with {seeds} on train + val"
    if event.num_done == event.num_runs:
        plan += "; all are stored already"
    else:
        stored = f"; {event.num_done} are stored already" if event.num_done else ""
        plan += f"{stored}; takes {duration_text(event.seconds)} at the speed of the search"
    return [f"target {event.target:.2%} in {epochs}, {TARGET_SOURCES[event.target_source]}", plan]


def confirm_line(event: ConfirmEvent) -> str:
    """Returns the text for an event of a confirmation: two lines for its start, one for another event."""
    if isinstance(event, ConfirmStarted):
        return "\n".join(confirm_start_lines(event))
    if isinstance(event, StageStarted):
        what = {
            "val": "on the split of the search, ranked by val accuracy",
            "test": "on train + val; the test split is opened for it alone",
        }[event.judged_on]
        trials = f"trial{'s' * (len(event.trials) > 1)} {', '.join(map(str, event.trials))}"
        done = f", {event.num_done} done already" if event.num_done else ""
        return f"{trials} {what}: {event.num_runs} runs{done}, on {event.device}"
    if isinstance(event, RunFinished):
        run = event.run
        accuracies = [metrics.val_accuracy for metrics in event.history]
        text = accuracies_text(accuracies, event.consistency) if accuracies else "diverged"
        return f"  {event.num_done}/{event.num_runs}  trial {run.trial}, seed {run.seed}: {run.judged_on} {text}"
    return event.ranking.pick_text


@contextmanager
def event_display(on_event: OnEvent, *, progress: bool) -> Iterator[OnEvent]:
    """Yields a function that passes events to `on_event` and, if `progress` is set, displays them first."""
    if not progress:
        yield on_event
        return

    def both(event: Event) -> None:
        display(event)
        on_event(event)

    display: PlainDisplay | Panel
    if Console().is_jupyter:
        display = panel = NotebookPanel()
        try:
            yield both
        finally:
            panel.show()
    elif sys.stdout.isatty():
        display = LivePanel(Console())
        with display.live:
            yield both
    else:
        display = PlainDisplay()
        yield both
