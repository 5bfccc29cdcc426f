"""Fills the jinja2 templates of the report, the dashboard's note, and the model card and the projects of an export."""

import re
from pathlib import Path

from nas.text import count_text, one_line


def render_template(template: Path, **values: object) -> str:
    """Returns the text of a template.

    In `.html` templates all values are escaped. In `.md` templates the filter `text` escapes a value, and `code` makes
    it a code span. `grouped` formats a number as 1,234.

    Args:
        template: path of the template.
        values: variables of the template. A template that uses an unknown variable raises an error.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=template.suffix == ".html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": escape_markdown, "code": code_span, "one_line": one_line, "grouped": "{:,}".format}
    return environment.get_template(template.name).render(count_text=count_text, **values)


def escape_markdown(text: str) -> str:
    """Returns text on one line, escaped so that Markdown shows it literally."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>#|" else char for char in one_line(text))


def code_span(text: object) -> str:
    """Returns a Markdown code span of the text on one line, with a fence longer than any run of backticks in it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split()) or "-"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    return f"{fence} {line} {fence}" if "`" in line else f"{fence}{line}{fence}"
