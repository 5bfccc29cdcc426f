"""Kernels that reduce or copy: global average pooling, sums, the loss, batch norm statistics, addition and copying."""

from llvmlite import ir

from nas.training.native.emit import F32, F64, I32, I64, POINTER, Emitter, Machine
from nas.training.native.functions import exp, log
from nas.training.native.layout import Layout
from nas.training.native.pointwise import BETA, GAMMA, MEAN, PRODUCT_SUM, SCALE, SUM


def mean(module: ir.Module, machine: Machine, name: str, input_: Layout, output: Layout) -> ir.Function:
    """Writes f(input, output): the mean of each channel."""
    e = Emitter(module, machine, name, [POINTER, POINTER])
    source, target = e.args
    with e.loop(input_.channels) as c:
        total = e.variable(e.vector, e.const(0))
        with e.loop(input_.height) as y, e.loop(input_.width) as x:
            e.add_to(total, e.load(source, input_.index(e, c, y, x)))
        share = e.const(1 / (input_.height * input_.width))
        e.store(e.mul(e.load_variable(total), share), target, output.index(e, c, 0, 0))
    return e.finish()


def mean_gradient(
    module: ir.Module, machine: Machine, name: str, source_layout: Layout, target_layout: Layout, *, accumulate: bool
) -> ir.Function:
    """Writes f(gradient of the output, gradient of the input): the backward pass of `mean`."""
    e = Emitter(module, machine, name, [POINTER, POINTER])
    source, target = e.args
    share = e.const(1 / (target_layout.height * target_layout.width))
    with e.loop(target_layout.channels) as c:
        gradient = e.mul(e.load(source, source_layout.index(e, c, 0, 0)), share)
        with e.loop(target_layout.height) as y, e.loop(target_layout.width) as x:
            _put(e, gradient, target, target_layout.index(e, c, y, x), accumulate=accumulate)
    return e.finish()


def add(module: ir.Module, machine: Machine, name: str, left: Layout, right: Layout, output: Layout) -> ir.Function:
    """Writes f(left, right, output): the sum."""
    e = Emitter(module, machine, name, [POINTER, POINTER, POINTER])
    a, b, target = e.args
    with e.loop(output.channels) as c, e.loop(output.height) as y, e.loop(output.width) as x:
        total = e.add(e.load(a, left.index(e, c, y, x)), e.load(b, right.index(e, c, y, x)))
        e.store(total, target, output.index(e, c, y, x))
    return e.finish()


def copy(module: ir.Module, machine: Machine, name: str, from_: Layout, to: Layout, *, accumulate: bool) -> ir.Function:
    """Writes f(from, to): copies; with `accumulate`, adds to the target."""
    e = Emitter(module, machine, name, [POINTER, POINTER])
    source, target = e.args
    with e.loop(to.channels) as c, e.loop(to.height) as y, e.loop(to.width) as x:
        _put(e, e.load(source, from_.index(e, c, y, x)), target, to.index(e, c, y, x), accumulate=accumulate)
    return e.finish()


def _put(e: Emitter, value: ir.Value, target: ir.Value, place: ir.Value, *, accumulate: bool) -> None:
    e.store(e.add(value, e.load(target, place)) if accumulate else value, target, place)


def loss(
    module: ir.Module,
    machine: Machine,
    name: str,
    logits: Layout,
    gradients: Layout,
    *,
    label_smoothing: float,
    num_examples: int,
) -> ir.Function:
    """Writes f(logits, labels, gradient of the logits, results): cross entropy and accuracy of a block.

    The gradient is that of the mean loss over `num_examples`. results: two doubles, to which the sum of the losses and
    the number of correct predictions are added. A label of -1 marks a lane without an example.
    """
    e = Emitter(module, machine, name, [POINTER] * 4)
    b = e.builder
    source, labels, target, results = e.args
    integers = ir.VectorType(I32, machine.lanes)
    num_classes = logits.channels
    wanted = b.load(labels, typ=integers, align=4)
    real = b.icmp_signed(">=", wanted, ir.Constant(integers, [I32(0)] * machine.lanes))
    scores = [e.load(source, logits.index(e, c, 0, 0)) for c in range(num_classes)]
    is_wanted = [
        b.icmp_signed("==", wanted, ir.Constant(integers, [I32(c)] * machine.lanes)) for c in range(num_classes)
    ]
    largest, chosen = scores[0], is_wanted[0]
    for score, hit in zip(scores[1:], is_wanted[1:], strict=True):  # of equal logits the first, as argmax does
        larger = b.fcmp_ordered(">", score, largest)
        largest = b.select(larger, score, largest)
        chosen = b.select(larger, hit, chosen)
    # loss = sum of share * (log of the sum of all e**score - score); the largest score is subtracted for range.
    exponentials = [exp(e, e.sub(score, largest)) for score in scores]
    total = exponentials[0]
    for exponential in exponentials[1:]:
        total = e.add(total, exponential)
    log_total = e.add(log(e, total), largest)
    inverse = e.div(e.const(1), total)
    even = label_smoothing / num_classes
    sums = e.const(0)
    places = [gradients.index(e, c, 0, 0) for c in range(num_classes)]
    for place, score, hit, exponential in zip(places, scores, is_wanted, exponentials, strict=True):
        share = b.select(hit, e.const(1 - label_smoothing + even), e.const(even))  # that the class has in the label
        sums = e.fma(share, e.sub(log_total, score), sums)
        gradient = e.mul(e.fma(exponential, inverse, e.sub(e.const(0), share)), e.const(1 / num_examples))
        e.store(b.select(real, gradient, e.const(0)), target, place)
    chosen = b.and_(chosen, real)
    for index, vector in ((0, b.select(real, sums, e.const(0))), (1, b.select(chosen, e.const(1), e.const(0)))):
        place = b.gep(results, [I64(index)], source_etype=F64)
        b.store(b.fadd(b.load(place, typ=F64), b.fpext(e.sum_lanes(vector), F64)), place)
    return e.finish()


def norm_statistics(
    module: ir.Module,
    machine: Machine,
    name: str,
    *,
    channels: int,
    num_blocks: int,
    block_count: int,
    eps: float,
    momentum: float,
) -> ir.Function:
    """Writes f(statistics of the blocks, weight, bias, running mean, running variance, norm).

    It stores in `norm` what the forward pass needs, sets the gradient sums there to 0 and updates the running
    statistics. Mean and variance of the batch are combined, in doubles, from blocks of `block_count` numbers each: T.
    Chan, G. Golub and R. LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
    """
    e = Emitter(module, machine, name, [POINTER] * 6)
    b = e.builder
    statistics, weight, bias, running_mean, running_variance, norm = e.args
    count = num_blocks * block_count
    zero = ir.Constant(F64, 0.0)
    with e.loop(channels) as c:

        def number(kind: int, block: ir.Value, c: ir.Value = c) -> ir.Value:
            return b.fpext(e.scalar(statistics, e.affine((block, 2 * channels), (c, 2), (kind, 1))), F64)

        def keep(value: ir.Value, kind: int, c: ir.Value = c) -> None:
            b.store(value, e.at(norm, e.affine((c, 1), (kind * channels, 1))), align=4)

        total, squares = e.variable(F64, zero), e.variable(F64, zero)
        with e.loop(num_blocks) as block:
            b.store(b.fadd(b.load(total, typ=F64), number(0, block)), total)
        centre = b.fdiv(b.load(total, typ=F64), ir.Constant(F64, float(num_blocks)))
        with e.loop(num_blocks) as block:
            deviation = b.fsub(number(0, block), centre)
            between = b.fmul(b.fmul(deviation, deviation), ir.Constant(F64, float(block_count)))
            b.store(b.fadd(b.load(squares, typ=F64), b.fadd(number(1, block), between)), squares)
        squared = b.load(squares, typ=F64)
        variance = b.fdiv(squared, ir.Constant(F64, float(count)))
        root = b.call(
            module.globals.get("llvm.sqrt.f64") or ir.Function(module, ir.FunctionType(F64, [F64]), "llvm.sqrt.f64"),
            [b.fadd(variance, ir.Constant(F64, eps))],
        )
        keep(b.fptrunc(centre, F32), MEAN)
        keep(b.fptrunc(b.fdiv(ir.Constant(F64, 1.0), root), F32), SCALE)
        keep(e.scalar(weight, c), GAMMA)
        keep(e.scalar(bias, c), BETA)
        for kind in (SUM, PRODUCT_SUM):
            keep(ir.Constant(F32, 0.0), kind)
        unbiased = b.fdiv(squared, ir.Constant(F64, float(max(1, count - 1))))
        for place, found in ((running_mean, centre), (running_variance, unbiased)):
            before = b.fmul(b.fpext(e.scalar(place, c), F64), ir.Constant(F64, 1 - momentum))
            after = b.fadd(before, b.fmul(found, ir.Constant(F64, momentum)))
            b.store(b.fptrunc(after, F32), e.at(place, c), align=4)
    return e.finish()


def norm_running(module: ir.Module, machine: Machine, name: str, *, channels: int, eps: float) -> ir.Function:
    """Writes f(weight, bias, running mean, running variance, norm): stores in `norm` what an evaluation needs."""
    e = Emitter(module, machine, name, [POINTER] * 5)
    b = e.builder
    weight, bias, running_mean, running_variance, norm = e.args
    with e.loop(channels) as c:
        root = e.call_intrinsic("llvm.sqrt", b.fadd(e.scalar(running_variance, c), ir.Constant(F32, eps)))
        scale = b.fdiv(ir.Constant(F32, 1.0), root)
        kept = {MEAN: e.scalar(running_mean, c), SCALE: scale, GAMMA: e.scalar(weight, c), BETA: e.scalar(bias, c)}
        for kind, value in kept.items():
            b.store(value, e.at(norm, e.affine((c, 1), (kind * channels, 1))), align=4)
    return e.finish()


def norm_gradients(module: ir.Module, machine: Machine, name: str, *, channels: int) -> ir.Function:
    """Writes f(norm, gradient of the weight, gradient of the bias): adds the sums of the batch to both gradients."""
    e = Emitter(module, machine, name, [POINTER] * 3)
    norm, weight, bias = e.args
    with e.loop(channels) as c:
        e.add_scalar(e.scalar(norm, e.affine((c, 1), (PRODUCT_SUM * channels, 1))), weight, c)
        e.add_scalar(e.scalar(norm, e.affine((c, 1), (SUM * channels, 1))), bias, c)
    return e.finish()
