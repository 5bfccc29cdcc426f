"""C99 kernels of exported networks; a generated file contains only those that it calls.

Feature maps are arrays [channel][row][column]. Kernels without `restrict` pointers may write over their input.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """C source, and the names of the kernels that must be defined before it."""

    text: str
    dependencies: tuple[str, ...] = ()


def kernel_sources(names: Iterable[str], kernels: Mapping[str, Kernel]) -> list[str]:
    """Returns the source of the named kernels and of those that they need, in the order of `kernels`."""
    needed = set(_with_dependencies(names, kernels))
    return [kernel.text for name, kernel in kernels.items() if name in needed]


def _with_dependencies(names: Iterable[str], kernels: Mapping[str, Kernel]) -> Iterator[str]:
    for name in names:
        yield name
        yield from _with_dependencies(kernels[name].dependencies, kernels)


def _elementwise_kernel(name: str, comment: str, expression: str) -> Kernel:
    """Returns an elementwise kernel; the C `expression` gives the output for an element `x`."""
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


def _pooling_kernel(name: str, comment: str, start: str, each: str, result: str) -> Kernel:
    """Returns a pooling kernel: C text for the initial `value`, its update per element, and the output."""
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
        dependencies=("shape", "window", "clip"),
    )


KERNELS: dict[str, Kernel] = {
    "shape": Kernel("""\
struct shape {
    int channels, height, width;
};
"""),
    "window": Kernel("""\
/* Square window; padding counts rows above and columns left of the map. */
struct window {
    int size, stride, padding, dilation;
};
"""),
    "clip": Kernel("""\
/* Clamps position to 0..end. */
static int clip(int position, int end)
{
    return position < 0 ? 0 : position < end ? position : end;
}
"""),
    "steps_before": Kernel(
        """\
/* Number of the positions 0, stride, 2 * stride, ... below the given one, at most count. */
static int steps_before(int position, int stride, int count)
{
    return position <= 0 ? 0 : clip((position + stride - 1) / stride, count);
}
""",
        dependencies=("clip",),
    ),
    "normalise": Kernel("""\
/* Scales and shifts pixels 0 to 255 per channel. */
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
/* 2-d convolution; weight[out channel][in channel of the group][row][column], bias may be a null pointer.
 * Each weight is applied to all outputs in turn, except to those for which it meets padding.
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
        dependencies=("shape", "window", "steps_before"),
    ),
    "linear": Kernel("""\
/* Fully connected layer; weight[out feature][in feature], bias may be a null pointer. */
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
/* Scales and shifts each channel: a batch norm that is not folded into a layer. */
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
    "relu": _elementwise_kernel("relu", "Rectified linear unit.", "x > 0.0f ? x : 0.0f"),
    "leaky_relu": _elementwise_kernel(
        "leaky_relu", "Leaky rectified linear unit, slope 0.01 below 0.", "x > 0.0f ? x : 0.01f * x"
    ),
    "gelu": _elementwise_kernel(
        "gelu", "x times the normal distribution function at x.", "0.5f * x * (1.0f + erff(x * 0.70710678f))"
    ),
    "silu": _elementwise_kernel("silu", "x times the logistic sigmoid of x.", "x / (1.0f + expf(-x))"),
    "hardswish": _elementwise_kernel(
        "hardswish",
        "x times a ramp from 0 at -3 to 1 at 3.",
        "x <= -3.0f ? 0.0f : x >= 3.0f ? x : x * (x + 3.0f) / 6.0f",
    ),
    "sigmoid": _elementwise_kernel("sigmoid", "Logistic sigmoid.", "1.0f / (1.0f + expf(-x))"),
    "max_pool": _pooling_kernel(
        "max_pool",
        "Maximum of each window, without padding; every window overlaps the map.",
        "map[first_row * in.width + first]",
        "value = map[y * in.width + x] > value ? map[y * in.width + x] : value;",
        "value",
    ),
    "average_pool": _pooling_kernel(
        "average_pool",
        "Mean of each window; padding counts as 0.",
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
/* Multiplies each channel by its gate. */
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
/* Index of the largest value, the first one if several are equal. */
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

MATHEMATICAL = ("gelu", "silu", "sigmoid")  # kernels that call functions of <math.h>
