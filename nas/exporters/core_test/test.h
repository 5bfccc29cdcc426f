/* What the test program's files share. */

#ifndef TEST_H
#define TEST_H

#include <stdint.h>

extern uint32_t bss_end; /* end of static memory, where the lowest stack could lie */

void write_text(const char *text);

/* Lowest address of the stack that is in use. */
static inline uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

#endif
