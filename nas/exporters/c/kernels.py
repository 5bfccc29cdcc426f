"""The C99 functions that exported networks are made of; a file holds those it calls.

Maps are arrays [channel][row][column]. Those whose pointers are `restrict` may not write over their input, others may.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """C text, and the names of the kernels that it needs before it."""

    text: str
    needs: tuple[str, ...] = ()


def with_needs(names: Iterable[str]) -> list[str]:
    """The texts of the named kernels and of all that they need, in the order of `KERNELS`."""
    needed = set(_needs(names))
    return [kernel.text for name, kernel in KERNELS.items() if name in needed]


def _needs(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield name
        yield from _needs(KERNELS[name].needs)


def _of_each_number(name: str, comment: str, expression: str) -> Kernel:
    """A function of each number `x`."""
    return Kernel(f"""\
/* {comment} */
static void {name}(const float *input, float *output, int count)
{{
    for (int i = 0; i < count; i++) {{
        const float x = input[i];
        output[i] = {expression};
    }}
}}
""")


def _pool(name: str, comment: str, start: str, each: str, result: str) -> Kernel:
    """A number for each window, from `start`, with `each` of its numbers `x` taken into account."""
    return Kernel(
        f"""\
/* {comment} */
static void {name}(const float *restrict input, struct shape in,
{" " * (len(name) + 13)}float *restrict output, struct shape out, struct window window)
{{
    for (int channel = 0; channel < out.channels; channel++) {{
        const float *map = input + channel * in.height * in.width;
        for (int row = 0; row < out.height; row++) {{
            const int top = row * window.stride - window.padding;
            const int first_row = clip(top, in.height), end_row = clip(top + window.size, in.height);
            for (int column = 0; column < out.width; column++) {{
                const int left = column * window.stride - window.padding;
                const int first = clip(left, in.width), end = clip(left + window.size, in.width);
                float value = {start};
                for (int y = first_row; y < end_row; y++) {{
                    for (int x = first; x < end; x++) {{
                        {each}
                    }}
                }}
                *output++ = {result};
            }}
        }}
    }}
}}
""",
        needs=("shape", "window", "clip"),
    )


KERNELS: dict[str, Kernel] = {
    "shape": Kernel("""\
struct shape {
    int channels, height, width;
};
"""),
    "window": Kernel("""\
/* A square window; padding is what lies above and to the left of the map. */
struct window {
    int size, stride, padding, dilation;
};
"""),
    "clip": Kernel("""\
/* The nearest of 0 to end. */
static int clip(int position, int end)
{
    return position < 0 ? 0 : position < end ? position : end;
}
"""),
    "steps_before": Kernel(
        """\
/* How many of the positions 0, stride, 2 * stride, ... lie before the given one: count at most. */
static int steps_before(int position, int stride, int count)
{
    return position <= 0 ? 0 : clip((position + stride - 1) / stride, count);
}
""",
        needs=("clip",),
    ),
    "normalise": Kernel("""\
/* Pixels of 0 to 255 to numbers, scaled and shifted per channel. */
static void normalise(const unsigned char *pixels, float *output, int channels, int plane,
                      const float *scale, const float *shift)
{
    for (int channel = 0; channel < channels; channel++) {
        for (int i = 0; i < plane; i++) {
            *output++ = (float)*pixels++ * scale[channel] + shift[channel];
        }
    }
}
"""),
    "convolve": Kernel(
        """\
/* 2-d convolution; weight[out channel][in channel of the group][row][column], bias may be 0.
 * What the map gives through one weight is added to all outputs at once, but for those that see padding through it.
 */
static void convolve(const float *restrict input, struct shape in, float *restrict output, struct shape out,
                     struct window window, int groups, const float *weight, const float *bias)
{
    const int in_plane = in.height * in.width, out_plane = out.height * out.width;
    const int group_inputs = in.channels / groups, group_outputs = out.channels / groups;
    for (int channel = 0; channel < out.channels; channel++) {
        float *sums = output + channel * out_plane;
        for (int i = 0; i < out_plane; i++) {
            sums[i] = bias ? bias[channel] : 0.0f;
        }
        for (int source = 0; source < group_inputs; source++) {
            const float *map = input + (channel / group_outputs * group_inputs + source) * in_plane;
            for (int row = 0; row < window.size; row++) {
                const int down = row * window.dilation - window.padding;
                const int first_row = steps_before(-down, window.stride, out.height);
                const int end_row = steps_before(in.height - down, window.stride, out.height);
                for (int column = 0; column < window.size; column++) {
                    const int right = column * window.dilation - window.padding;
                    const int first = steps_before(-right, window.stride, out.width);
                    const int count = steps_before(in.width - right, window.stride, out.width) - first;
                    const float factor = *weight++;
                    for (int y = first_row; y < end_row && count > 0; y++) {
                        const float *from = map + (y * window.stride + down) * in.width
                                            + first * window.stride + right;
                        float *to = sums + y * out.width + first;
                        for (int i = 0; i < count; i++) {
                            to[i] += factor * from[i * window.stride];
                        }
                    }
                }
            }
        }
    }
}
""",
        needs=("shape", "window", "steps_before"),
    ),
    "linear": Kernel("""\
/* Fully connected; weight[out feature][in feature], bias may be 0. */
static void linear(const float *restrict input, int in_features, float *restrict output, int out_features,
                   const float *weight, const float *bias)
{
    for (int feature = 0; feature < out_features; feature++) {
        float sum = bias ? bias[feature] : 0.0f;
        for (int i = 0; i < in_features; i++) {
            sum += *weight++ * input[i];
        }
        output[feature] = sum;
    }
}
"""),
    "scale_channels": Kernel("""\
/* A batch norm that is part of no layer before it: each channel scaled and shifted. */
static void scale_channels(const float *input, float *output, int channels, int plane,
                           const float *scale, const float *shift)
{
    for (int channel = 0; channel < channels; channel++) {
        for (int i = 0; i < plane; i++) {
            *output++ = *input++ * scale[channel] + shift[channel];
        }
    }
}
"""),
    "relu": _of_each_number("relu", "Rectified linear unit.", "x > 0.0f ? x : 0.0f"),
    "leaky_relu": _of_each_number(
        "leaky_relu", "Rectified linear unit of slope 0.01 below 0.", "x > 0.0f ? x : 0.01f * x"
    ),
    "gelu": _of_each_number(
        "gelu", "x times the normal distribution's share below x.", "0.5f * x * (1.0f + erff(x * 0.70710678f))"
    ),
    "silu": _of_each_number("silu", "x times its logistic sigmoid.", "x / (1.0f + expf(-x))"),
    "hardswish": _of_each_number(
        "hardswish",
        "x times a ramp from 0 at -3 to 1 at 3.",
        "x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * (x + 3.0f) / 6.0f",
    ),
    "sigmoid": _of_each_number("sigmoid", "Logistic sigmoid.", "1.0f / (1.0f + expf(-x))"),
    "max_pool": _pool(
        "max_pool",
        "The largest number of each window, of which at least one is inside the map.",
        "map[first_row * in.width + first]",
        "value = map[y * in.width + x] > value ? map[y * in.width + x] : value;",
        "value",
    ),
    "average_pool": _pool(
        "average_pool",
        "The mean of each window, padding counted as 0.",
        "0.0f",
        "value += map[y * in.width + x];",
        "value / (float)(window.size * window.size)",
    ),
    "channel_means": Kernel("""\
static void channel_means(const float *restrict input, float *restrict output, int channels, int plane)
{
    for (int channel = 0; channel < channels; channel++) {
        float sum = 0.0f;
        for (int i = 0; i < plane; i++) {
            sum += *input++;
        }
        output[channel] = sum / (float)plane;
    }
}
"""),
    "gate_channels": Kernel("""\
/* Each channel times a number of its own. */
static void gate_channels(const float *input, const float *gates, float *output, int channels, int plane)
{
    for (int channel = 0; channel < channels; channel++) {
        const float gate = gates[channel];
        for (int i = 0; i < plane; i++) {
            *output++ = *input++ * gate;
        }
    }
}
"""),
    "add": Kernel("""\
static void add(const float *left, const float *right, float *output, int count)
{
    for (int i = 0; i < count; i++) {
        output[i] = left[i] + right[i];
    }
}
"""),
    "index_of_largest": Kernel("""\
/* The first where several are. */
static int index_of_largest(const float *values, int count)
{
    int largest = 0;
    for (int i = 1; i < count; i++) {
        if (values[i] > values[largest]) {
            largest = i;
        }
    }
    return largest;
}
"""),
}

MATHEMATICAL = ("gelu", "silu", "sigmoid")  # those that call functions of <math.h>
