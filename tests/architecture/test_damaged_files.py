"""Reading a damaged architecture file returns an architecture or raises `ArchitectureError`."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from support.architectures import architectures
from support.effort import examples

from nas.architecture.architecture import Architecture
from nas.architecture.composites import KINDS
from nas.errors import ArchitectureError

FIELDS = sorted({field.name for kind in KINDS.values() for field in dataclasses.fields(kind)} | {"kind"})
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(0, 5) | st.floats() | st.text(max_size=8)
WORDS = st.sampled_from([*KINDS, "same", "valid", "relu", "channel"])
ANYTHING = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(), inner, max_size=4),
    max_leaves=10,
)


def check_roundtrip_unless_rejected(data):
    try:
        architecture = Architecture.from_json(data)
    except ArchitectureError:
        return
    assert Architecture.from_json(architecture.to_json()) == architecture


@settings(max_examples=examples(300))
@given(ANYTHING | st.fixed_dictionaries({"version": st.just(1), "input_shape": ANYTHING, "layers": ANYTHING}))
def test_any_json_loads_or_raises_architecture_error(data):
    check_roundtrip_unless_rejected(data)


@settings(max_examples=examples(500))
@given(architectures(), st.data())
def test_architecture_with_one_replaced_value_loads_or_raises(architecture, data):
    tree = architecture.to_json()
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = data.draw(st.sampled_from(places))
    if isinstance(node, dict) and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(FIELDS))
    node[key] = data.draw(ANYTHING)
    check_roundtrip_unless_rejected(tree)
