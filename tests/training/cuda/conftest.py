"""The reference trainer as lanes can equal it."""

import pytest
import torch

from nas.training import reference


@pytest.fixture
def contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference trainer with the lanes' memory format, for equal bits."""
    monkeypatch.setattr(reference, "_memory_format", lambda *_: torch.contiguous_format)
