"""The installed distribution `smallnas`: its version, and conflicts with other distributions that install `nas`."""

from importlib.metadata import PackageNotFoundError, distribution, version

DISTRIBUTION_NAME = "smallnas"


def package_version() -> str:
    """Returns the installed version, or "not installed" for a checkout on PYTHONPATH."""
    try:
        return version(DISTRIBUTION_NAME)
    except PackageNotFoundError:
        return "not installed"


def conflict_text() -> str:
    """Returns a line about a distribution named `nas` in the same environment, empty if there is none.

    On the package index `nas` is another project, which overwrites files of this package. The first version of this
    package had the same name.
    """
    try:
        found = distribution("nas").metadata
    except PackageNotFoundError:
        return ""
    ours = (found["Summary"] or "").startswith("Neural architecture search under hard constraints")
    which = f"an earlier version of {DISTRIBUTION_NAME}" if ours else "another project"
    return (
        f"the distribution nas {found['Version']} is installed, too; it is {which} and overwrites files of"
        f" {DISTRIBUTION_NAME}: pip uninstall --yes nas {DISTRIBUTION_NAME} && pip install {DISTRIBUTION_NAME}"
    )
