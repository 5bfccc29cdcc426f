"""Random command lines exit with status 0, or with status 2 and an error message, never with a traceback."""

import subprocess
import sys

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.effort import examples

from nas.cli import main as cli

COMMANDS = {
    name: [param for param in command.params if param.name != "help"]
    for name, command in typer.main.get_command(cli.app).commands.items()
    if name != "dashboard"  # runs until it is stopped
}
WORDS = [
    *("", " ", "0", "-1", "1", "2", "3", "999999999999999999999", "1e400", "nan", "inf", "1_000", "²", "0x10", "1.5"),
    *(
        "mnist-7825",
        "digits",
        "mnist",
        "best",
        "confirmed",
        "all",
        "auto",
        "cpu",
        "cuda:99",
        "html",
        "csv",
        "json",
        "c",
    ),
    *("params<=3", "params<=", "<=", "macs>=0", "params==nan", "accuracy,params", ",", "rotation=7", "rotation=", "="),
    *("a\nb", "x" * 5000, "🦆", "\ud800", "%s", "{0}", "--", "-", "..", "missing/x", "/dev/null", "/dev/full", "file"),
    *("folder:", "folder:file", "sqlite://", "sqlite:///:memory:", "sqlite:///file", "mysql://x", "nonsense://", ":"),
    *("postgresql+psycopg://nobody@127.0.0.1:1/none", "local host", "http://127.0.0.1:1", "[::1"),
]
# Options that keep a valid command short.
SHORT = {
    "search": ["--dataset", "digits", "--trials", "1", "--epochs", "1", "--max-params", "400", "--device", "cpu"],
    "train": ["--dataset", "digits", "--epochs", "1", "--device", "cpu"],
    "confirm": ["--top", "1", "--seeds", "2"],
    "space": ["--draws", "20"],
}


@st.composite
def command_lines(draw):
    """Draws a command with up to three of its parameters, each with a random word."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    line = [name]
    for param in draw(st.lists(st.sampled_from(COMMANDS[name]), max_size=3, unique_by=lambda param: param.name)):
        word = draw(st.sampled_from(WORDS))
        if param.param_type_name == "argument":
            line.append(word)
        elif param.name not in ("ray", "open"):  # these would join a cluster or open a browser
            line += [param.opts[0]] if param.is_flag else [param.opts[0], word]
    given_already = set(line)
    short = SHORT.get(name, [])
    for option, word in zip(short[::2], short[1::2], strict=True):
        if option not in given_already:
            line += [option, word]
    return line


@given(line=command_lines())
@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_command_line_exits_with_status_0_or_2(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not what is looked for")
    monkeypatch.setattr(sys, "argv", ["nas", *line])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code in (0, 2), (line, error)
    assert bool(error.strip()) >= (ended.value.code == 2), line


BROKEN = """
import sys
from nas.architecture import cost
from nas.cli import main as cli
def broken(*args):
    raise ZeroDivisionError("of ours\\nin two lines")
cost.cost_of = broken
sys.argv = ["nas", *sys.argv[1:]]
cli.main()
"""


def test_unexpected_error_is_reported_as_bug_with_debug_command():
    def run(*line):
        return subprocess.run([sys.executable, "-c", BROKEN, *line], capture_output=True, text=True, check=False)

    done = run("cost", "mnist-7825")
    assert done.returncode == 1
    first, second, third = done.stderr.splitlines()
    assert first == "error: ZeroDivisionError: of ours"
    assert second == "This is a bug in nas. To see the traceback, run:"
    assert third == "  nas --debug cost mnist-7825"
    assert "Traceback" in run("--debug", "cost", "mnist-7825").stderr
