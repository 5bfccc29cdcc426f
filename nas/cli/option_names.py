"""Shows the arguments that an error message names in Python as options of the command line."""

import ast
import re
import shlex
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from nas.errors import NasError

OPTION_BY_PARAMETER = {"first_seed": "seed"}
"""Options by Python parameter, where the names differ."""

_ARGUMENT = re.compile(r"(?<![^\s(])`([a-z_]+)(?:=([^`]+))?`(?![^\s.,:;)])")


class Command(TyperCommand):
    """A command whose errors name its options instead of Python parameters."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except NasError as error:
            raise NasError(with_option_names(str(error), ctx)) from error


def with_option_names(text: str, context: typer.Context) -> str:
    """Returns the text with arguments and parameters as options of the running command.

    "`sampler='tea'`" becomes "--sampler tea", "`sampler`" becomes "--sampler". Other text in backticks stays as it is.
    """
    options = {param.name.rstrip("_"): param for param in context.command.params if isinstance(param, TyperOption)}

    def shown(match: re.Match[str]) -> str:
        name, value = match.groups()
        option = options.get(OPTION_BY_PARAMETER.get(name, name))
        if option is None:
            return match[0]
        return option.opts[0] if value is None else _with_value(option, value)

    return _ARGUMENT.sub(shown, text)


def _with_value(option: TyperOption, source: str) -> str:
    """Returns an option with a value that is given as Python source."""
    flag = option.opts[0]
    try:
        value = ast.literal_eval(source)
    except (ValueError, SyntaxError):  # such as nan, or text that was shortened in the middle of an escape sequence
        return f"{flag} {source}"
    if value is True:
        return flag
    if value is False and option.secondary_opts:
        return option.secondary_opts[0]
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{flag} {_quoted(str(each))}" for each in values) or flag


def _quoted(text: str) -> str:
    """Returns a word for the shell, on one line: unprintable characters as escape sequences in $'...'."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(each if each.isprintable() else _escape(each) for each in escaped) + "'"


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of the command line that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
