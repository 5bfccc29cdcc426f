"""A fixture that makes the reference trainer comparable with lanes."""

import pytest
import torch

from nas.training import reference


@pytest.fixture
def contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the reference trainer the memory format of lanes, for bit-identical results."""
    monkeypatch.setattr(reference, "_memory_format", lambda *_: torch.contiguous_format)
