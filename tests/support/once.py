"""Computes results once a session where only arguments matter: most tests train the same few networks."""

from collections import OrderedDict
from contextlib import contextmanager

import pytest

MOST = 100
"""Results of each kind that are kept."""


class Written:
    """Text of a machine code module, for the compiler."""

    def __init__(self, text):
        self.text, self.triple = text, "unknown-unknown-unknown"

    def __str__(self):
        return self.text.replace('triple = "unknown-unknown-unknown"', f'triple = "{self.triple}"', 1)


def kept(results, key, compute):
    """Returns the cached result of a key; computes it if it is missing."""
    if key not in results:
        results[key] = compute()
    results.move_to_end(key)
    while len(results) > MOST:
        results.popitem(last=False)
    return results[key]


@contextmanager
def computed_once():
    """Compiles each machine code once, and surveys each space once per set of limits, within the context."""
    from nas.commands import search as searching
    from nas.training.native import program

    codes, reports = OrderedDict(), OrderedDict()
    compiled, survey = program.MachineCode, searching.survey

    def code(module, machine):
        text = str(module)
        return kept(codes, (text, repr(machine)), lambda: compiled(Written(text), machine))

    def report(space, constraints=(), **options):
        key = repr((space.name, space.fingerprint(), constraints, options))
        return kept(reports, key, lambda: survey(space, constraints, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "MachineCode", code)
        patch.setattr(searching, "survey", report)
        yield
