"""fashion-mnist in 7,929 parameters: 92.24 ± 0.16 % test accuracy (mean and standard deviation of 5
seeds).

2,149,725 multiply-accumulates an image, receptive field 40 pixels.
Input: float32 (N, 1, 28, 28), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of fashion-mnist with seed 0: epochs 15, optimizer sgd, learning_rate 0.3,
momentum 0.9, weight_decay 1.27e-05, schedule one_cycle, warmup 0.2, average_epochs 1, batch_size
32, label_smoothing 0.1, rotation 4, translation 0.02, scale 0.04, shear 2.

Trial 12 of study 'search', confirmed with 5 seeds.
The weights are those of seed 0, as fixed beforehand: 92.15% on the test split.
Target met: 5 of 5 seeds keep at least 90.00% in each of the last 5 epochs.
Final accuracy 92.24 ± 0.16 %, lowest of the last 5 epochs 92.03 ± 0.10 % (mean ± standard deviation
of 5 seeds).
With new seeds, 48% to 100% of trainings would keep the target (95 % confidence, from 5 of 5).
Mean final accuracy to expect on new images of this kind: 91.66% to 92.78% (95 % confidence, 5 seeds
and 10,000 images). This mean reaches the target: the whole range is above 90.00%.
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
            nn.Conv2d(1, 13, 3, padding=1, bias=False),  # 13 x 28 x 28
            nn.BatchNorm2d(13),
            nn.Hardswish(),
            nn.Conv2d(13, 19, 3, padding=1, bias=False),  # 19 x 28 x 28
            nn.BatchNorm2d(19),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 19 x 14 x 14
        )
        self.block2 = nn.Sequential(
            DepthwiseSeparable(19, 31, 3, bias=False),  # 31 x 12 x 12
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            DepthwiseSeparable(31, 31, 3, bias=False),  # 31 x 10 x 10
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            nn.AvgPool2d(2),  # 31 x 5 x 5
        )
        self.block3 = nn.Sequential(
            DepthwiseSeparable(31, 31, 3, padding=1, bias=False),
            nn.BatchNorm2d(31),
            nn.Hardswish(),
            DepthwiseSeparable(31, 35, 3, padding=1, bias=False),  # 35 x 5 x 5
            nn.BatchNorm2d(35),
            nn.Hardswish(),
            DepthwiseSeparable(35, 10, 3, padding=1, bias=False),  # 10 x 5 x 5
        )
        self.head = nn.Sequential(
            GlobalAvgPool(),  # 10 x 1 x 1
            nn.Flatten(),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 19 x 14 x 14
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
