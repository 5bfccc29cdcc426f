"""A lane: one network in training, whose steps happen on the device alone, so that a CUDA graph can hold them."""

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
from nas.training.augmentation import augment, draws
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

LONGEST_PIECE = 16
"""Training steps in a CUDA graph, at most."""

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d


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
            # Of the current epoch: each step's rate, share in the average and examples, and the next step's number.
            self._rates, self._shares = self._all_rates[0].clone(), self._all_shares[0].clone()
            self._order = torch.arange(len(data.train_images), device=device)
            self._batches = self._order[: self.num_steps * self.batch_size].view(self.num_steps, self.batch_size)
            self._step = torch.zeros(1, dtype=torch.int64, device=device)
            self._numbers = torch.arange(LONGEST_PIECE, device=device)
            self._steps_written = 0  # run by Python; into a graph, or, without one, each step
            self._optimizer = make_optimizer(module, recipe, learning_rate=self._rates[:1].clone())
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
        for count, written in zip(_counts(self.module), _counts(self._network), strict=True):
            count.add_(written // max(1, self._steps_written) * self.epoch * self.num_steps)

    def steps(self, number: int) -> None:
        """Trains the next `number` steps as the reference trainer does; all numbers stay on the device.

        Gathering, augmentation and the count of right answers need no weights. They are done for all steps at once,
        which takes fewer and larger kernels.
        """
        data, recipe = self.data, self.recipe
        self._network.train()
        places = self._step + self._numbers[:number]
        chosen = self._batches.index_select(0, places).view(-1)
        drawn = [draws(recipe, self.batch_size, generator=self._generators[0]) for _ in range(number)]
        of_all = {name: torch.cat([of_step[name] for of_step in drawn]) for name in drawn[0]}
        pixels = data.train_images.index_select(0, chosen).float().div_(255)
        x = (augment(pixels, recipe, of_all) - self._mean) / self._std
        y = data.train_labels.index_select(0, chosen)
        rates, shares = self._rates.index_select(0, places), self._shares.index_select(0, places)
        size = self.batch_size
        batches = zip(torch.split(x, size), torch.split(y, size), torch.split(rates, 1), shares, strict=True)
        logits = [self._step_of(*batch) for batch in batches]
        self._num_correct += (torch.cat(logits).argmax(1) == y).sum()
        self._step += number

    def _step_of(self, x: Tensor, y: Tensor, rate: Tensor, share: Tensor) -> Tensor:
        """One step with a batch, returns its logits. rate: (1,), share: ()."""
        logits: Tensor = self._network(x)
        loss = functional.cross_entropy(logits, y, label_smoothing=self.recipe.label_smoothing)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._kept.update(share)
        self._loss += loss.detach()
        self._steps_written += 1
        return logits.detach()

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
                self.steps(1)
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
            self._steps_written = 0
            for count in _counts(self._network):
                count.zero_()
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
        pieces = [self._repeatable(partial(self.steps, several))] * repeats
        if rest:
            pieces += [self._repeatable(partial(self.steps, 1))] * rest
        return [*pieces, self._repeatable(self.evaluate)]

    def _repeatable(self, work: Work) -> Work:
        piece = self.runner.repeatable(work, self._generators)
        self._optimizer.zero_grad()  # gradients of a capture lie in the graph's memory, which the next one shares
        return piece


def steps_a_piece(num_steps: int) -> int:
    """Steps a graph for an epoch of `num_steps`: of 8 to `LONGEST_PIECE` the number that leaves the smallest rest.

    A replay costs the processor tens of microseconds whatever it holds, as much as a step of a tiny network takes the
    device when several lanes share it: with 8 steps or more the device is the one that is waited for. Every further
    step costs milliseconds to capture, once a lane.
    """
    longest = min(num_steps, LONGEST_PIECE)
    return min(range(longest, min(num_steps, 8) - 1, -1), key=lambda several: num_steps % several)


class DropoutOf(nn.Module):
    """Dropout that draws from a generator of its own; torch's own layers know the device's global stream alone."""

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
    """x * kept * scale, in one kernel each way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.scale = scale
        # torch uses this operation for gradients alone; what it computes is the product.
        return cast(Tensor, torch.ops.aten.native_dropout_backward(x, kept, scale))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (kept,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(gradients[0], kept, ctx.scale), None, None


def _sharing_tensors(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy whose parameters and buffers are the module's own, and whose dropouts draw from `generator`.

    Its batch norms keep their counts of batches on the processor. A count then includes only steps that Python runs,
    not replays of a graph; `Lane.finish` scales it up. This saves a kernel for each batch norm in each step.
    """
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    network: nn.Module = copy.deepcopy(module, shared)
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                per_channel = isinstance(child, nn.Dropout2d)
                setattr(parent, name, DropoutOf(child.p, generator, per_channel=per_channel))
    for child in network.modules():
        if isinstance(child, BATCH_NORMS):
            child.num_batches_tracked = torch.zeros((), dtype=torch.int64)
    return network


def _counts(module: nn.Module) -> list[Tensor]:
    """How many batches each batch norm has met."""
    norms = [child for child in module.modules() if isinstance(child, BATCH_NORMS)]
    return [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
