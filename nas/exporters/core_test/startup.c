/* Start of a program on a Cortex-M without an operating system, whose text goes to an emulator or a debugger. */

#include <stddef.h>
#include <stdint.h>

#include "startup.h"

extern uint32_t stack_top, data_load, data_start, data_end, bss_start, bss_end;

int main(void);
void reset(void);

/* Compilers may call these two, which a C library would have. Their loops must not become calls of themselves. */
#define LOOP __attribute__((optimize("no-tree-loop-distribute-patterns")))

LOOP void *memset(void *to, int byte, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ((unsigned char *)to)[i] = (unsigned char)byte;
    }
    return to;
}

LOOP void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
    }
    return to;
}

static void call_host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

void write_text(const char *text)
{
    call_host(0x04, text); /* SYS_WRITE0 */
}

static void leave(void)
{
    for (;;) {
        call_host(0x18, (const void *)0x20026); /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    }
}

static void fault(void)
{
    write_text("fault 1\n");
    leave();
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault, 0,
    0, 0, 0, (void *)fault, (void *)fault, 0, (void *)fault, (void *)fault,
};

void reset(void)
{
    const uint32_t *from = &data_load;
    for (uint32_t *to = &data_start; to < &data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = &bss_start; to < &bss_end; to++) {
        *to = 0;
    }
    main();
    leave();
}
