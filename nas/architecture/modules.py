"""Modules that torch.nn lacks. Exported `model.py` files contain their source, so this file imports only torch."""

import torch
from torch import Tensor, nn


class GlobalAvgPool(nn.Module):
    """Global average pooling: (N, C, H, W) to (N, C, 1, 1).

    Takes the mean, because the backward pass of `AdaptiveAvgPool2d` is nondeterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class DepthwiseSeparable(nn.Sequential):
    """A convolution per channel, then a 1x1 convolution across channels (Sifre 2014, section 6.2)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int | str = 0,
        dilation: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, in_channels, kernel_size, stride, padding, dilation, in_channels, bias),
            nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        )


class SqueezeExcite(nn.Module):
    """Scales each channel of (N, C, H, W) by a gate in (0, 1), computed from the means of all channels.

    Hu et al., "Squeeze-and-Excitation Networks", 2018.
    """

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, squeezed_channels)
        self.excite = nn.Linear(squeezed_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class Residual(nn.Module):
    """The sum of the outputs of the branch and the shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x) + self.shortcut(x)
        return out


class SharedRepeat(nn.Module):
    """Applies the body `times` times in sequence, with the same weights."""

    def __init__(self, body: nn.Module, times: int) -> None:
        super().__init__()
        self.body = body
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.body(x)
        return x
