"""Docstrings of public names document each argument and attribute, arguments with type and default."""

import ast
import dataclasses
import inspect
import re
import textwrap

import pytest

import nas
from nas.data import downloads
from nas.sampling.pruners import PRUNERS
from nas.sampling.samplers import SAMPLERS

PUBLIC = {name: getattr(nas, name) for name in nas.__all__}
FUNCTIONS = sorted(name for name, found in PUBLIC.items() if inspect.isfunction(found))
LAYERS = {f"layers.{name}": getattr(nas.layers, name) for name in nas.layers.__all__}
CLASSES = {name: found for name, found in (PUBLIC | LAYERS).items() if dataclasses.is_dataclass(found)}


def section(docstring, title):
    """Returns the entries of a section, each split at its first colon."""
    found = re.search(rf"^{title}:\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring) + "\n", re.M)
    text = textwrap.dedent(found[1]) if found else ""
    entries = re.split(r"^(?=\S)", text, flags=re.M)[1:]
    return [tuple(" ".join(part.split()) for part in entry.split(": ", 1)) for entry in entries]


def parameters(function):
    """Yields each parameter's name, the source of its annotation, and whether it has a default."""
    arguments = ast.parse(inspect.getsource(function)).body[0].args
    optional = [None] * (len(arguments.args) - len(arguments.defaults)) + arguments.defaults + arguments.kw_defaults
    for argument, default in zip([*arguments.args, *arguments.kwonlyargs], optional, strict=True):
        kind = argument.annotation
        text = kind.value if isinstance(kind, ast.Constant) else ast.unparse(kind).replace("'", '"')
        yield argument.arg, text, default is not None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_argument_is_documented_with_type_and_default(name):
    told = section(PUBLIC[name].__doc__, "Args")
    assert [head for head, _ in told] == [f"{each} ({kind})" for each, kind, _ in parameters(PUBLIC[name])]
    for (_, text), (each, _, is_optional) in zip(told, parameters(PUBLIC[name]), strict=True):
        assert text[0].isupper() or text[0] == '"', each
        assert ("Default: " in text) == is_optional, each


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_defaults_match_signature(name):
    told = dict(section(PUBLIC[name].__doc__, "Args"))
    for parameter in inspect.signature(PUBLIC[name]).parameters.values():
        if type(parameter.default) in (int, float, bool):
            (text,) = (text for head, text in told.items() if head.split()[0] == parameter.name)
            value = f"{parameter.default:,}" if type(parameter.default) is int else str(parameter.default)
            assert re.search(rf"Default: ({value}|{parameter.default})\b", text), parameter.name


def test_search_documents_every_sampler_pruner_and_dataset():
    told = {head.split()[0]: text for head, text in section(nas.search.__doc__, "Args")}
    sets = {"sampler": SAMPLERS, "pruner": PRUNERS, "dataset": (*downloads.TORCHVISION_DATASETS, "digits")}
    for argument, names in sets.items():
        assert set(re.findall(r'"([a-z0-9-]+)"', told[argument])) == set(names), argument


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_each_dataclass_field_is_documented(name):
    kind = CLASSES[name]
    documented = {
        each
        for base in kind.__mro__
        for head, _ in section(base.__doc__ or "", "Attributes")
        for each in re.split(r", ", head)
    }
    missing = [field.name for field in dataclasses.fields(kind) if field.name not in documented]
    assert missing == []
