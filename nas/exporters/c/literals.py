"""Escapes names, numbers and comments as ASCII C99 text."""

import re
from collections.abc import Iterable

import numpy as np
from torch import Tensor

NUMBERS_A_LINE = 6


def c_string(text: str) -> str:
    """A string literal of the text in UTF-8.

    Octal escapes end after three digits, so no following character can be taken for a part of one (C99 6.4.4.4);
    a question mark is escaped, too, since `??` begins a trigraph.
    """
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(x) if 32 <= x < 127 and chr(x) not in '"\\?' else f"\\{x:03o}" for x in data) + '"'


def c_comment(lines: Iterable[str]) -> str:
    """A comment of the lines, which cannot end it, begin another, or splice two of its lines."""
    inside = [f" * {_harmless(part)}".rstrip() for line in lines for part in line.splitlines() or [""]]
    return "\n".join(["/*", *inside, " */"])


def _harmless(line: str) -> str:
    line = line.replace("±", "+-")
    line = "".join(x if " " <= x <= "~" else ascii(x)[1:-1] for x in line).rstrip()
    line = re.sub(r"\*(?=/)|/(?=\*)|\?(?=\?)", r"\g<0> ", line)  # */ and /*, and ??/, which is a backslash
    # The line begins after "* ", and after a backslash there would be nothing but the line's end.
    return line + "." * line.endswith("\\")


def c_array(name: str, tensor: Tensor) -> str:
    """The definition of a constant array; raises `ValueError` where a number is not finite."""
    texts = [c_float(x) for x in tensor.flatten().numpy()]
    rows = [", ".join(texts[i : i + NUMBERS_A_LINE]) for i in range(0, len(texts), NUMBERS_A_LINE)]
    body = "".join(f"    {row},\n" for row in rows)
    return f"static const float {name}[{len(texts)}] = {{\n{body}}};\n"


def c_float(number: np.float32) -> str:
    """The shortest decimal constant of type float that is read back as the same number."""
    if not np.isfinite(number):
        raise ValueError(f"{number} among the weights, allowed: finite numbers")
    return f"{number!s}f"
