"""C99 kernels of int8 networks; a generated file contains only those that it calls.

Feature maps are arrays [channel][row][column]. `FLASH` stands before constants: on AVR they lie in another address
space. An `int` may have 16 bits: products of a weight and a value fit, sums have 32 bits.
"""

import numpy as np

from nas.exporters.c.kernels import KERNELS, Kernel

PIXEL, INT8, INT16 = "uint8_t", "int8_t", "int16_t"
TYPES = {np.dtype(np.int8): INT8, np.dtype(np.int16): INT16}
LIMITS = {INT8: (-128, 127), INT16: (-32767, 32767)}


def convolution_kernel(name: str, source: str, target: str) -> Kernel:
    """Returns a kernel for all convolutions, from pixels or int8 values to int8 values or int16 logits."""
    pixels = source == PIXEL
    comment = "Pixels have a zero for each channel." if pixels else "Padding is the zero of the input."
    zero = "const FLASH uint8_t *zeros" if pixels else "int zero"
    return Kernel(
        f"""\
/* 2-d convolution; weight[out channel][in channel of the group][row][column]. {comment} */
static void {name}(const {source} *restrict input, struct shape in, {target} *restrict output, struct shape out,
{" " * (len(name) + 13)}struct window window, int groups, {zero}, const FLASH int8_t *weight,
{" " * (len(name) + 13)}struct rescaling rescaling, int low, int out_zero)
{{
    const int in_plane = in.height * in.width, taps = window.size * window.size;
    const int reach = window.dilation * (window.size - 1) + 1;
    const int group_inputs = in.channels / groups, group_outputs = out.channels / groups;
    for (int channel = 0; channel < out.channels; channel++) {{
        const int first_source = channel / group_outputs * group_inputs;
        for (int row = 0; row < out.height; row++) {{
            const int top = row * window.stride - window.padding;
            int first_row = 0, end_row = window.size;
            if (top < 0 || top + reach > in.height) {{
                first_row = steps_before(-top, window.dilation, window.size);
                end_row = steps_before(in.height - top, window.dilation, window.size);
            }}
            for (int column = 0; column < out.width; column++) {{
                const int left = column * window.stride - window.padding;
                int first = 0, end = window.size;
                if (left < 0 || left + reach > in.width) {{
                    first = steps_before(-left, window.dilation, window.size);
                    end = steps_before(in.width - left, window.dilation, window.size);
                }}
                const {source} *map = input + first_source * in_plane + left + first * window.dilation;
                const FLASH int8_t *filter = weight + first;
                int32_t sum = rescaling.bias[channel];
                for (int source = 0; source < group_inputs; source++) {{
{"                    const int zero = zeros[first_source + source];" + chr(10) if pixels else ""}\
                    for (int y = first_row; y < end_row; y++) {{
                        const {source} *from = map + (top + y * window.dilation) * in.width;
                        const FLASH int8_t *factor = filter + y * window.size;
                        for (int x = first; x < end; x++) {{
                            sum += *factor++ * (*from - zero);
                            from += window.dilation;
                        }}
                    }}
                    map += in_plane;
                    filter += taps;
                }}
                *output++ = ({target})clamp(rescale(sum, rescaling, channel) + out_zero, low, {LIMITS[target][1]});
            }}
        }}
        weight += group_inputs * taps;
    }}
}}
""",
        dependencies=("shape", "window", "steps_before", "rescale", "clamp"),
    )


def pointwise_kernel(name: str, target: str) -> Kernel:
    """Returns a kernel for 1x1 convolutions and fully connected layers, to int8 values or int16 logits."""
    return Kernel(
        f"""\
/* Mixes channels at each point of a map: a 1x1 convolution, or a fully connected layer on maps of one point.
 * Two output channels at a time; the zero of the input is part of the biases.
 */
static void {name}(const int8_t *restrict input, int in_channels, {target} *restrict output, int out_channels,
{" " * (len(name) + 13)}int plane, const FLASH int8_t *weight, struct rescaling rescaling, int low, int out_zero)
{{
    for (int channel = 0; channel < out_channels; channel += 2) {{
        const int next = channel + 1 < out_channels; /* 0 for the last of an odd number */
        const FLASH int8_t *const left = weight + channel * in_channels, *const right = left + next * in_channels;
        for (int point = 0; point < plane; point++) {{
            const int8_t *from = input + point;
            int32_t sum = rescaling.bias[channel], next_sum = rescaling.bias[channel + next];
            for (int source = 0; source < in_channels; source++) {{
                const int value = *from;
                sum += left[source] * value;
                next_sum += right[source] * value;
                from += plane;
            }}
            output[next * plane + point] =
                ({target})clamp(rescale(next_sum, rescaling, channel + next) + out_zero, low, {LIMITS[target][1]});
            output[point] = ({target})clamp(rescale(sum, rescaling, channel) + out_zero, low, {LIMITS[target][1]});
        }}
        output += 2 * plane;
    }}
}}
""",
        dependencies=("rescale", "clamp"),
    )


def pool_kernel(
    name: str,
    target: str,
    *,
    comment: str,
    arguments: str,
    start: str,
    each: str,
    result: str,
    dependencies: tuple[str, ...],
) -> Kernel:
    """Returns a pooling kernel, to int8 values or int16 logits.

    `start`, `each` and `result` are C text: the declaration of the number that a window gives, its update with the
    element at `y`, `x`, and the output. `arguments` follow those of every pool.
    """
    return Kernel(
        f"""\
/* {comment} */
static void {name}(const int8_t *restrict input, struct shape in, {target} *restrict output, struct shape out,
{" " * (len(name) + 13)}struct pool window{arguments})
{{
    for (int channel = 0; channel < out.channels; channel++) {{
        for (int row = 0; row < out.height; row++) {{
            const int top = row * window.stride - window.padding;
            const int first_row = clip(top, in.height), end_row = clip(top + window.height, in.height);
            for (int column = 0; column < out.width; column++) {{
                const int left = column * window.stride - window.padding;
                const int first = clip(left, in.width), end = clip(left + window.width, in.width);
                {start};
                for (int y = first_row; y < end_row; y++) {{
                    for (int x = first; x < end; x++) {{
                        {each};
                    }}
                }}
                *output++ = {result};
            }}
        }}
        input += in.height * in.width;
    }}
}}
""",
        dependencies=("shape", "pool", "clip", *dependencies),
    )


def average_kernel(name: str, target: str) -> Kernel:
    """Returns a kernel for average pooling, to int8 values or int16 logits."""
    return pool_kernel(
        name,
        target,
        comment="Mean of each window; padding counts as 0. The rescaling divides by the window's size.",
        arguments=", int zero, struct rescaling rescaling, int low, int out_zero",
        start="int32_t sum = 0",
        each="sum += input[y * in.width + x] - zero",
        result=f"({target})clamp(rescale(sum, rescaling, 0) + out_zero, low, {LIMITS[target][1]})",
        dependencies=("rescale", "clamp"),
    )


def table_kernel(name: str, target: str, comment: str) -> Kernel:
    """Returns a kernel that replaces each value by an entry of a table of int8 values or int16 logits."""
    return Kernel(f"""\
{comment}static void {name}(const int8_t *input, {target} *output, int count, const FLASH {target} *table)
{{
    for (int i = 0; i < count; i++) {{
        output[i] = table[input[i] + 128];
    }}
}}
""")


INT8_KERNELS: dict[str, Kernel] = {
    **{name: KERNELS[name] for name in ("shape", "window", "clip", "steps_before")},
    "pool": Kernel("""\
/* Window of a pool; padding counts rows above and columns left of the map. */
struct pool {
    int height, width, stride, padding;
};
"""),
    "rescaling": Kernel("""\
/* Rescales sums: (sum * multiplier + 2^(shift - 1)) / 2^shift, rounded down, for each channel. */
struct rescaling {
    const FLASH int32_t *bias, *multiplier;
    const FLASH int8_t *shift;
};

typedef char right_shifts_of_negative_numbers_must_keep_the_sign[(-1 >> 1) == -1 ? 1 : -1];
"""),
    "rescale": Kernel(
        """\
static int32_t rescale(int32_t sum, struct rescaling rescaling, int channel)
{
    const int shift = rescaling.shift[channel];
    return (int32_t)(((int64_t)sum * rescaling.multiplier[channel] + ((int64_t)1 << (shift - 1))) >> shift);
}
""",
        dependencies=("rescaling",),
    ),
    "clamp": Kernel("""\
static int clamp(int32_t value, int low, int high)
{
    return value < low ? low : value > high ? high : (int)value;
}
"""),
    "convolve_pixels": convolution_kernel("convolve_pixels", PIXEL, INT8),
    "convolve_pixels_to_logits": convolution_kernel("convolve_pixels_to_logits", PIXEL, INT16),
    "convolve": convolution_kernel("convolve", INT8, INT8),
    "convolve_to_logits": convolution_kernel("convolve_to_logits", INT8, INT16),
    "mix_channels": pointwise_kernel("mix_channels", INT8),
    "mix_channels_to_logits": pointwise_kernel("mix_channels_to_logits", INT16),
    "average": average_kernel("average", INT8),
    "average_to_logits": average_kernel("average_to_logits", INT16),
    "max_pool": pool_kernel(
        "max_pool",
        INT8,
        comment="Maximum of each window, without padding; every window overlaps the map.",
        arguments="",
        start="int8_t value = -128",
        each="value = input[y * in.width + x] > value ? input[y * in.width + x] : value",
        result="value",
        dependencies=(),
    ),
    "look_up": table_kernel(
        "look_up", INT8, "/* Activation function: the output for each input from -128 to 127. */\n"
    ),
    "look_up_logits": table_kernel("look_up_logits", INT16, ""),
    "gate_channels": Kernel(
        """\
/* Multiplies each channel by its gate. */
static void gate_channels(const int8_t *input, const int8_t *gates, int8_t *output, int channels, int plane,
                          int zero, int gate_zero, struct rescaling rescaling, int low, int out_zero)
{
    for (int channel = 0; channel < channels; channel++) {
        const int gate = gates[channel] - gate_zero;
        for (int i = 0; i < plane; i++) {
            const int32_t product = (int32_t)gate * (*input++ - zero);
            *output++ = (int8_t)clamp(rescale(product, rescaling, 0) + out_zero, low, 127);
        }
    }
}
""",
        dependencies=("rescale", "clamp"),
    ),
    "add": Kernel(
        """\
/* Sum of two values of different scales; the shift of both is the same. */
static void add(const int8_t *left, const int8_t *right, int8_t *output, int count, int left_zero, int right_zero,
                struct rescaling rescaling, int low, int out_zero)
{
    const int32_t left_factor = rescaling.multiplier[0], right_factor = rescaling.multiplier[1];
    const int shift = rescaling.shift[0];
    for (int i = 0; i < count; i++) {
        const int64_t sum = (int64_t)left_factor * (left[i] - left_zero)
                            + (int64_t)right_factor * (right[i] - right_zero) + ((int64_t)1 << (shift - 1));
        output[i] = (int8_t)clamp((int32_t)(sum >> shift) + out_zero, low, 127);
    }
}
""",
        dependencies=("rescaling", "clamp"),
    ),
    "index_of_largest": Kernel("""\
/* Index of the largest value, the first one if several are equal. */
static int index_of_largest(const int16_t *values, int count)
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
