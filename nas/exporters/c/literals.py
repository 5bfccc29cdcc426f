"""Writes strings, numbers and comments as ASCII C99 source."""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

NUMBERS_A_LINE = 6
INTEGERS_A_LINE = 16


def c_string(text: str) -> str:
    """Returns a string literal that holds the text in UTF-8.

    Octal escapes have three digits, the maximum, so they cannot absorb a following digit (C99 6.4.4.4). Question marks
    are escaped because `??` begins a trigraph.
    """
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(x) if 32 <= x < 127 and chr(x) not in '"\\?' else f"\\{x:03o}" for x in data) + '"'


def c_comment(lines: Iterable[str]) -> str:
    """Returns a comment with the given lines, escaped so that they cannot end or nest it or join two lines."""
    inside = [f" * {_escape_comment(part)}".rstrip() for line in lines for part in line.splitlines() or [""]]
    return "\n".join(["/*", *inside, " */"])


def _escape_comment(line: str) -> str:
    line = line.replace("±", "+-")
    line = "".join(x if " " <= x <= "~" else ascii(x)[1:-1] for x in line).rstrip()
    line = re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", line)  # */, /* and ??/, which is a backslash
    # A leading "/" is safe, because the line follows " * ". A trailing backslash would join it with the next line.
    return line + "." * line.endswith("\\")


def c_array(name: str, tensor: Tensor) -> str:
    """Returns the definition of a constant float array; raises `ValueError` if a number is not finite."""
    return _array("float", name, [c_float(x) for x in tensor.flatten().numpy()], NUMBERS_A_LINE)


def c_int_array(kind: str, name: str, numbers: np.ndarray) -> str:
    """Returns the definition of a constant integer array; `kind` is the C type of its elements."""
    return _array(kind, name, [_c_integer(x) for x in numbers.flatten().tolist()], INTEGERS_A_LINE)


def _c_integer(number: int) -> str:
    """Returns an integer constant; -2^31 is an expression, since C has no negative constants."""
    return str(number) if number > -(2**31) else f"({number + 1} - 1)"


def _array(kind: str, name: str, texts: Sequence[str], a_line: int) -> str:
    rows = [", ".join(texts[i : i + a_line]) for i in range(0, len(texts), a_line)]
    body = "".join(f"    {row},\n" for row in rows)
    return f"static const {kind} {name}[{len(texts)}] = {{\n{body}}};\n"


def c_float(number: np.float32) -> str:
    """Returns the shortest float constant that reads back as the same number; raises `ValueError` if not finite."""
    if not np.isfinite(number):
        raise ValueError(f"a weight is {number}, expected a finite number")
    return f"{number!s}f"
