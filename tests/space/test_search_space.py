import contextlib
from collections import Counter
from random import Random

import pytest
import torch
from optuna.trial import FixedTrial
from support.draws import architecture_or_none, draws
from support.effort import examples
from support.paths import ROOT

from nas.errors import ShapeError
from nas.resources import spaces_folder
from nas.space.domains import FloatRange
from nas.space.search_space import BLOCK_PARAMETERS, SearchSpace
from nas.space.widths import is_width

FOLDER = ROOT / "search_spaces"
SHIPPED = ["colour", "grey", "mnist", "mnist_small", "mnist_wide", "rgb"]
NUM_DRAWS = 300


@pytest.fixture(params=SHIPPED)
def space(request):
    return SearchSpace.load(request.param)


# The shipped spaces


def test_folder_holds_expected_spaces():
    assert spaces_folder() == FOLDER
    assert sorted(path.stem for path in FOLDER.glob("*.toml")) == SHIPPED


@pytest.mark.parametrize(
    ("name", "input_shape", "num_parameters"),
    # Parameters of the network + 4 blocks * (block parameters + one width per convolution) + parameters of the recipe.
    # Padding is fixed in `colour`, dropout in `mnist_small`.
    [
        ("colour", (3, 32, 32), 6 + 4 * (7 + 3) + 13),
        ("mnist", (1, 28, 28), 6 + 4 * (8 + 3) + 14),
        ("mnist_small", (1, 28, 28), 6 + 4 * (7 + 3) + 12),
        ("mnist_wide", (1, 28, 28), 6 + 4 * (8 + 4) + 14),
    ],
)
def test_shipped_space_loads_by_name_and_path(name, input_shape, num_parameters):
    space = SearchSpace.load(name)
    assert (space.name, space.input_shape, space.num_classes, space.epochs) == (name, input_shape, 10, 15)
    assert len(space.domains) == num_parameters
    assert SearchSpace.load(str(FOLDER / f"{name}.toml")) == space
    assert not space.domains.keys() & space.fixed.keys()


def test_networks_of_shipped_spaces_output_one_score_per_class(space):
    architectures = [architecture_or_none(space, values) for values in draws(space, NUM_DRAWS)]
    possible = [architecture for architecture in architectures if architecture is not None]
    assert len(possible) > NUM_DRAWS / 4
    assert {architecture.output_shape for architecture in possible} == {(10,)}
    for architecture in possible[:5]:
        assert architecture.build()(torch.zeros(2, *space.input_shape)).shape == (2, 10)


def test_bind_changes_input_shape_classes_and_epochs(space):
    bound = space.bind(input_shape=(2, 40, 36), num_classes=7, epochs=3)
    for values in draws(bound, 100):
        assert bound.recipe(values).epochs == 3
        if (architecture := architecture_or_none(bound, values)) is not None:
            assert architecture.input_shape == (2, 40, 36)
            assert architecture.output_shape == (7,)
    assert bound.fingerprint() != space.fingerprint()


class RecordingTrial:
    """A trial that returns random values and records the requested parameters."""

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


def test_suggest_requests_same_parameters_for_every_candidate(space):
    asked = []
    for seed in range(30):
        trial = RecordingTrial(Random(seed))
        with contextlib.suppress(ShapeError):
            space.suggest(trial)
        asked.append(trial.asked)
    assert all(each == asked[0] for each in asked)
    names = [name for name, _ in asked[0]]
    assert names == list(space.domains)
    assert len(set(names)) == len(names)


def test_suggest_returns_candidate_of_trial_values(space):
    for values in draws(space, NUM_DRAWS):
        if architecture_or_none(space, values) is None:
            continue
        trial = FixedTrial(values)
        candidate = space.suggest(trial)
        assert candidate == space.candidate(values)
        assert candidate.architecture == space.architecture(values)
        assert candidate.recipe == space.recipe(values)
        assert trial.params == values
        assert trial.distributions == space.distributions()


def test_draws_fit_optuna_distributions_and_cover_all_options(space):
    distributions = space.distributions()
    seen = {name: set() for name in distributions}
    for values in draws(space, NUM_DRAWS):
        assert values.keys() == distributions.keys()
        for name, value in values.items():
            assert space.domains[name].accepts(value)
            assert distributions[name]._contains(distributions[name].to_internal_repr(value))
            seen[name].add(value)
    for name, domain in space.domains.items():  # every option of every parameter is drawn
        if not isinstance(domain, FloatRange) and not (space.widths and is_width(name)):  # [widths] determines these
            assert seen[name] == set(domain.grid()), name


# Inactive parameters do not change a candidate; all others do.


def inactive(space, values):
    v = {**space.fixed, **values}
    blocks = range(1, v["num_blocks"] + 1)
    last = f"block{v['num_blocks']}."
    active = {name for name in v if "block" not in name} | {"num_blocks"}
    for block in (f"block{number}." for number in blocks):
        active |= {block + key for key in BLOCK_PARAMETERS}
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


def test_only_active_parameters_change_candidate(space):
    rng = Random(1)
    checked = Counter()
    blocks = sorted({name.partition(".")[0] for name in space.domains if name.startswith("block")})
    wanted = {name for name in space.domains if not name.startswith(f"{blocks[-1]}.transition")}
    for number, values in enumerate(draws(space, 400)):
        if number >= examples(400) and checked.keys() == wanted:
            break
        if architecture_or_none(space, values) is None:
            continue
        candidate, ignored = space.candidate(values), inactive(space, values)
        other = space.draw(rng)
        assert space.candidate({**values, **{name: other[name] for name in ignored}}) == candidate
        for name in space.domains.keys() - ignored:
            if space._rounded_value(name, other) == space._rounded_value(name, values):
                continue
            checked[name] += 1
            changed = {**values, name: other[name]}
            if architecture_or_none(space, changed) is not None:
                assert space.candidate(changed) != candidate, name
                assert space.candidate(changed).fingerprint() != candidate.fingerprint()
    assert checked.keys() == wanted
