"""Mutation testing: changes one place of a module at a time and counts the changes that no test notices.

    python scripts/mutants.py --sample 60                      # every module of the table below
    python scripts/mutants.py nas/seed_stats.py:12,40          # two mutants of one module

The changes are those of mutmut's operators. mutmut itself leaves out properties, constants and defaults of fields, so
this script applies the operators to the whole file. It runs the tests of each mutant in a forked process, with the
mutant also in the file that other processes import. Annotations, docstrings, the texts of errors, and texts that hold a
space are not changed.

The tests of a mutant are those that call the changed function, the quickest first, up to `--seconds` of processor time;
for a change outside functions, all tests. A mutant dies if a test fails or uses five times as long as it should.
"""

import argparse
import functools
import gc
import importlib
import os
import pickle
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
CO_OPTIMIZED = 1  # flag of the code of functions, which modules and bodies of classes lack
HANG_SECONDS = 7200  # wall-clock seconds after which a mutant counts as endless; a busy machine may need long

NOT_COPIED = (".git", ".venv", "venv", ".*_cache", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist")
SURVIVED, DIED = 0, 1  # exit statuses of the process that runs a mutant


class Mutant(NamedTuple):
    number: int
    line: int
    was: str
    becomes: str
    text: str  # the whole file


ARCHITECTURE = ("tests/architecture", "tests/space/test_constraints.py", "tests/space/test_fill.py")
SPACE = ("tests/space",)
STUDY = ("tests/study",)
TESTS = {
    "nas/architecture/cost.py": ARCHITECTURE,
    "nas/architecture/layers.py": ARCHITECTURE,
    "nas/architecture/composites.py": ARCHITECTURE,
    "nas/pareto.py": ("tests/test_pareto.py",),
    "nas/schema.py": ("tests/test_schema.py", "tests/space", "tests/test_recipe.py"),
    "nas/seed_stats.py": ("tests/seed_stats",),
    "nas/space/candidate.py": SPACE,
    "nas/space/constraints.py": SPACE,
    "nas/space/domains.py": SPACE,
    "nas/space/drawn.py": (*SPACE, "tests/sampling/test_feasible.py"),
    "nas/space/encoding.py": SPACE,
    "nas/space/feasibility.py": SPACE,
    "nas/space/fill.py": SPACE,
    "nas/space/network_parts.py": SPACE,
    "nas/space/portfolio.py": SPACE,
    "nas/space/search_space.py": SPACE,
    "nas/space/survey.py": SPACE,
    "nas/space/warm_start.py": SPACE,
    "nas/space/widths.py": SPACE,
    "nas/study/artifacts.py": STUDY,
    "nas/study/attributes.py": STUDY,
    "nas/study/budget.py": ("tests/study/test_budget.py",),
    "nas/study/confirmation.py": STUDY,
    "nas/study/database.py": STUDY,
    "nas/study/locks.py": STUDY,
    "nas/study/optuna_storage.py": STUDY,
    "nas/study/progress.py": STUDY,
    "nas/study/reader.py": STUDY,
    "nas/study/reference.py": STUDY,
    "nas/study/runs.py": STUDY,
    "nas/study/settings.py": STUDY,
    "nas/study/trial.py": STUDY,
    "nas/study/validation.py": STUDY,
    "nas/study/writer.py": STUDY,
}
"""The modules that judge and store, and the tests of each."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", default=list(TESTS), help="nas/pareto.py, or some: nas/pareto.py:3,14")
    parser.add_argument(
        "--sample", type=int, default=0, metavar="N", help="of each module N mutants, drawn with seed 0"
    )
    parser.add_argument("--functions", action="store_true", help="only changes inside functions, which take a tenth")
    parser.add_argument("--seconds", type=float, default=20.0, help="processor time of the tests of one mutant")
    arguments = parser.parse_args()
    asked = {module: numbers for module, _, numbers in (each.partition(":") for each in arguments.modules)}
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_repository(Path(folder))
        preload()
        for tests, modules in groupby(sorted(asked, key=TESTS.__getitem__), key=TESTS.__getitem__):
            usage = usage_of(copy, tests)
            for module in modules:
                runner = MutantRunner(copy, module, usage, arguments.seconds)
                forked(
                    lambda: report(runner, module, asked[module], arguments.sample, arguments.functions),  # noqa: B023
                    quiet=False,
                )


def report(runner: "MutantRunner", module: str, numbers: str, sample: int, functions: bool) -> int:
    """Prints the mutants of a module that survive, and how many died."""
    every = list(mutants_of(ROOT / module))
    chosen = [every[int(number)] for number in numbers.split(",")] if numbers else every
    if functions:
        chosen = [each for each in chosen if changed_functions(runner.original, each.text, module) is not None]
    if 0 < sample < len(chosen):
        chosen = sorted(random.Random(0).sample(chosen, sample))
    print(f"{module}: {len(chosen)} of {len(every)} mutants", flush=True)
    died = len(chosen) - len(runner.survivors(chosen))
    print(f"{module}: {died} of {len(chosen)} died ({died / len(chosen):.1%})", flush=True)
    return 0


# -- mutants -----------------------------------------------------------------------------------------------------


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yields the mutants of a module in the order of the file."""
    import libcst as cst
    from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper
    from mutmut.mutation.file_mutation import MutationVisitor
    from mutmut.mutation.mutators import mutation_operators
    from mutmut.mutation.pragma_handling import IgnoredCode

    class Visitor(MutationVisitor):
        def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
            if isinstance(node, cst.FunctionDef):
                return False  # mutmut leaves out properties and other functions with a decorator
            if isinstance(node, cst.Raise | cst.Import | cst.ImportFrom | cst.Decorator | cst.Assert):
                return True
            if isinstance(node, cst.SimpleStatementLine) and is_type(node):
                return True
            if isinstance(node, cst.If) and isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING":
                return True
            return bool(super()._skip_node_and_children(node))

        def _create_mutations(self, node: cst.CSTNode) -> None:
            if not (isinstance(node, cst.SimpleString) and " " in node.value):
                super()._create_mutations(node)

    source = path.read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source))
    module = wrapper.module
    visitor = Visitor(mutation_operators, IgnoredCode(set(), set(), set()))
    wrapper.visit(visitor)
    spans = wrapper.resolve(ByteSpanPositionProvider)
    encoded, lines = source.encode(), source.splitlines()
    known = {source}
    for mutation in visitor.mutations:
        old, new = (module.code_for_node(node) for node in (mutation.original_node, mutation.mutated_node))
        if isinstance(mutation.original_node, cst.SimpleString) and "XX" not in new:
            continue  # of each text one change is enough
        # The span leaves out parentheses and spaces around the node, which its code includes.
        span, length = spans[mutation.original_node], len(old.encode())
        begin = encoded.rfind(old.encode(), 0, span.start + length)
        if 0 <= begin <= span.start and span.start + span.length <= begin + length:
            text = (encoded[:begin] + new.encode() + encoded[begin + length :]).decode()
        else:  # several lines, of which the code lacks the indentation; slow
            changed = module.deep_replace(mutation.original_node, mutation.mutated_node)
            assert isinstance(changed, cst.Module)
            text = changed.code
        if text in known or not compiles(text):
            continue
        known.add(text)
        line = next(n for n, (a, b) in enumerate(zip(lines, [*text.splitlines(), ""], strict=False)) if a != b)
        yield Mutant(len(known) - 2, line + 1, lines[line].strip(), text.splitlines()[line].strip(), text)


def is_type(line: Any) -> bool:
    """Returns whether the statement assigns to a name in CamelCase: a type, which annotations use."""
    target = getattr(getattr(line.body[0], "targets", [None])[0], "target", None)
    return re.fullmatch("[A-Z]([a-z][A-Za-z]*)?", str(getattr(target, "value", ""))) is not None


def compiles(text: str) -> bool:
    try:
        compile(text, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


# -- running -----------------------------------------------------------------------------------------------------


def copy_repository(folder: Path) -> Path:
    """Copies the repository to `folder`, where mutants are written, without environments and caches."""
    shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    os.chdir(folder)
    os.environ |= {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    sys.path[0] = str(folder)
    return folder


def preload() -> None:
    """Imports the large libraries once, so that the processes of mutants need not."""
    import hypothesis
    import optuna
    import pytest
    import scipy.stats
    import sqlalchemy
    import torch.fx
    import torch.utils.flop_counter

    assert all((hypothesis, optuna, pytest, scipy.stats, sqlalchemy, torch.fx, torch.utils.flop_counter))


Usage = dict[str, tuple[float, set[tuple[str, str]]]]
"""The processor time of each test by its ID, and the functions that it calls: file and qualified name."""


def usage_of(folder: Path, tests: Sequence[str]) -> Usage:
    """Returns the usage of each test that passes."""
    import pytest

    stored = folder / "usage"
    package = str(folder / "nas")

    def measure(session: pytest.Session) -> None:
        usage: Usage = {}
        called: set[tuple[str, str]] = set()
        by_fixture: dict[str, set[tuple[str, str]]] = {}

        class Fixtures:
            """Of a fixture that several tests share, only the first of them runs the code."""

            @pytest.hookimpl(wrapper=True)
            def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[None]:
                before = set(called)
                called.clear()
                value = yield
                by_fixture.setdefault(fixturedef.argname, set()).update(called)
                called.update(before)
                return value

        def profile(frame: FrameType, event: str, _: object) -> None:
            if event == "call" and frame.f_code.co_filename.startswith(package):
                called.add((frame.f_code.co_filename, frame.f_code.co_qualname))

        session.config.pluginmanager.register(Fixtures())
        for item, after in zip(session.items, [*session.items[1:], None], strict=True):
            called.clear()
            began = time.process_time()
            sys.setprofile(profile)
            passed = _passes(item, after, or_skips=False)
            sys.setprofile(None)
            if passed:
                lent = (by_fixture.get(name, set()) for name in getattr(item, "fixturenames", ()))
                usage[item.nodeid] = time.process_time() - began, called.union(*lent)
        stored.write_bytes(pickle.dumps(usage))
        total = sum(spent for spent, _ in usage.values())
        print(f"{len(usage)} of {len(session.items)} tests in {' '.join(tests)} pass, in {total:.0f} s", flush=True)

    forked(lambda: in_session(folder, tests, measure), quiet=False)
    usage: Usage = pickle.loads(stored.read_bytes())
    return usage


def in_session(folder: Path, tests: Sequence[str], loop: Callable[[Any], None]) -> int:
    """Collects the tests and calls `loop` instead of running them; returns the exit status."""
    import hypothesis
    import pytest

    class Plugin:
        @pytest.hookimpl(tryfirst=True)
        def pytest_collection(self) -> None:
            # Neither shrinks what fails, nor remembers it for the next mutant.
            hypothesis.settings.register_profile(
                "mutants",
                hypothesis.settings.default,
                database=None,
                derandomize=True,
                phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
                suppress_health_check=list(hypothesis.HealthCheck),  # a busy machine is no fault of the mutant
            )
            hypothesis.settings.load_profile("mutants")

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtestloop(self, session: pytest.Session) -> bool:
            loop(session)
            return True

    options = ["-q", "-s", "-n", "0", "-p", "no:cacheprovider", f"--basetemp={folder / 'temporary'}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is imported already
    return int(pytest.main([*options, *tests], plugins=[Plugin()]))


def forked(run: Callable[[], int], *, seconds: float = 0, quiet: bool = True) -> int:
    """Runs a function in a process of its own, with a limit of processor time; returns its exit status."""
    child = os.fork()
    if not child:
        status = DIED
        try:
            if seconds:
                os.setpgid(0, 0)
                signal.alarm(HANG_SECONDS)
                resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
            if quiet:
                nothing = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nothing, stream)
            status = run()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, how = os.waitpid(child, 0)
    if seconds:
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(how)


class MutantRunner:
    """Runs the tests against mutants of one module."""

    def __init__(self, folder: Path, module: str, usage: Usage, seconds: float) -> None:
        self.folder = folder
        self.path = folder / module
        self.original = self.path.read_text(encoding="utf-8")
        self.seconds = seconds
        self.callers = sorted(
            (spent, test, {name for file, name in called if file == str(self.path)})
            for test, (spent, called) in usage.items()
            if any(file == str(self.path) for file, _ in called)
        )
        self._num_written = 0
        self._survivors: list[Mutant] = []

    def survivors(self, mutants: Sequence[Mutant]) -> list[Mutant]:
        """Returns the mutants that no test notices, and prints each."""
        changes_of = {each: changed_functions(self.original, each.text, str(self.path)) for each in mutants}
        # First what is executed on import, while this process has not imported the package.
        on_import = [mutant for mutant in mutants if changes_of[mutant] is None]
        tests, expected = self._chosen(None)
        files = sorted({test.partition("::")[0] for test in tests})

        def afresh() -> int:
            return in_session(self.folder, files, lambda session: _leave(_run(_ordered(session, tests))))

        if on_import and forked(afresh, quiet=False) != SURVIVED:
            raise SystemExit("the tests fail without a mutant")
        for mutant in on_import:
            self._write(mutant)
            self._note(mutant, forked(afresh, seconds=5 * expected + 30), ", on import")
        self._write(None)

        def in_functions(session: Any) -> None:
            for name in ("nas.cli.main", "nas.commands.search", "nas.training.native.program"):
                importlib.import_module(name)
            functions = defaultdict(list)
            for each in gc.get_objects():
                if type(each) is FunctionType and each.__code__.co_filename == str(self.path):
                    functions[each.__code__.co_qualname].append(each)
            gc.freeze()
            unchanged = functools.partial(_patched, functions, {}, _ordered(session, tests))
            if forked(unchanged, quiet=False) != SURVIVED:
                raise SystemExit("the tests fail without a mutant")
            for mutant in mutants:
                if (changes := changes_of[mutant]) is not None:
                    self._write(mutant)
                    chosen, expected = self._chosen(changes)
                    patched = functools.partial(_patched, functions, changes, _ordered(session, chosen))
                    status = forked(patched, seconds=5 * expected + 10)
                    self._note(mutant, status, "" if chosen else ", not covered")

        status = in_session(self.folder, sorted({test.partition("::")[0] for _, test, _ in self.callers}), in_functions)
        self._write(None)
        if status:
            raise SystemExit(f"{self.path}: the tests cannot run")
        return self._survivors

    def _chosen(self, changes: Iterable[str] | None) -> tuple[list[str], float]:
        """Returns the tests that call one of the functions, the quickest first, and their processor time."""
        chosen, total = [], 0.0
        for spent, test, called in self.callers:
            calls = changes is None or any(
                f == name or f.startswith(f"{name}.<locals>") for f in called for name in changes
            )
            if calls and total < self.seconds:
                chosen.append(test)
                total += spent
        return chosen, total

    def _write(self, mutant: Mutant | None) -> None:
        self.path.write_text(mutant.text if mutant else self.original, encoding="utf-8")
        self._num_written += 1
        stamp = 1_600_000_000 + self._num_written  # bytecode of an earlier mutant is never taken for this one's
        os.utime(self.path, (stamp, stamp))

    def _note(self, mutant: Mutant, status: int, remark: str) -> None:
        if status == SURVIVED:
            self._survivors.append(mutant)
            print(
                f"  {mutant.number}, line {mutant.line}{remark}:\n    - {mutant.was}\n    + {mutant.becomes}",
                flush=True,
            )


def changed_functions(original: str, mutated: str, path: str) -> dict[str, CodeType] | None:
    """Returns the new code of each function that differs; None if code outside functions differs."""
    changes: dict[str, CodeType] = {}

    def compare(old: CodeType, new: CodeType) -> bool:
        """Returns whether only functions differ within the code of a module or a class."""
        pairs = list(zip(old.co_consts, new.co_consts, strict=False))
        if len(old.co_consts) != len(new.co_consts) or (old.co_code, old.co_names) != (new.co_code, new.co_names):
            return False
        for one, other in pairs:
            if not isinstance(one, CodeType) or not isinstance(other, CodeType):
                if repr(one) != repr(other):
                    return False
            elif one.co_flags & CO_OPTIMIZED and not one.co_name.startswith("<"):
                if not note(one, other):
                    return False
            elif not compare(one, other):
                return False
        return True

    def note(one: CodeType, other: CodeType) -> bool:
        """Records functions that differ, inner ones too: a decorator has made some already."""
        if one != other:
            changes[one.co_qualname] = other
            inner = [[each for each in code.co_consts if isinstance(each, CodeType)] for code in (one, other)]
            for pair in zip(*inner, strict=False):
                if not pair[0].co_name.startswith("<") and not note(*pair):
                    return False
        return one.co_freevars == other.co_freevars

    return changes if compare(compile(original, path, "exec"), compile(mutated, path, "exec")) else None


def _calls(called: Iterable[str], functions: Iterable[str]) -> bool:
    return any(each == name or each.startswith(f"{name}.<locals>") for each in called for name in functions)


def _patched(functions: dict[str, list[FunctionType]], changes: dict[str, CodeType], items: Sequence[Any]) -> int:
    for name, code in changes.items():
        for function in functions[name]:
            function.__code__ = code
    for each in gc.get_objects():
        if type(each) is functools._lru_cache_wrapper and str(each.__module__).startswith("nas."):
            each.cache_clear()
    return _run(items)


def _ordered(session: Any, tests: Sequence[str]) -> list[Any]:
    items = {item.nodeid: item for item in session.items}
    return [items[test] for test in tests]


def _run(items: Sequence[Any]) -> int:
    for item, after in zip(items, [*items[1:], None], strict=False):
        if not _passes(item, after):
            print(f"{item.nodeid} fails")
            return DIED
    return SURVIVED


def _leave(status: int) -> None:
    sys.stdout.flush()
    os._exit(status)


def _passes(item: Any, after: Any, *, or_skips: bool = True) -> bool:
    from _pytest.runner import runtestprotocol

    reports = runtestprotocol(item, log=False, nextitem=after)
    return all(report.passed or (report.skipped and or_skips) for report in reports)


if __name__ == "__main__":
    main()
