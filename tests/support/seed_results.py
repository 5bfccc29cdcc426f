"""Hypothesis strategies for runs with several seeds."""

from hypothesis import strategies as st

from nas.seed_stats import Finalist, SeedAccuracies

REPETITIONS = 4000


NUM_SEEDS = [2, 3, 5, 10]


# Multiples of 1/1024, so that sums and means are exact; never 0, which marks a diverged run.
accuracies = st.integers(1, 1024).map(lambda step: step / 1024)


def finalist_lists(values=accuracies, least=1):
    def of(seeds):
        one = st.tuples(st.integers(1, 9), st.lists(values, min_size=seeds, max_size=seeds))
        return st.lists(one, min_size=least, max_size=6).map(
            lambda rows: [
                Finalist(trial=trial, cost=params, objectives=tuple(runs)) for trial, (params, runs) in enumerate(rows)
            ]
        )

    return st.integers(2, 5).flatmap(of)


def result_of(rows, *, target=0.9, consistency=5, num_images=10_000):
    return SeedAccuracies(
        accuracies=tuple(tuple(row) for row in rows), consistency=consistency, target=target, num_images=num_images
    )


results = st.tuples(st.integers(2, 6), st.integers(1, 7)).flatmap(
    lambda size: st.lists(st.lists(accuracies, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
)
