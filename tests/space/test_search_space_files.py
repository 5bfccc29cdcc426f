import datetime
import re
import tomllib
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.draws import architecture_or_none, draws
from support.effort import examples

from nas.architecture.layers import Dropout
from nas.errors import SearchSpaceError
from nas.recipe import Recipe
from nas.schema import ImageShape
from nas.space.domains import Choice
from nas.space.search_space import BLOCK_PARAMETERS, NETWORK_PARAMETERS, RECIPE_PARAMETERS, SearchSpace

SMALL = """
num_classes = 4
input_shape = [2, 9, 9]
[network]
num_blocks = { low = 1, high = 2 }
[block]
num_convs = [1, 3]
dropout = 0.1
[conv]
channels = { low = 4, high = 8, step = 2 }
[recipe]
optimizer = ["sgd", "adamw"]
sgd_learning_rate = { low = 0.01, high = 1.0, log = true }
"""


# Contents of a file


@pytest.fixture
def small():
    return SearchSpace.from_toml(tomllib.loads(SMALL), where="small.toml", name="small")


def test_omitted_keys_are_fixed_at_defaults(small):
    assert list(small.domains) == [
        "num_blocks",
        *(f"block{n}.{key}" for n in (1, 2) for key in ("num_convs", *(f"conv{c}.channels" for c in (1, 2, 3)))),
        "recipe.sgd_learning_rate",
        "recipe.optimizer",
    ]
    assert small.domains["block2.num_convs"] == Choice((1, 3))
    assert small.fixed["activation"] == "relu"
    assert small.fixed["block2.dropout"] == 0.1
    assert small.fixed["recipe.batch_size"] == 128
    assert small.fixed.keys() | small.domains.keys() == {
        *NETWORK_PARAMETERS,
        *(f"block{n}.{key}" for n in (1, 2) for key in (*BLOCK_PARAMETERS, *(f"conv{c}.channels" for c in (1, 2, 3)))),
        *(f"recipe.{key}" for key in RECIPE_PARAMETERS),
    }
    assert small.input_shape == (2, 9, 9)
    assert small.num_classes == 4


def test_omitted_recipe_is_default():
    data = {"network": {"num_blocks": 1}, "block": {"num_convs": 1}, "conv": {"channels": 4}}
    fixed = SearchSpace.from_toml(data)
    assert fixed.domains == {}
    assert fixed.recipe({}) == Recipe()
    data["recipe"] = {"optimizer": "adamw"}
    assert SearchSpace.from_toml(data).recipe({}) == Recipe(optimizer="adamw", learning_rate=0.01)


def test_each_optimizer_has_own_learning_rate(small):
    values = {"recipe.optimizer": "sgd", "recipe.sgd_learning_rate": 0.123456}
    assert small.recipe(values) == Recipe(optimizer="sgd", learning_rate=0.123)
    assert small.recipe({**values, "recipe.optimizer": "adamw"}) == Recipe(optimizer="adamw", learning_rate=0.01)


def test_fixed_and_listed_numbers_keep_all_digits():
    data = tomllib.loads(SMALL)
    data["recipe"] = {"momentum": 0.9999, "warmup": 0.12345, "label_smoothing": [0.0001, 0.00010001]}
    space = SearchSpace.from_toml(data)
    recipe = space.recipe({"recipe.label_smoothing": 0.00010001})
    assert (recipe.momentum, recipe.warmup, recipe.label_smoothing) == (0.9999, 0.12345, 0.00010001)


def test_rounding_keeps_drawn_numbers_in_range():
    data = tomllib.loads(SMALL)
    data["recipe"] = {"momentum": {"low": 0.9991, "high": 0.9999}}
    data["block"]["dropout"] = {"low": 0.9992, "high": 0.9998}
    space = SearchSpace.from_toml(data)
    for values in draws(space, 50):
        assert 0.9991 <= space.recipe(values).momentum <= 0.9999
        rates = {x.rate for x in space.architecture(values).layers if isinstance(x, Dropout)}
        assert all(0.9992 <= rate <= 0.9998 for rate in rates)


def test_rounding_error_of_tpe_step_gives_same_candidate():
    space = SearchSpace.load("mnist")
    values = next(v for v in draws(space, 20) if architecture_or_none(space, v) is not None)
    exact = {name: 0.15 for name in values if name.endswith(".dropout")}
    spelled = dict.fromkeys(exact, 0.15000000000000002)
    same = space.candidate({**values, **spelled})
    assert same == space.candidate({**values, **exact})
    assert same.fingerprint() == space.candidate({**values, **exact}).fingerprint()


def test_candidate_fingerprint_depends_on_recipe(small):
    values = small.draw(Random(0))
    candidate = small.candidate(values)
    assert small.candidate(dict(values)).fingerprint() == candidate.fingerprint()
    assert replace(candidate, recipe=replace(candidate.recipe, batch_size=64)).fingerprint() != candidate.fingerprint()
    longer = replace(small, epochs=16).candidate(values)
    assert longer.architecture == candidate.architecture
    assert longer.fingerprint() != candidate.fingerprint()


def test_space_fingerprint_depends_only_on_content(small):
    def fingerprint(text):
        return SearchSpace.from_toml(tomllib.loads(text)).fingerprint()

    assert fingerprint(SMALL) == small.fingerprint()
    assert len(small.fingerprint()) == 16
    assert int(small.fingerprint(), 16) >= 0
    same = [
        SMALL.replace("num_convs = [1, 3]\ndropout = 0.1", "dropout = 0.1\nnum_convs = [1, 3]"),
        SMALL.replace("dropout = 0.1", "dropout = 0.1\nkernel_size = 3"),
        SMALL.replace("low = 4, high = 8", "high = 8, low = 4"),
        f"# a comment\n{SMALL}",
    ]
    assert {fingerprint(text) for text in same} == {small.fingerprint()}
    other = [
        SMALL.replace("num_classes = 4", "num_classes = 5"),
        SMALL.replace("[2, 9, 9]", "[2, 9, 8]"),
        SMALL.replace("[1, 3]", "[1, 2, 3]"),
        SMALL.replace("[1, 3]", "[3, 1]"),
        SMALL.replace("dropout = 0.1", "dropout = 0.2"),
        SMALL.replace("low = 4, high = 8", "low = 4, high = 10"),
        SMALL.replace(", step = 2", ""),
        SMALL.replace(", log = true", ""),
        SMALL.replace("dropout = 0.1", "dropout = 0.1\nkernel_size = 5"),
    ]
    assert len({fingerprint(text) for text in [SMALL, *other]}) == 10


# Errors in a file

TOP = "input_shape, num_classes, portfolio, network, block, conv, recipe, widths, probes"
NETWORK_KEYS = "num_blocks, activation, order, pool, head, residual"
BLOCK_KEYS = "num_convs, kernel_size, padding, convolution, shared_repeats, transition, transition_channels, dropout"
RECIPE_KEYS = (
    "sgd_learning_rate, adam_learning_rate, optimizer, momentum, weight_decay, schedule, warmup, step_start, "
    "step_epochs, step_gamma, average_epochs, batch_size, label_smoothing, rotation, translation, scale, shear, "
    "brightness, contrast, flip"
)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("[conv]", "[layers]\n[conv]", f"unknown key 'layers', expected one of {TOP}"),
        ("[conv]", "[b]\n[a]\n[conv]", f"unknown keys 'a', 'b', expected one of {TOP}"),
        ("[network]", "[network]\ndepth = 3", f"network: unknown key 'depth', expected one of {NETWORK_KEYS}"),
        ("[block]", "[block]\nwidth = 3", f"block: unknown key 'width', expected one of {BLOCK_KEYS}"),
        ("[conv]", "[conv]\nwidth = 3\nheight = 3", "conv: unknown keys 'height', 'width', expected channels"),
        ("[recipe]", "[recipe]\nepochs = 3", f"recipe: unknown key 'epochs', expected one of {RECIPE_KEYS}"),
        ("num_blocks = { low = 1, high = 2 }", "", "network.num_blocks is missing, expected an integer from 1 to 20"),
        ("num_convs = [1, 3]", "", "block.num_convs is missing, expected an integer from 1 to 100"),
        (
            "channels = { low = 4, high = 8, step = 2 }",
            "",
            "conv.channels is missing, expected an integer from 1 to 1e12",
        ),
        ("low = 4, high = 8, step = 2", "low = 32, high = 8", "conv.channels: low (32) is above high (8)"),
        ("low = 4, ", "", "conv.channels: low is missing"),
        ("low = 4", "low = 0", "conv.channels: low is 0, expected an integer from 1 to 1e12"),
        ("step = 2", "step = 3", "conv.channels: high is 8, expected low (4) plus a multiple of step (3)"),
        ("step = 2", "step = 2, log = true", "conv.channels: step and log = true found, expected only one of them"),
        (
            "step = 2",
            "steps = 2",
            "conv.channels: unknown key 'steps' (did you mean step?), expected one of low, high, step, log",
        ),
        ("{ low = 4, high = 8, step = 2 }", "0", "conv.channels is 0, expected an integer from 1 to 1e12"),
        ("{ low = 4, high = 8, step = 2 }", "true", "conv.channels is True, expected an integer from 1 to 1e12"),
        ("{ low = 4, high = 8, step = 2 }", "8.0", "conv.channels is 8.0, expected an integer from 1 to 1e12"),
        ("{ low = 1, high = 2 }", "1_000_000", "network.num_blocks is 1000000, expected an integer from 1 to 20"),
        ("[1, 3]", "[1, 1000]", "block.num_convs is 1000, expected an integer from 1 to 100"),
        ("[1, 3]", "[]", "block.num_convs is [], expected at least one item, each an integer from 1 to 100"),
        ("[1, 3]", "[1, 3, 1]", "block.num_convs is [1, 3, 1], expected each value once"),
        ("dropout = 0.1", "dropout = 1.0", "block.dropout is 1.0, expected a number of at least 0 and below 1"),
        ("dropout = 0.1", "padding = 1", "block.padding is 1, expected same or valid"),
        (
            "dropout = 0.1",
            "shared_repeats = -1",
            "block.shared_repeats is -1, expected an integer from 0 to 100",
        ),
        (
            "dropout = 0.1",
            "padding = { low = 0, high = 1 }",
            "block.padding: a range found, expected a value or a list of values, each same or valid",
        ),
        ("[network]", "[network]\nresidual = 1", "network.residual is 1, expected true or false"),
        (
            '"adamw"]',
            '"rmsprop"]',
            "recipe.optimizer is 'rmsprop', expected one of sgd, adam, adamw",
        ),
        ("low = 0.01", "low = 0.0", "recipe.sgd_learning_rate: low is 0.0, expected a number above 0"),
        (
            "num_classes = 4",
            "num_classes = 1",
            "num_classes is 1, expected an integer from 2 to 1e12",
        ),
        (
            "num_classes = 4",
            "num_classes = [4, 5]",
            "num_classes is [4, 5], expected an integer from 2 to 1e12",
        ),
        (
            "num_classes = 4",
            "num_classes = true",
            "num_classes is True, expected an integer from 2 to 1e12",
        ),
        ("[2, 9, 9]", "[9, 9]", f"input_shape is [9, 9], expected {ImageShape()}"),
        ("[2, 9, 9]", "[0, 9, 9]", f"input_shape is [0, 9, 9], expected {ImageShape()}"),
        (
            "[2, 9, 9]",
            "[2, 9, 9.0]",
            f"input_shape is [2, 9, 9.0], expected {ImageShape()}",
        ),
        ("[2, 9, 9]", '"mnist"', f"input_shape is 'mnist', expected {ImageShape()}"),
        (
            "[conv]",
            "[[probes]]\nsgd_learning_rate = 9.0\n[conv]",
            "[[probes]] entry 1: sgd_learning_rate is 9.0, expected a number from 0.01 to 1.0",
        ),
        (
            "[conv]",
            "[[probes]]\nsgd_learning_rate = nan\n[conv]",
            "[[probes]] entry 1: sgd_learning_rate is nan, expected a number from 0.01 to 1.0",
        ),
        (
            "[conv]",
            f"[[probes]]\nsgd_learning_rate = {10**400}\n[conv]",
            "[[probes]] entry 1: sgd_learning_rate is 100000000000000000...0000000000000000000, expected a number from"
            " 0.01 to 1.0",
        ),
        ("[conv]", "[[probes]]\n[conv]", "[[probes]] entry 1 is empty, expected sgd_learning_rate or optimizer"),
        (
            "[conv]",
            "[[probes]]\nmomentum = 0.9\n[conv]",
            "[[probes]] entry 1: momentum is fixed in this space, expected sgd_learning_rate or optimizer",
        ),
        (
            "[conv]\nchannels = {",
            "[[conv]]\nchannels = {",
            "conv is [{'channels': {'high': 8, 'low': 4, 'step': 2}}], expected a table",
        ),
    ],
)
def test_invalid_file_error_names_path_and_key(tmp_path, old, new, error):
    assert SMALL.count(old) == 1
    path = tmp_path / "space.toml"
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(SearchSpaceError) as caught:
        SearchSpace.load(str(path))
    assert str(caught.value) == f"{path}: {error}"


def test_unknown_name_or_unreadable_file_raises(tmp_path):
    def error(name):
        with pytest.raises(SearchSpaceError) as caught:
            SearchSpace.load(str(name))
        return str(caught.value)

    expected = "expected one of colour, grey, mnist, mnist_small, mnist_wide, rgb, or a .toml file"
    assert error("imagenet") == f"search space 'imagenet' is unknown, {expected}"
    assert error("") == f"search space '' is unknown, {expected}"
    assert error(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: No such file or directory"
    assert error(tmp_path) == f"{tmp_path}: Is a directory"
    path = tmp_path / "space.toml"
    path.write_text("[network\n")
    assert error(path) == f"{path}: not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"
    path.write_bytes(b"name = '\xff'")
    assert error(path) == f"{path}: not TOML: 'utf-8' codec can't decode byte 0xff in position 8: invalid start byte"
    path.write_text("")
    assert error(path) == f"{path}: network.num_blocks is missing, expected an integer from 1 to 20"


SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(-2, 6)
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["relu", "same", "sgd", "step", "gap"])
    | st.dates()
    | st.datetimes(min_value=datetime.datetime(2000, 1, 1))
)
NUMBERS = st.integers(-2, 9) | st.floats(-1, 2) | SCALARS
RANGES = st.fixed_dictionaries({}, optional={"low": NUMBERS, "high": NUMBERS, "step": NUMBERS, "log": SCALARS})
VALUES = st.recursive(
    SCALARS | RANGES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def table(keys):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, VALUES)) | VALUES


FILES = st.dictionaries(st.text(max_size=5), VALUES, max_size=4) | st.fixed_dictionaries(
    {"network": table(NETWORK_PARAMETERS), "block": table(BLOCK_PARAMETERS), "conv": table(["channels"])},
    optional={"recipe": table(RECIPE_PARAMETERS), "input_shape": VALUES, "num_classes": VALUES},
)
# A valid file with one changed value passes the first check and reaches the later ones.
CHANGES = st.sampled_from(
    [("network", key) for key in NETWORK_PARAMETERS]
    + [("block", key) for key in BLOCK_PARAMETERS]
    + [("conv", "channels")]
    + [("recipe", key) for key in RECIPE_PARAMETERS]
)


def check_usable_unless_rejected(data):
    try:
        space = SearchSpace.from_toml(data)
    except SearchSpaceError:
        return
    values = space.draw(Random(0))
    assert all(space.domains[name].accepts(value) for name, value in values.items())
    assert len(space.fingerprint()) == 16


@given(FILES)
def test_any_file_loads_or_raises(data):
    check_usable_unless_rejected(data)


@settings(max_examples=examples(300))
@given(CHANGES, VALUES)
def test_any_value_loads_or_raises(change, value):
    data = tomllib.loads(SMALL)
    section, key = change
    data[section][key] = value
    check_usable_unless_rejected(data)


def test_probe_values_must_belong_to_drawn_domains(tmp_path):
    drawn = "[recipe]\nrotation = { low = 6.0, high = 10.0, step = 2.0 }\nshear = [0.0, 4.0]\n"
    text = SMALL.replace("[recipe]\n", drawn) + "[[probes]]\n"
    path = tmp_path / "space.toml"
    path.write_text(text + "rotation = 8\nshear = 4\n")
    (probe,) = SearchSpace.load(str(path)).probes
    assert probe == {"recipe.rotation": 8.0, "recipe.shear": 4.0}
    assert all(type(value) is float for value in probe.values())
    path.write_text(text + "rotation = 7.0\n")
    error = "[[probes]] entry 1: rotation is 7.0, expected a number from 6.0 to 10.0 in steps of 2.0"
    with pytest.raises(SearchSpaceError, match=re.escape(error)):
        SearchSpace.load(str(path))
