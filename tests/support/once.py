"""What the same arguments always give, computed once a session: most searches of the tests train the same few networks.

For the quick set alone: the profile `ci` computes everything each time, as a user's search does.
"""

from collections import OrderedDict
from contextlib import contextmanager

import pytest

MOST = 100
"""Results of each kind that are kept."""


class Written:
    """The text of a module of machine code, for the compiler."""

    def __init__(self, text):
        self.text, self.triple = text, "unknown-unknown-unknown"

    def __str__(self):
        return self.text.replace('triple = "unknown-unknown-unknown"', f'triple = "{self.triple}"', 1)


def kept(results, key, compute):
    """The result under a key, computed where it is not there."""
    if key not in results:
        results[key] = compute()
    results.move_to_end(key)
    while len(results) > MOST:
        results.popitem(last=False)
    return results[key]


@contextmanager
def computed_once():
    """Within, each machine code is compiled once, and each space surveyed once under the same limits."""
    from nas.commands import search as searching
    from nas.training.native import program

    codes, reports = OrderedDict(), OrderedDict()
    compiled, survey = program.Compiled, searching.survey

    def code(module, machine):
        text = str(module)
        return kept(codes, (text, repr(machine)), lambda: compiled(Written(text), machine))

    def report(space, constraints=(), **options):
        key = repr((space.name, space.fingerprint(), constraints, options))
        return kept(reports, key, lambda: survey(space, constraints, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program, "Compiled", code)
        patch.setattr(searching, "survey", report)
        yield
