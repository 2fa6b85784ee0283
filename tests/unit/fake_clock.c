/*
 * fake_clock.c: the linker puts this in place of vmm/loop.c's loop_now() (see the Makefile).
 */
#include "tests/unit/fake_clock.h"

#include "vmm/loop.h"

int64_t __real_loop_now(int clock);
int64_t __wrap_loop_now(int clock);

int64_t *fake_clock_ns;

int64_t __wrap_loop_now(int clock)
{
    return fake_clock_ns ? *fake_clock_ns : __real_loop_now(clock);
}
