"""mnist in 7,840 parameters: 99.56 ± 0.06 % test accuracy (mean and standard deviation of 5 seeds).

627,260 multiply-accumulates an image, receptive field 34 pixels.
Input: float32 (N, 1, 28, 28), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of mnist with seed 0: epochs 15, optimizer sgd, learning_rate 0.26, momentum
0.9, weight_decay 1.27e-05, schedule one_cycle, warmup 0.2, average_epochs 1, batch_size 32,
label_smoothing 0.1, rotation 10, translation 0.02, scale 0.04, shear 2.

Trial 22 of study 'first-2', confirmed with 5 seeds.
The weights here are seed 0's, fixed beforehand: 99.56% on the test split.
Target met: 5 of 5 seeds keep at least 99.40% in each of the last 5 epochs.
Final accuracy 99.56 ± 0.06 %, lowest of the last 5 epochs 99.52 ± 0.06 % (mean and standard
deviation of 5 seeds).
Of all seeds, 48% to 100% would keep it (95 % confidence, from 5 of 5).
Mean final accuracy on all such images: 99.39% to 99.69% (95 % confidence, 5 seeds and 10,000
images); the target lies within that: these runs do not tell whether the mean on new images reaches
it.
The test split was opened once for this study.
"""

import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # torch runs without it

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

INPUT_SHAPE = (1, 28, 28)  # channels, height, width
MEAN = (0.1305455768307323,)  # of the pixels, scaled to 0..1
STD = (0.30797155079428773,)
CLASSES = ('0', '1', '2', '3', '4', '5', '6', '7', '8', '9')


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
    """(N, 1, 28, 28) normalised images to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        # 1 x 28 x 28
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 21, 3, padding=1, bias=False),  # 21 x 28 x 28
            nn.BatchNorm2d(21),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 21 x 14 x 14
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(21, 13, 1, bias=False),  # 13 x 14 x 14
            nn.BatchNorm2d(13),
            nn.Hardswish(),
            DepthwiseSeparable(13, 38, 3, bias=False),  # 38 x 12 x 12
            nn.BatchNorm2d(38),
            nn.Hardswish(),
            DepthwiseSeparable(38, 38, 3, bias=False),  # 38 x 10 x 10
            nn.BatchNorm2d(38),
            nn.Hardswish(),
            DepthwiseSeparable(38, 38, 3, bias=False),  # 38 x 8 x 8
            nn.BatchNorm2d(38),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 38 x 4 x 4
        )
        self.block3 = nn.Sequential(
            DepthwiseSeparable(38, 43, 3, padding=1, bias=False),  # 43 x 4 x 4
            nn.BatchNorm2d(43),
            nn.Hardswish(),
            DepthwiseSeparable(43, 10, 3, padding=1, bias=False),  # 10 x 4 x 4
            nn.BatchNorm2d(10),
            nn.Hardswish(),
        )
        self.head = nn.Sequential(
            GlobalAvgPool(),  # 10 x 1 x 1
            nn.Flatten(),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 21 x 14 x 14
        x = self.block2(x)  # 38 x 4 x 4
        x = self.block3(x)  # 10 x 4 x 4
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
