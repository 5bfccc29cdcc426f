"""The engine for GPUs: lanes do what the reference trainer does, side by side, and leave one another alone.

What does not need the device itself is tested on the CPU, where the same steps run without streams and graphs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import torch
from support.architectures import ON_MAPS, draw_architecture
from support.images import EVERY_AUGMENTATION, noise
from torch import Tensor, nn

from nas.architecture.architecture import Architecture
from nas.architecture.layers import Activation, BatchNorm, Conv, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool
from nas.errors import TrainingDiverged
from nas.recipe import Recipe
from nas.training import reference
from nas.training.cuda import engine as cuda
from nas.training.cuda import runner as cuda_runner
from nas.training.cuda.engine import CudaGroup, Growth
from nas.training.cuda.lane import DropoutOf, Lane, steps_a_piece
from nas.training.cuda.runner import Eager, Gpu, Processor, numerics
from nas.training.data import TrainingData
from nas.training.metrics import EpochMetrics
from nas.training.optimizers import make_optimizer
from nas.training.protocol import GroupFullError
from nas.training.reference import initialise

CPU = torch.device("cpu")
GPU = torch.device("cuda:0")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECIPE = Recipe(
    epochs=2,
    batch_size=16,
    learning_rate=0.02,
    weight_decay=1e-3,
    label_smoothing=0.1,
    **EVERY_AUGMENTATION,
)


def small(*, width: int = 6, dropout: float = 0.0, per: str = "element") -> Architecture:
    return Architecture(
        input_shape=(1, 12, 12),
        layers=(
            Conv(out_channels=width, kernel_size=3, stride=2, bias=False),
            BatchNorm(),
            Activation(),
            Dropout(rate=dropout, per=per),
            MaxPool(kernel_size=3, stride=2, padding=1),
            Conv(out_channels=10, kernel_size=3, padding="same"),
            Activation(function="silu"),
            GlobalAvgPool(),
            Flatten(),
            Linear(out_features=10),
        ),
    )


def drawn(seed: int) -> Architecture:
    """A classifier of ten classes that starts like some random architecture without dropout."""
    kinds = tuple(kind for kind in ON_MAPS if kind != "dropout")
    found = draw_architecture(Random(seed), (1, 12, 12), kinds)
    if len(found.output_shape) > 1:
        found = replace(found, layers=(*found.layers, Flatten()))
    return replace(found, layers=(*found.layers, Linear(out_features=10)))


def timeless(metrics: Sequence[EpochMetrics]) -> list[EpochMetrics]:
    return [replace(m, seconds=0.0) for m in metrics]


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def run_lane(
    architecture: Architecture, recipe: Recipe = RECIPE, *, seed: int = 7, warm_up: int = 0, device: torch.device = CPU
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    module = initialise(architecture, seed=0)
    lane = Lane(module, recipe, noise(150).to(device), seed=seed, runner=Eager())
    lane.warm_up(warm_up)
    metrics = []
    for _ in range(recipe.epochs):
        list(lane.launches())
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        metrics.append(lane.metrics(0.0))
    lane.finish()
    assert not module.training
    return timeless(metrics), weights(module)


def run_group(group: CudaGroup) -> dict[int, list[EpochMetrics | Exception]]:
    found: dict[int, list[EpochMetrics | Exception]] = {}
    while outcomes := group.advance():
        for key, outcome in outcomes:
            found.setdefault(key, []).append(
                replace(outcome, seconds=0.0) if isinstance(outcome, EpochMetrics) else outcome
            )
    return found


@pytest.fixture
def contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference trainer with the lanes' memory format, for equal bits."""
    monkeypatch.setattr(reference, "_memory_format", lambda *_: torch.contiguous_format)


def run_reference(
    architecture: Architecture, recipe: Recipe = RECIPE, *, seed: int = 7, device: torch.device = CPU
) -> tuple[list[EpochMetrics], dict[str, Tensor]]:
    module = initialise(architecture, seed=0)
    metrics = list(reference.train(module, recipe, noise(150), seed=seed, device=device))
    return timeless(metrics), weights(module)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize("seed", range(12))
def test_a_lane_is_the_reference_trainer_to_the_bit(seed: int) -> None:
    architecture = drawn(seed)
    metrics, trained = run_lane(architecture)
    expected, expected_weights = run_reference(architecture)
    assert metrics == expected
    assert same(trained, expected_weights)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.0},
        {"schedule": "cosine", "weight_decay": 0.0},
        {"schedule": "step", "step_epochs": 1},
        {"schedule": "constant", "batch_size": 1000},
        {"average_epochs": 0.7},
        {"batch_size": 64, "rotation": 0.0, "translation": 0.0, "scale": 0.0, "shear": 0.0},
    ],
)
def test_with_every_recipe_of_sgd(change: dict[str, object]) -> None:
    recipe = replace(RECIPE, **change)
    metrics, trained = run_lane(small(), recipe)
    expected, expected_weights = run_reference(small(), recipe)
    assert metrics == expected
    assert same(trained, expected_weights)


@pytest.mark.usefixtures("contiguous")
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_with_adam_but_for_the_rounding_of_the_learning_rate(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=1e-3)
    metrics, trained = run_lane(small(), recipe)
    expected, expected_weights = run_reference(small(), recipe)
    for name, tensor in trained.items():
        torch.testing.assert_close(tensor, expected_weights[name], atol=1e-5, rtol=1e-4)
    assert metrics[1].val_loss == pytest.approx(expected[1].val_loss, abs=1e-5)
    assert [m.learning_rate for m in metrics] == [m.learning_rate for m in expected]


@pytest.mark.usefixtures("contiguous")
def test_step_for_step() -> None:
    """After every single step, not at the end of an epoch alone."""
    module, expected = (initialise(small(), seed=0) for _ in range(2))
    data = noise(150)
    lane = Lane(module, RECIPE, data, seed=7, runner=Eager())
    lane._begin(0)
    optimizer = make_optimizer(expected, RECIPE)
    generator, _ = reference.generators(7, CPU)
    expected.train()
    for step, (x, y) in enumerate(reference.batches(data, RECIPE, generator)):
        for group in optimizer.param_groups:
            group["lr"] = reference.learning_rate(RECIPE, step, 9)
        loss = nn.functional.cross_entropy(expected(x), y, label_smoothing=RECIPE.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = lane._loss.clone()
        lane.step()
        torch.testing.assert_close(lane._loss - before, loss.detach(), atol=1e-5, rtol=0)
        assert same(weights(module), weights(expected))
        assert int(lane._step) == step + 1
        assert lane._rate.item() == torch.tensor(reference.learning_rate(RECIPE, step, 9)).item()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("average_epochs", [0.0, 0.5])
def test_warm_up_leaves_no_trace(optimizer: str, steps: int, average_epochs: float) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, average_epochs=average_epochs)
    architecture = small(dropout=0.3)
    assert same(run_lane(architecture, recipe, warm_up=steps)[1], run_lane(architecture, recipe)[1])
    assert run_lane(architecture, recipe, warm_up=steps)[0] == run_lane(architecture, recipe)[0]


class Breaks(nn.Module):
    """Passes on its input, except at the nth call of a training."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        if not self.left:
            raise ValueError("broken")
        return x * self.weight


def broken(at: int) -> nn.Module:
    return nn.Sequential(Breaks(at), nn.Flatten(), nn.Linear(144, 10), nn.BatchNorm1d(10))


def test_a_warm_up_that_fails_leaves_no_trace() -> None:
    module = broken(at=2)
    before = weights(module)
    lane = Lane(module, RECIPE, noise(150), seed=7, runner=Eager())
    states = [generator.get_state() for generator in lane._generators]
    with pytest.raises(ValueError, match="broken"):
        lane.warm_up(3)
    assert same(weights(module), before)
    assert all(map(torch.equal, states, (generator.get_state() for generator in lane._generators)))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("per", ["element", "channel"])
def test_dropout_draws_from_the_lanes_generator_alone(per: str) -> None:
    architecture = small(dropout=0.3, per=per)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    metrics, trained = run_lane(architecture)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, trained_again = run_lane(architecture)
    assert metrics == again
    assert same(trained, trained_again)
    assert not same(trained, run_lane(small())[1])
    initialise(architecture, seed=1).load_state_dict(trained)  # under the original module's keys


def test_dropout_keeps_the_mean_and_drops_whole_channels() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(50, 20, 4, 4)
    elements = DropoutOf(0.25, generator, per_channel=False)(x)
    assert elements.unique().tolist() == pytest.approx([0, 4 / 3])
    assert elements.mean().item() == pytest.approx(1, abs=0.03)
    channels = DropoutOf(0.25, generator, per_channel=True)(x)
    assert (channels.amin((2, 3)) == channels.amax((2, 3))).all()
    assert channels.mean().item() == pytest.approx(1, abs=0.1)
    vectors = DropoutOf(0.25, generator, per_channel=True)(torch.ones(50, 20))
    assert vectors.unique().tolist() == pytest.approx([0, 4 / 3])
    state = generator.get_state()
    assert DropoutOf(0.0, generator, per_channel=False)(x) is x
    assert DropoutOf(0.5, generator, per_channel=False).eval()(x) is x
    assert torch.equal(generator.get_state(), state)


def test_the_module_keeps_its_structure_and_its_tensors() -> None:
    module = initialise(small(dropout=0.3), seed=0)
    text, tensors = repr(module), [*module.parameters(), *module.buffers()]
    lane = Lane(module, RECIPE, noise(150), seed=7, runner=Eager())
    list(lane.launches())
    assert repr(module) == text
    assert all(one is other for one, other in zip(tensors, [*module.parameters(), *module.buffers()], strict=True))
    assert any(isinstance(layer, DropoutOf) for layer in lane._network.modules())
    assert not any(isinstance(layer, nn.Dropout) for layer in lane._network.modules())


@pytest.mark.parametrize("num_steps", [1, 2, 7, 8, 9, 15, 16, 17, 97, 390, 468, 937])
def test_an_epoch_is_cut_into_few_pieces(num_steps: int) -> None:
    several = steps_a_piece(num_steps)
    assert min(num_steps, 8) <= several <= 16
    assert num_steps % several == min(num_steps % k for k in range(min(num_steps, 8), min(num_steps, 16) + 1))


@pytest.mark.parametrize(("batch_size", "steps", "pieces"), [(16, 9, 1 + 1), (7, 21, 2 + 1 + 1), (5, 30, 2 + 1)])
def test_a_lane_queues_every_step_once(batch_size: int, steps: int, pieces: int) -> None:
    recipe = replace(RECIPE, batch_size=batch_size)
    lane = Lane(initialise(small(), seed=0), recipe, noise(150), seed=7, runner=Eager())
    for _ in range(2):
        assert len(list(lane.launches())) == pieces  # graphs of 9, 10 and 15 steps, the rest of one, evaluation
        assert int(lane._step) == lane.num_steps == steps


def group(size: int | None = 4, data: TrainingData | None = None) -> CudaGroup:
    return CudaGroup(data or noise(150), CPU, exact=True, size=size)


ARCHITECTURES = [small(), small(width=3, dropout=0.2), small(width=9, dropout=0.4, per="channel")]


def test_neighbours_do_not_change_a_result() -> None:
    alone = [run_lane(architecture, seed=seed) for seed, architecture in enumerate(ARCHITECTURES)]
    modules = [initialise(architecture, seed=0) for architecture in ARCHITECTURES]
    lanes = group()
    lanes.add(0, modules[0], RECIPE, seed=0)
    first = lanes.advance()  # the others come an epoch later
    lanes.add(1, modules[1], RECIPE, seed=1)
    lanes.add(2, modules[2], RECIPE, seed=2)
    found = run_group(lanes)
    found[0] = [*(replace(metrics, seconds=0.0) for _, metrics in first), *found[0]]
    for key, (metrics, trained) in enumerate(alone):
        assert found[key] == metrics
        assert same(weights(modules[key]), trained)
        assert not modules[key].training
    assert lanes.advance() == []
    assert lanes.notes == []
    assert lanes.build_seconds.keys() == {0, 1, 2}


def test_seconds_are_machine_time() -> None:
    lanes = group()
    for key in range(3):
        lanes.add(key, initialise(small(), seed=0), RECIPE, seed=key)
    first, second = (dict(lanes.advance()) for _ in range(2))
    built = lanes.build_seconds
    assert first[0].seconds - built[0] == pytest.approx(first[2].seconds - built[2])
    assert second[0].seconds == second[1].seconds == second[2].seconds > 0


def test_a_lane_that_diverges_or_fails_leaves_the_others_alone() -> None:
    expected = run_lane(small())
    lanes = group()
    good, wild = initialise(small(), seed=0), initialise(small(), seed=0)
    lanes.add(1, broken(at=4), RECIPE, seed=7)
    lanes.add(2, good, RECIPE, seed=7)
    lanes.add(3, wild, Recipe(learning_rate=1e30, schedule="constant", batch_size=16), seed=7)
    lanes.add(4, nn.Flatten(), RECIPE, seed=7)  # nothing to train: fails before its first step
    found = run_group(lanes)
    assert found[2] == expected[0]
    assert same(weights(good), expected[1])
    (failed,), (diverged,), (unfit,) = found[1], found[3], found[4]
    assert isinstance(failed, ValueError)
    assert str(failed) == "broken"
    assert isinstance(diverged, TrainingDiverged)
    assert (diverged.epoch, math.isfinite(diverged.loss)) == (1, False)
    assert not wild.training
    assert "empty parameter list" in str(unfit)


def test_removal() -> None:
    expected = run_lane(small())
    lanes = group()
    module, other = (initialise(small(), seed=0) for _ in range(2))
    lanes.add(1, module, replace(RECIPE, epochs=9), seed=1)
    lanes.add(2, other, RECIPE, seed=7)
    with pytest.raises(ValueError, match="lane 2 is there already"):
        lanes.add(2, other, RECIPE, seed=7)
    lanes.add(3, nn.Flatten(), RECIPE, seed=7)
    lanes.remove(3)
    lanes.remove(99)
    lanes.advance()
    lanes.remove(1)
    assert not module.training
    assert all(p.grad is None for p in module.parameters())
    assert [key for key, _ in lanes.advance()] == [2]
    assert same(weights(other), expected[1])
    lanes.add(1, module, RECIPE, seed=1)  # the key is free again
    assert [key for key, _ in lanes.advance()] == [1]


def test_no_memory_for_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = group()
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    tried, dropped = [], []

    def full(*_: object, **__: object) -> Lane:
        tried.append(1)
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(cuda, "Lane", full)
    monkeypatch.setattr(Processor, "drop_caches", lambda _: dropped.append(1))
    with pytest.raises(GroupFullError, match="no memory for lane 2 beside 2 others"):
        lanes.add(2, initialise(small(), seed=0), RECIPE, seed=7)
    assert (len(tried), len(dropped), lanes.capacity) == (2, 1, 2)
    assert [key for key, _ in lanes.advance()] == [0, 1]
    for key in range(2):
        lanes.remove(key)
    lanes.add(2, initialise(small(), seed=0), RECIPE, seed=7)  # alone, and still no memory: it fails for good
    ((key, error),) = lanes.advance()
    assert key == 2
    assert isinstance(error, torch.OutOfMemoryError)
    assert lanes.capacity == 2


def test_the_second_try_may_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = group()
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    full = [True, False]

    def at_second(*args: Any, **kwargs: Any) -> Lane:
        if full.pop(0):
            raise torch.OutOfMemoryError("full")
        return Lane(*args, **kwargs)

    monkeypatch.setattr(cuda, "Lane", at_second)
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    assert [key for key, _ in lanes.advance()] == [0, 1]


class Unrecordable(Eager):
    """A runner as on a GPU whose captures fail."""

    warm_up_steps = 2

    def repeatable(self, work: Callable[[], None], generators: Sequence[torch.Generator]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")


def test_without_a_graph_a_lane_trains_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processor, "runners", lambda _: (Unrecordable(), Eager()))
    architecture = small(dropout=0.3)
    lanes = group()
    module = initialise(architecture, seed=0)
    lanes.add(5, module, RECIPE, seed=7)
    assert lanes.notes == [
        "lane 5 trains without a CUDA graph: RuntimeError: operation not permitted when stream is capturing"
    ]
    assert run_group(lanes)[5] == run_lane(architecture)[0]
    assert same(weights(module), run_lane(architecture)[1])


def test_growth_while_it_pays() -> None:
    growth = Growth(None)
    for lanes, rate, size in ((1, 100, 2), (1, 900, 2), (2, 180, 4), (3, 1, 4), (4, 190, 2), (2, 900, 2)):
        growth.observe(lanes, rate)
        assert growth.size == size
    growth = Growth(None)
    for _ in range(9):
        growth.observe(growth.size, 100.0 * growth.size)
    assert growth.size == cuda.LARGEST_GROUP
    fixed = Growth(3)
    fixed.observe(3, 1)
    assert fixed.size == 3
    fixed.stop(0)
    assert fixed.size == 1


def test_capacity_is_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([1000, 1400, 1400, 1500, 1500])
    monkeypatch.setattr(Processor, "reserved_bytes", lambda _: next(held))
    lanes = group(size=8)
    assert lanes.capacity == 8
    monkeypatch.setattr(Processor, "free_bytes", lambda _: 1000)
    lanes.add(0, initialise(small(), seed=0), RECIPE, seed=7)
    assert lanes.capacity == 1 + 900 // 400
    lanes.add(1, initialise(small(), seed=0), RECIPE, seed=7)
    assert lanes.capacity == 2 + 900 // 400
    monkeypatch.setattr(Processor, "free_bytes", lambda _: 0)
    lanes.advance()
    assert lanes.capacity == 2
    lanes.advance()
    assert lanes.capacity == 1


def test_capacity_found_by_trying() -> None:
    lanes = group(size=None)
    assert lanes.capacity == 1
    lanes.add(0, initialise(small(), seed=0), replace(RECIPE, epochs=5), seed=7)
    lanes.advance()
    assert lanes.capacity == 2


@pytest.mark.parametrize("exact", [True, False])
def test_numerics_are_lent(exact: bool) -> None:
    def settings() -> list[object]:
        cudnn = torch.backends.cudnn
        return [
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
            cudnn.deterministic,
            cudnn.benchmark,
            cudnn.allow_tf32,
            torch.backends.cuda.matmul.allow_tf32,
        ]

    before = settings()
    with numerics(exact=exact):
        assert settings() == [exact, True, False, exact, False, False, False]
    with pytest.raises(KeyError), numerics(exact=exact):
        raise KeyError
    assert settings() == before


def test_a_gpu_alone_asks_for_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"CUDA_DEVICE_MAX_CONNECTIONS": "16"}
    monkeypatch.setattr(cuda_runner.os, "environ", environment)
    Processor()
    assert environment == {"CUDA_DEVICE_MAX_CONNECTIONS": "16"}
    Gpu(GPU)  # and leaves alone what the user has set
    assert environment == {"CUDA_DEVICE_MAX_CONNECTIONS": "16", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


# From here on with a device.


def gpu_group(size: int | None = 4, *, exact: bool = True) -> CudaGroup:
    return CudaGroup(noise(150), GPU, exact=exact, size=size)


def train_on_gpu(
    architectures: Sequence[Architecture], *, exact: bool = True, recipe: Recipe = RECIPE
) -> tuple[CudaGroup, dict[int, list[EpochMetrics | Exception]], list[dict[str, Tensor]]]:
    lanes = gpu_group(exact=exact)
    modules = [initialise(architecture, seed=0) for architecture in architectures]
    for key, module in enumerate(modules):
        lanes.add(key, module, recipe, seed=7)
    found = run_group(lanes)
    return lanes, found, [weights(module) for module in modules]


@on_a_gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_graph_does_what_its_steps_do(optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, learning_rate=0.01, batch_size=8)  # 18 steps: 2 graphs of 9
    for architecture in ARCHITECTURES:
        lanes, found, trained = train_on_gpu([architecture], recipe=recipe)
        with numerics(exact=True):
            expected, expected_weights = run_lane(architecture, recipe, device=GPU)
        assert lanes.notes == []
        assert found[0] == expected
        assert same(trained[0], expected_weights)


@on_a_gpu
def test_a_rest_of_single_steps_is_replayed_too() -> None:
    recipe = replace(RECIPE, batch_size=7)  # 21 steps: 2 graphs of 10 and one of 1
    architecture = small(dropout=0.2)
    _, found, trained = train_on_gpu([architecture], recipe=recipe)
    with numerics(exact=True):
        expected, expected_weights = run_lane(architecture, recipe, device=GPU)
    assert found[0] == expected
    assert same(trained[0], expected_weights)


@on_a_gpu
@pytest.mark.usefixtures("contiguous")
def test_on_a_gpu_as_the_reference_trainer() -> None:
    _, found, trained = train_on_gpu([small()])
    with numerics(exact=True):
        expected, expected_weights = run_reference(small(), device=GPU)
    assert found[0][1].val_loss == pytest.approx(expected[1].val_loss, abs=1e-3)
    for name, tensor in trained[0].items():
        torch.testing.assert_close(tensor, expected_weights[name], atol=1e-3, rtol=1e-3)


@on_a_gpu
def test_groups_on_a_gpu_are_what_each_lane_is_alone() -> None:
    architectures = [*ARCHITECTURES, *[drawn(seed) for seed in range(8)]]
    lanes, together, trained = train_on_gpu(architectures)
    assert lanes.notes == []
    for key, architecture in enumerate(architectures):
        _, alone, trained_alone = train_on_gpu([architecture])
        assert together[key] == alone[0]
        assert same(trained[key], trained_alone[0])


@on_a_gpu
def test_a_capture_that_fails_falls_back_to_single_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    architecture = small(dropout=0.3)
    _, expected, expected_weights = train_on_gpu([architecture])

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no graphs today")

    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "graph", refuse)
        lanes, found, trained = train_on_gpu([architecture])
    assert lanes.notes == ["lane 0 trains without a CUDA graph: RuntimeError: no graphs today"]
    assert found == expected
    assert same(trained[0], expected_weights[0])


class Waits(nn.Module):
    """Asks the device for a value, which an eager step may do and a capture may not."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.sum().item() < math.inf
        return x


@on_a_gpu
def test_a_capture_that_breaks_leaves_other_lanes_and_later_captures_whole() -> None:
    architecture = small(dropout=0.3)
    _, expected, expected_weights = train_on_gpu([architecture])
    lanes = gpu_group()
    modules = [initialise(architecture, seed=0) for _ in range(3)]
    lanes.add(0, modules[0], RECIPE, seed=7)
    lanes.add(1, nn.Sequential(Waits(), modules[1]), RECIPE, seed=7)
    lanes.add(2, modules[2], RECIPE, seed=7)
    assert len(lanes.notes) == 1
    assert lanes.notes[0].startswith("lane 1 trains without a CUDA graph: ")
    found = run_group(lanes)
    for key, module in enumerate(modules):
        assert found[key] == expected[0]
        assert same(weights(module), expected_weights[0])


@on_a_gpu
def test_not_exact_is_close() -> None:
    _, exact, _ = train_on_gpu([small()])
    lanes, found, _ = train_on_gpu([small()], exact=False)
    assert lanes.notes == []
    assert found[0][1].val_loss == pytest.approx(exact[0][1].val_loss, abs=1e-2)


@on_a_gpu
def test_streams_are_used_again() -> None:
    lanes = gpu_group()
    streams = set()
    for key in range(5):
        lanes.add(key, initialise(small(), seed=0), replace(RECIPE, epochs=1), seed=7)
        streams.add(lanes._lanes[key].runner.stream)
        lanes.advance()
    assert len(streams) == 1
