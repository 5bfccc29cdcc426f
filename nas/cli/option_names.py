"""Shows the arguments that an error message names in Python as options of the command line."""

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from nas.errors import NasError

OPTION_BY_PARAMETER = {"first_seed": "seed"}
"""Options by Python parameter, where the names differ."""

_ARGUMENT = re.compile(r"(?<![^\s(])`([a-z_]+)(?:=([^`]+))?`(?![^\s.,:;)])")

_CALL = re.compile(r"`nas\.([a-z]+)\(([^`]*)\)`")
_KEYWORD = re.compile(r"""([a-z]+)=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


class Command(TyperCommand):
    """A command whose errors name its options instead of Python parameters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        with _naming_options(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with _naming_options(ctx):
            return super().invoke(ctx)


@contextmanager
def _naming_options(context: Any) -> Iterator[None]:
    """Raises a `NasError` again with options of the command instead of Python arguments."""
    try:
        yield
    except NasError as error:
        raise NasError(with_option_names(str(error), context)) from error


def with_option_names(text: str, context: typer.Context) -> str:
    """Returns the text with arguments and parameters as options of the running command.

    "`sampler='tea'`" becomes "--sampler tea", "`sampler`" becomes "--sampler", and the call
    "`nas.confirm(study='mine')`" becomes "`nas confirm --study mine`". Other text in backticks stays as it is.
    """
    options = {param.name.rstrip("_"): param for param in context.command.params if isinstance(param, TyperOption)}

    def shown(match: re.Match[str]) -> str:
        name, value = match.groups()
        option = options.get(OPTION_BY_PARAMETER.get(name, name))
        if option is None:
            return match[0]
        return option.opts[0] if value is None else _with_value(option, value)

    return _ARGUMENT.sub(shown, _CALL.sub(_command, text))


def _command(call: re.Match[str]) -> str:
    """Returns a call of a public function as a command in backticks; other text stays as it is."""
    try:
        given = [(name, ast.literal_eval(value)) for name, value in _KEYWORD.findall(call[2])]
    except (ValueError, SyntaxError):  # text of a user that looks like a call
        return call[0]
    return f"`nas {call[1]}{''.join(f' --{name} {_quoted(value)}' for name, value in given)}`"


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
