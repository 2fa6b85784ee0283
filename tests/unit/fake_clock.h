/*
 * fake_clock.h: a clock that stands still until a test moves it, in place of loop_now(). Timers
 * stay on the host's clocks: one that is due in the real past fires at once.
 */
#pragma once

#include <stdint.h>

extern int64_t *fake_clock_ns; /* what every clock shows; NULL: the host's time */
