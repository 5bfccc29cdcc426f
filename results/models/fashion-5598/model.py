"""fashion-mnist in 5,598 parameters: 88.62 ± 0.18 % test accuracy (mean and standard deviation of 5
seeds).

308,775 multiply-accumulates an image, receptive field 80 pixels.
Input: float32 (N, 1, 28, 28), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of fashion-mnist with seed 0: epochs 15, optimizer sgd, learning_rate 0.171,
momentum 0.9, weight_decay 2.22e-06, schedule one_cycle, warmup 0.2, average_epochs 1, batch_size
256, label_smoothing 0.04, rotation 6, translation 0.06, scale 0.1, shear 4, brightness 0.1,
contrast 0.2.

Trial 114 of study 'fashion', confirmed with 5 seeds.
The weights here are seed 0's, fixed beforehand: 88.41% on the test split.
Target missed: 0 of 5 seeds keep at least 90.00% in each of the last 5 epochs.
Final accuracy 88.62 ± 0.18 %, lowest of the last 5 epochs 88.32 ± 0.34 % (mean and standard
deviation of 5 seeds).
Of all seeds, 0% to 52% would keep it (95 % confidence, from 0 of 5).
Mean final accuracy on all such images: 87.94% to 89.26% (95 % confidence, 5 seeds and 10,000
images); the target lies above that: the mean on new images does not reach it.
The test split was opened once for this study.
"""

import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch runs without it

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

INPUT_SHAPE = (1, 28, 28)  # channels, height, width
MEAN = (0.2857203387354942,)  # of the pixels, scaled to 0..1
STD = (0.3528248144004893,)
CLASSES = (
    't-shirt',
    'trouser',
    'pullover',
    'dress',
    'coat',
    'sandal',
    'shirt',
    'sneaker',
    'bag',
    'boot',
)


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


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1): the mean of each channel.

    A mean, not `AdaptiveAvgPool2d`, whose backward pass is nondeterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


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


class Network(nn.Module):
    """(N, 1, 28, 28) normalised images to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        # 1 x 28 x 28
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 6, 5, bias=False),  # 6 x 24 x 24
            nn.BatchNorm2d(6),
            nn.Hardswish(),
            nn.Conv2d(6, 7, 1, bias=False),  # 7 x 24 x 24
            nn.BatchNorm2d(7),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 7 x 12 x 12
        )
        self.block2 = nn.Sequential(
            Residual(
                nn.Sequential(
                    DepthwiseSeparable(7, 13, 3, padding=1, bias=False),
                    nn.BatchNorm2d(13),
                    nn.Hardswish(),
                    nn.Dropout(0.15),
                    DepthwiseSeparable(13, 16, 3, padding=1, bias=False),
                    nn.BatchNorm2d(16),
                    nn.Hardswish(),
                    nn.Dropout(0.15),
                    DepthwiseSeparable(16, 10, 3, padding=1, bias=False),
                    nn.BatchNorm2d(10),
                    nn.Hardswish(),
                    nn.Dropout(0.15),
                    SharedRepeat(
                        nn.Sequential(
                            DepthwiseSeparable(10, 10, 3, padding=1, bias=False),
                            nn.Hardswish(),
                        ),
                        2,
                    ),
                    nn.BatchNorm2d(10),
                    nn.Dropout(0.15),
                ),
                nn.Conv2d(7, 10, 1, bias=False),
            ),  # 10 x 12 x 12
            nn.AvgPool2d(2),  # 10 x 6 x 6
        )
        self.block3 = nn.Sequential(
            nn.Conv2d(10, 4, 1, bias=False),  # 4 x 6 x 6
            nn.BatchNorm2d(4),
            nn.Hardswish(),
            nn.Conv2d(4, 16, 3, bias=False),  # 16 x 4 x 4
            nn.BatchNorm2d(16),
            nn.Hardswish(),
            nn.Dropout(0.05),
            nn.Conv2d(16, 15, 3, bias=False),  # 15 x 2 x 2
            nn.BatchNorm2d(15),
            nn.Hardswish(),
            nn.Dropout(0.05),
            nn.AvgPool2d(2),  # 15 x 1 x 1
        )
        self.block4 = nn.Sequential(
            Residual(
                nn.Sequential(
                    DepthwiseSeparable(15, 24, 5, padding=2, bias=False),
                    nn.BatchNorm2d(24),
                    nn.Hardswish(),
                ),
                nn.Conv2d(15, 24, 1, bias=False),
            ),  # 24 x 1 x 1
        )
        self.head = nn.Sequential(
            GlobalAvgPool(),
            nn.Flatten(),  # 24
            nn.Linear(24, 10),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 7 x 12 x 12
        x = self.block2(x)  # 10 x 6 x 6
        x = self.block3(x)  # 15 x 1 x 1
        x = self.block4(x)  # 24 x 1 x 1
        return self.head(x)


def load(weights: str | Path = Path(__file__).with_name("weights.pt")) -> Network:
    """The trained network, ready for inference."""
    network = Network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


if __name__ == "__main__":
    network = load()
    print(network)
    print(f"{sum(weight.numel() for weight in network.parameters()):,} parameters")
    print("logits of an empty image:", network(torch.zeros(1, *INPUT_SHAPE)).tolist())
