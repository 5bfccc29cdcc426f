"""Elementary functions on vectors, and activations with their derivatives."""

from collections.abc import Callable, Sequence

from llvmlite import ir

from nas.training.native.emit import I32, Emitter

Unary = Callable[[Emitter, ir.Value], ir.Value]


def polynomial(e: Emitter, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """Evaluates a polynomial by Horner's rule; the coefficient of the highest power comes first."""
    total = e.const(coefficients[0])
    for coefficient in coefficients[1:]:
        total = e.fma(total, x, e.const(coefficient))
    return total


def exp(e: Emitter, x: ir.Value) -> ir.Value:
    """Computes e**x within 2 units in the last place; x is clamped to -87..88, NaN stays NaN.

    x = n ln 2 + r with |r| <= ln 2 / 2: a Taylor polynomial of e**r times 2**n, which is made from exponent bits.
    """
    b = e.builder
    bounded = e.choose("<", x, e.const(-87.0), e.const(-87.0), x)
    bounded = e.choose(">", bounded, e.const(88.0), e.const(88.0), bounded)
    n = e.call_intrinsic("llvm.roundeven", e.mul(bounded, e.const(1.4426950408889634)))
    # ln 2 in two parts; the first has few bits, so that its product with n is exact.
    r = e.fma(n, e.const(-0.693359375), bounded)
    r = e.fma(n, e.const(2.12194440054690583e-4), r)
    grown = polynomial(e, r, [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0])
    integers = ir.VectorType(I32, e.machine.lanes)
    number = e.choose("ord", n, n, n, e.const(0))
    bits = b.shl(b.add(b.fptosi(number, integers), _integers(e, 127)), _integers(e, 23))
    return e.mul(grown, b.bitcast(bits, e.vector))


def log(e: Emitter, x: ir.Value) -> ir.Value:
    """Computes the natural logarithm within 3 units in the last place, for positive, normal x; NaN stays NaN.

    x = m 2**n with m in sqrt(1/2)..sqrt(2); log m = 2 artanh((m - 1) / (m + 1)) as a series.
    """
    b = e.builder
    integers = ir.VectorType(I32, e.machine.lanes)
    bits = b.bitcast(x, integers)
    # Exponent and mantissa, split so that the mantissa is in sqrt(1/2)..sqrt(2).
    shifted = b.sub(bits, _integers(e, 0x3F3504F3))  # the bits of sqrt(1/2)
    exponent = b.ashr(shifted, _integers(e, 23))
    mantissa = b.bitcast(b.sub(bits, b.shl(exponent, _integers(e, 23))), e.vector)
    s = e.div(e.sub(mantissa, e.const(1)), e.add(mantissa, e.const(1)))
    series = polynomial(e, e.mul(s, s), [2 / 11, 2 / 9, 2 / 7, 2 / 5, 2 / 3, 2.0])
    result = e.fma(b.sitofp(exponent, e.vector), e.const(0.6931471805599453), e.mul(series, s))
    return e.choose("ord", x, x, result, x)


def _integers(e: Emitter, value: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, e.machine.lanes), [I32(value)] * e.machine.lanes)


def sigmoid(e: Emitter, x: ir.Value) -> ir.Value:
    """Computes 1 / (1 + e**-x)."""
    return e.div(e.const(1), e.add(e.const(1), exp(e, e.sub(e.const(0), x))))


def erf(e: Emitter, x: ir.Value) -> ir.Value:
    """Computes the error function within 5e-7, most of which is rounding.

    M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 7.1.26.
    """
    size = e.call_intrinsic("llvm.fabs", x)
    t = e.div(e.const(1), e.fma(size, e.const(0.3275911), e.const(1)))
    series = polynomial(e, t, [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592, 0.0])
    positive = e.sub(e.const(1), e.mul(series, exp(e, e.sub(e.const(0), e.mul(x, x)))))
    return e.choose("<", x, e.const(0), e.sub(e.const(0), positive), positive)


def _relu(e: Emitter, x: ir.Value) -> ir.Value:
    return e.choose("<", x, e.const(0), e.const(0), x)


def _relu_slope(e: Emitter, x: ir.Value) -> ir.Value:
    return e.choose(">", x, *e.constants(0, 1, 0))


def _leaky_relu(e: Emitter, x: ir.Value) -> ir.Value:
    return e.choose(">", x, e.const(0), x, e.mul(x, e.const(0.01)))


def _leaky_relu_slope(e: Emitter, x: ir.Value) -> ir.Value:
    return e.choose(">", x, *e.constants(0, 1, 0.01))


def _silu(e: Emitter, x: ir.Value) -> ir.Value:
    return e.mul(x, sigmoid(e, x))


def _silu_slope(e: Emitter, x: ir.Value) -> ir.Value:
    s = sigmoid(e, x)
    return e.mul(s, e.fma(x, e.sub(e.const(1), s), e.const(1)))


def _hardswish(e: Emitter, x: ir.Value) -> ir.Value:
    gate = e.choose("<", e.add(x, e.const(3)), e.const(0), e.const(0), e.add(x, e.const(3)))
    gate = e.choose(">", gate, e.const(6), e.const(6), gate)
    return e.mul(e.mul(x, gate), e.const(1 / 6))


def _hardswish_slope(e: Emitter, x: ir.Value) -> ir.Value:
    inside = e.choose("<", x, e.const(3), e.fma(x, e.const(1 / 3), e.const(0.5)), e.const(1))
    return e.choose("<=", x, e.const(-3), e.const(0), inside)


def _gelu(e: Emitter, x: ir.Value) -> ir.Value:
    return e.mul(x, _normal_cdf(e, x))


def _gelu_slope(e: Emitter, x: ir.Value) -> ir.Value:
    density = e.mul(e.const(0.3989422804014327), exp(e, e.mul(e.mul(x, x), e.const(-0.5))))
    return e.fma(x, density, _normal_cdf(e, x))


def _normal_cdf(e: Emitter, x: ir.Value) -> ir.Value:
    return e.fma(erf(e, e.mul(x, e.const(0.7071067811865476))), *e.constants(0.5, 0.5))


ACTIVATIONS: dict[str, tuple[Unary, Unary]] = {
    "relu": (_relu, _relu_slope),
    "leaky_relu": (_leaky_relu, _leaky_relu_slope),
    "silu": (_silu, _silu_slope),
    "hardswish": (_hardswish, _hardswish_slope),
    "gelu": (_gelu, _gelu_slope),
}
"""Each activation's function and derivative, by name."""
