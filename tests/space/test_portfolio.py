"""The portfolio: known designs that ship with a space."""

import json
from random import Random

import pytest

from nas.architecture.cost import cost_of
from nas.errors import ArchitectureError, RecipeError
from nas.resources import shipped_designs, shipped_spaces, spaces_folder
from nas.space.constraints import Constraint, limits
from nas.space.encoding import encode_architecture
from nas.space.feasibility import judge
from nas.space.fill import with_filled_widths
from nas.space.portfolio import SOURCE_PREFIX, Design, portfolio_candidates
from nas.space.search_space import SearchSpace

FOLDER = spaces_folder() / "designs"
SPACES = ("grey", "rgb")


def designs(space):
    return [Design.load(FOLDER / f"{name}.json") for name in space.portfolio]


@pytest.fixture(params=SPACES)
def space(request):
    return SearchSpace.load(request.param)


def test_spaces_name_six_to_ten_designs(space):
    assert 6 <= len(space.portfolio) <= 10


def test_designs_outside_every_portfolio_are_rows_of_leaderboard():
    named = {name for each in shipped_spaces() for name in SearchSpace.load(each).portfolio}
    assert set(shipped_designs()) - named == {
        *("nas-7840", "nas-2386", "nas-1192", "nas-897"),
        *("fashion-7929", "fashion-7840", "fashion-5598", "colour-5868"),
    }


def test_space_reproduces_each_design(space):
    for design in designs(space):
        values = encode_architecture(space, design.architecture)
        assert space.architecture({**space.draw(Random(0)), **values}) == design.architecture, design.name
        assert design.about


@pytest.mark.parametrize(
    ("shape", "classes", "max_params", "max_macs"),
    [
        ((1, 28, 28), 10, 8000, None),
        ((1, 28, 28), 10, 1500, None),
        ((1, 28, 28), 10, 8000, 300_000),
        ((1, 28, 28), 10, 60_000, None),
        ((1, 64, 64), 3, 8000, None),
        ((1, 30, 44), 2, 5000, None),
        ((3, 32, 32), 100, 30_000, None),
        ((3, 96, 96), 7, 20_000, None),
    ],
)
def test_designs_scale_to_limits_and_image_shapes(shape, classes, max_params, max_macs):
    space = SearchSpace.load(SPACES[shape[0] == 3]).bind(input_shape=shape, num_classes=classes, epochs=3)
    kept = limits(shape, max_params=max_params, max_macs=max_macs)
    starts, unfit = portfolio_candidates(space.portfolio, space, kept, seed=0)
    assert unfit == ()
    assert [start.source.removeprefix(SOURCE_PREFIX) for start in starts] == list(space.portfolio)
    assert len({start.fingerprint for start in starts}) == len(starts)
    for start in starts:
        candidate = space.candidate(start.values)
        cost = cost_of(candidate.architecture)
        assert [str(c) for c in kept if c.violation(cost) > 0] == []
        assert max(cost.params / max_params, cost.macs / (max_macs or 1e12)) > 0.7, start.source
        assert candidate.architecture.output_shape == (classes,)
        assert candidate.recipe.epochs == 3
        assert candidate.fingerprint() == start.fingerprint
        assert [name for name, value in start.values.items() if not space.domains[name].accepts(value)] == []


def test_scaled_design_keeps_layers_receptive_field_and_recipe():
    space = SearchSpace.load("grey")
    (start,), _ = portfolio_candidates(("nas-7230",), space, limits((1, 28, 28), max_params=8000), seed=0)
    design = Design.load(FOLDER / "nas-7230.json")
    scaled = space.architecture(start.values)
    assert [layer.kind for layer in scaled.layers] == [layer.kind for layer in design.architecture.layers]
    assert cost_of(scaled).receptive_field == cost_of(design.architecture).receptive_field
    assert space.recipe(start.values) == design.recipe


def test_designs_that_cannot_keep_limits_are_left_out():
    space = SearchSpace.load("grey")
    fitting, unfit = portfolio_candidates(space.portfolio, space, limits((1, 28, 28), max_params=20), seed=0)
    assert fitting == []
    assert unfit[0] == "known design nas-3686 is left out: it cannot keep params<=20"
    assert len(unfit) == len(space.portfolio)


def test_designs_outside_narrower_space_are_left_out(tmp_path):
    text = (spaces_folder() / "grey.toml").read_text()
    narrow = tmp_path / "narrow.toml"
    narrow.write_text(text.replace("num_convs = { low = 1, high = 3 }", "num_convs = { low = 1, high = 2 }"))
    space = SearchSpace.load(narrow)
    fitting, unfit = portfolio_candidates(space.portfolio, space, limits((1, 28, 28), max_params=8000), seed=0)
    assert 0 < len(fitting) < len(space.portfolio) == len(fitting) + len(unfit)
    assert all("is left out: " in line for line in unfit)


def test_receptive_field_limit_does_not_change_filled_widths():
    space = SearchSpace.load("grey")
    kept = (*limits((1, 28, 28), max_params=8000), Constraint("receptive_field", "<=", 40))
    rng = Random(1)
    drawn = [space.draw(rng) for _ in range(30)]
    both = [(with_filled_widths(space, kept, values), with_filled_widths(space, kept[:-1], values)) for values in drawn]
    small = [(limited, free) for limited, free in both if not judge(space, kept, free).reason]
    assert small
    assert all(limited == free for limited, free in small)


def test_damaged_design_error_names_path_and_key(tmp_path):
    data = json.loads((FOLDER / "nas-7230.json").read_text())
    path = tmp_path / "design.json"
    for change, error, text in (
        ({"extra": 1}, ArchitectureError, f"{path}: unknown key 'extra', expected one of about, architecture, recipe"),
        ({"architecture": {}}, ArchitectureError, f"{path}: architecture: "),
        ({"recipe": {"speed": 1}}, RecipeError, f"{path}: recipe: unknown key 'speed'"),
    ):
        path.write_text(json.dumps(data | change))
        with pytest.raises(error) as raised:
            Design.load(path)
        assert str(raised.value).startswith(text)
