"""The HTML report shows the contents of the study and escapes its text."""

import csv
import html
import json
import os
import re
import shutil
import sqlite3
from html.parser import HTMLParser

import pandas as pd
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from nas.architecture.cost import METRIC_LABELS, layer_table
from nas.architecture.summary import summarise
from nas.commands.report import report
from nas.commands.search import search
from nas.errors import NasError, StudyError
from nas.exporters.provenance import Provenance
from nas.reports import importances
from nas.reports.importances import importances as importances_of
from nas.reports.summary import answer, question
from nas.seed_stats import SeedAccuracies
from nas.space.feasibility import reason_meanings
from nas.study.reader import StudyRecords
from nas.study.reference import StudyRef

ACCURACIES = ((0.90, 0.97), (0.91, 0.98), (0.92, 0.99))


class Page(HTMLParser):
    """Collects the cells of each table, all scripts, addresses and texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.tables, self.scripts, self.addresses, self.words = {}, [], [], []
        self.table = self.tag = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.addresses += [attrs[name] for name in ("src", "href", "action", "data") if name in attrs]
        if tag == "table":
            self.table = self.tables.setdefault(attrs.get("id", len(self.tables)), [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")
        elif tag == "script":
            self.scripts.append("")
        self.tag = tag

    def handle_data(self, data):
        if self.tag == "script":
            self.scripts[-1] += data
        elif self.table and self.table[-1]:
            self.table[-1][-1] += data.strip()
        self.words.append(data)

    def handle_endtag(self, tag):
        self.tag = None
        if tag == "table":
            self.table = None


@pytest.fixture
def study(study_folder, tmp_path):
    """A writable copy of the study."""
    return shutil.copytree(study_folder, tmp_path / "results")


def confirm_by_hand(folder, target=0.96):
    """Stores a confirmation of the best trial as `nas confirm` does. Returns the trial."""
    records = StudyRecords.open(StudyRef(folder))
    first, second = records.best(2)
    test = SeedAccuracies(accuracies=ACCURACIES, consistency=2, target=target, num_images=300)
    finalists = [
        {"trial": first.number, "cost": first.params, "objectives": [0.8, 0.9], "tied": True},
        {"trial": second.number, "cost": second.params, "objectives": [0.5, 0.6], "tied": False},
    ]
    ranking = {"finalists": finalists, "standard_error": 0.01}
    summary = {
        "study": "search",
        "dataset": "digits",
        "trial": first.number,
        "num_openings": 1,
        "ranking": ranking,
        **test.to_json(),
    }
    records.study.set_user_attr("confirmed", summary)
    return first


def read(folder, **options):
    return report(results=folder, **options).read_text(encoding="utf-8")


def test_page_has_limited_size_and_no_external_resources(study):
    path = report(results=study)
    assert path == study / "search-report.html"
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_size <= 6_000_000
    page = Page(text)
    assert all(address.startswith("data:image/svg+xml;base64,") for address in page.addresses)
    assert page.addresses
    assert sum("plotly.js v" in script for script in page.scripts) == 1
    assert "default-src 'none'" in text
    assert not re.search(r"url\(|@import|<link|<iframe", text.partition("<body>")[0])


def test_page_shows_contents_of_study(study):
    records = StudyRecords.open(StudyRef(study))
    best, other = records.best(2)
    page = Page(read(study))
    head, *rows = page.tables["best"]
    assert head == ["trial", "val accuracy", "lowest", "parameters", "MACs", "receptive field"]
    assert [row[0] for row in rows] == [str(best.number), str(other.number)]
    assert [row[1].partition(" ")[0] for row in rows] == [f"{100 * trial.objective:.2f}" for trial in (best, other)]
    assert rows[0][2:] == [
        f"{100 * best.consistent_accuracy:.2f} %",
        f"{best.params:,}",
        f"{best.macs:,}",
        str(best.receptive_field),
    ]
    discards = page.tables["discards"][1:]
    assert {row[0]: row[1] for row in discards} == {reason: f"{n:,}" for reason, n in records.discards().items()}
    assert {row[0]: row[2] for row in discards} == reason_meanings(records.discards())
    layers = page.tables["layers"][1:]
    assert [row[0] for row in layers] == [row.module for row in layer_table(best.architecture)]
    assert [row[4] for row in layers] == [str(row.receptive_field or "") for row in summarise(best.architecture).rows]
    assert [row[4] for row in layers if row[4]][-1] == str(best.receptive_field)
    assert layers[-1][4] == ""  # after the feature maps
    assert [row[2] for row in layers] == [
        f"{row.params:,}" if row.params else "" for row in layer_table(best.architecture)
    ]
    words = "".join(page.words)
    assert question(records) in words
    assert question(records) == (
        "Which network reaches the best val accuracy (mean of the last 2 of 2 epochs) on digits, with at most 900"
        " parameters and at least 10 pixels of receptive field?"
    )
    assert answer(records).text in words
    assert f"trial {best.number} with {best.params:,} parameters" in answer(records).text
    assert f"{best.objective:.2%} val accuracy" in answer(records).text
    assert "one run" in answer(records).text
    assert "Fewer than 10 networks are trained" in words


def test_figures_show_trials_of_study(study):
    records = StudyRecords.open(StudyRef(study))
    figures = [json.loads(script) for script in Page(read(study)).scripts if script.startswith('{"')]
    titles = [figure["layout"]["title"]["text"] for figure in figures]
    assert titles[:3] == ["Accuracy against parameters", "Learning curves of the best 2", "Discarded draws by reason"]
    curves = {trace["name"]: trace["y"] for trace in figures[1]["data"]}
    for trial in records.best(2):
        expected = [100 * metrics.val_accuracy for metrics in trial.history]
        assert curves[f"trial {trial.number}"] == pytest.approx(expected)


def test_answer_reports_confirmed_accuracy_and_standard_deviation(study):
    best = confirm_by_hand(study)
    records = StudyRecords.open(StudyRef(study))
    found = answer(records)
    assert "98.00 ± 1.00 % test accuracy (mean ± standard deviation of 3 seeds); target missed." in found.text
    assert found.trial == best
    assert "The test split was opened once for this study." in found.caveats
    why = f"By mean val accuracy over 2 further seeds, trial {best.number} is picked: the others are behind by"
    assert found.caveats[0].startswith(why)
    page = Page(read(study))
    head, *rows = page.tables["best"]
    assert [row[head.index("further seeds")] for row in rows] == ["85.00 ± 7.07 %", "55.00 ± 7.07 %"]
    accuracy = next(json.loads(script) for script in page.scripts if script.startswith('{"'))
    bars = next(trace for trace in accuracy["data"] if "error_y" in trace)
    assert sorted(bars["y"]) == pytest.approx([55, 85])
    assert bars["error_y"]["array"] == pytest.approx([7.07, 7.07], abs=0.01)


def test_standard_error_is_reported_only_after_confirmation(study):
    assert "standard error" not in read(study)
    confirm_by_hand(study)
    words = " ".join("".join(Page(read(study)).words).split())
    assert (
        "Means that differ by less than one standard error of their difference, 1.00 points, count as equal." in words
    )


def commands_in_page(study):
    """The commands in the page: the lines of its only <pre> element."""
    return html.unescape(re.search("<pre>(.*?)</pre>", read(study), re.S)[1]).splitlines()


def test_study_begun_from_python_shows_python_calls(study):
    named = f"results={str(study)!r}"
    call = StudyRecords.open(StudyRef(study)).notes.command
    assert call.startswith("nas.search(max_params=900, ")
    assert commands_in_page(study) == ["import nas", call, f"nas.export_trial({named})"]
    confirm_by_hand(study)
    assert commands_in_page(study) == [
        "import nas",
        call,
        f"nas.confirm(top=2, seeds=3, target=0.96, {named})",
        f"nas.export_trial(trial='confirmed', {named})",
    ]


def test_study_begun_on_command_line_shows_commands(study):
    options = f"--results {study}"
    records = StudyRecords.open(StudyRef(study))
    records.study.set_user_attr("command", "nas search --max-params 900")
    assert commands_in_page(study) == ["nas search --max-params 900", f"nas export {options}"]
    confirm_by_hand(study)
    assert commands_in_page(study) == [
        "nas search --max-params 900",
        f"nas confirm --top 2 --seeds 3 --target 0.96 {options}",
        f"nas export --trial confirmed {options}",
    ]


def test_target_reached_by_every_seed_is_met(study):
    confirm_by_hand(study, target=0.9)
    assert answer(StudyRecords.open(StudyRef(study))).text.endswith("target met.")


@pytest.mark.parametrize(
    "word", ["<script>document.title='x'</script>", "</script><b>", "{{ 7 * 7 }}", '" onload="x', "&amp;"]
)
def test_markup_in_study_is_escaped(study, word):
    records = StudyRecords.open(StudyRef(study))
    for key in ("dataset_note", "machine", "command"):
        records.study.set_user_attr(key, word)
    records.study.set_user_attr("settings", {**records.study.user_attrs["settings"], "dataset": word, "split": word})
    text = read(study)
    assert html.escape(word) in text.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")
    if html.escape(word) != word and word != "&amp;":
        assert word not in text


def test_hostile_discard_reason_adds_no_script(study):
    records = StudyRecords.open(StudyRef(study))
    (best,) = records.best(1)
    trial = records.study.get_trials(deepcopy=False)[best.number]
    counted = {"</script><script>document.title=1</script>": 3}
    num_scripts = len(Page(read(study)).scripts)
    database = sqlite3.connect(study / "studies.db")
    with database:
        database.execute(
            "UPDATE trial_system_attributes SET value_json = ? WHERE trial_id = ? AND key = 'nas:discards'",
            (json.dumps(counted), trial._trial_id),
        )
    database.close()
    page = Page(read(study))
    assert len(page.scripts) == num_scripts
    assert not [script for script in page.scripts if script.startswith("document.title")]


def test_study_without_trained_trial_has_report(study):
    records = StudyRecords.open(StudyRef(study))
    settings = records.settings
    StudyRecords.create(StudyRef(study, study="empty"), settings, records.notes)
    page = Page(read(study, study="empty"))
    words = "".join(page.words)
    assert "No network is trained yet." in words
    assert "nas export" not in words
    assert "layers" not in page.tables
    assert "discards" not in page.tables


def test_report_of_one_epoch_and_one_trial_has_no_plurals(tmp_path, tiny_space):
    given = {"dataset": "digits", "space": tiny_space, "max_params": 900, "min_receptive_field": 10}
    search(**given, epochs=1, trials=1, results=tmp_path, device="cpu", workers=1)
    page = Page(read(tmp_path))
    words = " ".join("".join(page.words).partition("How to reproduce it")[0].split())
    assert not re.search(r"\b1 (epochs|networks|draws)|last 1|best of 1\b|lowest|±", words)
    assert "best val accuracy (after 1 epoch) on" in words
    assert page.tables["best"][0] == ["trial", "val accuracy", "parameters", "MACs", "receptive field"]
    facts = "".join(Page(read(tmp_path)).words).partition("How to reproduce it")[2]
    assert "1 epoch per network" in facts
    assert "1 network to the end" in facts
    (best,) = StudyRecords.open(StudyRef(tmp_path)).best(1)
    provenance = Provenance.of_trial(StudyRecords.open(StudyRef(tmp_path)), best)
    assert provenance.result == f"{best.objective:.2%} val accuracy, one run"
    assert "chosen" not in " ".join(provenance.facts)


@pytest.mark.parametrize("cost", ["params", "peak_activation_bytes"])
def test_two_objectives_return_pareto_front(tmp_path, tiny_space, cost):
    given = {"dataset": "digits", "space": tiny_space, "max_params": 900, "min_receptive_field": 10}
    given |= {"objective": f"accuracy,{cost}", "epochs": 2, "trials": 3, "device": "cpu", "workers": 1}
    search(**given, results=tmp_path)
    records = StudyRecords.open(StudyRef(tmp_path))
    front = records.pareto()
    page = Page(read(tmp_path))
    head, *rows = page.tables["best"]
    assert [row[0] for row in rows] == [str(trial.number) for trial in front]
    if cost != "params":
        assert head[-1] == METRIC_LABELS[cost].noun
        assert [row[-1] for row in rows] == [f"{getattr(trial, cost):,}" for trial in front]
    asked = f"Which networks reach the best val accuracies with the fewest {METRIC_LABELS[cost].noun}"
    assert question(records).startswith(f"{asked} (mean of the last 2 of 2 epochs) on digits")
    found = answer(records)
    assert found.text.startswith(f"So far {len(front)} network{'s' * (len(front) > 1)} that no other one beats in both")
    for trial in (front[0], front[-1]):
        assert f"trial {trial.number} with {trial.params:,} parameters" in found.text
    assert "Pareto front" in "".join(page.words)
    confirm_by_hand(tmp_path)
    confirmed = answer(StudyRecords.open(StudyRef(tmp_path)))
    assert confirmed.text.startswith(found.text)
    assert " Confirmed: trial " in confirmed.text


# -- importances ---------------------------------------------------------------------------------------------


def test_importances_rank_relevant_parameter_first(study):
    records = StudyRecords.open(StudyRef(study))
    made = StudyRecords.create(StudyRef(study, study="made"), records.settings, records.notes)
    assert importances_of(made) == {}
    unit = FloatDistribution(0, 1)
    for index in range(30):
        params = {"matters": index / 30, "does_not": (index * 7 % 30) / 30}
        value = params["matters"] ** 2
        made.study.add_trial(
            create_trial(
                state=TrialState.COMPLETE, value=value, params=params, distributions=dict.fromkeys(params, unit)
            )
        )
    (first, (mean, sd)), (second, (least, _)) = importances_of(made).items()
    assert (first, second) == ("matters", "does_not")
    assert mean > 0.8
    assert least < 0.2
    assert 0 <= sd < 0.2
    bars = importances.importance_figure(importances_of(made)).data[0]
    assert list(bars.y) == ["does_not", "matters"]  # plotly draws upwards: the largest is on top


# -- tables --------------------------------------------------------------------------------------------------

READERS = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}


@pytest.mark.parametrize("form", READERS)
def test_tables_hold_every_trial(study, form, tmp_path):
    path = report(results=study, format=form, output=tmp_path / "table")
    frame = READERS[form](path)
    trials = StudyRecords.open(StudyRef(study)).trials()
    assert list(frame["number"]) == [trial.number for trial in trials]
    for row, trial in zip(frame.to_dict("records"), trials, strict=True):
        assert row["outcome"] == trial.outcome
        if trial.objective is None:
            assert pd.isna(row["objective"])
            assert pd.isna(row["recipe_batch_size"])
            continue
        assert row["objective"] == pytest.approx(trial.objective, abs=1e-9)
        assert row["params"] == trial.params
        assert row["recipe_batch_size"] == trial.recipe.batch_size
        assert json.loads(row["architecture"]) == trial.architecture.to_json()
        assert [float(x) for x in row["val_accuracies"].split()] == [m.val_accuracy for m in trial.history]


def test_output_suffix_selects_format(study, tmp_path):
    assert (
        report(results=study, output=tmp_path / "trials.csv").read_text().startswith("number,state,outcome,objective,")
    )
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name in ("params", "seed", "recipe_batch_size", "parameter_block1.num_convs"):  # no floats for missing values
        found = {row[name] for row in rows}
        assert len(found) > 1
        assert all(text.isdecimal() or not text for text in found)
    assert report(results=study, format="json").name == "search-report.json"
    for name in ("page", "page.html", "page.htm", "PAGE.HTML"):
        assert report(results=study, output=tmp_path / name).read_text().startswith("<!doctype html>")
    assert report(results=study, output=tmp_path / "x.txt", format="csv").read_text().startswith("number,")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_report_does_not_replace_a_pipe_or_a_device(study, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(NasError, match=r"/pipe: a device or pipe found, expected a regular file, or none$"):
        report(results=study, output=pipe)
    assert pipe.is_fifo()


def test_invalid_format_output_and_study_raise(study, tmp_path):
    with pytest.raises(NasError, match=r"^`format='pdf'`: expected one of html, csv, parquet, json$"):
        report(results=study, format="pdf")
    with pytest.raises(NasError, match=r"x\.pdf'`: ending is \.pdf, expected one of \.htm, \.html, \.csv, \.parquet"):
        report(results=study, output=tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NasError, match=r"file/report\.html: "):
        report(results=study, output=tmp_path / "file" / "report.html")
    (tmp_path / "folder").mkdir()
    for folder in (tmp_path / "folder", "."):
        with pytest.raises(NasError, match=r"^\S+: a folder found, expected a file such as \S*report\.html$"):
            report(results=study, output=folder)
    with pytest.raises(StudyError, match="no study 'other' found, expected search"):
        report(results=study, study="other")
