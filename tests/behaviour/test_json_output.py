"""The format of all JSON and CSV outputs stays unchanged: their keys and the types of their values.

`tests/support/golden.py` explains how to update the golden file.
"""

import csv
import json
import shutil

import pytest
from support.golden import BEHAVIOUR, STUDY, TESTS, assert_golden, assert_golden_entries, nas

pytestmark = pytest.mark.usefixtures("one_thread")

KEYS = BEHAVIOUR / "json_keys.json"
OF_COUNTS = ("discards",)
"""Keys whose values are counts by reason; which reasons occur depends on chance."""


def structure(value, key=""):
    """Returns the keys with the types of their values; the items of a list are merged into one structure."""
    if isinstance(value, dict):
        if key in OF_COUNTS:
            return {"*": merge([structure(each) for each in value.values()])}
        return {name: structure(each, name) for name, each in sorted(value.items())}
    if isinstance(value, list):
        return [merge([structure(each) for each in value])] if value else []
    return "null" if value is None else type(value).__name__


def merge(found):
    """Merges structures: alternative types are joined by |, keys that some structures lack end in ?."""
    found = [each for index, each in enumerate(found) if each not in found[:index]]
    dicts = [each for each in found if isinstance(each, dict)]
    lists = [each for each in found if isinstance(each, list)]
    words = {word for each in found if isinstance(each, str) for word in each.split("|")}
    parts = []
    if dicts:
        merged = {}
        for name in sorted({name.rstrip("?") for each in dicts for name in each}):
            values = [each[n] for each in dicts for n in (name, f"{name}?") if n in each]
            everywhere = all(name in each for each in dicts) or name == "*"
            merged[name if everywhere else f"{name}?"] = merge(values)
        parts.append(merged)
    if lists:
        items = [item for each in lists for item in each]
        parts.append([merge(items)] if items else [])
    if words:
        parts.append("|".join(sorted(words)))
    return parts[0] if len(parts) == 1 else {"or": parts} if parts else "nothing"


def test_structure_merges_types_and_marks_optional_keys():
    assert structure({"b": 1, "a": [1, 2.5, None]}) == {"a": ["float|int|null"], "b": "int"}
    assert structure([{"a": 1}, {"a": "x", "b": True}]) == [{"a": "int|str", "b?": "bool"}]
    assert structure([None, {"a": []}, {"a": [1]}]) == [{"or": [{"a": ["int"]}, "null"]}]
    assert structure({"discards": {"params": 1, "macs": 2}}) == {"discards": {"*": "int"}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Working folder with the study of an earlier version and a search space."""
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copytree(STUDY, folder / "study")
    shutil.copyfile(TESTS / "fixtures" / "tiny.toml", folder / "tiny.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


SEARCH = (
    "search --dataset digits --space tiny.toml --max-params 900 --min-receptive-field 10 --epochs 2 --trials 2"
    " --workers 1 --device cpu --json"
)


@pytest.fixture(scope="module")
def events(place):
    """Events of a search and of its repetition, which trains nothing; no pruner, since its decisions may vary."""
    return [event for _ in range(2) for event in nas(*SEARCH.split()).events]


EVENTS = ("SearchStarted", "TrialStarted", "EpochFinished", "TrialFinished", "SearchFinished")


@pytest.mark.parametrize("name", EVENTS)
def test_keys_of_search_events_are_unchanged(events, name):
    found = merge([structure(event) for event in events if event["event"] == name])
    assert_golden(KEYS, found, entry=f"search --json: {name}")


def test_search_emits_exactly_these_events(events):
    assert {event["event"] for event in events} == set(EVENTS)


ON_CPU = "--workers 1 --device cpu"
DOCUMENTS = {
    "confirm --json": f"confirm --results study --top 2 --seeds 2 {ON_CPU} --json",  # trains nothing
    "train --json": "train study/start-1.json --dataset digits --epochs 1 --device cpu --json",
    "train --seeds 2 --json": f"train study/start-1.json --dataset digits --epochs 1 --seeds 2 {ON_CPU} --json",
    "cost --json": "cost mnist-7825 --json",
    "space --json": "space --space tiny.toml --max-params 900 --draws 500 --json",
    "trials --format json": "trials --results study --format json",
}


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.usefixtures("place")
def test_keys_of_json_documents_are_unchanged(name):
    assert_golden(KEYS, structure(nas(*DOCUMENTS[name].split()).json), entry=name)


@pytest.mark.usefixtures("place")
def test_header_of_trials_csv_is_unchanged():
    run = nas(*["trials", "--results", "study", "--format", "csv"])
    assert run.status == 0
    assert_golden(KEYS, next(csv.reader(run.out.splitlines())), entry="trials --format csv")


def test_header_of_report_csv_is_unchanged(place):
    assert nas(*["report", "--results", "study", "--output", "report.csv"]).status == 0
    with (place / "report.csv").open(newline="") as file:
        assert_golden(KEYS, next(csv.reader(file)), entry="report --format csv")


def test_keys_of_report_json_are_unchanged(place):
    assert nas(*["report", "--results", "study", "--format", "json", "--output", "rows"]).status == 0
    assert_golden(KEYS, structure(json.loads((place / "rows").read_text())), entry="report --format json")


def test_golden_keys_cover_exactly_these_outputs():
    events = [f"search --json: {name}" for name in EVENTS]
    others = ["trials --format csv", "report --format csv", "report --format json"]
    assert_golden_entries(KEYS, [*events, *DOCUMENTS, *others])
