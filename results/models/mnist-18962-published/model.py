"""mnist in 18,962 parameters: 99.50 ± 0.04 % test accuracy (mean and standard deviation of 5 seeds).

3,270,456 multiply-accumulates an image, receptive field 32 pixels.
Input: float32 (N, 1, 28, 28), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of mnist with seed 0: epochs 15, optimizer sgd, learning_rate 0.1, momentum
0.9, weight_decay 0.0001, schedule one_cycle, warmup 0.2, batch_size 512, rotation 7, translation
0.1.

The weights here are seed 0's, fixed beforehand: 99.54% on the test split.
Target met by some: 2 of 5 seeds keep at least 99.40% in each of the last 5 epochs.
Final accuracy 99.50 ± 0.04 %, lowest of the last 5 epochs 99.40 ± 0.04 % (mean and standard
deviation of 5 seeds).
Of all seeds, 5% to 85% would keep it (95 % confidence, from 2 of 5).
Mean final accuracy on all such images: 99.33% to 99.63% (95 % confidence, 5 seeds and 10,000
images); the target lies within that: these runs do not tell whether the mean on new images reaches
it.
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


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) to (N, C, 1, 1): the mean of each channel.

    A mean, not `AdaptiveAvgPool2d`, whose backward pass is nondeterministic on CUDA.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), keepdim=True)


class Network(nn.Module):
    """(N, 1, 28, 28) normalised images to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        # 1 x 28 x 28
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 10, 3, padding=1, bias=False),  # 10 x 28 x 28
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.Conv2d(10, 18, 3, padding=1, bias=False),  # 18 x 28 x 28
            nn.BatchNorm2d(18),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.MaxPool2d(2),  # 18 x 14 x 14
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(18, 18, 3, padding=1, bias=False),
            nn.BatchNorm2d(18),
            nn.ReLU(),
            nn.Conv2d(18, 28, 3, padding=1, bias=False),  # 28 x 14 x 14
            nn.BatchNorm2d(28),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.MaxPool2d(2),  # 28 x 7 x 7
        )
        self.block3 = nn.Sequential(
            nn.Conv2d(28, 28, 3, padding=1, bias=False),
            nn.BatchNorm2d(28),
            nn.ReLU(),
            nn.Conv2d(28, 10, 3, padding=1, bias=False),  # 10 x 7 x 7
            nn.BatchNorm2d(10),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            GlobalAvgPool(),  # 10 x 1 x 1
            nn.Flatten(),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 18 x 14 x 14
        x = self.block2(x)  # 28 x 7 x 7
        x = self.block3(x)  # 10 x 7 x 7
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
