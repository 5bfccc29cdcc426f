/* Runs a network on images and prints "NAME NUMBER" lines: differing logits, timer ticks an image, bytes of stack. */

#include <stdint.h>

#include "network_int8.h"
#include "startup.h"
#include "vectors.h"

#define UNUSED 0xA5A5A5A5u
#define TIMER ((volatile uint32_t *)0xE000E010) /* SysTick: control, reload, current value; 24 bits, counts down */

static void write_number(const char *name, uint32_t number)
{
    char digits[12];
    int first = 11;
    digits[first] = 0;
    do {
        digits[--first] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    write_text(name);
    write_text(" ");
    write_text(digits + first);
    write_text("\n");
}

int main(void)
{
    static int16_t logits[NETWORK_CLASSES];
    uint32_t *const top = stack_pointer();
    for (uint32_t *word = &bss_end; word < top - 32; word++) { /* not over memset, which this loop may become */
        *word = UNUSED;
    }
    TIMER[1] = 0xFFFFFF;
    TIMER[2] = 0;
    TIMER[0] = 5;
    uint32_t differing = 0;
    for (int image = 0; image < NUM_IMAGES; image++) {
        const uint32_t before = TIMER[2];
        predict(images[image], logits);
        write_number("ticks", (before - TIMER[2]) & 0xFFFFFF);
        for (int i = 0; i < NETWORK_CLASSES; i++) {
            differing += logits[i] != expected[image][i];
        }
    }
    const uint32_t *used = &bss_end;
    while (*used == UNUSED) {
        used++;
    }
    write_number("stack", (uint32_t)((const char *)top - (const char *)used));
    write_number("differing", differing);
    return 0;
}
