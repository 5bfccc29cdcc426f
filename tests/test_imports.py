"""What the package offers, and that what must answer at once brings nothing heavy with it."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "statement", ["import nas.cli.main", "from nas import cost_of, SearchSpace, survey, Architecture"]
)
def test_what_must_answer_at_once_imports_neither_torch_nor_optuna(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'optuna', 'pandas', 'plotly') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_every_public_name_is_there():
    import nas

    for name in nas.__all__:
        assert getattr(nas, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        nas.nothing  # noqa: B018


def test_the_search_function_is_not_hidden_by_a_module():
    import nas.commands.search
    from nas import search

    assert search is nas.commands.search.search
