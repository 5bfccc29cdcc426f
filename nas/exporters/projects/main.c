/* Classifies a stored image, and prints its class, its logits, and whether these are right. */

#include "network_int8.h"
#include "test_vector.h"

#if __STDC_HOSTED__
#include <stdio.h>

static void write_text(const char *text)
{
    fputs(text, stdout);
}
#else
#include "startup.h"
#endif

static void write_number(int number)
{
    char digits[12];
    int first = 11;
    unsigned left = number < 0 ? 0u - (unsigned)number : (unsigned)number;
    digits[first] = 0;
    do {
        digits[--first] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    write_text(number < 0 ? "-" : "");
    write_text(digits + first);
}

int main(void)
{
    static int16_t logits[NETWORK_CLASSES];
    int differing = 0;
    write_text("class ");
    write_text(network_classes[predict(test_pixels, logits)]);
    write_text("\nlogits");
    for (int i = 0; i < NETWORK_CLASSES; i++) {
        write_text(" ");
        write_number(logits[i]);
        differing += logits[i] != test_logits[i];
    }
    write_text(differing ? "\nThey DIFFER from the reference.\n" : "\nThey equal the reference.\n");
    return differing != 0;
}
