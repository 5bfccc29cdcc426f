"""A lane: one network in training, whose steps happen on the device alone, so that a CUDA graph can hold them."""

import copy
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.recipe import Recipe
from nas.training.augmentation import augment
from nas.training.averaging import averaging_share, kept_weights
from nas.training.batches import batch_size_and_steps
from nas.training.cuda.runner import Eager, Work
from nas.training.data import TrainingData, per_channel
from nas.training.metrics import EpochMetrics
from nas.training.optimizers import make_optimizer
from nas.training.rng import generators
from nas.training.schedule import learning_rate

EVALUATION_BATCH = 1000
"""Examples, as in the reference trainer."""


class Lane:
    """`module` in training as `recipe` says, on the device of `data`.

    The order of the examples and the augmentation are the reference trainer's; dropout draws from the same seed, but
    other masks. The module itself keeps its structure and ends in eval mode with the trained weights on that device:
    what is trained is a copy that shares its tensors and has other dropouts.

    Every tensor that a step reads or changes stays where it is from the constructor on, and no step asks the device
    for a value. `build_seconds` is what the constructor took: warm-up and capture.
    """

    def __init__(self, module: nn.Module, recipe: Recipe, data: TrainingData, *, seed: int, runner: Eager) -> None:
        start = time.perf_counter()
        self.module, self.recipe, self.data, self.runner = module, recipe, data, runner
        self.batch_size, self.num_steps = batch_size_and_steps(recipe, len(data.train_images))
        self.epoch = 0
        device = data.train_images.device
        with runner.here():
            # NCHW, unlike the reference: cuDNN's float32 kernels without TF32 are NCHW at heart, torch's own for
            # depthwise convolutions are NCHW alone, and with few channels there is no vector to gain.
            module.to(device).to(memory_format=torch.contiguous_format)
            self._generators = generators(seed, device)
            self._network = _sharing_tensors(module, self._generators[1])
            self._mean, self._std = per_channel(data.mean, device), per_channel(data.std, device)
            num_steps = recipe.epochs * self.num_steps
            rates = [learning_rate(recipe, step, self.num_steps) for step in range(num_steps)]
            self._all_rates = torch.tensor(rates, device=device).view(recipe.epochs, self.num_steps)
            shares = [averaging_share(recipe, step, self.num_steps) for step in range(num_steps)]
            self._all_shares = torch.tensor(shares, device=device).view(recipe.epochs, self.num_steps)
            # Of the current epoch: each step's rate, share in the average and examples; of the current step: its
            # number, rate and share.
            self._rates, self._shares = self._all_rates[0].clone(), self._all_shares[0].clone()
            self._order = torch.arange(len(data.train_images), device=device)
            self._batches = self._order[: self.num_steps * self.batch_size].view(self.num_steps, self.batch_size)
            self._step = torch.zeros(1, dtype=torch.int64, device=device)
            self._rate, self._share = self._rates[:1].clone(), self._shares[:1].clone()
            self._optimizer = make_optimizer(module, recipe, learning_rate=self._rate)
            self._kept = kept_weights(module, recipe)
            self._loss, self._val_loss = torch.zeros((), device=device), torch.zeros((), device=device)
            self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
            self._num_val_correct = torch.zeros((), dtype=torch.int64, device=device)
            self._results = torch.zeros(4, dtype=torch.float64, pin_memory=device.type == "cuda")
            self.warm_up(runner.warm_up_steps)
            self._pieces = self._cut()
        self.build_seconds = time.perf_counter() - start

    def launches(self) -> Iterator[None]:
        """Queues an epoch on the current stream piece by piece; between two pieces other lanes may have their turn."""
        self._begin(self.epoch)
        self.epoch += 1
        for piece in self._pieces:
            piece()
            yield
        sums = (self._loss, self._num_correct, self._val_loss, self._num_val_correct)
        self._results.copy_(torch.stack([value.double() for value in sums]), non_blocking=True)

    def metrics(self, seconds: float) -> EpochMetrics:
        """Those of the epoch that was queued last and is done; raises `TrainingDiverged`. `seconds`: what it took."""
        loss, num_correct, val_loss, num_val_correct = self._results.tolist()
        loss, val_loss = loss / self.num_steps, val_loss / len(self.data.val_images)
        metrics = EpochMetrics(
            epoch=self.epoch,
            train_loss=loss,
            train_accuracy=num_correct / (self.num_steps * self.batch_size),
            val_loss=val_loss,
            val_accuracy=num_val_correct / len(self.data.val_images),
            learning_rate=learning_rate(self.recipe, self.epoch * self.num_steps - 1, self.num_steps),
            seconds=seconds + (self.build_seconds if self.epoch == 1 else 0.0),
        )
        return metrics.or_diverged()

    def finish(self) -> None:
        """Leaves the module as the reference trainer does, without the gradients, which may lie in a graph's memory."""
        self._optimizer.zero_grad()
        self._kept.swap()
        self.module.eval()

    def step(self) -> None:
        """One training step: the same calls as the reference trainer's, and all numbers stay on the device."""
        data = self.data
        self._network.train()
        chosen = self._batches.index_select(0, self._step)[0]
        pixels = data.train_images.index_select(0, chosen).float().div_(255)
        x = (augment(pixels, self.recipe, generator=self._generators[0]) - self._mean) / self._std
        y = data.train_labels.index_select(0, chosen)
        torch.index_select(self._rates, 0, self._step, out=self._rate)
        logits = self._network(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        torch.index_select(self._shares, 0, self._step, out=self._share)
        self._kept.update(self._share[0])
        self._loss += loss.detach()
        self._num_correct += (logits.detach().argmax(1) == y).sum()
        self._step += 1

    def evaluate(self) -> None:
        """Adds up loss and right answers over the val split, whose images lie on the device."""
        images, labels = self.data.val_images, self.data.val_labels
        self._network.eval()
        self._kept.swap()
        with torch.no_grad():
            for start in range(0, len(images), EVALUATION_BATCH):
                x = (images[start : start + EVALUATION_BATCH].float().div_(255) - self._mean) / self._std
                y = labels[start : start + EVALUATION_BATCH]
                logits = self._network(x)
                self._val_loss += functional.cross_entropy(logits, y, reduction="sum")
                self._num_val_correct += (logits.argmax(1) == y).sum()
        self._kept.swap()

    def warm_up(self, steps: int) -> None:
        """Steps, each followed by an evaluation, that leave no trace, even where one fails."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        states = [generator.get_state() for generator in self._generators]
        try:
            for _ in range(steps):
                self._begin(0)
                self.step()
                self.evaluate()
        finally:
            self._optimizer.zero_grad()
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
                # Zeros are what Adam starts from; and SGD, which has its momentum start as the first gradient g,
                # computes just that from zeros: momentum * 0 + g.
                for state in self._optimizer.state.values():
                    for value in state.values():
                        value.zero_()
            self._kept.restart()
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)

    def _begin(self, epoch: int) -> None:
        """Draws the order of an epoch, counted from 0, and sets its sums and its step to 0."""
        torch.randperm(len(self._order), generator=self._generators[0], out=self._order)
        self._rates.copy_(self._all_rates[epoch])
        self._shares.copy_(self._all_shares[epoch])
        for tensor in (self._step, self._loss, self._num_correct, self._val_loss, self._num_val_correct):
            tensor.zero_()

    def _cut(self) -> list[Work]:
        """An epoch in pieces, to be called in turn: several steps at a time, the rest one by one, evaluation."""
        several = steps_a_piece(self.num_steps)
        repeats, rest = divmod(self.num_steps, several)
        pieces = [self._repeatable(partial(self._steps, several))] * repeats
        if rest:
            pieces += [self._repeatable(self.step)] * rest
        return [*pieces, self._repeatable(self.evaluate)]

    def _repeatable(self, work: Work) -> Work:
        piece = self.runner.repeatable(work, self._generators)
        self._optimizer.zero_grad()  # gradients of a capture lie in the graph's memory, which the next one shares
        return piece

    def _steps(self, number: int) -> None:
        for _ in range(number):
            self.step()


def steps_a_piece(num_steps: int) -> int:
    """Steps a graph, at most 16, for an epoch of `num_steps`: of 8 to 16 the number that leaves the smallest rest.

    A replay costs the processor tens of microseconds whatever it holds, as much as a step of a tiny network takes the
    device when several lanes share it: with 8 steps or more the device is the one that is waited for. Every further
    step costs milliseconds to capture, once a lane.
    """
    return min(range(min(num_steps, 16), min(num_steps, 8) - 1, -1), key=lambda several: num_steps % several)


class DropoutOf(nn.Module):
    """Dropout that draws from a generator of its own; torch's own layers know the device's global stream alone."""

    def __init__(self, rate: float, generator: torch.Generator, *, per_channel: bool) -> None:
        super().__init__()
        self.rate, self.generator, self.per_channel = rate, generator, per_channel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if self.per_channel else x.shape
        kept = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate, generator=self.generator)
        return x * kept.div_(1 - self.rate)


def _sharing_tensors(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy whose parameters and buffers are the module's own, and whose dropouts draw from `generator`."""
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    network: nn.Module = copy.deepcopy(module, shared)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                per_channel = isinstance(child, nn.Dropout2d)
                setattr(parent, name, DropoutOf(child.p, generator, per_channel=per_channel))
    return network
