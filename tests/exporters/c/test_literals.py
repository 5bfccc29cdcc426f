"""C literals: any name or remark stays text in C, and floats round-trip exactly."""

import re

import numpy as np
import pytest

from nas.exporters.c.literals import c_comment, c_float, c_string


def test_string_literal_escapes_nul_surrogates_and_trigraphs():
    assert c_string("a\0" + "1") == r'"a\0001"'
    assert c_string("\ud800") == r'"\355\240\200"'
    assert c_string("??") == r'"\077\077"'


@pytest.mark.parametrize(
    "line", ["*/", "x *//* y", "/*", "*/*/*", "??/", "???/", "\\", "*\\", "a\nb", "a\vb\u2028c", "é", "\x00"]
)
def test_comment_text_cannot_end_comment(line):
    text = c_comment([line, line])
    assert text.isascii()
    inside = text.removeprefix("/*").removesuffix("*/")
    assert text == f"/*{inside}*/"
    assert not re.search(r"\*/|/\*|\?\?|\\\s*$", inside, re.MULTILINE)
    assert all(part.startswith(" *") for part in inside.splitlines()[1:-1])


def test_comment_writes_plus_minus_in_ascii():
    assert c_comment(["99.41 ± 0.05 %"]) == "/*\n * 99.41 +- 0.05 %\n */"


def test_float_literals_round_trip_exactly():
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, 1, 0.1, 1e-45, 1.17549435e-38, 3.4028235e38, 16777216, 1e16], dtype=np.float32)
    for number in [*numbers[np.isfinite(numbers)], *special]:
        text = c_float(number)
        assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", text)
        assert "." in text or "e" in text
        assert np.float32(float(text[:-1])).tobytes() == number.tobytes()
    assert c_float(np.float32(0.1)) == "0.1f"
