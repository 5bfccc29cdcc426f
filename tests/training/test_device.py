"""Device names and the devices that they select."""

import pytest
import torch

from nas.errors import DeviceError
from nas.training.device import describe, pick_device, pick_devices

CPU = torch.device("cpu")


def test_device_names_select_cpu_or_best_device() -> None:
    assert pick_device("cpu") == CPU
    assert describe(CPU).startswith("cpu (")
    assert describe(CPU).endswith(("cores)", "core)"))
    best = pick_device()
    assert best == pick_device("auto") == pick_device(str(best))
    if torch.cuda.is_available():
        assert pick_device("cuda") == torch.device("cuda:0") == best
        assert torch.cuda.get_device_name(0) in describe(best)


@pytest.mark.parametrize(
    ("name", "picked"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:0", ["cuda:0"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_auto_and_cuda_select_every_gpu_and_index_selects_one(
    monkeypatch: pytest.MonkeyPatch, name: str, picked: list[str]
) -> None:
    """`device_count` already respects `CUDA_VISIBLE_DEVICES`."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert [str(device) for device in pick_devices(name)] == picked
    assert pick_device(name) == pick_devices(name)[0]
    if len(picked) == 2:
        assert describe(*pick_devices(name)) == "2 GPUs (NVIDIA H200)"


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:1", "CPU", "meta"])
def test_unavailable_device_error_names_value_and_expected(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        pick_device(name)
    text = str(caught.value)
    assert text.startswith(f"`device={name!r}`: not available on this machine, expected ")
    assert text.endswith("cpu")
