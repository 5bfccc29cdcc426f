"""Kernels of pointwise chains: norm, activation, dropout and pool in one pass over a block in the cache.

Backward passes compute the chain again from its input instead of reading stored results: arithmetic is cheaper here
than memory. A dropout mask is a hash of an element's position and the step's key, so it is neither drawn in sequence
nor stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from llvmlite import ir

from nas.training.native.emit import I32, I64, POINTER, Emitter, Index, Machine
from nas.training.native.functions import ACTIVATIONS
from nas.training.native.graph import Activation, Dropout, Norm, Pool, Stage
from nas.training.native.layout import Layout

GradientFunction = Callable[[ir.Value], ir.Value]

# What is stored for a norm: one array over the channels for each of these, one after another. The argument `norm` of a
# kernel points to the first. SCALE is 1 / sqrt(variance + eps); SUM and PRODUCT_SUM are sums over the batch of the
# gradient of the norm's output, and of this gradient times the normalised input.
MEAN, SCALE, GAMMA, BETA, SUM, PRODUCT_SUM = range(6)
NUM_NORM_VALUES = 6


@dataclass(frozen=True, slots=True)
class _Channel:
    """What the stages need to know about one channel.

    Attributes:
        index: of the channel.
        norm: the norm's `NUM_NORM_VALUES` values for the channel, each in all lanes; empty without a norm.
        keys: pointer to the keys of the chain's dropouts.
        num_maps_before: number of feature maps, over all channels and examples, in the blocks before this block.
    """

    index: Index
    norm: Sequence[ir.Value]
    keys: ir.Value
    num_maps_before: ir.Value


@dataclass(frozen=True, slots=True)
class Chain:
    """Writes the kernels of a pointwise operation; equal chains have equal kernels.

    Below, `norm` points to the stored values of the norm, and `keys` and `num_maps_before` are those of
    `_Channel`.
    """

    stages: tuple[Stage, ...]
    pool: Pool
    input: Layout
    output: Layout

    @property
    def norm_index(self) -> int:
        """Index of the norm among the stages; the number of stages if there is no norm."""
        return next((i for i, stage in enumerate(self.stages) if isinstance(stage, Norm)), len(self.stages))

    @property
    def has_norm(self) -> bool:
        return self.norm_index < len(self.stages)

    @property
    def stages_before_norm(self) -> tuple[Stage, ...]:
        """The stages before the norm; all if there is no norm."""
        return self.stages[: self.norm_index]

    @property
    def stages_after_norm(self) -> tuple[Stage, ...]:
        """The stages after the norm; all if there is no norm."""
        return self.stages[self.norm_index + 1 :] if self.has_norm else self.stages

    @property
    def rows(self) -> int:
        return self.input.height // self.pool.size

    @property
    def columns(self) -> int:
        return self.input.width // self.pool.size

    def pooled_layout(self, layout: Layout) -> Layout:
        """Returns the layout of the pooled map in memory that has the halo and lanes of `layout`.

        `layout` may also be that of the flattened map, since without a halo the memory order is the same.
        """
        return Layout(self.input.channels, self.rows, self.columns, layout.halo, layout.lanes)

    # -- kernels ---------------------------------------------------------------------------------------------

    def forward(self, module: ir.Module, machine: Machine, name: str) -> ir.Function:
        """Writes f(input, norm, keys, num_maps_before, output)."""
        e = Emitter(module, machine, name, [POINTER, POINTER, POINTER, I64, POINTER])
        source, norm, keys, first, target = e.args
        with e.loop(self.input.channels) as c:
            channel = self._channel(e, c, norm, keys, first)
            with e.loop(self.rows) as y, e.loop(self.columns) as x:
                window = [
                    self._apply_to_input(e, self.stages, channel, source, *place)[0] for place in self._window(e, y, x)
                ]
                e.store(self._pool_window(e, window), target, self.pooled_layout(self.output).index(e, c, y, x))
        return e.finish()

    def statistics(self, module: ir.Module, machine: Machine, name: str) -> ir.Function:
        """Writes f(input, norm, keys, num_maps_before, statistics): mean and sum of squared deviations of each channel.

        Two passes over a channel in the cache avoid the cancellation of a sum of squares.
        """
        e = Emitter(module, machine, name, [POINTER, POINTER, POINTER, I64, POINTER])
        source, norm, keys, first, target = e.args
        count = self.input.height * self.input.width * e.machine.lanes
        with e.loop(self.input.channels) as c:
            channel = self._channel(e, c, norm, keys, first)
            total, squares = e.variable(e.vector, e.const(0)), e.variable(e.vector, e.const(0))
            with e.loop(self.input.height) as y, e.loop(self.input.width) as x:
                e.add_to(total, self._apply_to_input(e, self.stages_before_norm, channel, source, y, x)[0])
            mean = e.builder.fmul(e.sum_lanes(e.load_variable(total)), ir.Constant(ir.FloatType(), 1 / count))
            centre = e.splat(mean)
            with e.loop(self.input.height) as y, e.loop(self.input.width) as x:
                deviation = e.sub(self._apply_to_input(e, self.stages_before_norm, channel, source, y, x)[0], centre)
                e.add_product(squares, deviation, deviation)
            e.builder.store(mean, e.at(target, e.affine((c, 2))))
            e.builder.store(e.sum_lanes(e.load_variable(squares)), e.at(target, e.affine((c, 2), (1, 1))))
        return e.finish()

    def gradient_sums(
        self, module: ir.Module, machine: Machine, name: str, output_gradient_layout: Layout
    ) -> ir.Function:
        """Writes f(input, gradient of the output, norm, keys, num_maps_before): adds to the two sums of the norm."""
        e = Emitter(module, machine, name, [POINTER, POINTER, POINTER, POINTER, I64])
        source, output_gradient, norm, keys, first = e.args
        with e.loop(self.input.channels) as c:
            channel = self._channel(e, c, norm, keys, first)
            plain, product = e.variable(e.vector, e.const(0)), e.variable(e.vector, e.const(0))
            with e.loop(self.rows) as y, e.loop(self.columns) as x:
                above = e.load(output_gradient, self.pooled_layout(output_gradient_layout).index(e, c, y, x))
                for (row, column), gradient in self._window_gradients(e, channel, source, above, y, x):
                    normal = self._normalised_input(e, channel, source, row, column)
                    e.add_to(plain, gradient)
                    e.add_product(product, gradient, normal)
            for kind, variable in ((SUM, plain), (PRODUCT_SUM, product)):
                place = e.affine((c, 1), (kind * self.input.channels, 1))
                e.add_scalar(e.sum_lanes(e.load_variable(variable)), norm, place)
        return e.finish()

    def gradient(
        self,
        module: ir.Module,
        machine: Machine,
        name: str,
        output_gradient_layout: Layout,
        target_layout: Layout,
        *,
        num_examples: int,
        accumulate: bool,
    ) -> ir.Function:
        """Writes f(input, gradient of the output, norm, keys, num_maps_before, gradient of the input)."""
        arguments = [POINTER, POINTER, POINTER, POINTER, I64, POINTER]
        e = Emitter(module, machine, name, arguments)
        source, output_gradient, norm, keys, first, target = e.args
        count = num_examples * self.input.height * self.input.width
        with e.loop(self.input.channels) as c:
            channel = self._channel(e, c, norm, keys, first)
            if self.has_norm:
                _, scale, gamma, _, plain, product = channel.norm
                factor = e.mul(scale, gamma)
                plain, product = (e.mul(total, e.const(1 / count)) for total in (plain, product))

            def put(row: Index, column: Index, gradient: ir.Value) -> None:
                if self.has_norm:
                    normal = self._normalised_input(e, channel, source, row, column)
                    rest = e.sub(e.sub(gradient, plain), e.mul(normal, product))
                    gradient = e.mul(factor, rest)
                    if self.stages_before_norm:
                        gradient = self._apply_to_input(e, self.stages_before_norm, channel, source, row, column)[1](
                            gradient
                        )
                place = target_layout.index(e, c, row, column)
                if accumulate:
                    gradient = e.add(gradient, e.load(target, place))
                e.store(gradient, target, place)

            with e.loop(self.rows) as y, e.loop(self.columns) as x:
                above = e.load(output_gradient, self.pooled_layout(output_gradient_layout).index(e, c, y, x))
                for (row, column), gradient in self._window_gradients(e, channel, source, above, y, x):
                    put(row, column, gradient)
            # Elements outside all windows have a gradient only through the statistics of the norm.
            covered_rows, covered_columns = self.rows * self.pool.size, self.columns * self.pool.size
            with e.loop(self.input.height - covered_rows) as y, e.loop(self.input.width) as x:
                put(e.affine((y, 1), (covered_rows, 1)), x, e.const(0))
            with e.loop(covered_rows) as y, e.loop(self.input.width - covered_columns) as x:
                put(y, e.affine((x, 1), (covered_columns, 1)), e.const(0))
        return e.finish()

    # -- parts of them ----------------------------------------------------------------------------------------

    def _channel(self, e: Emitter, c: Index, norm: ir.Value, keys: ir.Value, first: ir.Value) -> _Channel:
        kept: list[ir.Value] = []
        if self.has_norm:
            kept = [
                e.load_splat(norm, e.affine((c, 1), (kind * self.input.channels, 1))) for kind in range(NUM_NORM_VALUES)
            ]
        return _Channel(c, kept, keys, first)

    def _window(self, e: Emitter, y: Index, x: Index) -> list[tuple[Index, Index]]:
        size = self.pool.size
        return [
            (e.affine((y, size), (dy, 1)), e.affine((x, size), (dx, 1))) for dy in range(size) for dx in range(size)
        ]

    def _apply_to_input(
        self, e: Emitter, stages: Sequence[Stage], channel: _Channel, source: ir.Value, y: Index, x: Index
    ) -> tuple[ir.Value, GradientFunction]:
        """Applies `stages`, the first ones of the chain, to one vector of the input.

        Returns the result and a function that takes a gradient back through the activations and dropouts, but not
        through the norm.
        """
        value = e.load(source, self.input.index(e, channel.index, y, x))
        return self._apply_stages(e, stages, channel, value, y, x)

    def _apply_stages(
        self, e: Emitter, stages: Sequence[Stage], channel: _Channel, value: ir.Value, y: Index, x: Index
    ) -> tuple[ir.Value, GradientFunction]:
        slopes: list[ir.Value] = []
        for stage in stages:
            if isinstance(stage, Norm):
                mean, scale, gamma, beta = channel.norm[:4]
                value = e.fma(e.mul(e.sub(value, mean), scale), gamma, beta)
            elif isinstance(stage, Activation):
                function, slope = ACTIVATIONS[stage.name]
                slopes.append(slope(e, value))
                value = function(e, value)
            else:
                kept = self._dropout_factor(e, stage, channel, y, x)
                slopes.append(kept)
                value = e.mul(value, kept)

        def back(gradient: ir.Value) -> ir.Value:
            for slope in reversed(slopes):
                gradient = e.mul(gradient, slope)
            return gradient

        return value, back

    def _normalised_input(self, e: Emitter, channel: _Channel, source: ir.Value, y: Index, x: Index) -> ir.Value:
        """Returns the input of the norm, normalised to mean 0 and variance 1."""
        value, _ = self._apply_to_input(e, self.stages_before_norm, channel, source, y, x)
        return e.mul(e.sub(value, channel.norm[MEAN]), channel.norm[SCALE])

    def _window_gradients(
        self,
        e: Emitter,
        channel: _Channel,
        source: ir.Value,
        above: ir.Value,
        y: Index,
        x: Index,
    ) -> list[tuple[tuple[Index, Index], ir.Value]]:
        """Returns the places of a window, each with its part of the gradient, taken back to the output of the norm."""
        before = self.stages[: self.norm_index + 1] if self.has_norm else ()
        runs = []
        for place in self._window(e, y, x):
            value, _ = self._apply_to_input(e, before, channel, source, *place)
            runs.append((place, *self._apply_stages(e, self.stages_after_norm, channel, value, *place)))
        if len(runs) == 1:
            shares = [above]
        elif self.pool.kind == "avg":
            shares = [e.mul(above, e.const(1 / len(runs)))] * len(runs)
        else:  # the first of equal maxima receives all of it, as in torch
            b = e.builder
            largest = self._pool_window(e, [value for _, value, _ in runs])
            free = ir.Constant(ir.VectorType(ir.IntType(1), e.machine.lanes), [1] * e.machine.lanes)
            shares = []
            for _, value, _ in runs:
                hit = b.and_(free, b.fcmp_ordered("==", value, largest))
                free = b.and_(free, b.not_(hit))
                shares.append(b.select(hit, above, e.const(0)))
        return [(place, back(share)) for (place, _, back), share in zip(runs, shares, strict=True)]

    def _pool_window(self, e: Emitter, window: Sequence[ir.Value]) -> ir.Value:
        if self.pool.kind == "avg":
            return e.mul(reduce(e.add, window), e.const(1 / len(window)))
        return reduce(lambda largest, value: e.choose(">", value, largest, value, largest), window)

    def _dropout_factor(self, e: Emitter, stage: Dropout, channel: _Channel, y: Index, x: Index) -> ir.Value:
        """Returns 1 / (1 - rate) in lanes whose element dropout keeps, 0 in the others."""
        b, lanes = e.builder, e.machine.lanes
        height, width = (1, 1) if stage.per_channel else (self.input.height, self.input.width)
        y, x = (0, 0) if stage.per_channel else (y, x)
        element = e.affine(
            (channel.num_maps_before, height * width),
            (channel.index, height * width * lanes),
            (y, width * lanes),
            (x, lanes),
        )
        integers = ir.VectorType(I32, lanes)
        dropouts = [s for s in self.stages if isinstance(s, Dropout)]
        number = next(i for i, s in enumerate(dropouts) if s is stage)
        key = b.load(e.at(channel.keys, number), typ=I32, align=4)
        places = b.add(e.splat(b.trunc(e.index(element), I32)), ir.Constant(integers, [I32(i) for i in range(lanes)]))
        hashed = hash32(e, places, e.splat(key))
        # At least one of the 2**32 hashes is kept: -1 would be the largest threshold, which keeps all.
        threshold = ir.Constant(integers, [I32(max(1, round((1 - stage.rate) * 2**32)) - 1)] * lanes)
        keep = b.icmp_unsigned("<=", hashed, threshold)
        return b.select(keep, e.const(1 / (1 - stage.rate)), e.const(0))


def hash32(e: Emitter, x: ir.Value, key: ir.Value) -> ir.Value:
    """Returns a pseudorandom 32-bit hash of each 32-bit number; for each key, different numbers have different hashes.

    C. Wellons, "Prospecting for Hash Functions" (2018): the function lowbias32, here with a key.
    """
    b = e.builder

    def const(value: int) -> ir.Constant:
        return ir.Constant(x.type, [I32(value)] * e.machine.lanes)

    x = b.add(x, key)
    x = b.mul(b.xor(x, b.lshr(x, const(16))), const(0x7FEB352D))
    x = b.add(x, key)
    x = b.mul(b.xor(x, b.lshr(x, const(15))), const(0x846CA68B))
    return b.xor(x, b.lshr(x, const(16)))
