"""folder:colour in 5,868 parameters: 64.97 ± 0.69 % test accuracy (mean and standard deviation of 5
seeds).

945,221 multiply-accumulates an image, receptive field 34 pixels.
Input: float32 (N, 3, 32, 32), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of folder:colour with seed 0: epochs 30, optimizer sgd, learning_rate 0.3,
momentum 0.9, weight_decay 1.91e-05, schedule one_cycle, warmup 0.2, average_epochs 1, batch_size
32, label_smoothing 0.1, translation 0.09, scale 0.08, shear 2, flip 0.5.

Trial 21 of study 'search', confirmed with 5 seeds.
The weights here are seed 0's, fixed beforehand: 64.70% on the test split.
Target missed: 0 of 5 seeds keep at least 99.40% in each of the last 5 epochs.
Final accuracy 64.97 ± 0.69 %, lowest of the last 5 epochs 64.68 ± 0.81 % (mean and standard
deviation of 5 seeds).
Of all seeds, 0% to 52% would keep it (95 % confidence, from 0 of 5).
Mean final accuracy on all such images: 62.68% to 67.20% (95 % confidence, 5 seeds and 2,000
images); the target lies above that: the mean on new images does not reach it.
The test split was opened once for this study.
"""

import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch runs without it

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

INPUT_SHAPE = (3, 32, 32)  # channels, height, width
MEAN = (0.49281022114046324, 0.4833495384852159, 0.4481555457071224)  # of the pixels, scaled to 0..1
STD = (0.24532342288655734, 0.2426114772320875, 0.2604300174892464)
CLASSES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')


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
    """Global average pooling: (N, C, H, W) to (N, C, 1, 1).

    Takes the mean, because the backward pass of `AdaptiveAvgPool2d` is nondeterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Network(nn.Module):
    """(N, 3, 32, 32) normalised images to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        # 3 x 32 x 32
        self.block1 = nn.Sequential(
            nn.Conv2d(3, 17, 3, padding=1, bias=False),  # 17 x 32 x 32
            nn.BatchNorm2d(17),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 17 x 16 x 16
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(17, 10, 1, bias=False),  # 10 x 16 x 16
            nn.BatchNorm2d(10),
            nn.Hardswish(),
            DepthwiseSeparable(10, 31, 3, bias=False),  # 31 x 14 x 14
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            DepthwiseSeparable(31, 31, 3, bias=False),  # 31 x 12 x 12
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            DepthwiseSeparable(31, 31, 3, bias=False),  # 31 x 10 x 10
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 31 x 5 x 5
        )
        self.block3 = nn.Sequential(
            DepthwiseSeparable(31, 35, 3, padding=1, bias=False),  # 35 x 5 x 5
            nn.BatchNorm2d(35),
            nn.Hardswish(),
            DepthwiseSeparable(35, 10, 3, padding=1, bias=False),  # 10 x 5 x 5
            nn.BatchNorm2d(10),
            nn.Hardswish(),
        )
        self.head = nn.Sequential(
            GlobalAvgPool(),  # 10 x 1 x 1
            nn.Flatten(),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 17 x 16 x 16
        x = self.block2(x)  # 31 x 5 x 5
        x = self.block3(x)  # 10 x 5 x 5
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
