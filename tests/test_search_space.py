import datetime
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from nas.architecture import Architecture
from nas.cost import cost_of, layer_table
from nas.domains import Choice, FloatRange
from nas.errors import SearchSpaceError, ShapeError
from nas.layers import Dropout, GlobalAvgPool, Linear
from nas.recipe import Recipe
from nas.search_space import BLOCK, NETWORK, RECIPE, SearchSpace, spaces_folder

FOLDER = Path(__file__).parent.parent / "search_spaces"
SHIPPED = ["colour", "mnist", "mnist_wide"]
NUM_DRAWS = 300

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


@pytest.fixture(params=SHIPPED)
def space(request):
    return SearchSpace.load(request.param)


def draws(space, number=NUM_DRAWS):
    rng = Random(0)
    return [space.draw(rng) for _ in range(number)]


def architecture_or_none(space, values):
    """The network, or None where its layers do not fit."""
    try:
        architecture = space.architecture(values)
        cost_of(architecture)
    except ShapeError:
        return None
    return architecture


# The shipped spaces


def test_the_shipped_spaces_are_these():
    assert spaces_folder() == FOLDER
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == SHIPPED


@pytest.mark.parametrize(
    ("name", "input_shape", "num_parameters"),
    # 5 or 6 of the network, of each of 4 blocks 7 (colour: padding is fixed) and a width a convolution, the recipe's.
    [("colour", (3, 32, 32), 6 + 4 * (7 + 3) + 12), ("mnist", (1, 28, 28), 6 + 4 * (8 + 3) + 13)]
    + [("mnist_wide", (1, 28, 28), 6 + 4 * (8 + 4) + 13)],
)
def test_a_shipped_space_is_loaded_by_name_and_by_path(name, input_shape, num_parameters):
    space = SearchSpace.load(name)
    assert (space.name, space.input_shape, space.num_classes, space.epochs) == (name, input_shape, 10, 15)
    assert len(space.domains) == num_parameters
    assert SearchSpace.load(str(FOLDER / f"{name}.toml")) == space
    assert not space.domains.keys() & space.fixed.keys()


def test_every_network_of_a_shipped_space_gives_a_score_a_class(space):
    architectures = [architecture_or_none(space, values) for values in draws(space)]
    possible = [architecture for architecture in architectures if architecture is not None]
    assert len(possible) > NUM_DRAWS / 4
    assert {architecture.output_shape for architecture in possible} == {(10,)}
    for architecture in sorted(possible, key=lambda a: cost_of(a).macs)[:100:20]:
        assert architecture.build()(torch.zeros(2, *space.input_shape)).shape == (2, 10)


def test_a_space_is_bound_to_other_images(space):
    bound = space.bind(input_shape=(2, 40, 36), num_classes=7, epochs=3)
    for values in draws(bound, 100):
        assert bound.recipe(values).epochs == 3
        if (architecture := architecture_or_none(bound, values)) is not None:
            assert architecture.input_shape == (2, 40, 36)
            assert architecture.output_shape == (7,)
    assert bound.fingerprint() != space.fingerprint()


class Asking:
    """A trial that draws at random and notes what it is asked."""

    def __init__(self, rng):
        self.rng = rng
        self.asked = []

    def suggest_categorical(self, name, choices):
        self.asked.append((name, tuple(choices)))
        return self.rng.choice(choices)

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked.append((name, (low, high, step, log)))
        return self.rng.randrange(low, high + 1, step)

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked.append((name, (low, high, step, log)))
        return self.rng.choice([low, high])


def test_the_same_parameters_are_asked_for_every_candidate(space):
    asked = []
    for seed in range(30):
        trial = Asking(Random(seed))
        try:
            space.suggest(trial)
        except ShapeError:
            pass
        asked.append(trial.asked)
    assert all(each == asked[0] for each in asked)
    names = [name for name, _ in asked[0]]
    assert names == list(space.domains)
    assert len(set(names)) == len(names)


def test_a_trial_gets_the_candidate_of_its_values(space):
    for values in draws(space):
        if architecture_or_none(space, values) is None:
            continue
        trial = FixedTrial(values)
        candidate = space.suggest(trial)
        assert candidate == space.candidate(values)
        assert candidate.architecture == space.architecture(values)
        assert candidate.recipe == space.recipe(values)
        assert trial.params == values
        assert trial.distributions == space.distributions()


def test_every_draw_is_in_optunas_distributions(space):
    distributions = space.distributions()
    seen = {name: set() for name in distributions}
    for values in draws(space):
        assert values.keys() == distributions.keys()
        for name, value in values.items():
            assert space.domains[name].holds(value)
            assert distributions[name]._contains(distributions[name].to_internal_repr(value))
            seen[name].add(value)
    for name, domain in space.domains.items():  # every option of every parameter comes up
        if not isinstance(domain, FloatRange):
            assert seen[name] == set(domain.grid()), name


# Every name that a candidate ignores, and no other, may change without changing the candidate.


def inactive(space, values):
    v = {**space.fixed, **values}
    blocks = range(1, v["num_blocks"] + 1)
    last = f"block{v['num_blocks']}."
    active = {name for name in v if "block" not in name} | {"num_blocks"}
    for block in (f"block{number}." for number in blocks):
        active |= {block + key for key in BLOCK}
        active |= {f"{block}conv{conv}.channels" for conv in range(1, v[block + "num_convs"] + 1)}
        if v[block + "transition"] == "none":
            active.discard(block + "transition_channels")
    active -= {last + "transition", last + "transition_channels"}
    if v["head"] == "gap":
        active.discard(f"{last}conv{v[last + 'num_convs']}.channels")
    if all(v[f"block{number}.padding"] == "valid" for number in blocks):
        active.discard("residual")
    if v["num_blocks"] == 1:
        active.discard("pool")
    active.discard("recipe.adam_learning_rate" if v["recipe.optimizer"] == "sgd" else "recipe.sgd_learning_rate")
    return space.domains.keys() - active


def test_ignored_parameters_change_nothing_and_the_others_something(space):
    rng = Random(1)
    checked = Counter()
    for values in draws(space, 120):
        if architecture_or_none(space, values) is None:
            continue
        candidate, ignored = space.candidate(values), inactive(space, values)
        other = space.draw(rng)
        assert space.candidate({**values, **{name: other[name] for name in ignored}}) == candidate
        for name in space.domains.keys() - ignored:
            if other[name] == values[name]:
                continue
            checked[name] += 1
            changed = {**values, name: other[name]}
            if architecture_or_none(space, changed) is not None:
                assert space.candidate(changed) != candidate, name
                assert space.candidate(changed).fingerprint() != candidate.fingerprint()
    assert checked.keys() == {name for name in space.domains if not name.startswith("block4.transition")}


# Published networks


def blocks(*tables, **network):
    """Parameter values by name: of the network, and of each block a dictionary with its widths under "widths"."""
    values = {"num_blocks": len(tables), **network}
    for number, table in enumerate(tables, start=1):
        widths = table.pop("widths")
        values[f"block{number}.num_convs"] = len(widths)
        values |= {f"block{number}.{key}": value for key, value in table.items()}
        values |= {f"block{number}.conv{conv}.channels": width for conv, width in enumerate(widths, start=1)}
    return values


def network(space, values):
    """The network of some values; the parameters left out are drawn, as a sampler would."""
    for name, value in values.items():
        assert space.domains[name].holds(value), name
    return [space.architecture({**drawn, **values}) for drawn in draws(space, 20)]


PLAIN = {"kernel_size": 3, "convolution": "full", "shared_repeats": 0, "transition": "none"}
SAME = {**PLAIN, "padding": "same", "dropout": 0.05}
VALID = {**PLAIN, "padding": "valid", "dropout": 0.05}
BEFORE = {"transition": "before_pool", "transition_channels": 8}
COMMON = {"activation": "relu", "order": "norm_act", "pool": "max", "residual": False}
PUBLISHED = {
    "mnist-7825": blocks(
        {**SAME, "widths": [7, 11]},
        {**SAME, "widths": [11, 15]},
        {**SAME, "widths": [15, 16]},
        head="gap_conv",
        **COMMON,
    ),
    "mnist-18962": blocks(
        {**SAME, "widths": [10, 18]},
        {**SAME, "widths": [18, 28]},
        {**SAME, "widths": [28, 10]},
        head="gap",
        **COMMON,
    ),
    "mnist-6136": blocks(
        {**VALID, "widths": [8, 16], "transition": "after_pool", "transition_channels": 8},
        {**VALID, "widths": [8, 12, 12, 16]},
        head="gap_conv",
        **COMMON,
    ),
    "mnist-3928": blocks(
        {**VALID, **BEFORE, "widths": [8, 10]},
        {**VALID, **BEFORE, "widths": [10, 12], "transition_channels": 10},
        {**VALID, "widths": [10]},
        head="gap_conv",
        **{**COMMON, "order": "act_norm"},
    ),
}


def without_dropout(architecture):
    return replace(architecture, layers=tuple(x for x in architecture.layers if not isinstance(x, Dropout)))


@pytest.mark.parametrize(
    ("name", "space_name"),
    [("mnist-7825", "mnist"), *((name, "mnist_wide") for name in PUBLISHED)],
)
def test_a_published_network_is_in_the_space(name, space_name):
    published = without_dropout(Architecture.load(FOLDER / "published" / f"{name}.json"))
    space = SearchSpace.load(space_name)
    for architecture in network(space, PUBLISHED[name]):
        found = without_dropout(architecture)
        assert found == published
        assert cost_of(found) == cost_of(published)
        assert [(row.kind, row.output_shape, row.params, row.receptive_field) for row in layer_table(found)] == [
            (row.kind, row.output_shape, row.params, row.receptive_field) for row in layer_table(published)
        ]


@pytest.mark.parametrize("name", ["mnist-7825", "mnist-6136"])
def test_these_are_in_the_space_with_their_dropout(name):
    published = Architecture.load(FOLDER / "published" / f"{name}.json")
    assert network(SearchSpace.load("mnist_wide"), PUBLISHED[name]) == [published] * 20


def test_a_network_with_the_published_facts_of_mnist_7784_is_in_the_space():
    values = blocks(
        {**SAME, "widths": [6, 8, 10]},
        {**VALID, "widths": [11, 12, 15]},
        {**SAME, "widths": [18]},
        head="gap_linear",
        **COMMON,
    )
    architecture, *others = network(SearchSpace.load("mnist"), values)
    assert others == [architecture] * 19
    assert cost_of(architecture).params == 7784
    assert cost_of(architecture).receptive_field == 30
    rows = layer_table(architecture)
    assert rows[-1].receptive_field == 42
    kinds = [row.kind for row in rows]
    assert kinds.count("max_pool") == 2
    assert kinds.count("conv") == 7
    assert [kinds[index + 1] for index, kind in enumerate(kinds) if kind == "conv"] == ["batch_norm"] * 7
    widths = [row.output_shape[0] for row in rows if row.kind == "conv"]
    assert widths == [6, 8, 10, 11, 12, 15, 18]
    assert kinds[-3:] == ["global_avg_pool", "flatten", "linear"]
    assert isinstance(architecture.layers[-3], GlobalAvgPool)
    assert architecture.layers[-1] == Linear(out_features=10, bias=True)
    assert [row.output_shape for row in rows[-4:]] == [(18, 4, 4), (18, 1, 1), (18,), (10,)]
    assert rows[-1].params == 18 * 10 + 10
    assert [row.output_shape[1] for row in rows if row.kind == "conv"] == [28, 28, 28, 12, 10, 8, 4]


# What a file says


@pytest.fixture
def small():
    return SearchSpace.from_toml(tomllib.loads(SMALL), where="small.toml", name="small")


def test_what_a_file_leaves_out_is_fixed(small):
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
        *NETWORK,
        *(f"block{n}.{key}" for n in (1, 2) for key in (*BLOCK, *(f"conv{c}.channels" for c in (1, 2, 3)))),
        *(f"recipe.{key}" for key in RECIPE),
    }
    assert small.input_shape == (2, 9, 9)
    assert small.num_classes == 4


def test_a_recipe_left_out_is_the_default_one():
    data = {"network": {"num_blocks": 1}, "block": {"num_convs": 1}, "conv": {"channels": 4}}
    fixed = SearchSpace.from_toml(data)
    assert fixed.domains == {}
    assert fixed.recipe({}) == Recipe()
    data["recipe"] = {"optimizer": "adamw"}
    assert SearchSpace.from_toml(data).recipe({}) == Recipe(optimizer="adamw", learning_rate=0.01)


def test_each_optimizer_has_its_own_rate(small):
    values = {"recipe.optimizer": "sgd", "recipe.sgd_learning_rate": 0.123456}
    assert small.recipe(values) == Recipe(optimizer="sgd", learning_rate=0.123)
    assert small.recipe({**values, "recipe.optimizer": "adamw"}) == Recipe(optimizer="adamw", learning_rate=0.01)


def test_what_a_file_fixes_is_used_to_the_last_digit():
    data = tomllib.loads(SMALL)
    data["recipe"] = {"momentum": 0.9999, "warmup": 0.12345, "label_smoothing": [0.0001, 0.00010001]}
    space = SearchSpace.from_toml(data)
    recipe = space.recipe({"recipe.label_smoothing": 0.00010001})
    assert (recipe.momentum, recipe.warmup, recipe.label_smoothing) == (0.9999, 0.12345, 0.00010001)


def test_a_drawn_number_never_leaves_its_range_by_being_shortened():
    data = tomllib.loads(SMALL)
    data["recipe"] = {"momentum": {"low": 0.9991, "high": 0.9999}}
    data["block"]["dropout"] = {"low": 0.9992, "high": 0.9998}
    space = SearchSpace.from_toml(data)
    for values in draws(space, 50):
        assert 0.9991 <= space.recipe(values).momentum <= 0.9999
        rates = {x.rate for x in space.architecture(values).layers if isinstance(x, Dropout)}
        assert all(0.9992 <= rate <= 0.9998 for rate in rates)


def test_tpes_spelling_of_a_step_is_the_same_candidate():
    space = SearchSpace.load("mnist")
    values = next(v for v in draws(space) if architecture_or_none(space, v) is not None)
    exact = {name: 0.15 for name in values if name.endswith(".dropout")}
    spelled = dict.fromkeys(exact, 0.15000000000000002)
    same = space.candidate({**values, **spelled})
    assert same == space.candidate({**values, **exact})
    assert same.fingerprint() == space.candidate({**values, **exact}).fingerprint()


def test_a_candidate_s_fingerprint_tells_networks_and_recipes_apart(small):
    values = small.draw(Random(0))
    candidate = small.candidate(values)
    assert small.candidate(dict(values)).fingerprint() == candidate.fingerprint()
    assert replace(candidate, recipe=replace(candidate.recipe, batch_size=64)).fingerprint() != candidate.fingerprint()
    longer = replace(small, epochs=16).candidate(values)
    assert longer.architecture == candidate.architecture
    assert longer.fingerprint() != candidate.fingerprint()


def test_a_space_s_fingerprint_changes_with_what_it_says_alone(small):
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


# What is wrong in a file

TOP = "input_shape, num_classes, network, block, conv, recipe"
NETWORK_KEYS = "num_blocks, activation, order, pool, head, residual"
BLOCK_KEYS = "num_convs, kernel_size, padding, convolution, shared_repeats, transition, transition_channels, dropout"
RECIPE_KEYS = (
    "sgd_learning_rate, adam_learning_rate, optimizer, momentum, weight_decay, schedule, warmup, step_epochs, "
    "step_gamma, batch_size, label_smoothing, rotation, translation, scale, shear, brightness, contrast"
)
COUNT = "a whole number of at least 1"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("[conv]", "[layers]\n[conv]", f"unknown key layers, allowed: {TOP}"),
        ("[conv]", "[b]\n[a]\n[conv]", f"unknown key a, b, allowed: {TOP}"),
        ("[network]", "[network]\ndepth = 3", f"network: unknown key depth, allowed: {NETWORK_KEYS}"),
        ("[block]", "[block]\nwidth = 3", f"block: unknown key width, allowed: {BLOCK_KEYS}"),
        ("[conv]", "[conv]\nwidth = 3\nheight = 3", "conv: unknown key height, width, allowed: channels"),
        ("[recipe]", "[recipe]\nepochs = 3", f"recipe: unknown key epochs, allowed: {RECIPE_KEYS}"),
        ("num_blocks = { low = 1, high = 2 }", "", "network.num_blocks is missing, allowed: {} and at most 20"),
        ("num_convs = [1, 3]", "", "block.num_convs is missing, allowed: {} and at most 100"),
        ("channels = { low = 4, high = 8, step = 2 }", "", "conv.channels is missing, allowed: {}"),
        ("low = 4, high = 8, step = 2", "low = 32, high = 8", "conv.channels: low (32) is above high (8)"),
        ("low = 4, ", "", "conv.channels: low missing from a range"),
        ("low = 4", "low = 0", "conv.channels: low: 0, allowed: {}"),
        ("step = 2", "step = 3", "conv.channels: high (8) is not low (4) plus a whole number of steps of 3"),
        ("step = 2", "step = 2, log = true", "conv.channels: step and log together, allowed: one of them"),
        ("step = 2", "steps = 2", "conv.channels: unknown key steps, allowed: low, high, step, log"),
        ("{ low = 4, high = 8, step = 2 }", "0", "conv.channels: 0, allowed: {}"),
        ("{ low = 4, high = 8, step = 2 }", "true", "conv.channels: True, allowed: {}"),
        ("{ low = 4, high = 8, step = 2 }", "8.0", "conv.channels: 8.0, allowed: {}"),
        ("{ low = 1, high = 2 }", "1_000_000", "network.num_blocks: 1000000, allowed: {} and at most 20"),
        ("[1, 3]", "[1, 1000]", "block.num_convs: 1000, allowed: {} and at most 100"),
        ("[1, 3]", "[]", "block.num_convs: an empty list, allowed: at least one of: {} and at most 100"),
        ("[1, 3]", "[1, 3, 1]", "block.num_convs: [1, 3, 1] names a value twice"),
        ("dropout = 0.1", "dropout = 1.0", "block.dropout: 1.0, allowed: a number of at least 0 and below 1"),
        ("dropout = 0.1", "padding = 1", "block.padding: 1, allowed: same, valid"),
        (
            "dropout = 0.1",
            "shared_repeats = -1",
            "block.shared_repeats: -1, allowed: a whole number of at least 0 and at most 100",
        ),
        (
            "dropout = 0.1",
            "padding = { low = 0, high = 1 }",
            "block.padding: a range, allowed: a value or a list of: same, valid",
        ),
        ("[network]", "[network]\nresidual = 1", "network.residual: 1, allowed: true, false"),
        (
            '"adamw"]',
            '"rmsprop"]',
            "recipe.optimizer: 'rmsprop', allowed: sgd, adam, adamw",
        ),
        ("low = 0.01", "low = 0.0", "recipe.sgd_learning_rate: low: 0.0, allowed: a number above 0"),
        ("num_classes = 4", "num_classes = 1", "num_classes: 1, allowed: a whole number of at least 2"),
        ("num_classes = 4", "num_classes = [4, 5]", "num_classes: [4, 5], allowed: a whole number of at least 2"),
        ("num_classes = 4", "num_classes = true", "num_classes: True, allowed: a whole number of at least 2"),
        ("[2, 9, 9]", "[9, 9]", "input_shape: [9, 9], allowed: [channels, height, width]"),
        ("[2, 9, 9]", "[0, 9, 9]", "input_shape: [0, 9, 9], allowed: [channels, height, width]"),
        ("[2, 9, 9]", "[2, 9, 9.0]", "input_shape: [2, 9, 9.0], allowed: [channels, height, width]"),
        ("[2, 9, 9]", '"mnist"', "input_shape: 'mnist', allowed: [channels, height, width]"),
        ("input_shape", "conv = 3\ninput_shape", None),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_key(tmp_path, old, new, error):
    assert SMALL.count(old) == 1
    path = tmp_path / "space.toml"
    text = SMALL.replace(old, new)
    if error is None:  # a table that is none
        text, error = (
            text.replace("[conv]\nchannels = { low = 4, high = 8, step = 2 }", ""),
            "conv: 3, allowed: a table",
        )
    path.write_text(text)
    with pytest.raises(SearchSpaceError) as caught:
        SearchSpace.load(str(path))
    assert str(caught.value) == f"{path}: {error.replace('{}', COUNT)}"


def test_an_unknown_name_and_a_file_that_cannot_be_read(tmp_path):
    def error(name):
        with pytest.raises(SearchSpaceError) as caught:
            SearchSpace.load(str(name))
        return str(caught.value)

    assert error("imagenet") == "no search space 'imagenet', allowed: colour, mnist, mnist_wide, or a .toml file"
    assert error("") == "no search space '', allowed: colour, mnist, mnist_wide, or a .toml file"
    assert error(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: No such file or directory"
    assert error(tmp_path) == f"{tmp_path}: Is a directory"
    path = tmp_path / "space.toml"
    path.write_text("[network\n")
    assert error(path) == f"{path}: not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"
    path.write_bytes(b"name = '\xff'")
    assert error(path) == f"{path}: not TOML: 'utf-8' codec can't decode byte 0xff in position 8: invalid start byte"
    path.write_text("")
    assert error(path) == f"{path}: network.num_blocks is missing, allowed: {COUNT} and at most 20"


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
    {"network": table(NETWORK), "block": table(BLOCK), "conv": table(["channels"])},
    optional={"recipe": table(RECIPE), "input_shape": VALUES, "num_classes": VALUES},
)
# A good file with one value changed reaches every check behind the first.
CHANGES = st.sampled_from(
    [("network", key) for key in NETWORK]
    + [("block", key) for key in BLOCK]
    + [("conv", "channels")]
    + [("recipe", key) for key in RECIPE]
)


def accepts_or_refuses(data):
    try:
        space = SearchSpace.from_toml(data, where="space.toml")
    except SearchSpaceError as error:
        assert str(error).startswith("space.toml: ")
        return
    values = space.draw(Random(0))
    assert all(space.domains[name].holds(value) for name, value in values.items())
    assert len(space.fingerprint()) == 16


@given(FILES)
def test_any_file_is_read_or_refused(data):
    accepts_or_refuses(data)


@settings(max_examples=300)
@given(CHANGES, VALUES)
def test_any_value_is_read_or_refused(change, value):
    data = tomllib.loads(SMALL)
    section, key = change
    data[section][key] = value
    accepts_or_refuses(data)
