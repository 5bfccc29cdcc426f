"""mnist in 88,584 parameters: 99.08 ± 0.09 % test accuracy (mean and standard deviation of 3 seeds).

6,736,224 multiply-accumulates an image, receptive field 28 pixels.
Input: float32 (N, 1, 28, 28), pixels scaled to 0..1, then (pixel - MEAN) / STD.
Output: (N, 10) logits, in the order of CLASSES.

Trained on train + val of mnist with seed 0: epochs 20, optimizer sgd, learning_rate 0.01, momentum
0.9, schedule constant, batch_size 128.

The weights here are seed 0's, fixed beforehand: 98.99% on the test split.
Target missed: 0 of 3 seeds keep at least 99.40% in each of the last 5 epochs.
Final accuracy 99.08 ± 0.09 %, lowest of the last 5 epochs 98.87 ± 0.14 % (mean and standard
deviation of 3 seeds).
Of all seeds, 0% to 71% would keep it (95 % confidence, from 0 of 3).
Mean final accuracy on all such images: 98.79% to 99.36% (95 % confidence, 3 seeds and 10,000
images); the target lies above that: the mean on new images does not reach it.
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


class Network(nn.Module):
    """(N, 1, 28, 28) normalised images to (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        # 1 x 28 x 28
        self.block1 = nn.Sequential(
            nn.Conv2d(1, 8, 3, bias=False),  # 8 x 26 x 26
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, bias=False),  # 16 x 24 x 24
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, bias=False),  # 32 x 22 x 22
            nn.ReLU(),
            nn.MaxPool2d(2),  # 32 x 11 x 11
        )
        self.block2 = nn.Sequential(
            nn.Conv2d(32, 64, 3, bias=False),  # 64 x 9 x 9
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, bias=False),  # 64 x 7 x 7
            nn.ReLU(),
            nn.Conv2d(64, 32, 3, bias=False),  # 32 x 5 x 5
            nn.ReLU(),
            nn.Conv2d(32, 32, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(32, 10, 5, bias=False),  # 10 x 1 x 1
        )
        self.head = nn.Sequential(
            nn.Flatten(),  # 10
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.block1(images)  # 32 x 11 x 11
        x = self.block2(x)  # 10 x 1 x 1
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
