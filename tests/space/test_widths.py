"""The `[widths]` table: widths that are drawn together."""

from random import Random
from statistics import fmean

import pytest

from nas.errors import SearchSpaceError
from nas.space.search_space import SearchSpace
from nas.space.widths import is_width, scale_widths

TOGETHER = {
    "network": {"num_blocks": 3},
    "block": {
        "num_convs": 2,
        "growth": 2.0,
        "transition": ["none", "after_pool"],
        "transition_channels": [2, 4, 8, 16],
    },
    "conv": {"channels": {"low": 2, "high": 200}},
    "widths": {"start": 10.0, "squeeze": 0.5},
}


def space_of(**tables):
    return SearchSpace.from_toml(TOGETHER | tables)


def test_widths_grow_from_block_to_block():
    drawn = space_of().draw(Random(0))
    convs = {name: value for name, value in drawn.items() if name.endswith(".channels")}
    expected = {f"block{b}.conv{c}.channels": 10 * 2 ** (b - 1) for b in (1, 2, 3) for c in (1, 2)}
    assert convs == expected
    # The closest of 2, 4, 8, 16 to half of 10, 20 and 40.
    assert [drawn[f"block{b}.transition_channels"] for b in (1, 2, 3)] == [4, 8, 16]


def test_space_fingerprint_depends_on_weights_of_widths():
    def fingerprint(weights):
        choice = {"values": [1.0, 2.0], "weights": weights}
        return space_of(widths={"start": 10.0, "jitter": choice}, block3={"growth": choice}).fingerprint()

    assert fingerprint([1, 2]) == fingerprint([1, 2])
    assert fingerprint([1, 2]) != fingerprint([1, 3])


def test_block_table_overrides_shared_block_values():
    space = space_of(block3={"growth": 0.5, "num_convs": 1, "kernel_size": [3, 5]})
    drawn = space.draw(Random(0))
    assert [drawn[f"block{b}.conv1.channels"] for b in (1, 2, 3)] == [10, 20, 10]
    assert "block3.conv2.channels" not in space.domains
    assert {name for name in space.domains if name.endswith("kernel_size")} == {"block3.kernel_size"}


def test_fixed_widths_are_not_drawn():
    space = space_of(block={"num_convs": [1, 2], "growth": 2.0}, conv={"channels": 8})
    assert space.draw(Random(0)).keys() == {"block1.num_convs", "block2.num_convs", "block3.num_convs"}


def test_start_is_drawn_and_jitter_stays_within_its_factor():
    low, high = 8.0, 32.0
    space = space_of(widths={"start": {"low": low, "high": high, "log": True}, "jitter": 1.5})
    rng = Random(1)
    firsts = [space.draw(rng) for _ in range(300)]
    widths = [drawn["block1.conv1.channels"] for drawn in firsts]
    assert round(low / 1.5) <= min(widths) < low
    assert high < max(widths) <= round(high * 1.5)
    assert 14 < fmean(widths) < 20  # the geometric mean is 16
    for drawn in firsts:
        one, other = drawn["block2.conv1.channels"], drawn["block2.conv2.channels"]
        assert max(one, other) <= 1.5**2 * (min(one, other) + 1)


def test_scaled_changes_only_widths_and_stays_in_domains():
    space = SearchSpace.load("grey")
    values = space.draw(Random(2))
    for factor in (0.001, 0.5, 1.0, 3.0, 1000.0):
        changed = scale_widths(values, space.domains, factor)
        assert {name for name in values if values[name] != changed[name]} <= {n for n in values if is_width(n)}
        assert [name for name in changed if not space.domains[name].accepts(changed[name])] == []
    assert scale_widths(values, space.domains, 1.0) == values


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            {"block4": {}},
            "here: unknown key 'block4', expected one of block1, block2, block3 because num_blocks is at most 3",
        ),
        ({"block2": {"depth": 1}}, "here: block2: unknown key 'depth', expected one of num_convs"),
        ({"block2": 3}, "here: block2 is 3, expected a table"),
        ({"widths": {}}, "here: widths.start is missing, expected a number of at least 1"),
        ({"widths": {"start": 0.5}}, "here: widths.start is 0.5, expected a number of at least 1"),
        ({"portfolio": ["nas-1"]}, "here: portfolio[0] is 'nas-1', expected one of colour-5868"),
    ],
)
def test_invalid_table_error_names_key_and_expected(tables, message):
    with pytest.raises(SearchSpaceError) as error:
        SearchSpace.from_toml(TOGETHER | tables, where="here")
    assert str(error.value).startswith(message)


def test_growth_without_widths_table_raises():
    with pytest.raises(SearchSpaceError, match="here: block: unknown key 'growth'"):
        SearchSpace.from_toml({name: table for name, table in TOGETHER.items() if name != "widths"}, where="here")


def test_widths_table_changes_fingerprint():
    prints = {space_of().fingerprint(), space_of(widths={"start": 11.0}).fingerprint()}
    prints |= {space_of(widths={"start": 10.0, "squeeze": 0.5, "jitter": 1.1}).fingerprint()}
    assert len(prints) == 3
