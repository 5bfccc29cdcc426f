"""Whatever stands in a name or a remark, it is text in C, and a number is the number it was."""

import re

import numpy as np
import pytest

from nas.exporters.c.literals import c_comment, c_float, c_string


def test_a_name_with_an_end_in_it_or_half_a_character_is_still_a_literal():
    assert c_string("a\0" + "1") == r'"a\0001"'
    assert c_string("\ud800") == r'"\355\240\200"'
    assert c_string("??") == r'"\077\077"'


@pytest.mark.parametrize(
    "line", ["*/", "x *//* y", "/*", "*/*/*", "??/", "???/", "\\", "*\\", "a\nb", "a\vb\u2028c", "é", "\x00"]
)
def test_nothing_in_a_comment_ends_it(line):
    text = c_comment([line, line])
    assert text.isascii()
    inside = text.removeprefix("/*").removesuffix("*/")
    assert text == f"/*{inside}*/"
    assert not re.search(r"\*/|/\*|\?\?|\\\s*$", inside, re.MULTILINE)
    assert all(part.startswith(" *") for part in inside.splitlines()[1:-1])


def test_a_spread_in_a_comment_reads_well():
    assert c_comment(["99.41 ± 0.05 %"]) == "/*\n * 99.41 +- 0.05 %\n */"


def test_numbers_are_the_shortest_that_are_read_back_as_they_were():
    generator = np.random.default_rng(0)
    numbers = generator.integers(0, 2**32, 2000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, 1, 0.1, 1e-45, 1.17549435e-38, 3.4028235e38, 16777216, 1e16], dtype=np.float32)
    for number in [*numbers[np.isfinite(numbers)], *special]:
        text = c_float(number)
        assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", text)
        assert "." in text or "e" in text
        assert np.float32(float(text[:-1])).tobytes() == number.tobytes()
    assert c_float(np.float32(0.1)) == "0.1f"
