"""Results as text, and as HTML in notebooks, which escapes external texts."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

import nas
from nas.architecture.architecture import Architecture
from nas.architecture.cost import cost_of
from nas.commands.confirm import Confirmation
from nas.commands.search import BEST_TITLE, SearchResult
from nas.commands.trials import MAX_ROWS, Trials, trials
from nas.exporters.export import Exported
from nas.exporters.verify import FileVerification
from nas.layers import Conv, Flatten, GlobalAvgPool, Linear, Residual
from nas.seed_stats import Finalist, Ranking
from nas.space.survey import survey
from nas.study.budget import Budget
from nas.study.progress import Tally
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef
from nas.tables import table_html
from nas.training.fit import Fit, Repeats
from nas.training.metrics import EpochMetrics

MARKUP = '<script>alert("1 & 2")</script>[bold]'
TAGS = {"p", "br", "b", "table", "tr", "th", "td", "img"}


class Html(HTMLParser):
    """Parser that collects the tags, the texts and the table rows of displayed HTML."""

    def __init__(self, shown):
        super().__init__()
        self.tags, self.texts, self.rows = set(), [], []
        self.feed(shown._repr_html_() if hasattr(shown, "_repr_html_") else shown)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        self.tag = tag

    def handle_data(self, data):
        self.texts.append(data)
        if self.tag in ("th", "td"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def study(confirmed):
    return StudyRecords.open(StudyRef(confirmed))


@pytest.fixture(scope="module")
def result(study):
    """The result of the search, as `search` returns it."""
    ref, settings = study.ref, study.settings
    return SearchResult(
        study=study.name,
        storage=ref.masked_url,
        results=ref.folder,
        objectives=settings.objectives,
        tally=study.tally(),
        budget=Budget(trials=2),
        discards=study.discards(),
        best=Trials(study.best(10)),
    )


@pytest.fixture(scope="module")
def confirmation(study):
    """The result of the confirmation, as `confirm` returns it."""
    verdict, settings = study.stored_confirmation, study.settings
    return Confirmation(
        study=study.name,
        dataset=settings.dataset,
        winner=study.trained_trial(verdict.trial),
        ranking=verdict.ranking,
        cost=settings.cost,
        test=verdict.test,
        num_openings=verdict.num_openings,
    )


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"])), min_size=2, max_size=2)))
def test_html_table_contains_exactly_its_texts(rows):
    table = Table(title=Text(MARKUP))
    table.add_column("a", justify="right")
    table.add_column(MARKUP)
    for row in rows:
        table.add_row(row[0], Text(row[1]))
    found = Html(table_html(table))
    assert found.tags <= TAGS
    assert found.rows == [["a", MARKUP], *rows]
    assert found.texts[0] == MARKUP


def test_architecture_shows_diagram_and_cost():
    network = Architecture.load("mnist-7825")
    found = Html(network)
    assert found.tags == {"img", "p"}
    assert found.texts == [", ".join(cost_of(network).lines())]
    assert "7,825 parameters" in found.texts[0]


def test_architecture_with_mismatched_layers_has_no_html():
    assert Architecture(input_shape=(1, 8, 8), layers=(Linear(out_features=3), Flatten()))._repr_html_() is None


SMALL = Architecture(
    input_shape=(1, 8, 8),
    layers=(
        Conv(out_channels=2, kernel_size=3, padding=1),
        *(Residual(layers=(Conv(out_channels=2, kernel_size=3, padding=1),)), GlobalAvgPool(), Flatten()),
    ),
)
EPOCH = EpochMetrics(
    **{"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.8, "val_loss": 0.4, "val_accuracy": 0.9},
    **{"learning_rate": 0.1, "seconds": 2.0},
)


def test_printed_architecture_is_table_of_layers_and_cost():
    assert (
        str(SMALL)
        == """\
layer                            output shape  parameters   MACs  receptive field
input                                   1x8x8                                   1
nn.Conv2d(1, 2, 3, padding=1)           2x8x8          20  1,152                3
residual                                2x8x8          38  2,304                5
  nn.Conv2d(2, 2, 3, padding=1)         2x8x8          38  2,304                5
GlobalAvgPool()                         2x1x1                                  12
nn.Flatten()                                2                                  12

58 parameters, 3,456 MACs, receptive field 5 pixels
232 bytes of weights, 1,536 of activations at the peak"""
    )


def test_printed_architecture_with_mismatched_layers_is_its_repr():
    wrong = Architecture(input_shape=(1, 8, 8), layers=(Linear(out_features=3), Flatten()))
    assert str(wrong) == repr(wrong)


def test_printed_search_result_is_counts_best_trials_and_place(result):
    best = replace(
        result.best[0],
        **{"number": 7, "objective": 0.91, "consistent_accuracy": 0.9, "params": 58, "macs": 3456},
        **{"receptive_field": 5, "seconds": 2.0, "source": "mine.json", "further": ()},
    )
    shown = replace(
        result,
        **{"storage": "sqlite:///results/studies.db", "results": Path("results"), "best": Trials([best])},
        discards={"params": 12},
    )
    assert (
        str(shown)
        == """\
2 of 2 trained, 12 discarded (limit on params: 12)
Best by mean val accuracy of the last epochs
trial  val accuracy  lowest  parameters   MACs  receptive field  seconds
    7        91.00%  90.00%          58  3,456                5        2  mine.json
The study is in sqlite:///results/studies.db, weights in results/artifacts."""
    )
    stopped = replace(shown, best=Trials(), interrupted=True)
    assert str(stopped).splitlines()[1:] == ["Interrupted: finished trials are kept, the same call goes on."]


def test_printed_trainings_are_dataset_and_accuracies():
    fit = Fit(
        **{"architecture": SMALL, "recipe": nas.Recipe(epochs=1), "dataset": "digits", "mean": (0.5,), "std": (0.5,)},
        **{"classes": ("a", "b"), "judged_on": "val", "seed": 3, "data": None, "history": (EPOCH,), "weights": {}},
    )
    assert str(fit) == "Dataset digits\nVal accuracy: final 90.00% (seed 3)."
    accuracies = nas.SeedAccuracies(accuracies=((0.9,), (0.92,)), consistency=5, target=0.95, num_images=100)
    repeats = Repeats(fit=fit, histories={3: (EPOCH,), 4: (EPOCH,)}, result=accuracies)
    first, second, third, *_ = str(repeats).splitlines()
    assert first == "Dataset digits, val split"
    assert second == "Target missed: 0 of 2 seeds keep at least 95.00% in the last epoch."
    assert third.startswith("Final accuracy 91.00 ± 1.41 %, lowest of the last epoch 91.00 ± 1.41 % ")


def test_printed_confirmation_is_pick_and_its_lines(confirmation):
    assert str(confirmation).splitlines() == confirmation.lines()
    ranking = Ranking.from_finalists([Finalist(trial=number, cost=number, objectives=(0.5, 0.5)) for number in (7, 8)])
    picked, *others = str(replace(confirmation, ranking=ranking)).splitlines()
    assert (picked, others) == (f"{ranking.pick_text}.", confirmation.lines())


def test_printed_export_is_table_of_files_and_remarks():
    verification = FileVerification(
        **{"name": "model.onnx", "num_bytes": 1234, "difference": 2e-7, "num_same": 10, "num_images": 10},
        accuracy=0.9,
    )
    shown = Exported(folder=Path("model"), verifications=(verification,), remarks=("No compiler was found.",))
    assert (
        str(shown)
        == """\
model
file        bytes  logits differ by  same class  val accuracy
model.onnx  1,234           2.0e-07    10 of 10        90.00%
No compiler was found."""
    )


def test_printed_survey_is_its_lines():
    report = survey(nas.SearchSpace.load("grey"), num_draws=100)
    assert str(report).splitlines() == report.lines()


def test_search_result_shows_counts_and_best_trials(result):
    found = Html(result)
    assert found.texts[0] == result.lines()[0]
    assert result.lines()[0].startswith("2 of 2 trained, ")
    assert BEST_TITLE in found.texts
    assert [row[0] for row in found.rows] == ["trial", *(str(trial.number) for trial in result.best)]
    assert found.texts[-1].startswith(f"Next: nas.trials(results={str(result.results)!r}), nas.confirm(")
    limited = Html(replace(result, export_arguments={"board": "pico"}))
    assert "nas.export_trial(board='pico', results=" in limited.texts[-1]


def test_search_result_explains_early_end(result):
    tally = Tally(num_trained=0, num_pruned=0, spent=0.0)
    none = replace(result, best=Trials(), tally=tally, exhausted="no candidate\nbinds: <params>")
    assert Html(none).texts[1:] == ["The search ended early: no candidate", "binds: <params>"]
    stopped = replace(result, best=Trials(), interrupted=True)
    assert Html(stopped).texts[1:] == ["Interrupted: finished trials are kept, the same call goes on."]


def test_trials_table_omits_discards_and_limits_rows(study):
    every = trials(results=study.ref.results)
    trained = [trial for trial in every if trial.outcome == "trained"]
    assert 0 < len(trained) < len(every)
    found = Html(every)
    assert [row[0] for row in found.rows[1:]] == [str(trial.number) for trial in trained]
    assert found.texts[0] == repr(every).strip("<>")
    assert f"The table leaves out {len(every) - len(trained)} trials" in found.texts[-1]
    discards = Trials(trial for trial in every if trial.outcome == "discarded")
    assert len(Html(discards).rows) == 1 + len(discards)
    many = Html(Trials(trained * MAX_ROWS))
    assert len(many.rows) == 1 + MAX_ROWS


def test_slice_of_trials_is_trials_and_item_is_record(study):
    every = trials(results=study.ref.results)
    assert isinstance(every[:1], Trials)
    assert every[-1] == list(every)[-1]
    assert every == tuple(study.trials())
    assert repr(Trials()) == "<0 trials>"


def test_trial_shows_result_recipe_and_diagram(study):
    (best,) = study.best(1)
    found = Html(best)
    assert found.tags == {"p", "br", "img"}
    assert f"{best.objective:.2%} (lowest {best.consistent_accuracy:.2%})" in found.texts[0]
    assert found.texts[1].startswith("Recipe: epochs 2, ")
    running = replace(study.trials()[0], outcome="", state="WAITING", reason="", architecture=None, recipe=None)
    assert Html(running).texts == ["Trial 0: waiting"]


def test_confirmation_shows_its_tables_and_lines(confirmation):
    lines = confirmation.lines()
    assert lines[0].startswith(f"Trial {confirmation.winner.number} on digits: ")
    assert lines[-1] == "The test split of this study was opened once."
    found = Html(confirmation)
    assert [row[0] for row in found.rows] == ["epoch", "1", "2"]
    assert found.texts[-len(lines) :] == lines
    ranking = Ranking.from_finalists([Finalist(trial=number, cost=number, objectives=(0.5, 0.5)) for number in (7, 8)])
    found = Html(replace(confirmation, ranking=ranking))
    assert [row[0] for row in found.rows] == ["trial", "7", "8", "epoch", "1", "2"]
    assert f"{ranking.pick_text}." in found.texts


def test_every_public_result_escapes_external_texts(study, result, confirmation):
    (best,) = study.best(1)
    settings = {"dataset": MARKUP, "mean": (0.5,), "std": (0.5,), "classes": (MARKUP,), "judged_on": "val", "seed": 0}
    given = {"architecture": best.architecture, "recipe": best.recipe, "weights": {}, "data": None}
    fit = Fit(**settings, **given, history=best.history)
    verification = FileVerification(name=MARKUP, num_bytes=1, difference=None, num_same=1, num_images=1, accuracy=None)
    shown = {
        "SearchResult": replace(result, study=MARKUP, storage=f"sqlite:///{MARKUP}", results=Path(MARKUP)),
        "Trials": Trials([replace(best, source=MARKUP)]),
        "TrialRecord": replace(study.trials()[0], reason=MARKUP),
        "TrainedTrial": replace(best, source=MARKUP),
        "Confirmation": replace(confirmation, dataset=MARKUP),
        "Fit": fit,
        "Repeats": Repeats(fit=fit, histories={0: best.history}, result=confirmation.test),
        "Exported": Exported(folder=Path("x"), verifications=(verification,), remarks=(MARKUP,)),
        "SpaceReport": replace(survey(nas.SearchSpace.load("grey"), num_draws=100), space=MARKUP),
    }
    for name, each in shown.items():
        found = Html(each)
        assert found.tags <= TAGS, name
        assert any("alert" in text for text in found.texts), name
    without = {"Architecture", "SeedAccuracies"}  # contain no external text
    public = {name for name in nas.__all__ if hasattr(getattr(nas, name), "_repr_html_")}
    assert shown.keys() | without == public
