"""Damaged and arbitrary files are read, or rejected with a one-line error; no code in them is executed.

The tests call the functions that read a user's files. Hypothesis is derandomised: each run draws the same examples.
"""

import ast
import json
import math
import tomllib
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.architectures import architectures
from support.damage import ODD, TOKENS, anything, damaged, damaged_bytes, dumped
from support.effort import examples

from nas.architecture.architecture import Architecture
from nas.architecture.blocks import split_into_blocks
from nas.architecture.cost import cost_of, layer_table
from nas.errors import ArchitectureError, RecipeError, SearchSpaceError
from nas.recipe import Recipe
from nas.resources import spaces_folder
from nas.space.constraints import limits
from nas.space.feasibility import judge
from nas.space.search_space import SearchSpace

MANY = settings(derandomize=True, max_examples=examples(300), suppress_health_check=list(HealthCheck))
FEW = settings(MANY, max_examples=examples(60))

SPACES = sorted(spaces_folder().glob("*.toml"))
PUBLISHED = sorted((spaces_folder() / "published").glob("*.json"))
NESTED = json.loads(PUBLISHED[0].read_text())
NESTED["layers"][:1] = [
    NESTED["layers"][0],
    {
        "kind": "residual",
        "projection": True,
        "layers": [
            {
                "kind": "repeat",
                "times": 2,
                "layers": [{"kind": "conv", "out_channels": 4, "kernel_size": 3, "padding": 1}],
            },
            {"kind": "depthwise_separable", "out_channels": 4, "kernel_size": 3, "padding": "same"},
            {"kind": "squeeze_excite"},
            {"kind": "dropout", "rate": 0.1, "per": "channel"},
            {"kind": "avg_pool", "kernel_size": 3, "stride": 1, "padding": 1},
        ],
    },
]


@contextmanager
def refused_or_read(error):
    """Passes if the block raises `error` with one short line, or raises nothing."""
    try:
        yield
    except error as caught:
        text = str(caught)
        assert text
        assert len(text) < 2000
        assert text.isprintable(), text


def check_architecture(read):
    """An architecture that is read round-trips through JSON, has a cost, and can be displayed."""
    with refused_or_read(ArchitectureError):
        architecture = read()
        assert Architecture.from_json(json.loads(architecture.dumps())) == architecture
        cost = cost_of(architecture)
        assert all(len(f"{value:,}") < 1000 and math.isfinite(float(value)) for value in asdict(cost).values())
        assert str(layer_table(architecture))
        assert split_into_blocks(architecture)


# Architecture files


@MANY
@given(damaged(NESTED))
@example({**NESTED, "layers": [{"kind": "conv", "out_channels": 10**12, "kernel_size": 3}]})
@example({**NESTED, "layers": [{"kind": "max_pool", "kernel_size": 1, "stride": 10**12}] * 500})
@example({**NESTED, "input_shape": [10**5000] * 3})
@example({**NESTED, "layers": [{"kind": "conv", "out_channels": 1, "kernel_size": 10**12, "padding": "same"}]})
def test_damaged_architecture_is_read_or_rejected(data):
    check_architecture(lambda: Architecture.from_json(data))


@FEW
@given(st.data(), architectures())
def test_damaged_random_architecture_is_read_or_rejected(data, architecture):
    changed = data.draw(damaged(architecture.to_json()))
    check_architecture(lambda: Architecture.from_json(changed))


@MANY
@given(anything)
def test_arbitrary_value_is_rejected_as_architecture(data):
    with pytest.raises(ArchitectureError):
        Architecture.from_json(data)


@pytest.fixture
def reads(tmp_path):
    """Function that writes bytes to a file and calls `check` with its path."""
    path = tmp_path / "file.json"

    def read(data, check):
        path.write_bytes(data)
        check(path)

    return read


def test_truncated_architecture_file_is_rejected(reads):
    text = PUBLISHED[0].read_bytes().rstrip()

    def check(path):
        with pytest.raises(ArchitectureError, match=r"file\.json: not JSON"):
            Architecture.load(path)

    for end in range(len(text)):
        reads(text[:end], check)


@MANY
@given(data=st.binary(max_size=200) | damaged_bytes(dumped(NESTED)) | st.sampled_from(TOKENS))
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b"\xef\xbb\xbf" + dumped(NESTED))
def test_architecture_file_of_arbitrary_bytes_is_read_or_rejected(reads, data):
    reads(data, lambda path: check_architecture(lambda: Architecture.load(path)))


# Recipes


def check_recipe(read):
    with refused_or_read(RecipeError):
        recipe = read()
        assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@MANY
@given(damaged(Recipe().to_json()) | anything)
def test_damaged_recipe_is_read_or_rejected(data):
    check_recipe(lambda: Recipe.from_json(data))


@FEW
@given(data=st.binary(max_size=100) | damaged_bytes(dumped(Recipe().to_json())))
def test_recipe_file_of_arbitrary_bytes_is_read_or_rejected(reads, data):
    reads(data, lambda path: check_recipe(lambda: Recipe.load(path)))


# Search spaces


def check_space(read):
    """A space that is read can be bound, drawn from, judged, and passed to Optuna."""
    with refused_or_read(SearchSpaceError):
        space = read().bind(input_shape=(1, 28, 28), num_classes=10, epochs=2)
        assert space.fingerprint()
        assert len(space.distributions()) == len(space.domains)
        kept = limits(space.input_shape, max_params=1000)
        for seed in range(5):
            values = space.draw(Random(seed))
            assert all(domain.accepts(values[name]) for name, domain in space.domains.items())
            assert judge(space, kept, values)
            assert space.recipe(values).epochs == 2


@MANY
@given(st.data(), st.sampled_from(SPACES))
def test_damaged_space_is_read_or_rejected(data, path):
    changed = data.draw(damaged(tomllib.loads(path.read_text())))
    check_space(lambda: SearchSpace.from_toml(changed) if isinstance(changed, dict) else SearchSpace.from_toml({}))


@MANY
@given(st.data(), st.sampled_from(["network", "block", "conv", "recipe"]))
def test_arbitrary_parameter_range_is_read_or_rejected(data, table):
    from nas.space import search_space

    key = data.draw(st.sampled_from(list(getattr(search_space, f"{table.upper()}_PARAMETERS"))))
    number = st.sampled_from([value for value in ODD if isinstance(value, int | float)]) | st.integers() | st.floats()
    ends = st.tuples(number, number)
    low, high = data.draw(ends.map(sorted) | ends)
    changed = tomllib.loads(SPACES[0].read_text())
    changed.setdefault(table, {})[key] = {"low": low, "high": high}
    changed[table][key] |= data.draw(
        st.sampled_from([{}, {"log": True}, {"step": 1}, {"step": 5e-324}]) | st.fixed_dictionaries({"step": number})
    )
    check_space(lambda: SearchSpace.from_toml(changed))


@MANY
@given(st.data(), st.sampled_from(SPACES))
def test_space_file_of_arbitrary_bytes_is_read_or_rejected(reads, data, path):
    changed = data.draw(damaged_bytes(path.read_bytes()) | st.binary(max_size=100) | st.text().map(str.encode))
    reads(changed, lambda path: check_space(lambda: SearchSpace.load(str(path))))


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "num_classes = 0x" + "f" * 10_000, "a.b" * 5_000 + " = 1"])
def test_deeply_nested_or_oversized_space_is_rejected(reads, text):
    def check(path):
        with pytest.raises(SearchSpaceError):
            SearchSpace.load(str(path))

    reads(text.encode(), check)


# Calls that execute code


ALLOWED = {
    # Messages between two of our own processes, over a private pipe.
    "pickle.load": {"workers/process_main.py", "workers/process_pool.py"},
    # A job for the user's Ray cluster; Ray itself pickles all messages between its nodes.
    "pickle.loads": {"workers/ray_backend.py"},
    # An export runs the model.py that it has just written, to verify it.
    "exec_module": {"exporters"},
    "torch.export.load": {"exporters/verify_subprocess.py"},
}
FORBIDDEN = {
    *(
        "eval",
        "exec",
        "compile",
        "__import__",
        "pickle.load",
        "pickle.loads",
        "Unpickler",
        "marshal.loads",
        "exec_module",
    ),
    *("shelve.open", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen", "joblib.load"),
}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


def test_package_calls_no_code_executing_functions():
    package = Path(__file__).parents[1] / "nas"
    found = []
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        for name, keywords in calls(path):
            last = name.rpartition(".")[2]
            bad = name in FORBIDDEN or last in ("exec_module", "Unpickler")
            bad |= last == "load" and name.startswith("torch.") and keywords.get("weights_only") != "True"
            bad |= keywords.get("shell", "False") != "False" or keywords.get("allow_pickle", "False") != "False"
            excused = any(place.startswith(where) for where in ALLOWED.get(name, ALLOWED.get(last, ())))
            if bad and not excused:
                found.append(f"{place}: {name}")
    assert found == []
