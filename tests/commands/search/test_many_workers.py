"""The loop with many workers: candidates do not depend on worker speed, and the sampler learns from results."""

from random import Random

import pytest

from nas.commands.defaults import startup_plan
from nas.commands.search_loop import SearchLoop, SearchTask
from nas.sampling.samplers import SAMPLERS, elite
from nas.space.constraints import limits
from nas.space.portfolio import portfolio_candidates
from nas.space.search_space import SearchSpace
from nas.study.budget import Budget
from nas.study.locks import open_locks
from nas.study.reader import StudyNotes, StudyRecords
from nas.study.reference import StudyRef
from nas.study.settings import Settings
from nas.study.writer import StudyWriter
from nas.training.metrics import EpochMetrics
from nas.workers.protocol import EndReport, EpochReport

SHAPE = (1, 28, 28)
LIMITS = limits(SHAPE, max_params=8000)
NUM_CANDIDATES = 16  # of the 20 trainings of a default search; the rest are further runs of finalists


class RandomOrder:
    """Workers whose jobs end in random order; the seed of a job determines its accuracy."""

    def __init__(self, most, order):
        self.capacity = self.max_capacity = most
        self.order, self.jobs, self.largest = order, {}, 0

    def submit(self, job):
        self.jobs[job.key] = job
        self.largest = max(self.largest, len(self.jobs))

    def reports(self):
        job = self.jobs.pop(self.order.choice(list(self.jobs)))
        accuracy = 0.9 + 0.05 * Random(job.seed).random()
        metrics = EpochMetrics(
            **{"epoch": 1, "train_loss": 0.1, "train_accuracy": accuracy, "val_loss": 0.1},
            **{"val_accuracy": accuracy, "learning_rate": 0.1, "seconds": 1.0},
        )
        return [EpochReport(key=job.key, metrics=metrics), EndReport(key=job.key, outcome="trained", weights=b"")]

    def stop(self, key):
        del self.jobs[key]

    def close(self):
        self.jobs.clear()


def run_search(folder, most, *, order, sampler="elite"):
    """Returns the candidates of a default search by number, and the largest number of jobs trained in parallel."""
    space = SearchSpace.load("grey").bind(input_shape=SHAPE, num_classes=10, epochs=1)
    known, _ = portfolio_candidates(space.portfolio, space, LIMITS, seed=0)
    settings = Settings(
        **{"dataset": "none", "data_fingerprint": "none", "split": "none", "epochs": 1, "consistency": 5, "seed": 0},
        **{"space": space.name, "space_fingerprint": space.fingerprint(), "sampler": sampler},
        constraints=tuple(str(limit) for limit in LIMITS),
        **startup_plan(space, LIMITS, sampler=sampler, num_objectives=1, num_known=len(known))._asdict(),
    )
    notes = StudyNotes(dataset_note="", mean=(0.5,), std=(0.5,), classes=("0", "1"), command="", machine="")
    ref = StudyRef(folder)
    records = StudyRecords.create(ref, settings, notes)
    workers = RandomOrder(most, Random(order))
    held = open_locks(ref)
    task = SearchTask(space=space, constraints=LIMITS, known_candidates=known)
    SearchLoop(StudyWriter(records, held), task, workers, on_event=lambda event: None).run(
        Budget(trials=NUM_CANDIDATES).admits
    )
    held.close()
    trained = sorted(
        (trial for trial in records.trials() if trial.outcome == "trained"), key=lambda trial: trial.number
    )
    return [(trial.architecture, trial.recipe) for trial in trained], workers.largest


@pytest.mark.parametrize("most", [2, 16])
def test_candidates_do_not_depend_on_order_in_which_trainings_end(tmp_path, most):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert run_search(tmp_path / "1", most, order=1)[0] == run_search(tmp_path / "2", most, order=2)[0]


def test_proposals_wait_until_start_candidates_are_trained(tmp_path, monkeypatch):
    asked = []

    def counting(space, trained, rng):
        asked.append(len(trained.get_trials(deepcopy=False)))
        return elite(space, trained, rng)

    monkeypatch.setitem(SAMPLERS, "elite", counting)
    _, largest = run_search(tmp_path, 16, order=0)
    assert largest == 9, "the start: seven known designs and two random candidates"
    assert asked == [9] * 7, "all other proposals know the whole start"


def test_random_sampler_occupies_all_workers_at_once(tmp_path):
    assert run_search(tmp_path, 16, order=0, sampler="random")[1] == 16
