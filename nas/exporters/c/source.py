"""Parts of C source that float and int8 networks share: header, calls, names."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from nas.architecture.layers import Shape, shape_text
from nas.exporters.c.literals import c_string
from nas.inference.program import Step, Value, Window

LINE = 110


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """What a program that calls `predict` sees of a network.

    Attributes:
        name: File name without suffix, such as "network".
        input_shape: Shape of an image, (channels, height, width).
        num_classes: Number of logits.
        logit_type: C type of a logit.
        logit_text: Sentence about the logits for the comment of `predict`.
        constants: Further macros, as (name, value, comment).
        includes: Standard headers that the types need.
    """

    name: str
    input_shape: Shape
    num_classes: int
    logit_type: str
    logit_text: str
    constants: Sequence[tuple[str, str, str]]
    includes: Sequence[str] = ()

    @property
    def function(self) -> str:
        """Declaration of `predict` without semicolon."""
        return f"""\
int predict(const unsigned char pixels[NETWORK_CHANNELS * NETWORK_HEIGHT * NETWORK_WIDTH],
            {self.logit_type} logits[NETWORK_CLASSES])"""

    def header(self, about: str) -> str:
        """Returns the text of the header file; `about` is the comment at its top."""
        channels, height, width = self.input_shape
        guard = f"{self.name.upper()}_H"
        macros = [
            f"#define NETWORK_CHANNELS {channels}",
            f"#define NETWORK_HEIGHT {height}",
            f"#define NETWORK_WIDTH {width}",
            f"#define NETWORK_CLASSES {self.num_classes}",
            *(f"#define NETWORK_{name} {value} /* {comment} */" for name, value, comment in self.constants),
        ]
        includes = "".join(f"#include <{name}>\n" for name in self.includes)
        return f"""\
{about}

#ifndef {guard}
#define {guard}

{f"{includes}{chr(10)}" if includes else ""}{chr(10).join(macros)}

#ifdef __cplusplus
extern "C" {{
#endif

/* Names in UTF-8, in the order of the logits. */
extern const char *const network_classes[NETWORK_CLASSES];

/* Writes the logit of each class to `logits`. Returns the index of the largest logit,
 * the first one if several are equal.{self.logit_text}
 * Pixels are 0 to 255, [channel][row][column]; scaling and normalisation happen inside.
 * Not reentrant: every call works in the same static memory.
 */
{self.function};

#ifdef __cplusplus
}}
#endif

#endif
"""


def stated_bytes(header: str) -> tuple[int, int]:
    """Returns the bytes of constants and of static memory that the text of a header states."""
    constants, scratch = re.findall(r"^#define NETWORK_(?:PARAMETER|SCRATCH)_BYTES (\d+)", header, re.M)
    return int(constants), int(scratch)


def class_names(classes: Sequence[str]) -> str:
    """Returns the definition of the class names."""
    names = "".join(f"    {c_string(name)},\n" for name in classes)
    return f"const char *const network_classes[NETWORK_CLASSES] = {{\n{names}}};\n"


def statement(step: Step, call: Sequence[str]) -> Iterator[str]:
    """Yields a comment with the layers and the output shape, then the call, split into lines if it is long.

    `call` holds the function's name and groups of its arguments.
    """
    function, *arguments = call
    yield f"    /* {', '.join(step.layers)}: {shape_text(step.output.shape, ' x ')} */"
    start = f"    {function}("
    line = f"{start}{', '.join(arguments)});"
    yield line if len(line) <= LINE else start + (",\n" + " " * len(start)).join(arguments) + ");"


def array_name(part: str, name: str | int) -> str:
    """Returns the name of a constant array."""
    return f"{part}_{str(name).replace('.', '_')}"


def shape_literal(shape: Shape) -> str:
    """Returns a `struct shape` of a map; a vector is a map of one point."""
    sides = [*shape, 1, 1][:3]
    return f"(struct shape){{{', '.join(map(str, sides))}}}"


def window_literal(window: Window) -> str:
    """Returns a `struct window`."""
    return f"(struct window){{{window.size}, {window.stride}, {window.padding}, {window.dilation}}}"


def scratch_pointer(value: Value, offsets: Mapping[int, int]) -> str:
    """Returns the place of a value in the arena."""
    offset = offsets[value.index]
    return f"scratch + {offset}" if offset else "scratch"
