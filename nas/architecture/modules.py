"""The modules that torch.nn lacks. Exported `model.py` files carry their source, so they use torch alone."""

import torch
from torch import Tensor, nn


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1): the mean of each channel.

    A mean, not `AdaptiveAvgPool2d`, whose backward pass is nondeterministic on CUDA.
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
    """(N, C, H, W) to the same shape: each channel scaled by a gate in (0, 1) that sees every channel's mean.

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
    """The branch's output plus the shortcut's."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x) + self.shortcut(x)
        return out


class SharedRepeat(nn.Module):
    """The same body, with the same weights, applied `times` times in a row."""

    def __init__(self, body: nn.Module, times: int) -> None:
        super().__init__()
        self.body = body
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = self.body(x)
        return x
