"""A lane: trains one network in steps that never read from the device, so that CUDA graphs can capture them."""

import copy
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nas.recipe import Recipe
from nas.training.augmentation import augment, draw_uniforms
from nas.training.averaging import averaging_share, weight_tracker
from nas.training.batches import batch_size_and_steps
from nas.training.cuda.runner import EagerRunner, Work
from nas.training.data import TrainingData, per_channel
from nas.training.metrics import EpochMetrics
from nas.training.optimizers import make_optimizer
from nas.training.rng import generators
from nas.training.schedule import learning_rate

EVALUATION_BATCH = 1000
"""Batch size of evaluations, that of the reference trainer."""

MAX_STEPS_PER_GRAPH = 16
"""Maximum number of training steps in a CUDA graph."""

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


class Lane:
    """Trains `module` as `recipe` says, on the device of `data`.

    The order of the examples and the augmentation are those of the reference trainer; dropout draws other masks from
    the same seed. The lane trains a copy of the module that shares its tensors and has other dropout layers. The module
    keeps its structure; after `finish` it is in eval mode and holds the trained weights on the device.

    CUDA graphs need constant addresses: every tensor that a step reads or writes stays in place once the constructor
    has made it. No step reads a value from the device. `build_seconds` is the time for warm-up and capture.
    """

    def __init__(
        self, module: nn.Module, recipe: Recipe, data: TrainingData, *, seed: int, runner: EagerRunner
    ) -> None:
        start = time.perf_counter()
        self.module, self.recipe, self.data, self.runner = module, recipe, data, runner
        self.batch_size, self.num_steps = batch_size_and_steps(recipe, len(data.train_images))
        self.epoch = 0
        device = data.train_images.device
        with runner.on_stream():
            # NCHW, unlike the reference: without TF32, cuDNN's float32 kernels use NCHW internally; torch's depthwise
            # convolutions support only NCHW; few channels leave nothing to vectorise.
            module.to(device).to(memory_format=torch.contiguous_format)
            self._generators = generators(seed, device)
            self._network = _copy_sharing_tensors(module, self._generators[1])
            self._mean, self._std = per_channel(data.mean, device), per_channel(data.std, device)
            num_steps = recipe.epochs * self.num_steps
            rates = [learning_rate(recipe, step, self.num_steps) for step in range(num_steps)]
            self._all_rates = torch.tensor(rates, device=device).view(recipe.epochs, self.num_steps)
            shares = [averaging_share(recipe, step, self.num_steps) for step in range(num_steps)]
            self._all_shares = torch.tensor(shares, device=device).view(recipe.epochs, self.num_steps)
            # For the current epoch: rate, averaging share and examples of each step, and the index of the next step.
            self._rates, self._shares = self._all_rates[0].clone(), self._all_shares[0].clone()
            self._order = torch.arange(len(data.train_images), device=device)
            self._batches = self._order[: self.num_steps * self.batch_size].view(self.num_steps, self.batch_size)
            self._step = torch.zeros(1, dtype=torch.int64, device=device)
            self._numbers = torch.arange(MAX_STEPS_PER_GRAPH, device=device)
            self._steps_written = 0  # steps that Python ran: those captured in graphs or, without graphs, all
            self._optimizer = make_optimizer(module, recipe, learning_rate=self._rates[:1].clone())
            self._tracker = weight_tracker(module, recipe)
            self._loss, self._val_loss = torch.zeros((), device=device), torch.zeros((), device=device)
            self._num_correct = torch.zeros((), dtype=torch.int64, device=device)
            self._num_val_correct = torch.zeros((), dtype=torch.int64, device=device)
            self._results = torch.zeros(4, dtype=torch.float64, pin_memory=device.type == "cuda")
            self.warm_up(runner.warm_up_steps)
            self._pieces = self._cut()
        self.build_seconds = time.perf_counter() - start

    def launches(self) -> Iterator[None]:
        """Queues an epoch on the current stream; yields after each piece, so that other lanes can queue theirs."""
        self._begin(self.epoch)
        self.epoch += 1
        for piece in self._pieces:
            piece()
            yield
        sums = (self._loss, self._num_correct, self._val_loss, self._num_val_correct)
        self._results.copy_(torch.stack([value.double() for value in sums]), non_blocking=True)

    def metrics(self, seconds: float) -> EpochMetrics:
        """Returns the metrics of the last queued epoch, which must be done; raises `TrainingDiverged`.

        `seconds` is its time without building the lane.
        """
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
        """Leaves the module as the reference trainer does, but without gradients, which may be in a graph's memory."""
        self._optimizer.zero_grad()
        self._tracker.swap()
        self.module.eval()
        for count, written in zip(_counts(self.module), _counts(self._network), strict=True):
            count.add_(written // max(1, self._steps_written) * self.epoch * self.num_steps)

    def steps(self, number: int) -> None:
        """Trains the next `number` steps as the reference trainer does, without reading from the device.

        Gathering, augmentation and counting correct predictions do not use the weights. They are done for all steps at
        once, which takes fewer and larger kernels.
        """
        data, recipe = self.data, self.recipe
        self._network.train()
        step_indices = self._step + self._numbers[:number]
        chosen = self._batches.index_select(0, step_indices).view(-1)
        drawn = [draw_uniforms(recipe, self.batch_size, generator=self._generators[0]) for _ in range(number)]
        of_all = {name: torch.cat([of_step[name] for of_step in drawn]) for name in drawn[0]}
        pixels = data.train_images.index_select(0, chosen).float().div_(255)
        x = (augment(pixels, recipe, of_all) - self._mean) / self._std
        y = data.train_labels.index_select(0, chosen)
        rates, shares = self._rates.index_select(0, step_indices), self._shares.index_select(0, step_indices)
        size = self.batch_size
        batches = zip(torch.split(x, size), torch.split(y, size), torch.split(rates, 1), shares, strict=True)
        logits = [self._train_step(*batch) for batch in batches]
        self._num_correct += (torch.cat(logits).argmax(1) == y).sum()
        self._step += number

    def _train_step(self, x: Tensor, y: Tensor, rate: Tensor, share: Tensor) -> Tensor:
        """Trains one step and returns the logits. Shapes: rate (1,), share ()."""
        logits: Tensor = self._network(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._tracker.update(share)
        self._loss += loss.detach()
        self._steps_written += 1
        return logits.detach()

    def evaluate(self) -> None:
        """Adds up loss and correct predictions of the kept weights over the val split."""
        images, labels = self.data.val_images, self.data.val_labels
        self._network.eval()
        self._tracker.swap()
        with torch.no_grad():
            for start in range(0, len(images), EVALUATION_BATCH):
                x = (images[start : start + EVALUATION_BATCH].float().div_(255) - self._mean) / self._std
                y = labels[start : start + EVALUATION_BATCH]
                logits = self._network(x)
                self._val_loss += functional.cross_entropy(logits, y, reduction="sum")
                self._num_val_correct += (logits.argmax(1) == y).sum()
        self._tracker.swap()

    def warm_up(self, steps: int) -> None:
        """Runs `steps` training steps, each followed by an evaluation, and restores all state, even after an error."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        states = [generator.get_state() for generator in self._generators]
        try:
            for _ in range(steps):
                self._begin(0)
                self.steps(1)
                self.evaluate()
        finally:
            self._optimizer.zero_grad()
            with torch.no_grad():
                for tensor, value in zip(tensors, before, strict=True):
                    tensor.copy_(value)
                # Adam's state starts at zero. SGD's momentum starts as the first gradient g, which zeros give too:
                # momentum * 0 + g.
                for state in self._optimizer.state.values():
                    for value in state.values():
                        value.zero_()
            self._tracker.restart()
            self._steps_written = 0
            for count in _counts(self._network):
                count.zero_()
            for generator, state in zip(self._generators, states, strict=True):
                generator.set_state(state)

    def _begin(self, epoch: int) -> None:
        """Draws the order of an epoch, counted from 0, loads its rates and shares, and resets the sums and the step."""
        torch.randperm(len(self._order), generator=self._generators[0], out=self._order)
        self._rates.copy_(self._all_rates[epoch])
        self._shares.copy_(self._all_shares[epoch])
        for tensor in (self._step, self._loss, self._num_correct, self._val_loss, self._num_val_correct):
            tensor.zero_()

    def _cut(self) -> list[Work]:
        """Returns the pieces of an epoch in order: groups of steps, the remaining steps one by one, the evaluation."""
        several = num_steps_per_graph(self.num_steps)
        repeats, rest = divmod(self.num_steps, several)
        pieces = [self._make_repeatable(partial(self.steps, several))] * repeats
        if rest:
            pieces += [self._make_repeatable(partial(self.steps, 1))] * rest
        return [*pieces, self._make_repeatable(self.evaluate)]

    def _make_repeatable(self, work: Work) -> Work:
        piece = self.runner.make_repeatable(work, self._generators)
        self._optimizer.zero_grad()  # gradients of a capture lie in memory that the next graph shares
        return piece


def num_steps_per_graph(num_steps: int) -> int:
    """Returns the number of steps in a graph: from 8 to `MAX_STEPS_PER_GRAPH`, the one with the smallest remainder.

    A shorter epoch is one graph. A replay of any length takes tens of microseconds on the CPU. A step of a tiny network
    takes as long on a device that several lanes share, so with 8 steps or more the device is the bottleneck. Each
    further step costs milliseconds of capture, once for each lane.
    """
    longest = min(num_steps, MAX_STEPS_PER_GRAPH)
    return min(range(longest, min(num_steps, 8) - 1, -1), key=lambda several: num_steps % several)


class GeneratorDropout(nn.Module):
    """Dropout that draws from its own generator; torch's layers draw only from the global generator of the device."""

    def __init__(self, rate: float, generator: torch.Generator, *, per_channel: bool) -> None:
        super().__init__()
        self.rate, self.generator, self.per_channel = rate, generator, per_channel

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        shape = (*x.shape[:2], *[1] * (x.ndim - 2)) if self.per_channel else x.shape
        kept = torch.empty(shape, dtype=torch.bool, device=x.device).bernoulli_(1 - self.rate, generator=self.generator)
        return cast(Tensor, _Masked.apply(x, kept, 1 / (1 - self.rate)))


class _Masked(torch.autograd.Function):
    """Computes x * kept * scale with one kernel in each direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        # torch uses this operation only for gradients, but it computes exactly this product.
        return cast(Tensor, torch.ops.aten.native_dropout_backward(x, kept, scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradients[0], kept, ctx.scale), None, None


def _copy_sharing_tensors(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """Returns a copy that shares the module's parameters and buffers and whose dropouts draw from `generator`.

    The copy's batch norms count their batches on the CPU, which saves a kernel for each batch norm in each step. These
    counts include only steps that Python runs, not replays of a graph; `Lane.finish` scales them up.
    """
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    network: nn.Module = copy.deepcopy(module, shared)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                per_channel = isinstance(child, nn.Dropout2d)
                setattr(parent, name, GeneratorDropout(child.p, generator, per_channel=per_channel))
    for child in network.modules():
        if isinstance(child, BATCH_NORMS):
            child.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return network


def _counts(module: nn.Module) -> list[Tensor]:
    """Returns the number of batches that each batch norm has seen."""
    norms = [child for child in module.modules() if isinstance(child, BATCH_NORMS)]
    return [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
