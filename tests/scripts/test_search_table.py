"""The table of trained candidates, and the scripts that write and read it."""

import sys

from support.paths import ROOT

from nas.architecture.cost import cost_of

sys.path.append(str(ROOT))

from scripts.bench import proxies, search, search_table

TABLE = ROOT / search_table.TABLE
SPACE = search_table.space_of(TABLE)


def test_table_contains_candidates_drawn_by_script():
    values = search.Table.read(TABLE).values
    assert len(values) == 200
    assert all(drawn in values for drawn in search_table.feasible(SPACE, 20))


def test_benchmarks_read_same_candidates_within_params_limit():
    table, trained = search.Table.read(TABLE), proxies.read_table(TABLE, SPACE)
    key = lambda values: sorted(values.items(), key=str)  # noqa: E731
    assert sorted(map(key, table.values), key=str) == sorted(map(key, trained.values), key=str)
    assert max(cost_of(candidate.architecture).params for candidate in table.candidates) <= 8000
