"""How hard tests try: few random examples where somebody waits (`quick`), all of them in `.ci/run` (`ci`)."""

import os

PROFILE = os.environ.get("NAS_TESTS", "quick")
if PROFILE not in ("quick", "ci"):
    raise ValueError(f"the environment variable NAS_TESTS is {PROFILE!r}, expected quick or ci")


def examples(full: int) -> int:
    """How many random examples Hypothesis draws; `full` of them in the profile `ci`."""
    return full if PROFILE == "ci" else max(5, full // 5)


def seeds(full: int) -> range:
    """Seeds to run a test with; `full` of them in the profile `ci`."""
    return range(full if PROFILE == "ci" else max(2, full // 5))
