"""Locks within a process, between processes, and after a process or the server ends."""

import subprocess
import sys
import threading
from contextlib import closing

import pytest

from nas.study import locks as sharing
from nas.study.locks import LockLostError, open_locks
from nas.study.reference import StudyRef

HOLD = """
import sys
from nas.study.locks import open_locks
from nas.study.reference import StudyRef
held = open_locks(StudyRef(sys.argv[3], sys.argv[1], sys.argv[2]))
print(held.try_acquire("mine"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _old_server(monkeypatch):
    monkeypatch.setattr(sharing, "GRACE", 0)


@pytest.fixture
def study(request):
    """Study name that no other test uses."""
    return request.node.name


def holder(database, study, folder):
    """Starts another process that holds the lock "mine"."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, database, study, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"True\n"
    return process


def test_lock_is_held_until_process_exits_or_is_killed(database, study, tmp_path, settled):
    for end in ("kill", "terminate", "stdin"):
        other = holder(database, study, tmp_path)
        with closing(open_locks(StudyRef(tmp_path, database, study))) as mine:
            assert mine.is_held("mine")
            assert not mine.try_acquire("mine")
            assert not mine.is_held("theirs")
            other.stdin.close() if end == "stdin" else getattr(other, end)()
            other.wait()
            settled(lambda mine=mine: not mine.is_held("mine"))
            assert mine.try_acquire("mine")
            assert not mine.is_held("mine"), "our own"
        other.stdout.close()
        other.stdin.close()


def test_locks_of_different_studies_are_independent(database, study, tmp_path):
    with (
        closing(open_locks(StudyRef(tmp_path, database, study))) as here,
        closing(open_locks(StudyRef(tmp_path, database, f"{study} 2"))) as there,
    ):
        assert here.try_acquire("a")
        assert there.try_acquire("a")
        assert not there.is_held("a")


def test_exclusive_section_runs_one_thread_at_a_time(database, study, tmp_path):
    """A counter that is read and written in two steps is correct only if threads do not interleave."""
    count, inside = tmp_path / "count", []
    count.write_text("0")

    def work():
        with closing(open_locks(StudyRef(tmp_path, database, study))) as held:
            for _ in range(20):
                with held.exclusively("begin") as check:
                    inside.append(1)
                    assert len(inside) == 1
                    before = int(count.read_text())
                    check()
                    count.write_text(str(before + 1))
                    inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.read_text() == "80"


def test_released_lock_leaves_no_lock_file(tmp_path):
    with closing(open_locks(StudyRef(tmp_path))) as held:
        held.try_acquire("session")
        assert [path.name for path in tmp_path.iterdir()] == ["studies.db.search.session.lock"]
    assert not list(tmp_path.iterdir())


def test_lock_survives_postgres_restart(postgres, study, tmp_path, monkeypatch, settled):
    other = holder(postgres.url, study, tmp_path)
    with closing(open_locks(StudyRef(tmp_path, postgres.url, study))) as mine:
        postgres.stop()
        postgres.start()
        monkeypatch.setattr(sharing, "GRACE", 3600)
        assert mine.is_held("mine"), "a server that has just begun may not know everybody yet"
        monkeypatch.setattr(sharing, "GRACE", 0)
        settled(lambda: mine.is_held("mine"))
        other.kill()
        other.wait()
        settled(lambda: not mine.is_held("mine"))
    other.stdin.close()
    other.stdout.close()


def test_lock_lost_by_postgres_restart_raises_lock_lost_error(postgres, study, tmp_path):
    with closing(open_locks(StudyRef(tmp_path, postgres.url, study))) as held:
        with held.exclusively("begin") as check:
            check()
            postgres.stop()
            postgres.start()
            with pytest.raises(LockLostError):
                check()
        with held.exclusively("begin") as check:
            check()
