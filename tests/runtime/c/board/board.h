/* What a test's program may ask of the emulated board. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/*
 * Instructions since the start, in steps of 40: under `-icount shift=0` each takes a nanosecond of the emulated clock,
 * and SysTick counts at 25 MHz.
 */
uint64_t board_instructions(void);

#endif
