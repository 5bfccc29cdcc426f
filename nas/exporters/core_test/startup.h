/* What startup.c gives a program. */

#ifndef STARTUP_H
#define STARTUP_H

#include <stdint.h>

extern uint32_t bss_end; /* end of static memory, where the lowest stack could lie */

void write_text(const char *text); /* by semihosting: to an emulator or a debugger */

/* Lowest address of the stack that is in use. */
static inline uint32_t *stack_pointer(void)
{
    uint32_t *pointer;
    __asm__ volatile("mov %0, sp" : "=r"(pointer));
    return pointer;
}

#endif
