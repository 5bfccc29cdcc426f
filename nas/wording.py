"""Wording: numbers as sentences have them, in the singular where there is one."""


def counted(number: int, noun: str) -> str:
    """How many of something whose plural ends in s: 1 epoch, 1,200 images."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def last_epochs(consistency: int, epochs: int) -> str:
    """The epochs that an objective is the mean of: `consistency` of them, or all where there are fewer."""
    last = min(consistency, epochs)
    return f"the last {last} epochs" if last > 1 else "the last epoch"
