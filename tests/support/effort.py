"""Number of random examples: few in the profile `quick` for interactive runs, all in `ci` for `.ci/run`."""

import os

PROFILE = os.environ.get("NAS_TESTS", "quick")
if PROFILE not in ("quick", "ci"):
    raise ValueError(f"the environment variable NAS_TESTS is {PROFILE!r}, expected quick or ci")


def examples(full: int) -> int:
    """Returns the number of examples that Hypothesis draws; `full` in the profile `ci`."""
    return full if PROFILE == "ci" else max(5, full // 5)


def seeds(full: int) -> range:
    """Returns the seeds to run a test with; `full` of them in the profile `ci`."""
    return range(full if PROFILE == "ci" else max(2, full // 5))
