"""Displays of a search, fed with the events of a real search."""

import io
import json
import time
from dataclasses import replace

import pytest
from rich.console import Console

from nas.cli.events import print_json
from nas.commands.display import LivePanel, NotebookPanel, PlainDisplay, event_display, start_lines
from nas.commands.events import EpochFinished, FinalRunFinished, SearchStarted, TrialFinished, TrialStarted
from nas.commands.search import search
from nas.study.budget import Budget
from nas.study.progress import Tally
from nas.study.runs import Run


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    folder = tmp_path_factory.mktemp("display")
    (folder / "s.toml").write_text(
        "[network]\nnum_blocks = 1\n[block]\nnum_convs = 1\n[conv]\nchannels = { low = 2, high = 9 }\n"
    )
    heard = []
    options = {"max_params": 100, "min_receptive_field": 3, "dataset": "digits", "device": "cpu", "epochs": 2}
    options["workers"] = 1
    search(**options, trials=2, space=str(folder / "s.toml"), results=folder / "results", on_event=heard.append)
    return heard


def rendered(panel):
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(panel.render())
    return console.file.getvalue()


def test_live_panel_shows_trial_epoch_and_tally(events):
    panel = LivePanel(Console(file=io.StringIO(), width=80))
    assert "loading the data" in rendered(panel)
    for event in events:
        panel(event)
        text = rendered(panel)
        assert "Ctrl-C stops it; the same command goes on" in text
        assert max(map(len, text.splitlines())) <= 80
        assert "discarded" in text
        if isinstance(event, TrialStarted):
            assert f"trial {event.number}, {event.cost.params:,} params" in text
            assert "epoch 1/2" in text
            assert f"{sum(event.discards.values()):,} discarded" in text
        elif isinstance(event, EpochFinished):
            assert f"epoch {event.metrics.epoch}/2 done, val {event.metrics.val_accuracy:.2%}" in text
        elif isinstance(event, TrialFinished):
            assert f"{event.tally.num_trained} of 2 trained" in text
            assert f"trial {event.best.number}, {event.best.objective:.2%}" in text
    printed = panel.console.file.getvalue()
    assert printed.startswith("dataset digits: named by the user\n")
    assert printed.count("params") == 3  # the limits and a line for each trial


@pytest.mark.parametrize(
    ("start_from", "portfolio", "line"),
    [
        (("a.json",), (), "starts with known networks, as they are: a.json"),
        ((), ("b", "c"), "starts with known designs, scaled to the limits: b, c"),
        (
            ("a.json", "b.json"),
            ("b",),
            "starts with known networks, as they are: a.json, b.json; then with known designs, scaled to the limits: b",
        ),
        ((), (), None),
    ],
)
def test_start_names_networks_that_come_first_and_resumed_search_none(events, start_from, portfolio, line):
    event = replace(events[0], start_from=start_from, portfolio=portfolio)
    assert [each for each in start_lines(event) if each.startswith("starts")] == [line] * (line is not None)
    resumed = replace(event, tally=Tally(num_trained=1, num_pruned=0, spent=1.0))
    assert [each for each in start_lines(resumed) if each.startswith("starts")] == []


@pytest.fixture
def notebook():
    """Captures the outputs of a notebook: a list of bundles, each a new output or an update of an earlier one."""
    capture = pytest.importorskip("IPython.utils.capture")
    from IPython.core.interactiveshell import InteractiveShell

    InteractiveShell.instance()
    with capture.capture_output() as captured:
        yield captured
    InteractiveShell.clear_instance()


def test_notebook_panel_updates_single_output(events, notebook):
    panel = NotebookPanel()
    for event in events:
        panel(event)
        if isinstance(event, TrialFinished):
            text = notebook.outputs[-1].data["text/plain"]
            assert f"{event.tally.num_trained} of 2 trained" in text
            assert f"trial {event.trial.number}: {event.trial.params:,} params" in text
            assert "Interrupt the kernel to stop it; the same call goes on" in text
    assert "loading the data" in notebook.outputs[0].data["text/html"]
    assert [output.update for output in notebook.outputs] == [False] + [True] * (len(notebook.outputs) - 1)
    panel.show()
    last = notebook.outputs[-1].data
    assert last["text/html"].startswith("<pre")
    assert last["text/plain"].startswith("dataset digits: ")
    assert last["text/plain"].count(" params, ") == 2  # a line for each trial
    assert "Interrupt" not in last["text/plain"]


def test_notebook_panel_escapes_html_and_truncates_lines(events, notebook):
    panel = NotebookPanel()
    (started,) = of_type(events, SearchStarted)
    panel(replace(started, dataset_note="<script>", unfit_designs=tuple(f"line {number}" for number in range(50))))
    panel.show()
    last = notebook.outputs[-1].data
    assert "&lt;script&gt;" in last["text/html"]
    assert "<script>" not in last["text/html"]
    assert last["text/plain"].splitlines()[7:10] == ["line 3", "...", "line 39"]


def test_event_is_displayed_before_callback_runs(events, capsys):
    heard = []
    with event_display(lambda event: heard.append((event, capsys.readouterr().out)), progress=True) as show:
        for event in events:
            show(event)
    assert [event for event, _ in heard] == events
    assert all(text for _, text in heard)
    with event_display(heard.append, progress=False) as show:
        show(events[0])
    assert heard[-1] is events[0]
    assert capsys.readouterr().out == ""


def test_time_left_is_extrapolated_from_finished_work(events, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    panel = LivePanel(Console(file=io.StringIO()))
    started = next(event for event in events if isinstance(event, SearchStarted))
    panel(replace(started, budget=Budget(trials=10), epochs=4))
    assert panel.time_left() == "unknown until an epoch is done"
    epoch = next(event for event in events if isinstance(event, EpochFinished))
    panel(next(event for event in events if isinstance(event, TrialStarted)))
    panel(EpochFinished(number=epoch.number, metrics=replace(epoch.metrics, seconds=90.0)))
    assert panel.time_left() == "about 1 h 0 min"
    panel.session_seconds, panel.spent_before = 140.0, 5.0
    panel.tally = Tally(num_trained=6, num_pruned=2, spent=7.0)  # two of them in this session: 70 s each
    assert panel.time_left() == "about 3 min"
    panel.tally = Tally(num_trained=9, num_pruned=2, spent=10.0)
    assert panel.time_left() == "about 0 s"


def test_time_left_includes_runs_of_finalists(events, monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    panel = LivePanel(Console(file=io.StringIO()))
    panel(replace(next(event for event in events if isinstance(event, SearchStarted)), budget=Budget(trials=20)))
    panel.session_seconds, panel.num_parallel = 16 * 120.0, 2
    panel.tally = Tally(num_trained=16, num_pruned=0, spent=16.0)
    assert panel.time_left() == "about 4 min"  # four runs of two minutes, two at a time
    tally = Tally(num_trained=16, num_further=2, num_pruned=0, spent=18.0)
    run = Run(trial=3, judged_on="val", seed=7)
    panel(FinalRunFinished(run=run, history=(), num_runs=4, num_done=2, tally=tally))
    assert panel.time_left() == "about 2 min"
    assert "2 further runs" in rendered(panel)


def test_time_left_of_budget_in_minutes_counts_shared_gpu_time_once(events, monkeypatch):
    """Four networks share a GPU; the seconds of an epoch are its share of the elapsed time, so they add up to it."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    panel = LivePanel(Console(file=io.StringIO()))
    started = next(event for event in events if isinstance(event, SearchStarted))
    panel(replace(started, budget=Budget(minutes=30), epochs=15))
    epoch = next(event for event in events if isinstance(event, EpochFinished))
    trial = next(event for event in events if isinstance(event, TrialStarted))
    for number in range(4):
        panel(replace(trial, number=number))
        panel(EpochFinished(number=number, metrics=replace(epoch.metrics, epoch=1, seconds=15.0)))
    assert panel.time_left() == "about 29 min"


def test_plain_display_prints_one_line_per_event(events, capsys):
    plain = PlainDisplay()
    for event in events:
        plain(event)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 + 2 * 4
    assert [line.split(":")[0] for line in lines[5:]][0::4] == [
        f"trial {e.number}" for e in of_type(events, TrialStarted)
    ]
    assert sum(line.startswith("  trial ") for line in lines) == 4
    assert "; 2 of 2 trained; best " in lines[-1]


def test_print_json_writes_one_line_per_event(events, capsys):
    for event in events:
        print_json(event)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in rows] == [type(event).__name__ for event in events]
    finished = [row for row in rows if row["event"] == "TrialFinished"]
    assert [row["objective"] for row in finished] == [e.trial.objective for e in of_type(events, TrialFinished)]
    started = [row for row in rows if row["event"] == "TrialStarted"]
    assert all(
        {"number", "params", "receptive_field", "discards", "recipe", "architecture"} <= row.keys() for row in started
    )


def of_type(events, kind):
    return [event for event in events if isinstance(event, kind)]
