"""Paths in a checkout."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
TINY = (FIXTURES / "tiny.toml").read_text()
"""A search space whose networks train on digits within a second an epoch."""
