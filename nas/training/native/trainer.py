"""Trains one network with its compiled program.

Results equal those of the reference trainer, except for rounding and dropout masks.
"""

import time
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from nas.recipe import Recipe
from nas.training.batches import batch_size_and_steps, batches
from nas.training.data import TrainingData, per_channel
from nas.training.metrics import EpochMetrics
from nas.training.native.emit import Machine
from nas.training.native.graph import UnsupportedError, lower
from nas.training.native.layout import Layout
from nas.training.native.optimizer import NUM_RATES, rates
from nas.training.native.program import Program
from nas.training.rng import generators
from nas.training.schedule import learning_rate

CHUNK = 2048
"""Examples prepared at a time: about 7 MB, and a tenth of a second for each call of machine code."""


class NativeTrainer:
    """Trains one network in this thread. `build_seconds` is the time for writing and compiling the machine code.

    Raises:
        UnsupportedError: there are no kernels for the network or the CPU.
        ValueError: the network does not fit the images or has fewer outputs than there are classes.
    """

    def __init__(self, module: nn.Module, recipe: Recipe, data: TrainingData, *, seed: int) -> None:
        start = time.perf_counter()
        self.module, self.recipe, self.data = module, recipe, data
        self.batch_size, self.num_steps = batch_size_and_steps(recipe, len(data.train_images))
        machine = Machine.host()
        if machine is None:
            raise UnsupportedError("this processor")
        machine = machine.with_lanes_dividing(self.batch_size)
        graph = lower(module, data.train_images.shape[1:])
        if max(labels.max().item() for labels in (data.train_labels, data.val_labels)) >= graph.logits.shape[0]:
            raise ValueError(f"{graph.logits.shape[0]} outputs are fewer than the classes")
        self.program = Program(module, graph, recipe, batch_size=self.batch_size, machine=machine)
        self.order_and_augmentation, self.dropout = generators(seed, torch.device("cpu"))
        self.build_seconds = time.perf_counter() - start

    def epochs(self) -> Iterator[EpochMetrics]:
        """Trains the network and yields the metrics of each epoch as `reference.train` does."""
        for epoch in range(1, self.recipe.epochs + 1):
            start = time.perf_counter() - (self.build_seconds if epoch == 1 else 0.0)
            losses, num_correct = self._train_epoch((epoch - 1) * self.num_steps)
            with self.program.evaluation_state():
                val_loss, val_accuracy = self._evaluate()
                self.program.save(self.module)
            self.module.eval()
            metrics = EpochMetrics(
                epoch=epoch,
                train_loss=losses / (self.num_steps * self.batch_size),
                train_accuracy=num_correct / (self.num_steps * self.batch_size),
                val_loss=val_loss,
                val_accuracy=val_accuracy,
                learning_rate=learning_rate(self.recipe, epoch * self.num_steps - 1, self.num_steps),
                seconds=time.perf_counter() - start,
            )
            yield metrics.or_diverged()

    def _train_epoch(self, first_step: int) -> tuple[float, int]:
        """Returns the sum of the losses and the number of correct predictions over the epoch."""
        program, size = self.program, self.batch_size
        steps = max(1, CHUNK // size)
        images, interior = blocks(program.image_layout, steps, size // program.machine.lanes)
        labels = torch.empty(steps, size, dtype=torch.int32)
        results = torch.zeros(self.num_steps, 2, dtype=torch.float64)
        keys = torch.randint(
            -(2**31), 2**31, (self.num_steps, program.num_keys), dtype=torch.int32, generator=self.dropout
        )
        table = torch.tensor(rates(self.recipe, first_step, self.num_steps)).view(self.num_steps, NUM_RATES)
        epoch = batches(self.data, self.recipe, self.order_and_augmentation)
        for start in range(0, self.num_steps, steps):
            count = 0
            for count, (x, y) in enumerate(islice(epoch, steps), start=1):
                interior[count - 1].copy_(split_into_lanes(x, program.machine.lanes))
                labels[count - 1] = y
            rows = slice(start, start + count)
            program.run_training(images[:count], labels[:count], keys[rows], table[rows], results[rows])
        return results[:, 0].sum().item(), round(results[:, 1].sum().item())

    def _evaluate(self) -> tuple[float, float]:
        """Returns mean cross entropy and accuracy on the val split."""
        program, data = self.program, self.data
        lanes = program.machine.lanes
        mean, std = per_channel(data.mean, torch.device("cpu")), per_channel(data.std, torch.device("cpu"))
        images, interior = blocks(program.image_layout, 1, CHUNK // lanes)
        results = torch.zeros(2, dtype=torch.float64)
        for start in range(0, len(data.val_images), CHUNK):
            x = (data.val_images[start : start + CHUNK].float().div_(255) - mean) / std
            labels = data.val_labels[start : start + CHUNK].int()
            if missing := -len(x) % lanes:
                x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
                labels = torch.cat([labels, labels.new_full((missing,), -1)])
            used = len(x) // lanes
            interior[0, :used].copy_(split_into_lanes(x, lanes))
            program.run_evaluation(images[0, :used], labels, results)
        loss, num_correct = results.tolist()
        return loss / len(data.val_images), num_correct / len(data.val_images)


def blocks(layout: Layout, steps: int, num_blocks: int) -> tuple[Tensor, Tensor]:
    """Returns zeros (steps, blocks, channels, height, width, lanes) with a halo, and a view without the halo."""
    sides = (layout.height + 2 * layout.halo, layout.width + 2 * layout.halo)
    whole = torch.zeros(steps, num_blocks, layout.channels, *sides, layout.lanes)
    inside = (slice(layout.halo, layout.halo + side) for side in (layout.height, layout.width))
    return whole, whole[(slice(None), slice(None), slice(None), *inside)]


def split_into_lanes(images: Tensor, lanes: int) -> Tensor:
    """Returns a view (N / lanes, C, H, W, lanes) of images (N, C, H, W)."""
    return images.view(-1, lanes, *images.shape[1:]).permute(0, 2, 3, 4, 1)
