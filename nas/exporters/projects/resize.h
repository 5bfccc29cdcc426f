/* Resizes images of 8 bits a channel in integers, for C and C++. */

#ifndef RESIZE_H
#define RESIZE_H

#include <stdint.h>

/* Length that the intervals from `start` to `end` and from `other` to `other_end`, which meet, have in common. */
static inline uint32_t overlap(uint32_t start, uint32_t end, uint32_t other, uint32_t other_end)
{
    return (end < other_end ? end : other_end) - (start > other ? start : other);
}

/* Resizes an image, up or down, by averaging areas.
 *
 * The source is [row][column][channel], as cameras deliver it: 1 channel is grey, 3 are red, green and blue. `stride`
 * is the number of bytes from one row to the next: width * channels, or more for a part of a larger image.
 * The target is [channel][row][column], as `predict` takes it.
 *
 * A target pixel is the mean of the source pixels that it covers, each weighted with the covered area. The mean is
 * exact before it is rounded to the nearest integer, halves up. An image of the target's size is copied.
 *
 * All sizes are at least 1, and width * height is at most 16810083, so that every sum has 32 bits.
 */
static inline void resize(const uint8_t *source, uint16_t width, uint16_t height, uint32_t stride, uint8_t channels,
                          uint8_t *target, uint16_t target_width, uint16_t target_height)
{
    /* In units in which all borders are integers: a source pixel is target_width wide, a target pixel `width`. */
    const uint32_t area = (uint32_t)width * height;
    for (uint8_t channel = 0; channel < channels; channel++) {
        for (uint16_t y = 0; y < target_height; y++) {
            const uint32_t top = (uint32_t)y * height, bottom = top + height;
            for (uint16_t x = 0; x < target_width; x++) {
                const uint32_t left = (uint32_t)x * width, right = left + width;
                uint32_t sum = area / 2;
                for (uint32_t row = top / target_height; row * target_height < bottom; row++) {
                    const uint32_t row_top = row * target_height;
                    const uint8_t *from = source + row * stride + channel;
                    uint32_t row_sum = 0;
                    for (uint32_t column = left / target_width; column * target_width < right; column++) {
                        const uint32_t column_left = column * target_width;
                        row_sum += from[column * channels] * overlap(column_left, column_left + target_width, left, right);
                    }
                    sum += row_sum * overlap(row_top, row_top + target_height, top, bottom);
                }
                *target++ = (uint8_t)(sum / area);
            }
        }
    }
}

#endif
