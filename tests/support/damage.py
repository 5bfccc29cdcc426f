"""Hypothesis strategies that damage values and bytes of files and databases."""

import copy
import json
import math

from hypothesis import strategies as st

ODD = [
    *(None, True, False, 0, -1, 1, 2, 0.5, 10**12, 10**12 + 1, 10**30, 10**400, -(10**30), 1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, "", "0", "3", "same", "conv", "\0", "\ud800", "a\nb", "x" * 5000),
    *([], {}, [[]], {"": 0}, [1, 2, 3], [0.5, 0.5], {"kind": "conv"}, {"low": 1, "high": 10**30}),
]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.sampled_from(ODD).map(copy.deepcopy) | st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
"""A value that JSON as Python reads it can hold: NaN, lone surrogates and endless integers are among them."""


def places(value, path=()):
    """Yields the path of every nested value, starting with the value itself."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


@st.composite
def damaged(draw, value):
    """Draws the value with one to three changes: items replaced, removed, added, doubled, cut or nested."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(value))))
        if not path:
            value = draw(anything) if draw(st.integers(0, 9)) == 0 else value
            continue
        *outer, key = path
        parent = value
        for step in outer:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "double", "cut", "nest"])):
            case "replace":
                parent[key] = draw(anything)
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(["extra", "", "a\nb", "\ud800", "layers", "kind", "step", "x" * 5000]))] = (
                    draw(anything)
                )
            case "double" if isinstance(parent, list):
                parent += copy.deepcopy(parent)
            case "cut" if isinstance(parent, list):
                del parent[key:]
            case "nest":
                for _ in range(draw(st.sampled_from([1, 30]))):
                    parent[key] = [parent[key]] if isinstance(parent, list) else {"kind": "residual", key: parent[key]}
    return value


@st.composite
def damaged_bytes(draw, data):
    """Draws the bytes cut short, or with a few of them flipped, removed or inserted."""
    kind = draw(st.sampled_from(["cut", "flip", "flip", "remove", "insert"]))
    if kind == "cut":
        return data[: draw(st.integers(0, len(data) - 1))]
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed) - 1))
        if kind == "flip":
            changed[place] ^= draw(st.integers(1, 255))
        elif kind == "remove":
            del changed[place : place + draw(st.integers(1, 20))]
            changed = changed or bytearray(b"\0")
        else:
            changed[place:place] = draw(st.binary(min_size=1, max_size=6) | st.sampled_from(TOKENS))
    return bytes(changed)


TOKENS = [b"\xef\xbb\xbf", b"\xff", b"\0", b"[" * 5000, b"9" * 5000, b"NaN", b"-", b'"', b"0x" + b"f" * 5000, b"1e999"]


def dumped(value):
    """Returns a value as JSON, encoded; NaN and lone surrogates are possible."""
    return json.dumps(value).encode()


def assert_clear(error):
    """Asserts that the error message is one printable line of limited length."""
    text = str(error)
    assert text
    assert text.isprintable(), text
    assert len(text) < 2000
